"""Compare the sending rate of Skychimp with other programs and with the limit, against smtp-sink on loopback.

    python tests/bench/sending.py
    python tests/bench/sending.py --delay-ms 5      with a network delay: Skychimp and aiosmtplib
    python tests/bench/sending.py --only skychimp,smtp-source --size 1k --rounds 1
    python tests/bench/sending.py --listmonk PATH   with this executable of listmonk
    python tests/bench/sending.py --attach-kb 100 --emails 5000    with an attachment: Skychimp and smtp-source

All programs send the same emails, each to one recipient, with the name filled in. A round runs all programs one after
the other. The table shows the medians of the rounds. The clock of a peer starts once it is imported and set up. That of
Skychimp covers all of `skychimp run`: start-up, opening the occurrence, rendering, and a ledger with every intent on
disk before the final dot. "While sending" is from the first outcome in the ledger to the last. The limit is Postfix's
smtp-source, which sends one constant email again and again (with -d, over persistent connections). The yardstick is a
small client with the same promise and nothing else. The clock of listmonk runs from the start of its campaign to the
end, as it records them, and "while sending" is from the first email at the server to the last. CPU time is that of the
client, not of the server. That of listmonk includes its PostgreSQL server. With an attachment, smtp-source sends the
bytes of one of Skychimp's emails.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import peers
import stores
from delay import delayed
from programs import measure
from sink import SMTP_SOURCE, Sink, sink
from templates import SIZES


class Program(NamedTuple):
    title: str
    needs: str = "sys"
    """A module that must be installed."""
    max_emails: int = sys.maxsize
    """Slow programs send fewer emails."""
    connections: int | None = None
    """None: the same number as Skychimp."""


class Row(NamedTuple):
    """A row of the table, for one round."""

    size: str
    name: str
    title: str
    connections: int
    emails: int
    rate: float
    """Emails per second. 0 if the program is not installed."""
    cpu_us: float
    """CPU time per email, in microseconds."""
    attach_kb: int = 0
    """The size of the attached file."""


PROGRAMS = {
    "send_mail": Program("Django send_mail", "django", 2_000, 1),
    "send_messages": Program("Django send_messages", "django", 4_000, 1),
    "smtplib": Program("smtplib", max_emails=4_000, connections=1),
    "threads": Program("smtplib in threads", max_emails=4_000, connections=8),
    "aiosmtplib": Program("aiosmtplib", "aiosmtplib", 4_000, 20),
    "aiosmtplib-tuned": Program("aiosmtplib, tuned", "aiosmtplib", 4_000, 20),
    "mailmerge": Program("mailmerge", "mailmerge", 1_000, 1),
    "listmonk": Program("listmonk", "psycopg"),
    "yardstick": Program("the yardstick", "uvloop"),
    "smtp-source-s": Program("smtp-source -s"),
    "smtp-source": Program("smtp-source -d, the limit"),
    "skychimp": Program("skychimp run"),
}
WITH_NETWORK_DELAY = {
    "aiosmtplib": Program("aiosmtplib", "aiosmtplib", 4_000),
    "aiosmtplib-tuned": Program("aiosmtplib, tuned", "aiosmtplib", 4_000),
    "smtp-source": Program("smtp-source, no pipelining", max_emails=4_000),
    "skychimp": PROGRAMS["skychimp"],
}
WITH_ATTACHMENT = {name: PROGRAMS[name] for name in ("smtp-source", "skychimp")}


def main() -> None:
    options = _options()
    programs = WITH_ATTACHMENT if options.attach_kb else WITH_NETWORK_DELAY if options.delay_ms else PROGRAMS
    chosen = {name: programs[name] for name in options.only or programs if name != "listmonk" or options.listmonk}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as folder:
        for number in range(options.rounds):
            for size in options.size:
                for name, program in chosen.items():
                    print(f"round {number + 1}, {size}, {program.title}", file=sys.stderr)
                    rows += _measure(name, program, size, Path(folder), options)
        print(_environment(folder, options))
    for line in table(rows):
        print(line)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the table: medians of the rounds, compared with the best peer and the limit at this size."""
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.size, row.title].append(row)
    rates = {key: median(row.rate for row in rounds) for key, rounds in lines.items()}
    form = "{:4}  {:26}{:>11}{:>9}{:>14}{:>15}{:>10}{:>11}"
    yield form.format("size", "", "connections", "emails", "emails/s", "CPU us/email", "of best", "of limit")
    for (size, title), (row, *_) in lines.items():
        if not row.rate:
            yield form.format(size, title, "", "", "not installed", "", "", "")
            continue
        same_size = [(rounds[0].name, rates[key]) for key, rounds in lines.items() if key[0] == size]
        best = max((rate for name, rate in same_size if name in peers.PEERS), default=0.0)
        limit = max((rate for name, rate in same_size if name == "smtp-source"), default=0.0)
        rate, cpu = rates[size, title], median(row.cpu_us for row in lines[size, title])
        yield form.format(
            size,
            title,
            row.connections,
            f"{row.emails:,}",
            f"{rate:,.0f}",
            f"{cpu:,.0f}",
            _ratio(rate, best),
            _ratio(rate, limit),
        )


def _ratio(rate: float, other: float) -> str:
    return f"{rate / other:.2f}" if other else "-"


def _measure(name: str, program: Program, size: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    emails = min(options.emails, program.max_emails)
    connections = program.connections or options.connections
    row = Row(size, name, program.title, connections, emails, 0, 0, options.attach_kb)
    if importlib.util.find_spec(program.needs) is None:
        yield row
        return
    proxy = delayed if options.delay_ms else lambda port, _: nullcontext(port)
    with sink() as server, proxy(server.port, options.delay_ms) as port:
        measures = _MEASURES | {"listmonk": partial(_listmonk, options.listmonk, server)}
        for title, seconds, cpu_seconds in measures.get(name, _peer)(row, port, folder):
            yield row._replace(title=title, rate=emails / seconds, cpu_us=cpu_seconds / emails * 1e6)
        if server.email_count != emails:
            sys.exit(f"error: of {emails} emails by {program.title}, {server.email_count} arrived")


YARDSTICK = Path(__file__).with_name("yardstick.py")
Timing = tuple[str, float, float]
"""Title, seconds, CPU seconds."""
Measure = Callable[[Row, int, Path], Iterator[Timing]]
"""Takes the port of the server and a folder for files."""


def _peer(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    arguments = (row.name, port, row.emails, row.size, row.connections)
    command = [sys.executable, peers.__file__, *map(str, arguments)]
    measured = measure(command, folder=folder)  # mailmerge writes files there
    seconds, cpu_seconds = map(float, measured.stdout.split())
    yield row.title, seconds, cpu_seconds


def _yardstick(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    with tempfile.TemporaryDirectory(dir=folder) as used:
        arguments = (port, row.emails, row.connections, row.size, Path(used) / "ledger.db")
        measured = measure([sys.executable, str(YARDSTICK), *map(str, arguments)])
    seconds, cpu_seconds = map(float, measured.stdout.split())
    yield row.title, seconds, cpu_seconds


def _listmonk(program: Path, server: Sink, row: Row, port: int, folder: Path) -> Iterator[Timing]:
    from listmonk import send  # needs psycopg

    campaign = send(program, server, row.emails, SIZES[row.size], row.connections)
    yield row.title, campaign.seconds, campaign.cpu_seconds
    yield "listmonk, while sending", campaign.sending_seconds, campaign.cpu_seconds


def _smtp_source(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    length = sum(len(part or "") for part in SIZES[row.size])
    content = ["-F", _one_email(row, folder)] if row.attach_kb else ["-l", length]
    persistent = ["-d"] if row.name == "smtp-source" else []
    arguments = (*persistent, "-s", row.connections, "-m", row.emails, "-N", *content)
    measured = measure([SMTP_SOURCE, *map(str, arguments), "-t", "client@example.com", f"127.0.0.1:{port}"])
    yield row.title, measured.seconds, measured.cpu_seconds


def _skychimp(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    fresh, used = folder / row.size, folder / "used"
    _require_store(fresh, row)
    run = stores.run(stores.copy_store(fresh, used), port, row.connections)
    shutil.rmtree(used)
    yield row.title, run.whole.seconds, run.whole.cpu_seconds
    yield "skychimp, while sending", run.sending_seconds, run.whole.cpu_seconds


def _require_store(fresh: Path, row: Row) -> None:
    if not fresh.exists():
        stores.make_store(fresh, row.emails, SIZES[row.size], attach_kb=row.attach_kb)


def _one_email(row: Row, folder: Path) -> Path:
    """Write one of the emails with an attachment to a file, as Skychimp sends it."""
    fresh, file = folder / row.size, folder / f"{row.size}.eml"
    _require_store(fresh, row)
    if not file.exists():
        stores.skychimp(fresh, "messages", "test", "1", "--to", "client1@example.com")
        (written,) = (fresh / "outbox" / "new").iterdir()
        file.write_bytes(written.read_bytes().split(b"\n", 2)[2])  # without Return-Path and Delivered-To
    return file


_MEASURES: dict[str, Measure] = {
    "yardstick": _yardstick,
    "smtp-source": _smtp_source,
    "smtp-source-s": _smtp_source,
    "skychimp": _skychimp,
}


def _environment(folder: str, options: argparse.Namespace) -> str:
    disk = measure(["df", "--output=fstype", folder]).stdout.split()[-1]
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, stores on {disk}; "
        f"rounds: {options.rounds}, added round trip: {options.delay_ms:g} ms"
    )


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--emails", type=int, default=20_000, help="default: 20000; slow programs send fewer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--connections", type=int, default=16, help="connections of Skychimp, listmonk and smtp-source (default: 16)"
    )
    parser.add_argument("--size", type=names, default=list(SIZES), help="1k,10k")
    parser.add_argument("--only", type=names, help=",".join(PROGRAMS))
    parser.add_argument("--delay-ms", type=float, default=0, help="add this round-trip time")
    parser.add_argument("--attach-kb", type=int, default=0, help="attach a file of this many kB to each email")
    parser.add_argument("--listmonk", type=Path, metavar="PATH", help="executable of listmonk (default: no listmonk)")
    parser.add_argument("--folder", help="folder for the stores; use a real disk, not a tmpfs")
    options = parser.parse_args()
    valid = {*SIZES, *(WITH_NETWORK_DELAY if options.delay_ms else PROGRAMS)}
    unknown = {*options.size, *(options.only or ())} - valid
    if unknown:
        parser.error(f"unknown size or program: {', '.join(sorted(unknown))}")
    if "listmonk" in (options.only or ()) and not options.listmonk:
        parser.error("use --listmonk PATH")
    return options


if __name__ == "__main__":
    main()

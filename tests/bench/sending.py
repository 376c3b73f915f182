"""How many letters a second: Skychimp, its peers and the limit, side by side, against Debian's smtp-sink on loopback.

    python tests/bench/letters.py
    python tests/bench/letters.py --delay-ms 5      over a longer wire: Skychimp and aiosmtplib
    python tests/bench/letters.py --only skychimp,smtp-source --size 1k --rounds 1

Everybody sends the same letters, each to one person, with the name filled in. A round runs all contenders, one after
the other; the table shows the medians of the rounds. A peer's clock starts once it is imported and set up. Skychimp's
takes in the whole of `skychimp run`: start-up, opening the occurrence, rendering, and the ledger with every intent on
the disk before its final dot; "while it sends" is from the first outcome in that ledger to the last. The limit is
Postfix's smtp-source, which says one unchanging letter over and over, with -d on connections that stay. CPU is the
client's, not the server's.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import NamedTuple

import peers
import stores
from delay import delayed
from programs import measure
from sink import SMTP_SOURCE, sink
from templates import SIZES


class Contender(NamedTuple):
    title: str
    needs: str = "sys"
    """A module."""
    most: int = sys.maxsize
    """It sends no more letters than that: it would take too long."""
    connections: int | None = None
    """None: as many as Skychimp."""


class Row(NamedTuple):
    """A line of the table, in one round."""

    size: str
    name: str
    title: str
    connections: int
    letters: int
    rate: float
    """Letters a second; 0 where the contender is not installed."""
    cpu_us: float
    """A letter."""


CONTENDERS = {
    "send_mail": Contender("Django send_mail", "django", 2_000, 1),
    "send_messages": Contender("Django send_messages", "django", 4_000, 1),
    "smtplib": Contender("smtplib", most=4_000, connections=1),
    "threads": Contender("smtplib in threads", most=4_000, connections=8),
    "aiosmtplib": Contender("aiosmtplib", "aiosmtplib", 4_000, 20),
    "aiosmtplib-tuned": Contender("aiosmtplib, tuned", "aiosmtplib", 4_000, 20),
    "mailmerge": Contender("mailmerge", "mailmerge", 1_000, 1),
    "smtp-source-s": Contender("smtp-source -s"),
    "smtp-source": Contender("smtp-source -d, the limit"),
    "skychimp": Contender("skychimp run"),
}
OVER_A_LONGER_WIRE = {
    "aiosmtplib": Contender("aiosmtplib", "aiosmtplib", 4_000),
    "aiosmtplib-tuned": Contender("aiosmtplib, tuned", "aiosmtplib", 4_000),
    "smtp-source": Contender("smtp-source, no pipelining", most=4_000),
    "skychimp": CONTENDERS["skychimp"],
}


def main() -> None:
    options = _options()
    contenders = OVER_A_LONGER_WIRE if options.delay_ms else CONTENDERS
    chosen = {name: contenders[name] for name in options.only or contenders}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as folder:
        for number in range(options.rounds):
            for size in options.size:
                for name, contender in chosen.items():
                    print(f"round {number + 1}, {size}, {contender.title}", file=sys.stderr)
                    rows += _measured(name, contender, size, Path(folder), options)
        print(_circumstances(folder, options))
    for line in table(rows):
        print(line)


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The medians of the rounds, and how each compares with the best peer and with the limit at its size."""
    lines: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        lines[row.size, row.title].append(row)
    rates = {line: median(row.rate for row in found) for line, found in lines.items()}
    form = "{:4}  {:26}{:>11}{:>9}{:>14}{:>15}{:>10}{:>11}"
    yield form.format("size", "", "connections", "letters", "letters/s", "CPU us/letter", "of best", "of limit")
    for (size, title), (row, *_) in lines.items():
        if not row.rate:
            yield form.format(size, title, "", "", "not installed", "", "", "")
            continue
        same_size = [(found[0].name, rates[line]) for line, found in lines.items() if line[0] == size]
        best = max((rate for name, rate in same_size if name in peers.PEERS), default=0.0)
        limit = max((rate for name, rate in same_size if name == "smtp-source"), default=0.0)
        rate, cpu = rates[size, title], median(row.cpu_us for row in lines[size, title])
        yield form.format(
            size,
            title,
            row.connections,
            f"{row.letters:,}",
            f"{rate:,.0f}",
            f"{cpu:,.0f}",
            _of(rate, best),
            _of(rate, limit),
        )


def _of(rate: float, other: float) -> str:
    return f"{rate / other:.2f}" if other else "-"


def _measured(name: str, contender: Contender, size: str, folder: Path, options: argparse.Namespace) -> Iterator[Row]:
    letters = min(options.letters, contender.most)
    connections = contender.connections or options.connections
    row = Row(size, name, contender.title, connections, letters, 0, 0)
    if importlib.util.find_spec(contender.needs) is None:
        yield row
        return
    wire = delayed if options.delay_ms else lambda port, _: nullcontext(port)
    with sink() as server, wire(server.port, options.delay_ms) as port:
        for title, seconds, cpu_seconds in _MEASURES.get(name, _peer)(row, port, folder):
            yield row._replace(title=title, rate=letters / seconds, cpu_us=cpu_seconds / letters * 1e6)
        if server.letters != letters:
            sys.exit(f"error: of {letters} letters by {contender.title} {server.letters} arrived")


Timing = tuple[str, float, float]
"""Title, seconds, CPU seconds."""


def _peer(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    arguments = (row.name, port, row.letters, row.size, row.connections)
    took = measure([sys.executable, peers.__file__, *map(str, arguments)], folder=folder)  # mailmerge makes files there
    seconds, cpu_seconds = map(float, took.stdout.split())
    yield row.title, seconds, cpu_seconds


def _smtp_source(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    length = sum(len(part or "") for part in SIZES[row.size])
    stay = ["-d"] if row.name == "smtp-source" else []
    how = (*stay, "-s", row.connections, "-m", row.letters, "-N", "-l", length)
    took = measure([SMTP_SOURCE, *map(str, how), "-t", "client@example.com", f"127.0.0.1:{port}"])
    yield row.title, took.seconds, took.cpu_seconds


def _skychimp(row: Row, port: int, folder: Path) -> Iterator[Timing]:
    fresh, used = folder / row.size, folder / "used"
    if not fresh.exists():
        stores.make(fresh, row.letters, SIZES[row.size])
    run = stores.run(stores.copy(fresh, used), port, row.connections)
    shutil.rmtree(used)
    yield row.title, run.whole.seconds, run.whole.cpu_seconds
    yield "skychimp, while it sends", run.sending_seconds, run.whole.cpu_seconds


_MEASURES = {"smtp-source": _smtp_source, "smtp-source-s": _smtp_source, "skychimp": _skychimp}


def _circumstances(folder: str, options: argparse.Namespace) -> str:
    disk = measure(["df", "--output=fstype", folder]).stdout.split()[-1]
    return (
        f"Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, stores on {disk}; "
        f"rounds: {options.rounds}, added round trip: {options.delay_ms:g} ms"
    )


def _options() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--letters", type=int, default=20_000, help="fewer for slow peers (20000)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16, help="of Skychimp and smtp-source (16)")
    parser.add_argument("--size", type=names, default=list(SIZES), help="1k,10k")
    parser.add_argument("--only", type=names, help=",".join(CONTENDERS))
    parser.add_argument("--delay-ms", type=float, default=0, help="a round trip on the wire")
    parser.add_argument("--folder", help="where stores are made: on a real disk, not a tmpfs")
    options = parser.parse_args()
    known = {*SIZES, *(OVER_A_LONGER_WIRE if options.delay_ms else CONTENDERS)}
    unknown = {*options.size, *(options.only or ())} - known
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()

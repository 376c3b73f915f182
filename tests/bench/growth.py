"""Measure whether rate, memory and opening time grow with the number of emails.

    python tests/bench/growth.py              10,000 and 100,000 emails; opening for 1,000,000 clients
    python tests/bench/growth.py --million    also sends to those 1,000,000 clients

`skychimp run` sends emails of 1 KB to smtp-sink on loopback. Rates are medians of interleaved rounds.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from statistics import median

import stores
from programs import measure
from sink import sink
from templates import SIZES

FEW, MANY, MILLION = 10_000, 100_000, 1_000_000
ROW = "{:>10}{:>12}{:>17}{:>15}{:>10}"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="skychimp-bench-", dir=options.folder) as name:
        folder = Path(name)
        print(ROW.format("emails", "emails/s", "while sending", "CPU us/email", "peak MiB"), flush=True)
        few, many = _interleaved(folder, options)
        print(f"{MANY:,} emails at {_rate(many) / _rate(few):.2f} of the rate of {FEW:,}, while sending", flush=True)
        imported = _create(folder, MILLION)
        _open(folder, imported)
        if options.million:
            million = _run(folder, MILLION, options.connections)
            _show([million])
            print(f"peak memory at {MILLION:,}: {million.whole.peak_mib - _peak(few):+.0f} MiB over that at {FEW:,}")


def _interleaved(folder: Path, options: argparse.Namespace) -> tuple[list[stores.Run], list[stores.Run]]:
    few, many = [], []
    for emails in (FEW, MANY):
        _create(folder, emails)
    for _ in range(options.rounds):
        few.append(_run(folder, FEW, options.connections))
        many.append(_run(folder, MANY, options.connections))
    _show(few)
    _show(many)
    return few, many


def _create(folder: Path, emails: int) -> float:
    """Create a store for this many emails. Returns the seconds that importing its clients took."""
    return stores.make_store(folder / str(emails), emails, SIZES["1k"])


def _run(folder: Path, emails: int, connections: int) -> stores.Run:
    used = stores.copy_store(folder / str(emails), folder / "used")
    with sink() as server:
        run = stores.run(used, server.port, connections)
        if not run.emails == server.email_count == emails:
            sys.exit(f"error: of {emails} emails, {run.emails} were sent and {server.email_count} arrived")
    shutil.rmtree(used)
    return run


def _open(folder: Path, imported: float) -> None:
    used = stores.copy_store(folder / str(MILLION), folder / "used")
    script = str(Path(__file__).with_name("opening.py"))
    measured = measure([sys.executable, script, str(used / "skychimp.db")])
    seconds, deliveries = map(float, measured.stdout.split())
    shutil.rmtree(used)
    print(f"importing {MILLION:,} clients took {imported:.1f} s")
    print(
        f"opening an occurrence for {deliveries:,.0f} took {seconds:.1f} s, peak {measured.peak_mib:.0f} MiB",
        flush=True,
    )


def _show(runs: list[stores.Run]) -> None:
    emails = runs[0].emails
    whole = median(emails / run.whole.seconds for run in runs)
    cpu = median(run.whole.cpu_seconds / emails * 1e6 for run in runs)
    cells = (f"{emails:,}", f"{whole:,.0f}", f"{_rate(runs):,.0f}", f"{cpu:,.0f}", f"{_peak(runs):,.0f}")
    print(ROW.format(*cells), flush=True)


def _rate(runs: list[stores.Run]) -> float:
    return median(run.emails / run.sending_seconds for run in runs)


def _peak(runs: list[stores.Run]) -> float:
    return max(run.whole.peak_mib for run in runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="also send to 1,000,000 clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", help="folder for the stores; use a real disk, not a tmpfs")
    return parser.parse_args()


if __name__ == "__main__":
    main()

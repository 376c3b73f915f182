"""Whether the cost of a letter grows with their number: the rate, the memory, and the time that opening takes.

    python tests/bench/growth.py              10,000 and 100,000 letters; opening for 1,000,000 clients
    python tests/bench/growth.py --million    sends to those 1,000,000 clients too

Letters of 1 KB go by `skychimp run` to Debian's smtp-sink on loopback. Rates are medians of interleaved rounds.
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
        print(ROW.format("letters", "letters/s", "while it sends", "CPU us/letter", "peak MiB"), flush=True)
        few, many = _interleaved(folder, options)
        print(f"{MANY:,} letters at {_rate(many) / _rate(few):.2f} of the rate of {FEW:,}, while it sends", flush=True)
        imported = _fresh(folder, MILLION)
        _open(folder, imported)
        if options.million:
            million = _run(folder, MILLION, options.connections)
            _show([million])
            print(f"peak memory at {MILLION:,}: {million.whole.peak_mib - _peak(few):+.0f} MiB over that at {FEW:,}")


def _interleaved(folder: Path, options: argparse.Namespace) -> tuple[list[stores.Run], list[stores.Run]]:
    few, many = [], []
    for letters in (FEW, MANY):
        _fresh(folder, letters)
    for _ in range(options.rounds):
        few.append(_run(folder, FEW, options.connections))
        many.append(_run(folder, MANY, options.connections))
    _show(few)
    _show(many)
    return few, many


def _fresh(folder: Path, letters: int) -> float:
    """Make the store for so many letters; the seconds that importing its clients took."""
    return stores.make(folder / str(letters), letters, SIZES["1k"])


def _run(folder: Path, letters: int, connections: int) -> stores.Run:
    used = stores.copy(folder / str(letters), folder / "used")
    with sink() as server:
        run = stores.run(used, server.port, connections)
        if not run.letters == server.letters == letters:
            sys.exit(f"error: of {letters} letters {run.letters} were sent and {server.letters} arrived")
    shutil.rmtree(used)
    return run


def _open(folder: Path, imported: float) -> None:
    used = stores.copy(folder / str(MILLION), folder / "used")
    script = str(Path(__file__).with_name("opening.py"))
    took = measure([sys.executable, script, str(used / "skychimp.db")])
    seconds, deliveries = map(float, took.stdout.split())
    shutil.rmtree(used)
    print(f"importing {MILLION:,} clients took {imported:.1f} s")
    print(f"opening an occurrence for {deliveries:,.0f} took {seconds:.1f} s, peak {took.peak_mib:.0f} MiB", flush=True)


def _show(runs: list[stores.Run]) -> None:
    letters = runs[0].letters
    whole = median(letters / run.whole.seconds for run in runs)
    cpu = median(run.whole.cpu_seconds / letters * 1e6 for run in runs)
    columns = (f"{letters:,}", f"{whole:,.0f}", f"{_rate(runs):,.0f}", f"{cpu:,.0f}", f"{_peak(runs):,.0f}")
    print(ROW.format(*columns), flush=True)


def _rate(runs: list[stores.Run]) -> float:
    return median(run.letters / run.sending_seconds for run in runs)


def _peak(runs: list[stores.Run]) -> float:
    return max(run.whole.peak_mib for run in runs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million", action="store_true", help="send to 1,000,000 clients too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--folder", help="where stores are made: on a real disk, not a tmpfs")
    return parser.parse_args()


if __name__ == "__main__":
    main()

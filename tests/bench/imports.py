"""Compare the time and memory of importing clients with SQLite's own import of the same file.

python tests/bench/imports.py [ROWS ...]    default: 20,000, 200,000 and 1,000,000 rows

The reference is `.import` of the sqlite3 shell into a table with the address as its key. Without the shell, it is one
executemany of Python's sqlite3. Both run in number, three times up to 200,000 rows. The table shows medians.
"""

import os
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from programs import Measured, measure
from stores import SKYCHIMP

NAMES = ("Ada Lovelace", "Наталья Бехтерева", "吳健雄", "Grace Hopper", '"Ñandú, José"', "محمد")
DOMAINS = ("example.org", "example.com", "mail.example.net", "bücher.example", "firma.test")
TABLE = "CREATE TABLE client (email TEXT PRIMARY KEY, name TEXT, comment TEXT, tags TEXT)"
BY_PYTHON = f"""
import csv, sqlite3, sys
with sqlite3.connect(sys.argv[2]) as connection, open(sys.argv[1], encoding="utf-8", newline="") as file:
    connection.execute("{TABLE}")
    rows = csv.reader(file)
    next(rows)
    connection.executemany("INSERT INTO client VALUES (?, ?, ?, ?)", rows)
"""
ROW = "{:>10}{:>12}{:>11}{:>12}{:>11}{:>8}"


def main(sizes: Sequence[int]) -> None:
    print(ROW.format("rows", "skychimp s", "peak MiB", "sqlite3 s", "peak MiB", "ratio"))
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="skychimp-bench-") as folder:
            own, reference = _compare(Path(folder), rows, rounds=3 if rows <= 200_000 else 1)
        seconds, plain_seconds = _median_seconds(own), _median_seconds(reference)
        peaks = [f"{max(run.peak_mib for run in runs):.0f}" for runs in (own, reference)]
        ratio = f"{seconds / plain_seconds:.1f}"
        print(ROW.format(f"{rows:,}", f"{seconds:.2f}", peaks[0], f"{plain_seconds:.2f}", peaks[1], ratio), flush=True)


def _compare(folder: Path, rows: int, rounds: int) -> tuple[list[Measured], list[Measured]]:
    clients_csv = folder / "clients.csv"
    _write_csv(clients_csv, rows)
    own, reference = [], []
    for number in range(rounds):
        environ = os.environ | {
            "SKYCHIMP_STORE": str(folder / f"{number}.db"),
            "SKYCHIMP_CONFIG": str(folder / "skychimp.toml"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        measure([SKYCHIMP, "--no-input", "init", "--email", "bench@example.org"], environ)
        own.append(measure([SKYCHIMP, "clients", "import", str(clients_csv)], environ))
        reference.append(measure(_plain_import(clients_csv, folder / f"plain-{number}.db")))
    return own, reference


def _write_csv(path: Path, rows: int) -> None:
    """Write rows with unsorted addresses, names in several scripts, and a tag on every tenth."""
    chance = random.Random(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("email,name,comment,tags\n")
        for number in range(rows):
            email = f"{chance.randrange(10**9)}.{number}@{DOMAINS[number % len(DOMAINS)]}"
            file.write(f"{email},{NAMES[number % len(NAMES)]},,{'vip' if number % 10 == 0 else ''}\n")


def _plain_import(clients_csv: Path, store: Path) -> list[str]:
    if shell := shutil.which("sqlite3"):
        return [shell, str(store), TABLE, ".mode csv", f".import --skip 1 {clients_csv} client"]
    return [sys.executable, "-c", BY_PYTHON, str(clients_csv), str(store)]


def _median_seconds(runs: Sequence[Measured]) -> float:
    return median(run.seconds for run in runs)


if __name__ == "__main__":
    main([int(word.replace(",", "")) for word in sys.argv[1:]] or [20_000, 200_000, 1_000_000])

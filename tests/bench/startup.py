"""How long a command takes to begin, beside what its libraries alone take: medians of interleaved runs, and ratios.

python tests/bench/startup.py [ROUNDS]
"""

import os
import sys
import tempfile
from pathlib import Path
from statistics import median

from programs import measure

PROGRAM = str(Path(sys.executable).with_name("skychimp"))
ONE_COMMAND = """
import typer
app = typer.Typer()
@app.command()
def hello(name: str = "you") -> None:
    "Say hello."
    print(name)
app()
"""
PAIRS = (
    ("--version", "import typer", 1.3, [PROGRAM, "--version"], ["-c", "import typer"]),
    ("--help", "--help of a Typer app with one command", 1.25, [PROGRAM, "--help"], ["-c", ONE_COMMAND, "--help"]),
    (
        "clients list",
        "import typer, sqlmodel, rich.table",
        1.25,
        [PROGRAM, "clients", "list"],
        ["-c", "import typer, sqlmodel, rich.table"],
    ),
)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environ = {"PATH": os.environ["PATH"], "HOME": folder}
        measure([PROGRAM, "init", "--email", "you@example.org"], environ)
        for name in ("ada", "grace", "natalya"):
            measure([PROGRAM, "clients", "create", "--email", f"{name}@example.org"], environ)
        programs = [program for *_, ours, theirs in PAIRS for program in (ours, [sys.executable, *theirs])]
        asked = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": "skychimp\nclients\nshow\na", "COMP_CWORD": "3"}
        completions = []
        times: list[list[float]] = [[] for _ in programs]
        for number in range(rounds + 1):
            for program, taken in zip(programs, times, strict=True):
                seconds = measure(program, environ).seconds
                if number:  # the first round fills the caches
                    taken.append(seconds * 1000)
            completions.append(measure([PROGRAM], environ | asked).seconds * 1000)
    print(f"{'skychimp':<14}{'ms':>6}   {'beside':<42}{'ms':>6}{'ratio':>8}{'bar':>7}")
    for (ours, theirs, bar, *_), mine, other in zip(PAIRS, times[::2], times[1::2], strict=True):
        ratio = median(mine) / median(other)
        print(f"{ours:<14}{median(mine):>6.0f}   {theirs:<42}{median(other):>6.0f}{ratio:>8.2f}{bar:>7}")
    print(f"{'Tab':<14}{median(completions):>6.0f}   the bar: 200 ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)

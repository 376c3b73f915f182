"""Compare the start-up time of commands with that of their libraries alone.

python tests/bench/startup.py [ROUNDS]    default: 15 interleaved rounds; prints medians and their ratios
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
LIBRARIES = "import typer, sqlmodel, rich.table"
PAIRS = (
    ("--version", "import typer", 1.3, [PROGRAM, "--version"], ["-c", "import typer"]),
    ("--help", "--help of a Typer app with one command", 1.25, [PROGRAM, "--help"], ["-c", ONE_COMMAND, "--help"]),
    *(
        (command, LIBRARIES, limit, [PROGRAM, *command.split()], ["-c", LIBRARIES])
        for command, limit in (("clients list", 1.0), ("mailings list", 1.0), ("stats", 1.0), ("run", 1.1))
    ),
)


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environ = {"PATH": os.environ["PATH"], "HOME": folder}
        measure([PROGRAM, "init", "--email", "you@example.org"], environ)
        for name in ("ada", "grace", "natalya"):
            measure([PROGRAM, "clients", "create", "--email", f"{name}@example.org"], environ)
        programs = [program for *_, own, reference in PAIRS for program in (own, [sys.executable, *reference])]
        tab = {"_SKYCHIMP_COMPLETE": "complete_bash", "COMP_WORDS": "skychimp\nclients\nshow\na", "COMP_CWORD": "3"}
        completions = []
        times: list[list[float]] = [[] for _ in programs]
        for number in range(rounds + 1):
            for program, milliseconds in zip(programs, times, strict=True):
                seconds = measure(program, environ).seconds
                if number:  # the first round fills the caches
                    milliseconds.append(seconds * 1000)
            completions.append(measure([PROGRAM], environ | tab).seconds * 1000)
    print(f"{'skychimp':<14}{'ms':>6}   {'compared with':<42}{'ms':>6}{'ratio':>8}{'limit':>7}")
    for (command, reference, limit, *_), own_times, reference_times in zip(PAIRS, times[::2], times[1::2], strict=True):
        own_ms, reference_ms = median(own_times), median(reference_times)
        print(
            f"{command:<14}{own_ms:>6.0f}   {reference:<42}{reference_ms:>6.0f}{own_ms / reference_ms:>8.2f}{limit:>7}"
        )
    print(f"{'Tab':<14}{median(completions):>6.0f}   limit: 200 ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 15)

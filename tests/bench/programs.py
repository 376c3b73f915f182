"""Run a program and measure its time and memory."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Measured(NamedTuple):
    """What a program used from start to end. CPU time is user and system time."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    stdout: str


def measure(
    command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Measured:
    """Run a program. Exits with the last lines of its stderr if it fails."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=environment, cwd=folder
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode not in (os.EX_OK, os.EX_TEMPFAIL):  # of a run that leaves emails for the next one
            last_lines = "\n".join(stderr.read().splitlines()[-5:])
            sys.exit(f"error: {' '.join(command)} exited with status {process.returncode}\n{last_lines}")
        return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, stdout.read())

"""Commands that start at once: each is forked from a process that has imported everything. A sweep takes hundreds."""

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["skychimp.cli.registry", "skychimp.cli.commands.run", "skychimp.delivery.sending.runner", "uvloop", "pytest"]
)
_ONE_AT_A_TIME = threading.Lock()  # multiprocessing looks after all children whenever it starts one
_SET_PTRACER, _ANYBODY = 0x59616D61, -1  # prctl(2)


def run_forked(
    words: Sequence[str], environ: Mapping[str, str], folder: Path, first: str = "", under: Sequence[str] = ()
) -> tuple[int, str]:
    """A command to its end, after Python that is to be run `first`, `under` a tracer; its status and all it said."""
    said = folder / "said"
    command = _FORKS.Process(target=_command, args=(words, dict(environ), said, first, bool(under)))
    with _ONE_AT_A_TIME:
        command.start()
    assert command.pid
    if under:
        _wait(command.pid, "State", "T (stopped)")
        tracer = subprocess.Popen([*under, "-p", str(command.pid)], stderr=subprocess.DEVNULL)
        _wait(command.pid, "TracerPid", str(tracer.pid))
        os.kill(command.pid, signal.SIGCONT)
    has_ended = connection.wait([command.sentinel], timeout=60)
    if not has_ended:
        command.kill()
    if under:
        tracer.wait()
    with _ONE_AT_A_TIME:
        command.join()
    assert has_ended, "it goes on and on"
    assert command.exitcode is not None
    return command.exitcode, said.read_text(encoding="utf-8")


def sweep(tried: Callable[[int], T | None], step: int = 1) -> list[T]:
    """What comes of 1, 1 + step and so on, two at a time, up to a number of which nothing comes."""
    found: list[T | None] = []
    numbers = itertools.count(1, step)
    with ThreadPoolExecutor(2) as pool:
        while None not in found:
            found += pool.map(tried, itertools.islice(numbers, 4))
    return [one for one in found if one is not None]


def _command(words: Sequence[str], environ: Mapping[str, str], said: Path, first: str, traced: bool) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(said.parent)
    file = os.open(said, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if traced:
        ctypes.CDLL(None).prctl(_SET_PTRACER, _ANYBODY)
        os.kill(os.getpid(), signal.SIGSTOP)
    exec(first, {})
    sys.argv = ["skychimp", *words]
    from skychimp.cli.main import main

    main()


def _wait(pid: int, field: str, value: str) -> None:
    """Wait until the kernel says so of a process."""
    deadline = time.monotonic() + 60
    while f"\n{field}:\t{value}\n" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii"):
        assert time.monotonic() < deadline
        time.sleep(0.002)

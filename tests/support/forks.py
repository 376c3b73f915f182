"""Run commands without start-up time: each is forked from a process that has imported everything.

A sweep over system calls takes hundreds of commands.
"""

import ctypes
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import connection, get_context, reduction
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

OUTPUT_FILE = "output"

_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "pytest",
        "rich.table",
        "typer.rich_utils",
        "uvloop",
        "skychimp.cli.commands.run",
        "skychimp.cli.registry",
        "skychimp.config.sources",
        "skychimp.delivery.composing.templates",
        "skychimp.delivery.sending.runner",
        "skychimp.services.mailings.mailings",
        "skychimp.store.schema",
        "skychimp.transport.smtp",
    ]
)
_START_LOCK = threading.Lock()  # multiprocessing reaps all children whenever it starts one
_PR_SET_PTRACER, _PR_SET_PTRACER_ANY = 0x59616D61, -1  # prctl(2)


def run_forked(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    folder: Path,
    preamble: str = "",
    tracer: Sequence[str] = (),
) -> tuple[int, str]:
    """Execute a command in `folder`, and return its exit status and its output (stdout and stderr together).

    `preamble` is Python code that it executes first. `tracer` is a command line that attaches to a process by -p PID.
    """
    output = folder / OUTPUT_FILE
    command = _FORKS.Process(target=_execute, args=(arguments, dict(environ), output, preamble, bool(tracer)))
    with _START_LOCK:
        command.start()
    assert command.pid
    if tracer:
        tracing = _attach(tracer, command.pid)
    status = end(command, 60)
    if tracer:
        tracing.wait()
    return status, output.read_text(encoding="utf-8")


def start_on_terminal(arguments: Sequence[str], environ: Mapping[str, str], folder: Path, terminal: int) -> BaseProcess:
    """Start a command in `folder`, and in a session of its own on a terminal, of which `terminal` is its side."""
    described = _Descriptor(terminal)
    command = _FORKS.Process(target=_execute_on_terminal, args=(arguments, dict(environ), folder, described))
    with _START_LOCK:
        command.start()
    return command


def end(command: BaseProcess, within_s: float) -> int:
    """Wait until a command ends, and return its exit status."""
    has_ended = connection.wait([command.sentinel], timeout=within_s)
    if not has_ended:
        command.kill()
    with _START_LOCK:
        command.join()
    assert has_ended, f"the command did not end within {within_s:g} s"
    assert command.exitcode is not None
    return command.exitcode


def sweep(experiment: Callable[[int], T | None], step: int = 1) -> list[T]:
    """Return what `experiment` returns for 1, 1 + step and so on, two at a time, until it returns None."""
    results: list[T | None] = []
    numbers = itertools.count(1, step)
    with ThreadPoolExecutor(2) as pool:
        while None not in results:
            results += pool.map(experiment, itertools.islice(numbers, 4))
    return [result for result in results if result is not None]


def _attach(tracer: Sequence[str], pid: int) -> "subprocess.Popen[bytes]":
    """Attach a tracer to a command that has stopped itself, then let the command continue."""
    _wait_for_status(pid, "State", "T (stopped)")
    process = subprocess.Popen([*tracer, "-p", str(pid)], stderr=subprocess.DEVNULL)
    _wait_for_status(pid, "TracerPid", str(process.pid))
    os.kill(pid, signal.SIGCONT)
    return process


class _Descriptor:
    """A file descriptor that goes to the forked process, where it is a number again."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _detach, (reduction.DupFd(self._number),)


def _detach(duplicate: Any) -> int:
    number: int = duplicate.detach()
    return number


def _execute_on_terminal(arguments: Sequence[str], environ: Mapping[str, str], folder: Path, terminal: int) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run where Ctrl-C is ignored
    os.setsid()
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(terminal, number)
    os.close(terminal)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, "utf-8", closefd=False) for number in (1, 2))
    _enter(environ, folder)
    sys.argv = ["skychimp", *arguments]
    from skychimp.cli.main import main

    main()


def _enter(environ: Mapping[str, str], folder: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    os.chdir(folder)


def _execute(
    arguments: Sequence[str], environ: Mapping[str, str], output: Path, preamble: str, is_traced: bool
) -> None:
    _enter(environ, output.parent)
    file = os.open(output, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if is_traced:
        ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY)
        os.kill(os.getpid(), signal.SIGSTOP)
    exec(preamble, {})
    sys.argv = ["skychimp", *arguments]
    from skychimp.cli.main import main

    main()


def _wait_for_status(pid: int, field: str, value: str) -> None:
    """Wait until a field of /proc/PID/status has this value."""
    deadline = time.monotonic() + 60
    while f"\n{field}:\t{value}\n" not in Path(f"/proc/{pid}/status").read_text(encoding="ascii"):
        assert time.monotonic() < deadline
        time.sleep(0.002)

"""Inject faults into system calls with strace, and read its log."""

import re
import shutil
import subprocess
from ast import literal_eval
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache, cached_property
from math import inf
from pathlib import Path

import pytest

_BEGUN = re.compile(
    r"(?:(?P<thread>\d+) +)?(?P<name>\w+)\((?:\d+<(?P<opened>.*?)>(?=[,) ])|\"(?P<named>.*?)\")(?P<rest>.*)"
)
_RESUMED = re.compile(r"(?:(?P<thread>\d+) +)?<\.\.\. \w+ resumed>(?P<rest>.*)")
_RESULT = re.compile(r"\) += (-?\d+|\?)[^\"]*$")
_NUMBER = re.compile(r", (\d+)(?=\)| <unfinished)")
_DATA = re.compile(r', ("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True)
class Call:
    """A system call on a file. `result` is None if it never returned."""

    thread: str
    name: str
    file: str
    """A path, or "TCP:[...]"."""
    arguments: str
    begun: int
    """The line of the log on which the call begins."""
    ended: float = inf
    """The line on which it returns."""
    result: int | None = None

    @cached_property
    def data(self) -> bytes:
        """The bytes that it was asked to write."""
        quoted = _DATA.match(self.arguments)
        return bytes(literal_eval("b" + quoted[1])) if quoted else b""

    @property
    def number(self) -> int:
        """Its last argument: the offset of a pwrite64, the length of an ftruncate."""
        return int(_NUMBER.findall(self.arguments)[-1])


@cache
def _fault() -> str | None:
    """Return why strace cannot be used here, or None if it can."""
    if shutil.which("strace") is None:
        return "needs strace, which is not installed"
    test_run = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"needs strace, which is not permitted here: {test_run.stderr}" if test_run.returncode else None


needs_strace = pytest.mark.skipif(_fault() is not None, reason=_fault() or "")


def kill_at_call(names: str, number: int, log: Path, *, all_threads: bool = True) -> list[str]:
    """Return a tracer that kills a process when it enters its n-th call of a name, counts by thread and name."""
    return _tracer(log, names, f"inject={names}:signal=SIGKILL:when={number}", all_threads=all_threads)


def fail_from_call(names: str, error: str, first: int, log: Path) -> list[str]:
    """Return a tracer that makes the n-th call of a name and all later ones fail, counts by thread and name."""
    return _tracer(log, names, f"inject={names}:error={error}:when={first}+")


def record_calls(names: str, log: Path) -> list[str]:
    """Return a tracer that records calls with all their bytes."""
    return _tracer(log, names)


def read_calls(log: Path) -> list[Call]:
    """Return the calls that a tracer has recorded, in the order in which they began."""
    recorded: list[Call] = []
    waiting: dict[str, int] = {}
    for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if begun := _BEGUN.match(line):
            thread, rest = begun["thread"] or "", begun["rest"]
            recorded.append(Call(thread, begun["name"], begun["opened"] or begun["named"], rest, begun=number))
            waiting[thread] = len(recorded) - 1
        elif resumed := _RESUMED.match(line):
            thread, rest = resumed["thread"] or "", resumed["rest"]
        else:
            continue
        if ended := _RESULT.search(rest):
            index = waiting.pop(thread)
            result = None if ended[1] == "?" else int(ended[1])
            recorded[index] = replace(recorded[index], ended=number, result=result)
    return recorded


def killed_call(log: Path, number: int) -> Call | None:
    """Return the call at which `kill_at_call` killed the process, or None if there was no n-th call."""
    counts: Counter[tuple[str, str]] = Counter()
    for call in read_calls(log):
        counts[call.thread, call.name] += 1
        if counts[call.thread, call.name] == number:
            return call if call.result is None else None
    return None


def _tracer(log: Path, names: str, *extra: str, all_threads: bool = True) -> list[str]:
    expressions = [
        argument for expression in (f"trace={names}", "signal=none", *extra) for argument in ("-e", expression)
    ]
    return ["strace", *(["-f"] if all_threads else []), "-yy", "-s", "9999", "-o", str(log), *expressions]

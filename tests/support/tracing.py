"""Faults at system calls: strace injects them, and its log says what was hit."""

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
    """One system call on a file; `result` is None where it never came back."""

    thread: str
    name: str
    file: str
    """A path, or "TCP:[...]"."""
    arguments: str
    begun: int
    """The number of its line in the log, and of the one where it came back."""
    ended: float = inf
    result: int | None = None

    @cached_property
    def data(self) -> bytes:
        """The bytes that it was to write."""
        quoted = _DATA.match(self.arguments)
        return bytes(literal_eval("b" + quoted[1])) if quoted else b""

    @property
    def number(self) -> int:
        """Its last argument: where pwrite64 was to write, how long ftruncate was to make it."""
        return int(_NUMBER.findall(self.arguments)[-1])


@cache
def _fault() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "needs strace, which is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"needs strace, which may not trace here: {tried.stderr}" if tried.returncode else None


needs_strace = pytest.mark.skipif(_fault() is not None, reason=_fault() or "")


def killing(names: str, number: int, log: Path, *, all_threads: bool = True) -> list[str]:
    """The tracer that kills a process at its n-th call of a name, before it is done; counted by thread and name."""
    return _tracer(log, names, f"inject={names}:signal=SIGKILL:when={number}", all_threads=all_threads)


def failing(names: str, error: str, first: int, log: Path) -> list[str]:
    """The tracer that lets the n-th call of a name, and all after it, fail; counted by thread and name."""
    return _tracer(log, names, f"inject={names}:error={error}:when={first}+")


def recording(names: str, log: Path) -> list[str]:
    """The tracer that writes down calls with all their bytes."""
    return _tracer(log, names)


def calls(log: Path) -> list[Call]:
    """The calls that a tracer has written down, in the order in which they began."""
    found: list[Call] = []
    waiting: dict[str, int] = {}
    for number, line in enumerate(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        if begun := _BEGUN.match(line):
            thread, rest = begun["thread"] or "", begun["rest"]
            found.append(Call(thread, begun["name"], begun["opened"] or begun["named"], rest, begun=number))
            waiting[thread] = len(found) - 1
        elif resumed := _RESUMED.match(line):
            thread, rest = resumed["thread"] or "", resumed["rest"]
        else:
            continue
        if ended := _RESULT.search(rest):
            place = waiting.pop(thread)
            result = None if ended[1] == "?" else int(ended[1])
            found[place] = replace(found[place], ended=number, result=result)
    return found


def hit(log: Path, number: int) -> Call | None:
    """The call at which `killing` has killed; None where there was no n-th one."""
    counted: Counter[tuple[str, str]] = Counter()
    for call in calls(log):
        counted[call.thread, call.name] += 1
        if counted[call.thread, call.name] == number:
            return call if call.result is None else None
    return None


def _tracer(log: Path, traced: str, *more: str, all_threads: bool = True) -> list[str]:
    expressions = [word for expression in (f"trace={traced}", "signal=none", *more) for word in ("-e", expression)]
    return ["strace", *(["-f"] if all_threads else []), "-yy", "-s", "9999", "-o", str(log), *expressions]

"""Run a coroutine in its own event loop, with no more connections than files may be open."""

import asyncio
import os
import resource
from collections.abc import Callable, Coroutine
from typing import TypeVar

from skychimp.errors import SkychimpError
from skychimp.translation import tr

MIN_OPEN_FILES = 32
"""The least limit of open files (RLIMIT_NOFILE), with which there can be one connection to the mail server."""

RESERVED_FILES = 20
"""How many files a run opens besides the store and its connections: event loop, name lookups, a token command."""

T = TypeVar("T")


def run_in_event_loop(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine and return its result. Uses uvloop if it is installed.

    Raises SkychimpError if too few files may be open at once: uvloop would abort the process.
    """
    try:
        require_open_files()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(coroutine)
    finally:
        coroutine.close()


def require_open_files() -> None:
    """Raise SkychimpError if too few files may be open at once to send anything."""
    limit = open_files_limit()
    if limit is not None and limit < MIN_OPEN_FILES:
        raise SkychimpError(
            tr(
                "at most {limit} files may be open at once, but sending needs {min_open_files}",
                limit=limit,
                min_open_files=MIN_OPEN_FILES,
            ),
            tr('run "ulimit -n 1024"'),
        )


def open_files_limit() -> int | None:
    """Return how many files this process may have open at once, None if there is no limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if limit == resource.RLIM_INFINITY else limit


def fitting_connections(wanted: int) -> int:
    """Return how many connections can be open at once, at most as many as wanted."""
    limit = open_files_limit()
    if limit is None:
        return wanted
    return min(wanted, max(1, limit - _count_open_files() - RESERVED_FILES))


def _count_open_files() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:  # not every system has it
        return MIN_OPEN_FILES - RESERVED_FILES


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

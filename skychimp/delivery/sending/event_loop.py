"""Run a coroutine in its own event loop."""

import asyncio
import resource
from collections.abc import Callable, Coroutine
from typing import TypeVar

from skychimp.errors import SkychimpError

MIN_OPEN_FILES = 64
"""The least limit of open files (RLIMIT_NOFILE). Connections to the mail server come on top of it."""

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
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= limit < MIN_OPEN_FILES:  # no limit is -1
        raise SkychimpError(
            f"at most {limit} files may be open at once, but sending needs {MIN_OPEN_FILES}", 'run "ulimit -n 1024"'
        )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop

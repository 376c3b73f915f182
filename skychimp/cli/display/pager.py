"""Show what is longer than the screen in the user's pager, as git and gh do."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

_DEFAULT_PAGER = "less"
_OPTIONS = {"LESS": "FRX", "LV": "-c"}
"""The options of pagers that the user has not set: keep colors, and leave the text on the screen."""


@contextlib.contextmanager
def paged(*, is_long: bool) -> Iterator[TextIO]:
    """Yield the stream for a text on a terminal: the pager if it is longer than the screen, else stdout.

    The pager is $PAGER or less. Whoever leaves it before the end gets no error.
    """
    pager = _start() if is_long else None
    if pager is None:
        yield sys.stdout
        return
    assert pager.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):
            yield pager.stdin  # type: ignore[misc]  # it is opened with an encoding
    finally:
        with contextlib.suppress(BrokenPipeError):
            pager.stdin.close()
        _wait(pager)


def _start() -> "subprocess.Popen[str] | None":
    """Start the pager, or return None if there is none.

    Whoever runs a shared installation with sudo gets none: it could start any program as this account.
    """
    from skychimp.config import shared

    words = shlex.split(os.environ.get("PAGER", _DEFAULT_PAGER))
    if not words or words == ["cat"] or shutil.which(words[0]) is None or shared.find_restriction() is not None:
        return None
    sys.stdout.flush()
    environ = _OPTIONS | dict(os.environ)
    return subprocess.Popen(words, stdin=subprocess.PIPE, env=environ, encoding="utf-8", errors="backslashreplace")  # noqa: S603


def _wait(pager: "subprocess.Popen[str]") -> None:
    """Wait until the pager has ended. Ctrl-C is for the pager, which gives the terminal back."""
    while True:
        try:
            pager.wait()
        except KeyboardInterrupt:
            continue
        return

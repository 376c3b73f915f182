"""Write the file that a user names for an export or a report."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from skychimp import files
from skychimp.errors import InvalidValue


@contextmanager
def open_output_file(name: str) -> Iterator[TextIO]:
    """Open a file that is written completely or not at all. A device or a pipe is written directly.

    The target of a link is replaced. An existing file keeps its mode; a new one is readable by its owner only.
    Raises InvalidValue if the file cannot be written.
    """
    path = Path(name)
    try:
        if path.exists() and not path.is_file():
            with path.open("w", encoding="utf-8", newline="") as opened:
                yield opened
        else:
            yield from _replace(path.resolve())
    except OSError as error:
        hint = "use another file, or - for stdout"
        raise InvalidValue(f"cannot write {name}: {error.strerror}", hint) from None


def _replace(path: Path) -> Iterator[TextIO]:
    with files.new_file(path) as opened:
        if path.exists():
            os.fchmod(opened.fileno(), stat.S_IMODE(path.stat().st_mode))
        text = io.TextIOWrapper(opened, encoding="utf-8", newline="")
        yield text
        text.detach()  # flushes the text but does not close the file, which `new_file` has to finish

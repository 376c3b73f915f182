"""Open a file or stdin for a command that imports it, and report how much of it is read."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from typing import Annotated, BinaryIO, TextIO

import typer

from skychimp.cli.context import Context
from skychimp.cli.display.progress import ProgressReporter
from skychimp.errors import InvalidValue
from skychimp.translation import tr

Encoding = Annotated[
    str | None,
    typer.Option(help="Character encoding, such as windows-1251 (default: found in the file).", show_default=False),
]


def open_input(file: str) -> contextlib.AbstractContextManager[BinaryIO]:
    """Open a file, or stdin for "-". Raises InvalidValue."""
    from skychimp.config.named_files import open_input_file

    if file == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    try:
        return open_input_file(file)
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {file}: {strerror}", file=file, strerror=error.strerror),
            tr("use another file, or - for stdin"),
        ) from None


def open_text(context: Context, binary: BinaryIO, file: str, encoding: str | None) -> TextIOWrapper:
    """Open it as text, and name an encoding that was guessed. Raises InvalidValue."""
    from skychimp.services.clients.files import text_files

    with naming(file):
        opened = text_files.open_text(binary, encoding)
    if opened.guess:
        context.out.note(tr("the file is read as {guess}; use --encoding if names look wrong", guess=opened.guess))
    return opened.file


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Name the file in the errors about it."""
    try:
        yield
    except InvalidValue as error:
        raise InvalidValue(
            tr("cannot import {file}: {message}", file=file, message=error.message), error.hint
        ) from None
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {file}: {strerror}", file=file, strerror=error.strerror),
            tr("use another file, or - for stdin"),
        ) from None


def row_reporter(report_progress: ProgressReporter, opened: TextIO, file: str, noun: str) -> Callable[[int], None]:
    """Return the function that reports the rows read so far, and an estimate of their total for a regular file."""
    size = os.path.getsize(file) if os.path.isfile(file) else None

    def report(rows: int) -> None:
        total = size and max(rows, round(rows * size / max(opened.buffer.tell(), 1)))
        report_progress(rows, noun, total)

    return report

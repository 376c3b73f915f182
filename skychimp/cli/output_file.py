"""Write the files that a user names for an export or a report, and files that we generate in a folder."""

import errno
import io
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, TextIO

import typer

from skychimp import files
from skychimp.cli.context import Context
from skychimp.config import shared
from skychimp.errors import InvalidValue
from skychimp.services.installing.marks import is_ours, mark
from skychimp.text import NO_TEXT, count_of
from skychimp.translation import Phrase, tr

Force = Annotated[
    bool,
    typer.Option("--force", "--yes", "-y", help="Replace an existing file without asking.", show_default=False),
]

FORCE = "--force"

_STREAMS = {"/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR = re.compile(r"/(?:dev|proc/self)/fd/([0-9]{1,9})")
_LISTED = 3
"""How many files a question names."""


@contextmanager
def open_output_file(context: Context, name: str, *, force: bool) -> Iterator[TextIO]:
    """Open a file that is written completely or not at all. A device or a pipe is written directly.

    An existing file is replaced if the user agrees, and keeps its mode if it is ours. A link is replaced itself. A new
    file is readable by its owner only. Raises InvalidValue if the file cannot be written or nobody can be asked,
    SkychimpError if the answer is no, and Denied to whoever runs a shared installation with sudo.
    """
    _require_operator(tr("use - and redirect the output"))
    try:
        with _open_stream(name) or _open_new(context, Path(name), force) as opened:
            yield opened
    except BrokenPipeError:
        raise
    except files.UnsafePlace as error:
        raise InvalidValue(
            tr("cannot write {name}: {strerror}", name=name, strerror=error.strerror),
            tr("use another file, or - for stdout"),
        ) from None
    except OSError as error:
        raise _cannot_write(name, error) from None


def write_generated_files(
    context: Context, folder: Path, texts: Mapping[str, str], *, comment: str, force: bool, create: bool = False
) -> None:
    """Write files to a folder, by name, each with a first line that marks it as ours. `comment` begins a comment.

    `create` says whether to create the folder. A file that we wrote and nobody changed is replaced. Any other file is
    replaced only if the user agrees. Raises what `open_output_file` raises.
    """
    _require_operator()
    marked = {name: mark(text, comment) for name, text in texts.items()}
    try:
        if create:
            files.make_folder(folder, 0o755)
        existing = {name for name in marked if os.path.lexists(folder / name)}
        foreign = sorted(name for name in existing if not is_ours(folder / name, comment))
        if foreign:
            shown = ", ".join(foreign) if len(foreign) <= _LISTED else count_of(len(foreign), "file")
            context.confirm(tr("replace {files} in {folder}", files=shown, folder=folder), yes=force, option=FORCE)
        for name, text in marked.items():
            with files.new_file(folder / name, replace=name in existing, mode=0o644) as file:
                file.write(text.encode())
    except OSError as error:
        raise InvalidValue(
            tr("cannot write to {folder}: {strerror}", folder=folder, strerror=error.strerror), tr("use another folder")
        ) from None


def _cannot_write(name: str, error: OSError) -> InvalidValue:
    if error.errno == errno.EBUSY:  # it is mounted by itself, as a container does with a single file
        return InvalidValue(
            tr("cannot replace {name}: it is a mount point", name=name), tr("use - and redirect the output")
        )
    return InvalidValue(
        tr("cannot write {name}: {strerror}", name=name, strerror=error.strerror),
        tr("use another file, or - for stdout"),
    )


def _require_operator(instead: Phrase | None = None) -> None:
    """Raise Denied to whoever runs a shared installation with sudo. `instead` is what they can do."""
    shared.require_operator(tr("write files as this account"), instead or NO_TEXT)


def _open_stream(name: str) -> TextIO | None:
    """Open a device or a pipe for writing. Return None if there is none with this name.

    A name of an open stream, such as /dev/stdout, stands for the stream itself, also if that is a file.
    """
    number = _STREAMS.get(name)
    if number is None and (match := _DESCRIPTOR.fullmatch(name)):
        number = int(match[1])
    if number is not None and (number in _STREAMS.values() or _is_stream(os.fstat(number))):
        sys.stdout.flush()
        return open(os.dup(number), "w", encoding="utf-8", newline="")
    with suppress(FileNotFoundError):
        status = os.stat(name)
        if stat.S_ISFIFO(status.st_mode) and status.st_uid not in (os.geteuid(), 0):
            raise files.UnsafePlace(
                name,
                tr("belongs to {account}", account=files.account_name(status.st_uid)),
                tr("use another file"),
            )
        if _is_stream(status):
            return open(name, "w", encoding="utf-8", newline="")
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(0, tr("it is not a file"), name)
    return None


def _is_stream(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISFIFO(status.st_mode)


@contextmanager
def _open_new(context: Context, path: Path, force: bool) -> Iterator[TextIO]:
    exists = os.path.lexists(path)
    if exists:
        _require_not_the_store(context, path)
        context.confirm(tr("replace {path}", path=path), yes=force, option=FORCE)
    with files.new_file(path, replace=exists) as opened:
        if exists:
            _keep_mode(path, opened.fileno())
        text = io.TextIOWrapper(opened, encoding="utf-8", newline="")
        yield text
        text.detach()  # flushes the text but does not close the file, which `new_file` has to finish


def _require_not_the_store(context: Context, path: Path) -> None:
    from skychimp.store.place import is_part_of

    if is_part_of(context.store.path, path):
        raise InvalidValue(tr("{path} belongs to the store itself", path=path), tr("use another file"))


def _keep_mode(path: Path, descriptor: int) -> None:
    """Give an open file the mode of a file of ours that it replaces."""
    with suppress(FileNotFoundError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
            os.fchmod(descriptor, status.st_mode & 0o777)

"""Read and write files safely: no half-written file, no link followed, nothing blocked.

A new file is written under a temporary name beside its place and gets its own name once it is complete and on the disk.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_LEFTOVERS = ("", "-journal", "-wal", "-shm")
_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_file(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file completely or not at all, readable by its owner only.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    with new_file(path, replace=replace) as opened:
        opened.write(data)


@contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a file that gets its name at the end of the block. If the block fails, there is no new file.

    It is readable by its owner only. Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, _CREATE | os.O_WRONLY, 0o600), "wb") as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        publish(draft, path, replace=replace)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Create an empty file that only we can read, and remove it after the block with all that SQLite put beside it."""
    os.close(os.open(path, _CREATE | os.O_RDWR, 0o600))
    try:
        yield path
    finally:
        for suffix in _LEFTOVERS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def publish(draft: Path, path: Path, *, replace: bool = False) -> None:
    """Give a complete file its name, on the disk too.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    (os.rename if replace else os.link)(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a new name survives a power loss."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def open_file(path: Path | str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading, without following a link and without waiting for a pipe.

    Returns a file descriptor. Raises OSError, also for anything but a regular file.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(0, "not a regular file", str(path))
    return opened


def is_private(opened: int, *, forbidden: int = 0o077) -> bool:
    """Return whether an open file or folder is ours and grants others none of the `forbidden` permissions."""
    status = os.fstat(opened)
    return status.st_uid == os.geteuid() and not status.st_mode & forbidden

"""Read and write files safely: never leave half a file, follow a link, or wait for a pipe.

A new file is written under a temporary name in the same folder. It gets its own name once it is complete and flushed to
the disk.
"""

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_SQLITE_SUFFIXES = ("", "-journal", "-wal", "-shm")
_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_file(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file completely or not at all, readable by its owner only.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    with new_file(path, replace=replace) as file:
        file.write(data)


@contextmanager
def new_file(path: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that gets its name at the end of the block, and is removed if the block fails.

    It is readable by its owner only. Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    draft = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, _CREATE | os.O_WRONLY, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(draft, path, replace=replace)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Create an empty file, readable by its owner only. After the block it is removed with SQLite's files beside it."""
    os.close(os.open(path, _CREATE | os.O_RDWR, 0o600))
    try:
        yield path
    finally:
        for suffix in _SQLITE_SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def publish(draft: Path, path: Path, *, replace: bool = False) -> None:
    """Give a complete file its name, and flush the name to the disk.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    (os.rename if replace else os.link)(draft, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a new name survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: Path | str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading, without following a link and without waiting for a pipe.

    Returns a file descriptor. Raises OSError, also if it is not a regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file", str(path))
    return descriptor


def is_private(descriptor: int, *, forbidden: int = 0o077) -> bool:
    """Return whether an open file or folder is ours and grants others none of the `forbidden` permissions."""
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and not status.st_mode & forbidden

"""A folder of files that we made: only what changed is written, and nothing else in it is touched.

A manifest in the folder names what is ours. It is written before the files, so that whatever is cut off is known.
No link is followed on the way to a file.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from skychimp.errors import Conflict, InvalidValue, SkychimpError

MANIFEST = ".skychimp-site"
_NEW = ".skychimp-site.new"
_OURS = re.compile(r"([^/\0]+/)?[^/\0]+")


@dataclass(frozen=True)
class Changes:
    """Paths, relative to the folder; `unchanged` counts the files that were right already."""

    written: list[str]
    removed: list[str]
    unchanged: int


def write(folder: Path, files: Mapping[str, bytes | Path]) -> Changes:
    """Make the folder hold these files, at most one folder deep, in this order; a Path is copied from there.

    Raises Conflict where something of somebody else's stands in the way, InvalidValue where the folder can't be used,
    SkychimpError where it can't be written.
    """
    try:
        with _entered(folder) as root:
            return _write(root, folder, files)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else folder
        raise SkychimpError(f"{folder} can't be written: {name}: {error.strerror}") from None


def _write(root: int, folder: Path, files: Mapping[str, bytes | Path]) -> Changes:
    ours = _manifest(root, folder)
    for path in files:
        if path not in ours and _stands(root, path):
            raise Conflict(f"{folder / path} is not ours", "move it away, or name another folder")
    _keep_manifest(root, ours | files.keys(), ours)
    written = [path for path, content in files.items() if _replace(root, path, content)]
    removed = [path for path in sorted(ours - files.keys()) if _remove(root, path)]
    _keep_manifest(root, set(files), ours | files.keys())
    return Changes(written, removed, len(files) - len(written))


@contextmanager
def _entered(folder: Path) -> Iterator[int]:
    """The folder's file descriptor, while nobody else builds there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (FileExistsError, NotADirectoryError):
        raise InvalidValue(f"{folder} is no folder", "name an empty folder, or one that is to be made") from None
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield root
    except BlockingIOError:
        raise Conflict(f"somebody else is writing to {folder}", "wait until they are done") from None
    finally:
        os.close(root)


def _manifest(root: int, folder: Path) -> set[str]:
    """The paths that are ours; a folder without a manifest has to be empty. Raises Conflict."""
    kept = _read(root, MANIFEST)
    if kept is None:
        if set(os.listdir(root)) - {_NEW}:
            raise Conflict(f"{folder} holds files that are not ours", "name an empty folder, or one that is to be made")
        return set()
    try:
        return {path for path in json.loads(kept)["files"] if _OURS.fullmatch(path) and ".." not in path.split("/")}
    except (ValueError, LookupError, TypeError):
        raise Conflict(f"{folder / MANIFEST} can't be read: what is ours?", "name an empty folder") from None


def _keep_manifest(root: int, paths: Set[str], kept: Set[str]) -> None:
    if paths != kept:
        said = json.dumps({"made_by": "skychimp", "files": sorted(paths)}, indent=1)
        _replace(root, MANIFEST, f"{said}\n".encode())


def _replace(root: int, path: str, content: bytes | Path) -> bool:
    """Put a file in its place, whole; False where it was there already, the same to the byte."""
    data = content if isinstance(content, bytes) else content.read_bytes()
    with _parent(root, path, make=True) as (parent, name):
        if _read(parent, name) == data:
            return False
        with suppress(FileNotFoundError):
            os.unlink(_NEW, dir_fd=root)
        made = os.open(_NEW, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666, dir_fd=root)
        with open(made, "wb") as file:
            file.write(data)
        os.replace(_NEW, name, src_dir_fd=root, dst_dir_fd=parent)
        return True


def _remove(root: int, path: str) -> bool:
    """Remove a file, and its folder once that is empty; False where it is gone already, or no file any more."""
    try:
        with _parent(root, path) as (parent, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return False
            os.unlink(name, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    with suppress(OSError):
        os.rmdir(os.path.dirname(path), dir_fd=root)
    return True


def _stands(root: int, path: str) -> bool:
    with suppress(FileNotFoundError), _parent(root, path) as (parent, name):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        return True
    return False


@contextmanager
def _parent(root: int, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """The file descriptor of the folder that a path lies in, and the name there. A link is no folder."""
    parent, _, name = path.rpartition("/")
    if not parent:
        yield root, name
        return
    if make:
        with suppress(FileExistsError):
            os.mkdir(parent, dir_fd=root)
    opened = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    try:
        yield opened, name
    finally:
        os.close(opened)


def _read(parent: int, name: str) -> bytes | None:
    """A file's content; None where there is none, or a link."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    with open(opened, "rb") as file:
        return file.read()

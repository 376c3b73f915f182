"""Write a set of files to a folder: only what has changed, and without touching any other file in it.

A manifest in the folder lists the files that we wrote. It is written before the files, so that an interrupted build
leaves no unknown file. Every path is opened relative to the folder, and no link is followed, so that nothing outside
the folder can be changed.
"""

import errno
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from skychimp.errors import Conflict, InvalidValue, SkychimpError
from skychimp.files import UnsafePlace, create_file, make_folder
from skychimp.translation import tr

ReadContent = Callable[[], bytes]
"""Returns the content of a file."""

MANIFEST = ".skychimp-site"
_NEW = ".skychimp-site.new"
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
"""A web server must be able to read the files, unless the umask forbids that. Others must never write to them."""

_VALID_PATH = re.compile(r"([^/\0]+/)?[^/\0]+")


@dataclass(frozen=True)
class Changes:
    """Paths relative to the folder. `unchanged` is the number of files that did not have to be written."""

    written: list[str]
    removed: list[str]
    unchanged: int


def write_files(folder: Path, files: Mapping[str, bytes | ReadContent]) -> Changes:
    """Write these files, by path, in this order, and remove those of an earlier call that are not among them.

    A path has at most one subfolder. A content that is a function is called when it is needed. Raises Conflict if the
    folder contains files that we did not write, InvalidValue if it is not a folder, and SkychimpError if it can't be
    written.
    """
    try:
        with _locked_folder(folder) as root:
            return _write(root, folder, files)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else folder
        raise SkychimpError(
            tr("cannot write {folder}: {strerror}", folder=folder / name, strerror=error.strerror)
        ) from None


def _write(root: int, folder: Path, files: Mapping[str, bytes | ReadContent]) -> Changes:
    known = _read_manifest(root, folder)
    for path in files:
        if path not in known and _exists(root, path):
            raise Conflict(
                tr("{folder} already exists", folder=folder / path), tr("move it away, or use another folder")
            )
    _write_manifest(root, known | files.keys(), known)
    written = [path for path, content in files.items() if _replace(root, path, content)]
    removed = [path for path in sorted(known - files.keys()) if _remove(root, path)]
    _write_manifest(root, set(files), known | files.keys())
    return Changes(written, removed, len(files) - len(written))


@contextmanager
def _locked_folder(folder: Path) -> Iterator[int]:
    """Create, open and lock a folder, and return its file descriptor."""
    try:
        make_folder(folder, _FOLDER_MODE)
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (UnsafePlace, NotADirectoryError):
        raise InvalidValue(tr("{folder} is not a folder", folder=folder), tr("use an empty or a new folder")) from None
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield root
    except BlockingIOError:
        raise Conflict(tr("another build is writing to {folder}", folder=folder), tr("try again later")) from None
    finally:
        os.close(root)


def _read_manifest(root: int, folder: Path) -> set[str]:
    """Return the paths of the files that we wrote. Raises Conflict if a folder with files has no valid manifest."""
    manifest = _read(root, MANIFEST)
    if manifest is None:
        if set(os.listdir(root)) - {_NEW}:
            raise Conflict(tr("{folder} contains other files", folder=folder), tr("use an empty or a new folder"))
        return set()
    try:
        return {
            path
            for path in json.loads(manifest)["files"]
            if _VALID_PATH.fullmatch(path) and ".." not in path.split("/")
        }
    except (ValueError, LookupError, TypeError):
        raise Conflict(
            tr("{folder} is damaged", folder=folder / MANIFEST), tr("use an empty or a new folder")
        ) from None


def _write_manifest(root: int, paths: Set[str], current: Set[str]) -> None:
    if paths != current:
        manifest = json.dumps({"made_by": "skychimp", "files": sorted(paths)}, indent=1)
        _replace(root, MANIFEST, f"{manifest}\n".encode())


def _replace(root: int, path: str, content: bytes | ReadContent) -> bool:
    """Replace a file atomically. Return False if it has this content already."""
    data = content if isinstance(content, bytes) else content()
    with _open_parent(root, path, create=True) as (parent, name):
        if _read(parent, name) == data:
            return False
        with create_file(_NEW, dir_fd=root, mode=_FILE_MODE) as file:
            file.write(data)
        os.replace(_NEW, name, src_dir_fd=root, dst_dir_fd=parent)
        return True


def _remove(root: int, path: str) -> bool:
    """Remove a file, and its folder if that is empty then. Return False if there is no such file."""
    try:
        with _open_parent(root, path) as (parent, name):
            if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                return False
            os.unlink(name, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    with suppress(OSError):
        os.rmdir(os.path.dirname(path), dir_fd=root)
    return True


def _exists(root: int, path: str) -> bool:
    with suppress(FileNotFoundError), _open_parent(root, path) as (parent, name):
        os.stat(name, dir_fd=parent, follow_symlinks=False)
        return True
    return False


@contextmanager
def _open_parent(root: int, path: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder of a path, without following a link. Return its file descriptor and the name in it."""
    parent, _, name = path.rpartition("/")
    if not parent:
        yield root, name
        return
    if create:
        with suppress(FileExistsError):
            os.mkdir(parent, _FOLDER_MODE, dir_fd=root)
    opened = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    try:
        yield opened, name
    finally:
        os.close(opened)


def _read(parent: int, name: str) -> bytes | None:
    """Return a file's content, or None if there is no file or a link."""
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):
            return None
        raise
    with open(opened, "rb") as file:
        return file.read()

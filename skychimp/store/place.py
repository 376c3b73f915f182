"""Check where a store is kept: nobody else may have been able to change it.

SQLite replays a log that it finds beside a store. So whoever can put a file there could change what is in the store.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path

from skychimp import files
from skychimp.config.locations import user_folder
from skychimp.errors import StoreNotReady
from skychimp.shell import quoted, run_line_hint
from skychimp.translation import Phrase, tr

_OTHER_STORE = tr("use another file with --store FILE")


def check_place(store: Path) -> None:
    """Raise StoreNotReady unless only we and root can change a store, its logs and its folder.

    Any of them may be missing. A link or a pipe is refused: SQLite would wait for a pipe.
    """
    try:
        files.check_place(store, *files.SQLITE_COMPANIONS)
    except files.UnsafePlace as error:
        raise StoreNotReady(
            tr("cannot use the store {store}: {reason}", store=store, reason=error.reason(store)), _remedy(store, error)
        ) from None
    except OSError as error:
        raise StoreNotReady(
            tr("cannot read the store {store}: {strerror}", store=store, strerror=error.strerror), _OTHER_STORE
        ) from None


def require_own_logs(file: Path) -> None:
    """Raise StoreNotReady unless the logs beside a file from elsewhere are regular files by its owner, us or root."""
    owners = (file.stat().st_uid, os.geteuid(), 0)
    for log in (file.with_name(file.name + suffix) for suffix in files.SQLITE_COMPANIONS):
        with suppress(FileNotFoundError):
            status = log.lstat()
            if status.st_uid not in owners or not stat.S_ISREG(status.st_mode):
                raise StoreNotReady(
                    tr("{log} is not a regular file by the owner of {name}", log=log, name=file.name), _move_hint(log)
                )


def is_part_of(store: Path, file: Path) -> bool:
    """Return whether a file is a store or one of its logs. A link is not."""
    parts = _parts(store)
    for part in parts:
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(file.lstat(), part.stat()):
                return True
    return file.parent.resolve() / file.name in [part.parent.resolve() / part.name for part in parts]


def find_unwritable(store: Path) -> Path | None:
    """Return the store or the first of its logs that we may not write to, None if there is none.

    SQLite gives a log the mode that the store has then. So a store that was read-only for a while may still have a
    log that is.
    """
    effective = os.access in os.supports_effective_ids
    parts = (part for part in _parts(store) if os.path.exists(part))
    return next((part for part in parts if not os.access(part, os.W_OK, effective_ids=effective)), None)


def is_on_read_only_mount(store: Path) -> bool:
    """Return whether nothing can be written to the file system of a store."""
    try:
        return bool(os.statvfs(store).f_flag & os.ST_RDONLY)
    except OSError:
        return False


def permissions_hint(store: Path) -> Phrase:
    """Return the hint for a store that SQLite cannot use, maybe because it or one of its logs is read-only."""
    if is_on_read_only_mount(store):
        return tr("mount its file system writable, or copy the store with its -wal file to another one")
    part = find_unwritable(store)
    if part is None or part.stat().st_uid != os.geteuid():
        return tr("check the disk and the file's permissions")
    return run_line_hint("chmod", "u+w", part)


def _parts(store: Path) -> list[Path]:
    """Return the paths of a store and its logs."""
    return [store, *(store.with_name(store.name + suffix) for suffix in files.SQLITE_COMPANIONS)]


def _remedy(store: Path, error: files.UnsafePlace) -> Phrase:
    place = Path(error.filename)
    if place not in (store, store.parent):
        return _move_hint(place) if error.owner or place.is_symlink() or not place.is_file() else error.remedy
    if not (os.path.isdir(place) if place == store.parent else os.path.isfile(place)):
        return _OTHER_STORE
    if error.owner:
        return files.run_as_hint(error.owner)
    better = _better_folder(place) if place == store.parent else None
    return tr("use --store {path}", path=quoted(str(better / store.name))) if better else error.remedy


def _better_folder(folder: Path) -> Path | None:
    """Return where to keep a store if not in a folder that others need as it is. None if the folder can be changed."""
    status = folder.stat()
    if status.st_mode & stat.S_ISVTX:  # for everybody, such as /tmp
        return user_folder("data")
    if status.st_uid == os.geteuid():
        return None
    return folder / "skychimp" if os.access(folder, os.W_OK) else user_folder("data")  # root's, such as a volume


def _move_hint(path: Path) -> Phrase:
    return run_line_hint("mv", path, f"{path}.old")

"""Check where a store is kept: nobody else may have been able to change it.

SQLite replays a log that it finds beside a store. So whoever can put a file there could change what is in the store.
"""

import os
from contextlib import suppress
from pathlib import Path

from skychimp import files
from skychimp.config.locations import user_folder
from skychimp.errors import StoreNotReady
from skychimp.shell import run_line_hint

LOG_SUFFIXES = ("-wal", "-shm", "-journal")


def check_place(store: Path) -> None:
    """Raise StoreNotReady unless only we and root can change a store, its logs and its folder, and none is a link.

    Any of them may be missing.
    """
    try:
        files.check_place(store, *LOG_SUFFIXES)
    except files.UnsafePlace as error:
        place = "it" if error.filename == str(store) else error.filename
        raise StoreNotReady(f"cannot use the store {store}: {place} {error.fault}", _remedy(store, error)) from None
    except OSError as error:
        raise StoreNotReady(f"cannot read the store {store}: {error.strerror}") from None


def require_own_logs(file: Path) -> None:
    """Raise StoreNotReady if a log beside a file from elsewhere could be another account's than the file."""
    owners = (file.stat().st_uid, os.geteuid(), 0)
    for log in (file.with_name(file.name + suffix) for suffix in LOG_SUFFIXES):
        with suppress(FileNotFoundError):
            if log.lstat().st_uid not in owners or log.is_symlink():
                raise StoreNotReady(f"{log} is not by the owner of {file.name}", _move_hint(log))


def is_part_of(store: Path, file: Path) -> bool:
    """Return whether a file is a store or one of its logs. A link is not."""
    parts = [store, *(store.with_name(store.name + suffix) for suffix in LOG_SUFFIXES)]
    for part in parts:
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(file.lstat(), part.stat()):
                return True
    return file.parent.resolve() / file.name in [part.parent.resolve() / part.name for part in parts]


def _remedy(store: Path, error: files.UnsafePlace) -> str:
    place = Path(error.filename)
    if place not in (store, store.parent):
        return _move_hint(place) if error.owner or place.is_symlink() else error.remedy
    if error.owner:
        account = f"#{error.owner}" if error.owner.isdecimal() else error.owner
        return run_line_hint("sudo", "-u", account, "skychimp", "...")
    if place == store.parent and place.stat().st_mode & 0o1000:  # sticky: a folder for everybody, such as /tmp
        return f"use --store {user_folder('data') / store.name}"
    return error.remedy


def _move_hint(path: Path) -> str:
    return run_line_hint("mv", path, f"{path}.old")

"""Open the files that a user names for an import or as the text of a message.

They may be anybody's, and pipes. But whoever runs a shared installation with sudo must be able to read them without it:
otherwise an import would show them the password, the config and the store of the account.
"""

import errno
import os
import stat
import sys
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from skychimp import files
from skychimp.config import shared
from skychimp.translation import tr


def open_input_file(name: str | Path) -> BinaryIO:
    """Open a file for reading. Raises Denied if the person who runs this with sudo could not read it, and OSError."""
    return _require_caller_can_read(open(name, "rb"), name)


def open_beside(name: str | Path, path: str) -> BinaryIO:
    """Open a regular file by its path in the folder of another file that a user names. No link is followed.

    Raises Denied as `open_input_file` does, and OSError, also for a path that leads out of the folder.
    """
    folder = os.open(os.path.dirname(name) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = files.open_below(path, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise OSError(error.errno, "it is a link, or in a folder that is one", path) from None
        raise
    finally:
        os.close(folder)
    return _require_caller_can_read(os.fdopen(descriptor, "rb"), path)


def _require_caller_can_read(file: BinaryIO, name: str | Path) -> BinaryIO:
    restriction = shared.find_restriction()
    if restriction is not None and not _can_caller_read(file.fileno(), restriction.caller):
        file.close()
        raise restriction.denied(
            tr("read {name} as this account", name=name), tr("pass its content to stdin, and - as the file name")
        )
    return file


def can_read(uid: int, groups: Collection[int], file: os.stat_result, folders: Collection[os.stat_result]) -> bool:
    """Return whether an account may read a file in these folders, by their owners and modes. ACLs are not considered.

    `folders` are all folders that the file is in, up to the root.
    """
    may_enter = (_permissions(uid, groups, folder) & stat.S_IXOTH for folder in folders)
    return uid == 0 or (all(may_enter) and bool(_permissions(uid, groups, file) & stat.S_IROTH))


def _permissions(uid: int, groups: Collection[int], status: os.stat_result) -> int:
    """Return the permissions that an account has, in the last three bits."""
    if status.st_uid == uid:
        return status.st_mode >> 6
    return status.st_mode >> 3 if status.st_gid in groups else status.st_mode


def _can_caller_read(descriptor: int, caller: shared.Caller) -> bool:
    file = os.fstat(descriptor)
    if stat.S_ISFIFO(file.st_mode) and file.st_uid == caller.uid:  # it may have no name
        return True
    path = _path_of(descriptor)
    try:
        folders = [folder.stat() for folder in path.parents]
        return os.path.samestat(path.stat(), file) and can_read(caller.uid, _groups_of(caller), file, folders)
    except OSError:  # it has been moved or deleted
        return False


def _path_of(descriptor: int) -> Path:
    """Return where an open file is, without links."""
    if sys.platform == "darwin":
        import fcntl

        return Path(os.fsdecode(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _groups_of(caller: shared.Caller) -> list[int]:
    import pwd

    try:
        account = pwd.getpwuid(caller.uid)
    except KeyError:
        return []
    return os.getgrouplist(account.pw_name, account.pw_gid)

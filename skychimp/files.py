"""Read and write files safely: never leave half a file, follow a link, or wait for a pipe.

A new file is written under a temporary name in the same folder. It gets its own name once it is complete and flushed to
the disk.
"""

import errno
import fcntl
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from skychimp.shell import run_line_hint
from skychimp.translation import Phrase, tr

SQLITE_LOGS = ("-wal", "-journal")
"""How the names of SQLite's logs end. They have a part of what is in the database that they are beside."""

SQLITE_COMPANIONS = (*SQLITE_LOGS, "-shm")
"""How the names of all files end that SQLite puts beside a database. One is an index of a log."""

_TEMPORARY = "draft"
_MINUTE_S, _DAY_S = 60, 86_400
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
"""The errors of a file system that has no hard links, such as FAT on a USB stick."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS_THROUGH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens also a folder that may not be listed, to open a file in it."""

_TRIES = 3
"""How often to look for a file. A link may be replaced meanwhile, as Kubernetes does to change a secret."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_file(path: Path, data: bytes, *, replace: bool = True, dir_fd: int | None = None) -> None:
    """Write a file completely or not at all, readable by its owner only.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    with new_file(path, replace=replace, dir_fd=dir_fd) as file:
        file.write(data)


@contextmanager
def new_file(path: Path, *, replace: bool = True, mode: int = 0o600, dir_fd: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that gets its name at the end of the block, and is removed if the block fails.

    A link with that name is replaced, not followed. With an open folder, `path` is a name in it. `mode` is limited by
    the umask, but we can always read and write it. Raises FileExistsError if the file exists and `replace` is false,
    and OSError.
    """
    name = os.fsdecode(os.fsencode(path.name)[:100])
    draft = path.with_name(f".{name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, _CREATE | os.O_WRONLY, mode, dir_fd=dir_fd), "wb") as file:
            _keep_access(file.fileno(), 0o600)
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(draft, path, replace=replace, dir_fd=dir_fd)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=dir_fd)


def create_file(name: str, *, dir_fd: int, mode: int = 0o600) -> BinaryIO:
    """Create a file in an open folder and open it for writing, in place of what a killed process has left there.

    It is neither flushed to the disk nor renamed. Raises OSError.
    """
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=dir_fd)
    return os.fdopen(os.open(name, _CREATE | os.O_WRONLY, mode, dir_fd=dir_fd), "wb")


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Create a folder with an empty file in it, and return the path of the file. Both are removed after the block.

    Only their owner has access, so that nobody can put one of SQLite's logs beside the file. The folder is locked, so
    that `remove_temporary` can tell whether this process lives. Raises OSError.
    """
    os.mkdir(path, 0o700)
    lock = None
    try:
        _keep_access(path, 0o700)
        lock = os.open(path, _FOLDER)
        _lock(lock)
        file = path / _TEMPORARY
        os.close(os.open(file, _CREATE | os.O_RDWR, 0o600))
        _keep_access(file, 0o600)
        yield file
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            folder = os.open(path, _FOLDER)  # not checked: some file systems show other modes than we gave
            try:
                _empty_temporary(folder)
            finally:
                os.close(folder)
            os.rmdir(path)
        if lock is not None:
            os.close(lock)


def remove_temporary(path: Path) -> None:
    """Remove what a killed process has left of `temporary_file`.

    A folder with other files is kept, and one that others can change. So is one that was changed in the last minute,
    or that is locked and was changed in the last day. Raises OSError.
    """
    with suppress(FileNotFoundError), open_folder(path) as folder:
        changed = [os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime for name in os.listdir(folder)]
        unused_s = time.time() - max(changed, default=os.fstat(folder).st_mtime)
        if unused_s > _DAY_S or (unused_s > _MINUTE_S and _lock(folder)):
            _empty_temporary(folder)
            os.rmdir(path)


def _lock(folder: int) -> bool:
    """Lock an open folder. Return False if another process holds the lock, or the file system knows no locks."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _empty_temporary(folder: int) -> None:
    for suffix in ("", *SQLITE_COMPANIONS):
        with suppress(FileNotFoundError):
            os.unlink(_TEMPORARY + suffix, dir_fd=folder)


def publish(draft: Path, path: Path, *, replace: bool = False, dir_fd: int | None = None) -> None:
    """Give a complete file its name, and flush the name to the disk. With an open folder, both are names in it.

    Raises FileExistsError if the file exists and `replace` is false, and OSError.
    """
    if replace or not _link_new(draft, path, dir_fd):
        os.rename(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    if dir_fd is None:
        sync_folder(path.parent)
    else:
        os.fsync(dir_fd)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that a new name survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_new(draft: Path, path: Path, dir_fd: int | None) -> bool:
    """Give a file a second name that no other file has. Return False if the file system has no second names."""
    try:
        os.link(draft, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return True
    with suppress(FileNotFoundError):
        os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return False


def open_file(path: Path | str, *, dir_fd: int | None = None) -> int:
    """Open a regular file for reading, without following a link and without waiting for a pipe.

    Returns a file descriptor. Raises OSError, also if it is not a regular file. A device is not even opened, because
    opening some of them has an effect.
    """
    status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise _not_regular(path)
    descriptor = os.open(path, _READ, dir_fd=dir_fd)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def open_below(
    path: str, *, dir_fd: int, check: Callable[[os.stat_result, str], None] = lambda status, path: None
) -> int:
    """Open a regular file in an open folder or in one below it, for reading, without following any link.

    `check` is called with the status and the path of each folder on the way and of the file. Returns a file descriptor.
    Raises OSError, also for a path with `..` or an absolute one, and what `check` raises.
    """
    *folders, name = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in (*folders, name)):
        raise OSError(errno.EINVAL, "the path leads out of the folder", path)
    with ExitStack() as opened:
        for number, folder in enumerate(folders, 1):
            dir_fd = os.open(folder, _PASS_THROUGH, dir_fd=dir_fd)
            opened.callback(os.close, dir_fd)
            check(os.fstat(dir_fd), "/".join(folders[:number]))
        descriptor = open_file(name, dir_fd=dir_fd)
        try:
            check(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def is_private(descriptor: int, *, forbidden: int = 0o077) -> bool:
    """Return whether an open file or folder is ours and grants others none of the `forbidden` permissions."""
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and not status.st_mode & forbidden


# Places: files and folders that nobody else may change


class UnsafePlace(OSError):
    """A file or folder that another account could change, or something else, such as a link.

    `strerror` says why, such as "it belongs to bob". As text, the error names the place: "/srv/news belongs to bob".
    `remedy` is a hint, and `owner` the name of the other account that owns it, None if it is ours or root's.
    """

    def __init__(self, path: Path | str, fault: str, remedy: Phrase, owner: str | None = None) -> None:
        super().__init__(errno.EPERM, f"it {fault}", str(path))
        self.remedy = remedy
        self.owner = owner
        self._fault = fault

    def __str__(self) -> str:
        return f"{self.filename} {self._fault}"

    def reason(self, path: Path | str) -> Phrase:
        """Return why a file or folder cannot be used. Another place that is to blame, such as its folder, is named."""
        return str(self.strerror if self.filename == str(path) else self)


def read_checked(path: Path | str, *, max_bytes: int) -> bytes:
    """Return the content of a file that only we and root can change.

    Links are followed first. Then the real file and the folder that it is in are checked, after they are opened. The
    folders above are not judged. Raises UnsafePlace, and OSError, also if it is not a regular file or is larger than
    `max_bytes`. Never waits.
    """
    for _ in range(_TRIES - 1):
        with suppress(FileNotFoundError):
            return _read_real(path, max_bytes)
    return _read_real(path, max_bytes)


def check_place(path: Path | str, *suffixes: str) -> None:
    """Raise UnsafePlace unless only we and root can change a file and its folder, and it is a regular file, not a link.

    The same holds for the files beside it with these suffixes. All of them may be missing, and also the folder. The
    folders above are not judged. Raises OSError.
    """
    folder = os.path.dirname(path) or "."
    with suppress(FileNotFoundError, NotADirectoryError):
        status = os.lstat(folder)
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISLNK(status.st_mode):
            raise _not_a_folder(folder)
        check_status(status, folder)
    for name in (f"{path}{suffix}" for suffix in ("", *suffixes)):
        with suppress(FileNotFoundError, NotADirectoryError):
            status = os.lstat(name)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                raise UnsafePlace(name, tr("is not a regular file"), tr("use another file"))
            check_status(status, name)


@contextmanager
def open_folder(path: Path | str, *, flags: int = _FOLDER) -> Iterator[int]:
    """Open a folder that only we and root can change, and return its file descriptor.

    Raises UnsafePlace, also if it is a link or no folder, and OSError.
    """
    try:
        folder = os.open(path, flags)
    except NotADirectoryError:
        if os.path.islink(path):
            raise _link(path) from None
        raise _not_a_folder(path) from None
    try:
        check_status(os.fstat(folder), path)
        yield folder
    finally:
        os.close(folder)


def check_status(status: os.stat_result, path: Path | str) -> None:
    """Raise UnsafePlace unless a status is that of a file or folder that only we and root can change.

    The private group of the owner, or ours, may write to it.
    """
    if stat.S_ISLNK(status.st_mode):
        raise _link(path)
    if status.st_uid not in (os.geteuid(), 0):
        owner = account_name(status.st_uid)
        raise UnsafePlace(path, tr("belongs to {owner}", owner=owner), _owner_hint(status, path, owner), owner)
    if status.st_mode & stat.S_IWOTH:
        raise UnsafePlace(path, tr("can be changed by others"), _chmod_hint(status, path))
    if status.st_mode & stat.S_IWGRP and not _is_group_private(status, path):
        raise UnsafePlace(path, tr("can be changed by its group"), _chmod_hint(status, path))


def can_others_read(status: os.stat_result, path: Path | str) -> bool:
    """Return whether accounts other than the owner and root can read a file, by its mode.

    A group that root gave the right to read it is not counted, because a service often gets its secrets that way.
    """
    by_group = status.st_mode & stat.S_IRGRP and status.st_uid and not _is_group_private(status, path)
    return bool(status.st_mode & stat.S_IROTH or by_group)


def run_as_hint(account: str) -> str:
    """Return the hint to run Skychimp as another account, which is given by its name or number."""
    if _is_root_without_sudo():
        return f"run Skychimp as the account {account} (in a container, set its user to {account})"
    return run_line_hint("sudo", "-u", f"#{account}" if account.isdecimal() else account, "skychimp", "...")


def account_name(uid: int) -> str:
    """Return the name of an account, or its number if it has none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create a folder, and those above that are missing. Raises UnsafePlace if it is something else, and OSError.

    The umask limits what others may do, but we always have all permissions.
    """
    if path.is_dir():
        return
    if not os.path.lexists(path.parent):
        make_folder(path.parent, mode)
    try:
        path.mkdir(mode)
    except FileExistsError:
        if not path.is_dir():
            raise _not_a_folder(path) from None
        return
    _keep_access(path, 0o700)


def _keep_access(path: Path | int, mode: int) -> None:
    """Give us the permissions on a new file or folder that the umask has taken away."""
    current = os.stat(path).st_mode
    if current & mode != mode:
        os.chmod(path, stat.S_IMODE(current) | mode)


def _read_real(path: Path | str, max_bytes: int) -> bytes:
    real = _real_path(path)
    with open_folder(os.path.dirname(real), flags=_PASS_THROUGH) as folder:
        descriptor = open_file(os.path.basename(real), dir_fd=folder)
        with os.fdopen(descriptor, "rb") as file:
            check_status(os.fstat(descriptor), real)
            data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise OSError(errno.EFBIG, f"the file is larger than {max_bytes:,} bytes", str(path))
    return data


def _real_path(path: Path | str) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except FileNotFoundError:
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe that has no name, such as /dev/stdin
            raise _not_regular(path) from None
        raise


def _not_regular(path: Path | str) -> OSError:
    return OSError(0, "not a regular file", str(path))


def _not_a_folder(path: Path | str) -> UnsafePlace:
    return UnsafePlace(path, tr("is not a folder"), tr("move it away, then run the command again"))


def _link(path: Path | str) -> UnsafePlace:
    return UnsafePlace(path, tr("is a link"), tr("use the path of the file itself"))


def _owner_hint(status: os.stat_result, path: Path | str, owner: str) -> str:
    if stat.S_ISDIR(status.st_mode) or _is_root_without_sudo():  # the owner needs the folder, or the container's file
        return run_as_hint(owner)
    chown = _run_as_root("chown", account_name(os.geteuid()), path)
    return f"{run_as_hint(owner)}, or check what is in it, then {chown}"


def _chmod_hint(status: os.stat_result, path: Path | str) -> str:
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):  # such as /dev/null
        return "use another file"
    is_ours, is_sticky = status.st_uid == os.geteuid(), status.st_mode & stat.S_ISVTX
    if stat.S_ISDIR(status.st_mode) and (is_sticky or not is_ours):  # others need it as it is, such as /tmp
        return "use a folder that only you can write to"
    return run_line_hint("chmod", "go-w", path) if is_ours else _run_as_root("chmod", "go-w", path)


def _run_as_root(program: str, *words: object) -> str:
    return run_line_hint(program, *words) if os.geteuid() == 0 else run_line_hint("sudo", program, *words)


def _is_root_without_sudo() -> bool:
    import shutil

    return os.geteuid() == 0 and shutil.which("sudo") is None


def _is_group_private(status: os.stat_result, path: Path | str) -> bool:
    """Return whether nobody but the owner and us has the permissions of a place's group.

    The group must be the primary group of one of us, have the name of that account, and have no other members. Who else
    has it as the primary group is not known: a directory such as LDAP need not list its accounts.
    """
    uids = (status.st_uid, os.geteuid())
    name, members = _group(status.st_gid)
    is_own = any(_primary_group(uid) == status.st_gid and account_name(uid) == name for uid in uids)
    return is_own and members <= {account_name(uid) for uid in uids} and not _has_access_list(path)


def _has_access_list(path: Path | str) -> bool:
    """Return whether a file or folder grants permissions to more accounts than its mode shows (acl(5))."""
    try:
        return bool(os.getxattr(path, "system.posix_acl_access", follow_symlinks=False))
    except (OSError, AttributeError):  # there is none, or this system has no such lists
        return False


def _group(gid: int) -> tuple[str, set[str]]:
    """Return the name of a group, or its number if it has none, and its members by name.

    The accounts that have it as their primary group need not be among them.
    """
    import grp

    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return str(gid), set()
    return group.gr_name, set(group.gr_mem)


def _primary_group(uid: int) -> int | None:
    """Return the number of an account's primary group, None if it is not known."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:  # as in a container
        return os.getegid() if uid == os.geteuid() else None

"""The session of this account for a store: a token in a file that only its owner can read, in a folder like that.

Both are looked at once they are open, so that neither can be changed for something else in between.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skychimp.errors import ConfigError, NotLoggedIn

_LONGEST = 1000
_REMEDY = "remove it, then log in again"


def read(store_url: str) -> str | None:
    """The token kept for a store.

    Raises NotLoggedIn where its file or folder is a link, somebody else's, or open to others.
    """
    path = _path(store_url)
    try:
        with _own(path.parent) as folder, _own(path, folder) as file:
            return os.read(file, _LONGEST).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None


def write(store_url: str, token: str) -> None:
    """Keep a token for a store, whole or not at all.

    Raises ConfigError where it can't be kept, as in a folder that is not one's own alone.
    """
    path = _path(store_url)
    draft = f"{path.name}.{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _own(path.parent) as folder:
            with suppress(FileNotFoundError):
                os.unlink(draft, dir_fd=folder)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(draft, flags, 0o600, dir_fd=folder), "w", encoding="ascii") as opened:
                opened.write(token)
                opened.flush()
                os.fsync(opened.fileno())
            os.rename(draft, path.name, src_dir_fd=folder, dst_dir_fd=folder)
    except NotLoggedIn as error:
        raise ConfigError(error.message, error.hint) from None
    except OSError as error:
        raise ConfigError(
            f"the session can't be kept in {path.parent}: {error.strerror}",
            "name a folder that you can write to: XDG_STATE_HOME=FOLDER",
        ) from None


def remove(store_url: str) -> None:
    """Keep no token for a store any more, whatever its file is. Raises NotLoggedIn as `read` does for a folder."""
    path = _path(store_url)
    with suppress(FileNotFoundError), _own(path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)


@contextmanager
def _own(path: Path, folder: int | None = None) -> Iterator[int]:
    """A folder, or a file in a folder that is open, to be read for the length of a block.

    Raises NotLoggedIn for a link and for what is not one's own alone, FileNotFoundError.
    """
    name, kind = (path, os.O_DIRECTORY) if folder is None else (path.name, os.O_NONBLOCK)
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError:
        raise NotLoggedIn(f"{path}, for your session, is a link or can't be read", _REMEDY) from None
    try:
        status = os.fstat(opened)
        is_other_kind = folder is not None and not stat.S_ISREG(status.st_mode)
        if is_other_kind or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise NotLoggedIn(f"{path}, for your session, is not yours alone, or no file", _REMEDY)
        yield opened
    finally:
        os.close(opened)


def _path(store_url: str) -> Path:
    from platformdirs import user_state_path

    name = hashlib.sha256(store_url.encode(errors="surrogateescape")).hexdigest()[:16]
    return user_state_path("skychimp", appauthor=False) / "sessions" / name

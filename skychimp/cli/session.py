"""The session of this account for a store: a token in a file that only its owner can read."""

import hashlib
import os
import stat
from pathlib import Path

from skychimp.errors import ConfigError, NotLoggedIn

_LONGEST = 1000


def read(store_url: str) -> str | None:
    """The token kept for a store. Raises NotLoggedIn where its file is a link, somebody else's, or open to others."""
    path = _path(store_url)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        raise NotLoggedIn(
            f"the session file {path} is a link or can't be read", "remove it, then log in again"
        ) from None
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise NotLoggedIn(f"the session file {path} is not yours alone, or no file", "remove it, then log in again")
        return os.read(file, _LONGEST).decode("ascii", "replace").strip()
    finally:
        os.close(file)


def write(store_url: str, token: str) -> None:
    """Keep a token for a store, whole or not at all. Raises ConfigError where it can't be kept."""
    path = _path(store_url)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft.unlink(missing_ok=True)
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as opened:
            opened.write(token)
            opened.flush()
            os.fsync(file)
        draft.rename(path)
    except OSError as error:
        raise ConfigError(
            f"the session can't be kept in {path.parent}: {error.strerror}",
            "name a folder that you can write to: XDG_STATE_HOME=FOLDER",
        ) from None


def _path(store_url: str) -> Path:
    from platformdirs import user_state_path

    name = hashlib.sha256(store_url.encode(errors="surrogateescape")).hexdigest()[:16]
    return user_state_path("skychimp", appauthor=False) / "sessions" / name

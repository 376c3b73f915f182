"""The session of this account for a store: a token in a file that only its owner can read."""

import contextlib
import hashlib
import os
import stat
from pathlib import Path

from skychimp.errors import NotLoggedIn


def read(store_url: str) -> str | None:
    """The token kept for a store. Raises NotLoggedIn where its file is a link, somebody else's, or open to others."""
    path = _path(store_url)
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError:
        raise NotLoggedIn(
            f"the session file {path} is a link or can't be read", "remove it, then log in again"
        ) from None
    with os.fdopen(file, encoding="ascii") as opened:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise NotLoggedIn(f"the session file {path} is open to others", "remove it, then log in again")
        return opened.read().strip()


def write(store_url: str, token: str) -> None:
    """Keep a token for a store, whole or not at all."""
    path = _path(store_url)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as opened:
        opened.write(token)
        opened.flush()
        os.fsync(file)
    draft.rename(path)


def _path(store_url: str) -> Path:
    from platformdirs import user_state_path

    name = hashlib.sha256(store_url.encode()).hexdigest()[:16]
    return user_state_path("skychimp", appauthor=False) / "sessions" / name

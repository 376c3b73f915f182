"""Save, read and delete the token of the user's login session for a store.

Each person who runs Skychimp on this account with sudo has a session of their own.

The token is in a file that only its owner can read, in a folder that only its owner can use. Both are checked after
they are opened, so that neither can be replaced in between.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skychimp import files
from skychimp.config import shared
from skychimp.config.locations import user_folder
from skychimp.errors import ConfigError, NotLoggedIn
from skychimp.shell import run_line_hint
from skychimp.translation import Phrase, tr

_MAX_LENGTH = 1000


def read(store_url: str) -> str | None:
    """Return the token saved for a store, or None.

    Raises NotLoggedIn if the file or the folder cannot be read, is a link, belongs to another user, or is accessible to
    others.
    """
    path = _path(store_url)
    try:
        with _open_folder(path.parent) as folder, _open_private(path, folder) as opened:
            return os.read(opened, _MAX_LENGTH).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None


def write(store_url: str, token: str) -> None:
    """Save a token for a store, completely or not at all.

    Raises ConfigError if it cannot be saved, also because the folder is accessible to others.
    """
    path = _path(store_url)
    try:
        files.make_folder(path.parent)
        with _open_folder(path.parent) as folder:
            files.write_file(Path(path.name), token.encode("ascii"), dir_fd=folder)
    except NotLoggedIn as error:
        raise ConfigError(error.message, error.hint) from None
    except OSError as error:
        message = tr("cannot save the session in {folder}: {strerror}", folder=path.parent, strerror=error.strerror)
        raise ConfigError(message, tr("set XDG_STATE_HOME to a folder that you can write to")) from None


def remove(store_url: str) -> None:
    """Delete the token saved for a store, whatever its file is. Raises NotLoggedIn as `read` does for the folder."""
    path = _path(store_url)
    with suppress(FileNotFoundError), _open_folder(path.parent) as folder:
        os.unlink(path.name, dir_fd=folder)


@contextmanager
def _open_folder(path: Path) -> Iterator[int]:
    """Open the folder of the sessions. Raises NotLoggedIn as `read` does, and FileNotFoundError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with _private(path, lambda: os.open(path, flags)) as folder:
        yield folder


@contextmanager
def _open_private(path: Path, folder: int) -> Iterator[int]:
    """Open a file in an open folder. Raises NotLoggedIn as `read` does, and FileNotFoundError."""
    with _private(path, lambda: files.open_file(path.name, dir_fd=folder)) as opened:
        yield opened


@contextmanager
def _private(path: Path, open_path: Callable[[], int]) -> Iterator[int]:
    try:
        opened = open_path()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_opened(path, error) from None
    try:
        if not files.is_private(opened):
            raise _not_safe(path, tr("belongs to another user or is accessible to others"))
        yield opened
    finally:
        os.close(opened)


def _not_safe(path: Path, fault: Phrase) -> NotLoggedIn:
    hint = tr("{hint} and log in again", hint=run_line_hint("rm", "-r", path))
    return NotLoggedIn(tr("the saved session is not safe: {path} {fault}", path=path, fault=fault), hint)


def _not_opened(path: Path, error: OSError) -> NotLoggedIn:
    if os.path.islink(path):
        return _not_safe(path, tr("is a link"))
    place = next(place for place in (path, *path.parents) if os.path.lexists(place))  # what does not let us in
    if isinstance(error, PermissionError):
        hint = run_line_hint("chmod", "u+rwX", place)
    else:
        hint = tr("{hint} and log in again", hint=run_line_hint("mv", place, f"{place}.old"))
    return NotLoggedIn(tr("cannot read the saved session {path}: {strerror}", path=path, strerror=error.strerror), hint)


def _path(store_url: str) -> Path:
    caller = shared.find_caller()
    name = hashlib.sha256(store_url.encode(errors="surrogateescape")).hexdigest()[:16]
    if caller is not None:
        name += f"-{caller.uid}"
    return user_folder("state") / "sessions" / name

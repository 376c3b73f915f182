"""Read the files that settings name: only those that nobody else can change, and never more than is sensible."""

import os
from pathlib import Path

from skychimp import files
from skychimp.errors import ConfigError
from skychimp.translation import Phrase, tr

MAX_BYTES = 1_000_000
"""The largest config, .env and file of certificates."""

MAX_PASSWORD_BYTES = 1_000
MAX_KEY_BYTES = 16_000


def read_bytes(path: Path, hint: Phrase, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file.

    Raises FileNotFoundError and NotADirectoryError if it does not exist, and ConfigError if it is not safe or cannot be
    read, or is a link to nothing. `hint` says what to do then, unless the place itself has to be fixed.
    """
    try:
        return files.read_checked(path, max_bytes=max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        _refuse_broken_link(path)
        raise
    except files.UnsafePlace as error:
        raise ConfigError(
            tr("cannot use {path}: {reason}", path=path, reason=error.reason(path)), error.remedy
        ) from None
    except OSError as error:
        raise ConfigError(tr("cannot read {path}: {strerror}", path=path, strerror=error.strerror), hint) from None


def require_bytes(path: Path, hint: Phrase, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file that must exist. Raises ConfigError as `read_bytes` does."""
    try:
        return read_bytes(path, hint, max_bytes=max_bytes)
    except OSError as error:
        raise ConfigError(tr("cannot read {path}: {strerror}", path=path, strerror=error.strerror), hint) from None


def read_password(path: Path, hint: Phrase) -> str:
    """Return the only line of a file, without its end.

    Raises ConfigError as `read_bytes` does, and for a file with more lines: it may be a private key, which must not be
    sent to anybody.
    """
    try:
        line = require_bytes(path, hint, max_bytes=MAX_PASSWORD_BYTES).decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigError(tr("cannot read {path}: the file is not valid UTF-8", path=path), hint) from None
    if len(line.splitlines()) > 1 or "\0" in line:
        raise ConfigError(tr("cannot use {path}: it has more than one line", path=path), hint)
    return line


def _refuse_broken_link(path: Path) -> None:
    """Raise ConfigError if a missing file, or a folder above it, is a link to nothing, such as an unmounted disk."""
    for place in (path, *path.parents):
        if os.path.islink(place) and not os.path.exists(place):
            kind = "file" if place == path else "folder"
            message = tr(
                "{place} is a link to a {kind} that does not exist: {readlink}",
                place=place,
                kind=kind,
                readlink=os.readlink(place),
            )
            raise ConfigError(message, tr("create that {kind}, or delete the link", kind=kind))

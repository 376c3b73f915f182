"""Backends for dogpile.cache: a folder of files, and a wrapper that makes any backend safe to use.

dogpile's own backend for files (dbm) depends on how Python was built, may not survive a kill, and never removes what
has expired.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend, CantDeserializeException, SerializedReturnType
from dogpile.cache.proxy import ProxyBackend

from skychimp import files
from skychimp.translation import Phrase, tr

WRITABLE_BY_OTHERS = 0o022


class FolderBackend(BytesBackend):
    """A folder with one file for each name (the part of a key before its colon). Files are replaced, never changed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._folder: Path = arguments["folder"]

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return a key's value, or NO_VALUE if it is not cached or if somebody else could have written the file."""
        try:
            descriptor = files.open_file(self._folder / _file_name(key))
        except FileNotFoundError:
            return NO_VALUE
        with os.fdopen(descriptor, "rb") as opened:
            if not files.is_private(descriptor, forbidden=WRITABLE_BY_OTHERS):
                return NO_VALUE
            cached_key, _, value = opened.read().partition(b"\n")
        return value if cached_key == key.encode() else NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        """Replace the file of a key's name. It is not flushed to the disk: a damaged file is only a missing value.

        Raises OSError, also if others can change the folder.
        """
        files.make_folder(self._folder)
        with files.open_folder(self._folder) as folder:
            _write(_file_name(key), key.encode() + b"\n" + value, folder)


class SafeBackend(ProxyBackend):
    """A backend whose errors never reach the caller.

    A value that can't be read counts as missing. After the first value that can't be written, `warn` is called and the
    backend is not used again.
    """

    def __init__(self, warn: Callable[[Phrase], None]) -> None:
        self._warn = warn
        self._is_broken = False

    def get_serialized(self, key: str) -> SerializedReturnType:
        """Return a key's value, or NO_VALUE if there is none that can be used."""
        if self._is_broken:
            return NO_VALUE
        try:
            value = self.proxied.get_serialized(key)
            return value if isinstance(value, bytes) and _has_metadata(value) else NO_VALUE
        except Exception:  # a disk, a server or its library may raise anything
            return NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        """Store a key's value if that is possible."""
        if self._is_broken:
            return
        try:
            self.proxied.set_serialized(key, value)
        except Exception as error:  # a disk, a server or its library may raise anything
            self._is_broken = True
            self._warn(tr("cannot use the cache: {reason}", reason=str(error)))


def _file_name(key: str) -> str:
    return key.partition(":")[0]


def _write(name: str, data: bytes, folder: int) -> None:
    draft = f"{name}.{os.getpid()}"
    try:
        with files.create_file(draft, dir_fd=folder) as opened:
            opened.write(data)
        os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)


def deserialize(value: bytes) -> Any:
    """Return a value from its JSON. Raises what makes dogpile compute the value again."""
    try:
        return json.loads(value)
    except ValueError:
        raise CantDeserializeException from None


def _has_metadata(value: bytes) -> bool:
    """Return whether a value starts with the metadata that dogpile writes: creation time (`ct`) and version (`v`).

    dogpile does not check that. Raises ValueError, TypeError or LookupError if the metadata cannot be read at all.
    """
    metadata = json.loads(value.partition(b"|")[0])
    return isinstance(metadata["ct"], float) and isinstance(metadata["v"], int)

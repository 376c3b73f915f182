"""The cache in a folder: a backend of dogpile.cache, beside those it brings along.

Its own for files (dbm) has another format wherever Python was built otherwise, may not survive a kill, and never gives
up what is out of date.
"""

import os
import stat
from pathlib import Path
from typing import Any

from dogpile.cache.api import NO_VALUE, BytesBackend, SerializedReturnType


class Folder(BytesBackend):
    """A backend of dogpile's: a file a place, which holds one key's value. Files are replaced, never changed."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self._folder: Path = arguments["folder"]

    def get_serialized(self, key: str) -> SerializedReturnType:
        try:
            file = os.open(self._file(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return NO_VALUE
        with os.fdopen(file, "rb") as opened:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
                return NO_VALUE  # others could have written it
            kept_key, _, value = opened.read().partition(b"\n")
        return value if kept_key == key.encode() else NO_VALUE

    def set_serialized(self, key: str, value: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._file(key).with_suffix(f".{os.getpid()}")
        draft.unlink(missing_ok=True)
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(file, "wb") as opened:
                opened.write(key.encode() + b"\n" + value)
            draft.rename(self._file(key))
        finally:
            draft.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self._folder / key.partition(":")[0]

"""Keep `smtp.connections` for all processes of a store on this host.

Each open connection holds a lock on one byte of a file beside the store. The kernel releases it when a process dies.
"""

import fcntl
import os
import struct
from pathlib import Path

from skychimp.store import runs


class ConnectionSlots:
    """The connections that this process may open, at most `number` with those of all others."""

    def __init__(self, store: Path, number: int) -> None:
        self._store = store
        self._number = number
        self._file: int | None = None
        self._held: list[int] = []

    def take(self) -> bool:
        """Take a slot for one more connection. Return False if none is free. Raises StoreFailed."""
        if self._file is None:
            self._file = runs.open_lock(runs.lock_path(self._store, "connections"), os.O_RDWR | os.O_CREAT)
        for slot in range(self._number):
            if slot not in self._held and _lock(self._file, slot):
                self._held.append(slot)
                return True
        return False

    def release(self) -> None:
        """Give back the slot of a connection that is closed."""
        assert self._file is not None
        _set_lock(self._file, self._held.pop(), fcntl.F_UNLCK)

    def close(self) -> None:
        """Give back all slots."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._held.clear()


def _lock(file: int, slot: int) -> bool:
    """Lock a byte. Return False if another process holds it."""
    try:
        _set_lock(file, slot, fcntl.F_WRLCK)
    except BlockingIOError:
        return False
    return True


def _set_lock(file: int, slot: int, kind: int) -> None:
    # A lock of the open file, not of the process: that would be gone once any other descriptor of the file is closed.
    lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, slot, 1, 0)  # struct flock of fcntl(2)
    fcntl.fcntl(file, fcntl.F_OFD_SETLK, lock)

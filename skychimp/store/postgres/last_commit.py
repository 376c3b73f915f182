"""Remember on this machine which transaction it has committed last: a fail-over may have lost it.

The file is beside the locks of the runs. It is not flushed: it is there for the loss of another machine.
"""

import os
from contextlib import suppress
from pathlib import Path

from skychimp import files


def write(store: Path, xid: str) -> None:
    """Note the id of a transaction that the server has acknowledged. A failure means that nothing is known later."""
    with suppress(OSError):
        file = os.open(_path(store), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, f"{xid:>20}".encode(), 0)
        finally:
            os.close(file)


def read(store: Path) -> int | None:
    """Return the id of the transaction that this machine has committed last, None if it is not known."""
    with suppress(OSError, ValueError):
        return int(files.read_checked(_path(store), max_bytes=100))
    return None


def _path(store: Path) -> Path:
    return store.with_name(f"{store.name}.last-commit")

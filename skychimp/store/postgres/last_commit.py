"""Remember on this machine which transaction it has committed last: a fail-over may have lost it.

The id of a transaction is not enough, as a server may give that of a lost one to another. So the deliveries are noted,
too, that it has added attempts or intents to. One without any is noted only before the first one with some: it has lost
no email.

The file is beside the locks of the runs. It is not flushed: it is there for the loss of another machine.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from skychimp import files

_MAX_DELIVERIES = 10
_LENGTH = 20 * (1 + _MAX_DELIVERIES)
"""The length of the file in bytes. It is always the same, so that each change is a single write."""


class LastCommit(NamedTuple):
    """The id of a transaction, and of some deliveries that it has added attempts or intents to."""

    xid: int
    delivery_ids: Sequence[int] = ()


def write(store: Path, xid: str, delivery_ids: Sequence[int]) -> None:
    """Note a transaction that the server has acknowledged. A failure means that nothing is known later."""
    if not delivery_ids and (last := read(store)) is not None and last.delivery_ids:
        return
    note = " ".join(map(str, (xid, *delivery_ids[:_MAX_DELIVERIES])))
    with suppress(OSError):
        file = os.open(_path(store), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, note.ljust(_LENGTH).encode(), 0)
        finally:
            os.close(file)


def read(store: Path) -> LastCommit | None:
    """Return what this machine has committed last, None if it is not known."""
    with suppress(OSError, ValueError):
        xid, *delivery_ids = map(int, files.read_checked(_path(store), max_bytes=2 * _LENGTH).split())
        return LastCommit(xid, delivery_ids)
    return None


def _path(store: Path) -> Path:
    return store.with_name(f"{store.name}.last-commit")

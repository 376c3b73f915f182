"""Compact the store (`skychimp store vacuum`)."""

from dataclasses import dataclass

from skychimp.errors import Conflict
from skychimp.store import runs
from skychimp.store.database import SQLITE, Store


@dataclass(frozen=True)
class Compacted:
    """A compacted store. The sizes of its file are in bytes, and None on a server."""

    store: str
    size_before: int | None
    size: int | None


def compact(store: Store) -> Compacted:
    """Give free space back, and with it what was deleted. Raises Conflict while anything is sending, and StoreFailed.

    A store in a file must not be in use at all.
    """
    if runs.has_living_run(store.path):
        raise Conflict("something is sending from this store", "stop the daemon, or wait until the run has ended")
    before = _size(store)
    store.vacuum()
    return Compacted(store.name, before, _size(store))


def _size(store: Store) -> int | None:
    return store.path.stat().st_size if store.dialect == SQLITE else None

"""Compact the store (`skychimp store vacuum`)."""

from dataclasses import dataclass

from skychimp.errors import Conflict
from skychimp.services import audit
from skychimp.store import runs
from skychimp.store.database import SQLITE, Store
from skychimp.translation import tr


@dataclass(frozen=True)
class Compacted:
    """A compacted store. The sizes of its file are in bytes, and None on a server."""

    store: str
    size_before: int | None
    size: int | None


def compact(store: Store) -> Compacted:
    """Give free space back, and with it what was deleted.

    A store in a file must not be in use at all. No login is required. Raises Conflict while anything is sending, and
    StoreFailed.
    """
    with store.read() as db:
        living = runs.count_living(db.connection(), store.path, store.now())
    if living:
        raise Conflict(
            tr("something is sending from this store"), tr("stop the daemon, or wait until the run has ended")
        )
    before = _size(store)
    store.vacuum()
    audit.record_without_login(store, "compact", "store")
    return Compacted(store.name, before, _size(store))


def _size(store: Store) -> int | None:
    return store.path.stat().st_size if store.dialect == SQLITE else None

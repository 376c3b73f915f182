"""Measure how much a store grows with the emails that are sent."""

from typing import NamedTuple

from sqlalchemy import func, select, text

from skychimp.models import tables
from skychimp.store.database import POSTGRESQL, SQLITE, Store

_D = tables.delivery

MIN_DELIVERIES = 5_000
"""With fewer, most of the store is something else."""

_USED_BYTES = {
    SQLITE: "SELECT (page_count - freelist_count) * page_size"
    " FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()",
    POSTGRESQL: "SELECT pg_database_size(current_database())",
}


class Growth(NamedTuple):
    """The size of a store, and the number of deliveries in it."""

    used_bytes: int
    deliveries: int

    @property
    def bytes_per_million(self) -> int:
        """Return how many bytes a million emails take, with all that belongs to them."""
        return round(self.used_bytes / self.deliveries * 1_000_000)


def measure(store: Store) -> Growth | None:
    """Return the size of a store, or None if it has too few deliveries to tell what they take."""
    with store.read() as transaction:
        db = transaction.connection()
        deliveries = db.scalar(select(func.count()).select_from(_D)) or 0
        if deliveries < MIN_DELIVERIES:
            return None
        used = db.scalar(text(_USED_BYTES[store.dialect]))
    return Growth(int(used or 0), deliveries)

"""Save the rows of a store, and put them back, whatever database it is in."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table, delete, insert, select

from skychimp.models import metadata
from skychimp.store.database import Store

SavedRows = Mapping[Table, Sequence[Mapping[str, Any]]]


def save_rows(store: Store) -> SavedRows:
    """Return all rows but the users and the audit trail, which is only added to."""
    with store.read() as db:
        return {table: [row._asdict() for row in db.execute(select(table))] for table in _tables()}


def restore_rows(store: Store, saved: SavedRows) -> None:
    """Replace these rows. New rows get ids that were never used, as ever."""
    with store.write() as db:
        for table in reversed(_tables()):
            db.execute(delete(table))
        for table, rows in saved.items():
            if rows:
                db.execute(insert(table), rows)


def _tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table.name not in ("user", "audit")]

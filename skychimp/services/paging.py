"""Read long lists in pages, each in a short transaction of its own: the only place with this rule.

Whoever reads a list may stop for hours, as `less` does. If a transaction stayed open for as long, SQLite could not
reuse its write-ahead log, which then grows with each email that is sent, and PostgreSQL could not remove old rows.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import Row, Select, func, select

from skychimp.listed import Listed
from skychimp.services.listing import ListOptions
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.store.sql import id_list

Info = TypeVar("Info")

PAGE = 1_000
SMALL_PAGE = 100
"""For rows that may be large, such as whole messages."""


def read_pages(
    store: Store, rows: Select[Any], found: Select[Any], *, limit: int | None = None, size: int = PAGE
) -> Iterator[list[Row[Any]]]:
    """Yield the rows of a query in lists of at most `size`. No transaction is open while the caller has a list.

    `rows` reads all rows that there may be. Its first column is their id. `found` is the same query with everything
    that selects and orders the rows, also `limit`. It is executed for the first page, and once more for the ids of all
    other rows. So a row that exists all the time is in exactly one list, whatever is changed meanwhile.
    """
    ids = found.with_only_columns(rows.selected_columns[0])
    with store.read() as db:
        first = list(db.scalars(ids.limit(size if limit is None else min(limit, size))))
        page = _read_page(db, rows, first)
    yield page
    if len(first) < size or len(first) == limit:
        return
    others = _other_ids(store, ids, set(first))
    if limit is not None:
        del others[limit - len(first) :]
    for start in range(0, len(others), size):
        with store.read() as db:
            page = _read_page(db, rows, others[start : start + size].tolist())
        yield page


def read_list(
    store: Store,
    rows: Select[Any],
    found: Select[Any],
    options: ListOptions,
    read: Callable[[list[Row[Any]]], Iterable[Info]],
    *,
    size: int = PAGE,
    is_countable: bool = True,
) -> Listed[Info]:
    """Return what `read` makes of each page of a query, as `read_pages` reads it. `options` are those of `found`."""
    pages = read_pages(store, rows, found, limit=options.limit, size=size)
    all_ids = found.with_only_columns(rows.selected_columns[0]).limit(None).offset(None).order_by(None)

    def count() -> int | None:
        with store.read() as db:
            return db.scalar(select(func.count()).select_from(all_ids.subquery())) if is_countable else None

    is_part = options.limit is not None or options.offset > 0
    return Listed(chain.from_iterable(map(read, pages)), count, is_part=is_part)


def _other_ids(store: Store, ids: Select[Any], known: set[int]) -> "array[int]":
    """Return the ids that are not known, in their order."""
    with store.read() as db:
        found = db.scalars(ids.execution_options(yield_per=PAGE))
        return array("q", (row_id for row_id in found if row_id not in known))


def _read_page(db: Session, rows: Select[Any], ids: Sequence[int]) -> list[Row[Any]]:
    """Return the rows with these ids in the order of the ids. Leave out those that do not exist any more."""
    if not ids:
        return []
    by_id = {row[0]: row for row in db.execute(rows.where(rows.selected_columns[0].in_(id_list(ids)))).all()}
    return [by_id[row_id] for row_id in ids if row_id in by_id]

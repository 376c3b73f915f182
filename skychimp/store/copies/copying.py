"""Copy all rows of a store to an empty one, from any database to any other, and compare them."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select

from skychimp.errors import StoreFailed
from skychimp.models import metadata, tables
from skychimp.store.database import POSTGRESQL, SQLITE
from skychimp.translation import tr

BATCH = 5_000

Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and the number of all."""


def copy_rows(source: Connection, target: Connection, progress: Progress) -> dict[str, int]:
    """Copy all rows between two transactions, and return how many rows each table has.

    The target has the tables of an empty store. Raises StoreFailed if it does not have the same rows afterwards.
    """
    all_tables = metadata.sorted_tables
    total = sum(source.scalar(select(func.count()).select_from(table)) or 0 for table in all_tables)
    for table in (tables.store_info, tables.token_key):
        target.execute(delete(table))
    rows: dict[str, int] = {}
    for table in all_tables:
        done = sum(rows.values())
        copied = _Sum()
        for batch in _batches(source, table):
            copied.add(batch)
            _insert(target, table, batch)
            progress(done + copied.number, 2 * total)
        rows[table.name] = copied.number
        _continue_ids(source, target, table)
        written = _Sum()
        for batch in _batches(target, table):
            written.add(batch)
            progress(done + copied.number + written.number, 2 * total)
        if (written.number, written.digest) != (copied.number, copied.digest):
            raise StoreFailed(tr("the copy of the table {name} differs", name=table.name), tr("try again"))
    return rows


class _Sum:
    """The number of some rows and the sum of their hashes, which does not depend on their order."""

    def __init__(self) -> None:
        self.number = 0
        self.digest = 0

    def add(self, rows: Iterable[Sequence[object]]) -> None:
        for row in rows:
            self.number += 1
            self.digest += int.from_bytes(hashlib.blake2b(repr(row).encode(), digest_size=16).digest())
        self.digest %= 2**128


def _batches(db: Connection, table: Table) -> Iterator[list[tuple[object, ...]]]:
    size = 1 if table is tables.stored_file else BATCH  # whose rows may have megabytes
    selected = select(table).execution_options(yield_per=size)
    rows = (tuple(map(_plain, row)) for row in db.execute(selected))
    while batch := list(islice(rows, size)):
        yield batch


def _plain(value: object) -> object:
    return str(value) if isinstance(value, StrEnum) else value


def _insert(db: Connection, table: Table, rows: Sequence[tuple[object, ...]]) -> None:
    names = [column.name for column in table.columns]
    if db.dialect.name == SQLITE:
        db.execute(insert(table), [dict(zip(names, row, strict=True)) for row in rows])
        return
    driver: Any = db.connection.dbapi_connection
    quoted = ", ".join(f'"{name}"' for name in names)
    with driver.cursor().copy(f'COPY "{table.name}" ({quoted}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row(row)


def _continue_ids(source: Connection, target: Connection, table: Table) -> None:
    """Let the target's ids go on after those of the source, as an id is never used again."""
    if table.autoincrement_column is None:
        return
    newest = _newest_id(source, table)
    if target.dialect.name == POSTGRESQL:
        target.exec_driver_sql(_SET_SEQUENCE, (f'"{table.name}"', max(newest, 1), newest > 0))
    elif table.dialect_options["sqlite"]["autoincrement"]:
        target.exec_driver_sql("DELETE FROM sqlite_sequence WHERE name = ?", (table.name,))
        target.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table.name, newest))


_SET_SEQUENCE = "SELECT setval(pg_get_serial_sequence(%s, 'id'), %s, %s)"
_READ_SEQUENCE = "SELECT pg_sequence_last_value(pg_get_serial_sequence(%s, 'id')::regclass)"


def _newest_id(db: Connection, table: Table) -> int:
    """Return the highest id that a table ever had, 0 if it had none."""
    column = table.autoincrement_column
    assert column is not None
    if db.dialect.name == POSTGRESQL:
        return db.exec_driver_sql(_READ_SEQUENCE, (f'"{table.name}"',)).scalar() or 0
    remembered = 0
    if table.dialect_options["sqlite"]["autoincrement"]:
        query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
        remembered = db.exec_driver_sql(query, (table.name,)).scalar() or 0
    return max(remembered, db.scalar(select(func.max(column))) or 0)

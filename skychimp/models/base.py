"""Build tables: the names of constraints, and the types, columns and conditions that several tables share."""

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Enum,
    Index,
    Integer,
    Interval,
    MetaData,
    TypeDecorator,
    event,
    literal_column,
    text,
)
from sqlalchemy import Table as CoreTable
from sqlalchemy.types import TypeEngine

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time. It is stored in UTC. SQLite has no timezones, so it is stored there without one."""

    impl = DateTime
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(timezone=True)

    def coerce_compared_value(self, op: Any, value: object) -> TypeEngine[Any]:  # noqa: ARG002
        """Return the type of what is added to a time or compared with it."""
        return Interval() if isinstance(value, timedelta) else self

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time to store. Raises ValueError for a time without a timezone."""
        if value is not None and value.utcoffset() is None:
            raise ValueError("the time has no timezone")
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return the time that was stored."""
        if value is None or value.tzinfo is UTC:
            return value
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def has_state(column: ColumnElement[Any], *states: StrEnum) -> ColumnElement[bool]:
    """Return the condition that a column has one of these states.

    The states are written as literals, never as parameters: SQLite uses a partial index only for a query that repeats
    the index's condition exactly. Indexes and queries are therefore built by this function.
    """
    literals: list[ColumnElement[Any]] = [literal_column(f"'{state}'") for state in states]
    return column == literals[0] if len(literals) == 1 else column.in_(literals)


def enum_column(states: type[StrEnum], name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[str]:
    """Return a text column that accepts only the values of an enum, by a CHECK constraint."""
    kind = Enum(
        states,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )
    return Column(name, kind, nullable=nullable, primary_key=primary_key)


def partial_index(name: str, *columns: str, where: ColumnElement[bool]) -> Index:
    """Return an index of only the rows with a condition.

    For PostgreSQL, `postgres.schema` repeats the condition: naming it here would import that dialect for every command.
    """
    return Index(name, *columns, sqlite_where=where)


def add_ddl(table: CoreTable, statement: str, dialect: str) -> None:
    """Run a statement after a table is created in a database of this dialect: sqlite or postgresql."""
    ddl = DDL(statement.replace("%", "%%"))  # type: ignore[no-untyped-call]
    event.listen(table, "after_create", ddl.execute_if(dialect=dialect))


def use_large_integers() -> None:
    """Give every integer column 64 bits on PostgreSQL, as SQLite has them. A ledger outgrows 32 bits."""
    for table in metadata.tables.values():
        for column in table.columns:
            if type(column.type) is Integer:
                column.type = Integer().with_variant(BigInteger(), "postgresql")


def version_column(name: str) -> Column[int]:
    """Return a column for a random number that a trigger renews."""
    return Column(name, BigInteger, nullable=False, server_default=text("0"))

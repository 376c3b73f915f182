"""Build tables: the base class, the names of constraints, and columns and conditions that several tables share."""

from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    DDL,
    BigInteger,
    Column,
    ColumnElement,
    Enum,
    Index,
    Integer,
    MetaData,
    event,
    literal_column,
    text,
)
from sqlalchemy import Table as CoreTable
from sqlmodel import SQLModel

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Table(SQLModel):
    """The base class of every table."""

    metadata = metadata
    # Pydantic's validators are expensive to build, and a command that only reads rows never uses them.
    model_config = {"defer_build": True}
    __table__: ClassVar[CoreTable]


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
    return Column(kind, nullable=nullable, primary_key=primary_key)


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


def version_column() -> Column[int]:
    """Return a column for a random number that a trigger renews."""
    return Column(BigInteger, nullable=False, server_default=text("0"))

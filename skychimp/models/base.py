"""What every table is made of."""

from enum import StrEnum
from typing import ClassVar

from sqlalchemy import BigInteger, Column, Enum, MetaData, text
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
    """The base of every table. Pydantic's validators are built only when used: a list never needs them."""

    metadata = metadata
    model_config = {"defer_build": True}
    __table__: ClassVar[CoreTable]


def enum_column(states: type[StrEnum], name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[str]:
    kind = Enum(
        states,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )
    return Column(kind, nullable=nullable, primary_key=primary_key)


def version_column() -> Column[int]:
    return Column(BigInteger, nullable=False, server_default=text("0"))

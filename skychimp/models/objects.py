"""Make objects of a table's rows, with SQLModel."""

from typing import Any, ClassVar

from sqlalchemy import Table as CoreTable
from sqlmodel import Field, SQLModel
from sqlmodel.main import SQLModelMetaclass

from skychimp.models.base import metadata as all_tables


class _TableClass(SQLModelMetaclass):
    """Give each field of a class the column of its name in the class's table."""

    def __new__(cls, name: str, bases: tuple[type[Any], ...], members: dict[str, Any], **options: Any) -> Any:
        table = members.get("__table__")
        if table is not None:
            for field in members["__annotations__"]:
                members[field] = Field(members.get(field, ...), sa_column=table.c[field])
        return super().__new__(cls, name, bases, members, **options)


class Table(SQLModel, metaclass=_TableClass):
    """The base class of the objects. Each class names its table, and the types and defaults of the fields."""

    metadata = all_tables
    # Pydantic's validators are expensive to build, and a command that only reads rows never uses them.
    model_config = {"defer_build": True}
    __table__: ClassVar[CoreTable]

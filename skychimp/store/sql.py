"""Write what SQLite and PostgreSQL say differently, each in one place."""

import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    String,
    TableValuedAlias,
    cast,
    column,
    func,
    literal,
    select,
)
from sqlalchemy.dialects.sqlite import insert as insert_or
from sqlalchemy.dialects.sqlite.dml import OnConflictClause
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

__all__ = [
    "Nullable",
    "byte_length",
    "contains",
    "id_list",
    "ids_in",
    "insert_or",
    "json_list",
    "text_position",
    "total",
]
# SQLAlchemy's `insert` for SQLite adds ON CONFLICT, which PostgreSQL has in the same words. Only this is missing for
# PostgreSQL's compiler. The `insert` of its own dialect would do for both, but takes 30 ms to import.
OnConflictClause.constraint_target = None  # type: ignore[attr-defined]


def id_list(ids: Sequence[int]) -> Select[tuple[int]]:
    """Return ids as a query with one parameter. A list of parameters has a limit."""
    return select(ids_in(json.dumps(list(ids))).c.value)


def ids_in(ids: Any, *, joins_implicitly: bool = False) -> TableValuedAlias:
    """Return the ids in a JSON list as a table with the column `value`."""
    return _JsonIds(ids).table_valued(column("value", Integer), joins_implicitly=joins_implicitly)


def json_list(values: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the aggregate that makes a JSON list of a column's values. It is "[]" without any row."""
    return _JsonList(values)


def total(numbers: ColumnElement[int]) -> ColumnElement[int]:
    """Return the sum of a column, as an integer also on PostgreSQL."""
    return cast(func.sum(numbers), BigInteger)


def contains(text: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """Return the condition that a text contains a part. Case does not matter, nor how characters are composed."""
    pattern = "%" + re.sub(r"([%_\\])", r"\\\1", part) + "%"
    return _Folded(text).like(_Folded(literal(pattern)), escape="\\")


def text_position(text: ColumnElement[str], part: str) -> ColumnElement[int]:
    """Return the expression for the position of the first `part` in a text, from 1, or 0 if there is none."""
    return _TextPosition(text, part)


def byte_length(text: ColumnElement[str]) -> ColumnElement[int]:
    """Return the expression for the number of bytes of a text in UTF-8."""
    return _ByteLength(text)


class Nullable:
    """A column to sort by that may be NULL, which is the smallest value, as it is to SQLite.

    Another column must be sorted plainly: with NULLS FIRST or LAST, PostgreSQL does not use its index.
    """

    def __init__(self, column: ColumnElement[Any]) -> None:
        self._column = column

    def asc(self) -> ColumnElement[Any]:
        """Return the term of ORDER BY for ascending order."""
        return _NullsFirst(self._column.asc())

    def desc(self) -> ColumnElement[Any]:
        """Return the term of ORDER BY for descending order."""
        return _NullsLast(self._column.desc())


class _JsonIds(FunctionElement[Any]):
    inherit_cache = True


class _JsonList(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _Folded(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _TextPosition(FunctionElement[int]):
    inherit_cache = True
    type = Integer()


class _ByteLength(FunctionElement[int]):
    inherit_cache = True
    type = Integer()


class _NullsFirst(FunctionElement[Any]):
    inherit_cache = True


class _NullsLast(FunctionElement[Any]):
    inherit_cache = True


_TEMPLATES: dict[type[FunctionElement[Any]], dict[str, str]] = {
    _JsonIds: {"sqlite": "json_each({})", "postgresql": "json_ids({})"},  # a function of ours: see models.Lease
    _JsonList: {"sqlite": "json_group_array({})", "postgresql": "CAST(coalesce(jsonb_agg({}), '[]') AS text)"},
    # Our own function on SQLite. On PostgreSQL "upper" first, as "ς" and "σ" have only their capital in common.
    _Folded: {"sqlite": "lower({})", "postgresql": "replace(lower(upper(normalize({}))), 'ς', 'σ')"},
    _TextPosition: {"sqlite": "instr({})", "postgresql": "strpos({})"},
    _ByteLength: {"sqlite": "length(CAST({} AS BLOB))", "postgresql": "octet_length({})"},
    _NullsFirst: {"sqlite": "{}", "postgresql": "{} NULLS FIRST"},
    _NullsLast: {"sqlite": "{}", "postgresql": "{} NULLS LAST"},
}


def _compile_by_dialect(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    template = _TEMPLATES[type(element)][compiler.dialect.name]
    return template.format(compiler.process(element.clauses, **options))


for _element in _TEMPLATES:
    compiles(_element)(_compile_by_dialect)

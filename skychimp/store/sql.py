"""Write what SQLite and PostgreSQL say differently, each in one place."""

import json
import re
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
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

from skychimp.models.enums import FieldType

__all__ = [
    "Nullable",
    "byte_length",
    "contains",
    "field_value",
    "has_pattern",
    "id_list",
    "ids_in",
    "in_code_order",
    "insert_or",
    "json_has",
    "json_keys",
    "json_list",
    "json_merge",
    "json_part",
    "number",
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


def json_part(json_object: ColumnElement[str], names: Sequence[str]) -> ColumnElement[str]:
    """Return the expression for the part of a JSON object that has these names, which are identifiers."""
    return _JsonPart(json_object, literal(json.dumps(list(names), ensure_ascii=False)))


def json_has(json_object: ColumnElement[str], name: str) -> ColumnElement[bool]:
    """Return the condition that a JSON object has a name, which is an identifier."""
    return _JsonHas(json_object, literal(name))


def json_merge(json_object: ColumnElement[Any], patch: ColumnElement[Any]) -> ColumnElement[str]:
    """Return the expression for a flat JSON object with the values of another one, and without those that are null."""
    return _JsonMerge(json_object, patch)


def json_keys(json_object: ColumnElement[str]) -> TableValuedAlias:
    """Return the names in a JSON object as a table with the column `key`, to be joined with the object's table."""
    return _JsonKeys(json_object).table_valued(column("key", String), joins_implicitly=True)


def total(numbers: ColumnElement[int]) -> ColumnElement[int]:
    """Return the sum of a column, as an integer also on PostgreSQL."""
    return cast(func.sum(numbers), BigInteger)


def contains(text: ColumnElement[str], part: str) -> ColumnElement[bool]:
    """Return the condition that a text contains a part. Case does not matter, nor how characters are composed."""
    pattern = "%" + re.sub(r"([%_\\])", r"\\\1", part) + "%"
    return _Folded(text).like(_Folded(literal(pattern)), escape="\\")


def has_pattern(text: ColumnElement[str], pattern: str) -> ColumnElement[bool]:
    """Return the condition that a text is like a pattern, in which `%` stands for any characters and `_` for one.

    Case does not matter, nor how characters are composed.
    """
    return (_ColumnHasPattern if isinstance(text, Column) else _HasPattern)(text, literal(pattern))


def in_code_order(text: ColumnElement[str]) -> ColumnElement[str]:
    """Return a text that is compared by its Unicode code points, on any server."""
    return _InCodeOrder(text)


def number(digits: str) -> ColumnElement[Any]:
    """Return the expression for a decimal number, as `field_value` returns them."""
    return _Number(literal(digits))


def field_value(fields: ColumnElement[str], name: str, kind: FieldType) -> ColumnElement[Any]:
    """Return the expression for a value in a JSON object. It is NULL if there is none, or it is not of this kind."""
    return _FIELD_VALUES[kind](fields, literal(name))


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


class _JsonPart(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _JsonHas(FunctionElement[bool]):
    inherit_cache = True
    type = Boolean()


class _JsonMerge(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _JsonKeys(FunctionElement[Any]):
    inherit_cache = True


class _Folded(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _TextPosition(FunctionElement[int]):
    inherit_cache = True
    type = Integer()


class _ByteLength(FunctionElement[int]):
    inherit_cache = True
    type = Integer()


class _HasPattern(FunctionElement[bool]):
    inherit_cache = True
    type = Boolean()


class _ColumnHasPattern(_HasPattern):
    inherit_cache = True


class _InCodeOrder(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _Number(FunctionElement[Any]):
    inherit_cache = True


class _TextField(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _NumberField(FunctionElement[Any]):
    inherit_cache = True


class _BooleanField(FunctionElement[bool]):
    inherit_cache = True
    type = Boolean()


class _DateField(FunctionElement[str]):
    inherit_cache = True
    type = String()


class _NullsFirst(FunctionElement[Any]):
    inherit_cache = True


class _NullsLast(FunctionElement[Any]):
    inherit_cache = True


_POSTGRESQL_FOLDED = "replace(lower(upper(normalize({}))), 'ς', 'σ')"

# "{}" is all arguments, "{1}" the first one.
_TEMPLATES: dict[type[FunctionElement[Any]], dict[str, str]] = {
    _JsonIds: {"sqlite": "json_each({})", "postgresql": "json_ids({})"},  # a function of ours: see models.Lease
    _JsonList: {"sqlite": "json_group_array({})", "postgresql": "CAST(coalesce(jsonb_agg({}), '[]') AS text)"},
    # `->` keeps booleans and the digits of numbers, which json_extract does not.
    _JsonPart: {
        "sqlite": "(SELECT json_group_object(value, {1} -> value) FROM json_each({2}) WHERE {1} -> value IS NOT NULL)",
        "postgresql": "(SELECT CAST(coalesce(jsonb_object_agg(key, value), '{{}}') AS text)"
        " FROM jsonb_each(CAST({1} AS jsonb)) WHERE jsonb_exists(CAST({2} AS jsonb), key))",
    },
    _JsonHas: {"sqlite": "({1} -> {2} IS NOT NULL)", "postgresql": "jsonb_exists(CAST({1} AS jsonb), {2})"},
    _JsonMerge: {
        "sqlite": "json_patch({})",
        "postgresql": "CAST(jsonb_strip_nulls(CAST({1} AS jsonb) || CAST({2} AS jsonb)) AS text)",
    },
    _JsonKeys: {"sqlite": "json_each({})", "postgresql": "jsonb_each(CAST({} AS jsonb))"},
    # Our own function on SQLite. On PostgreSQL "upper" first, as "ς" and "σ" have only their capital in common.
    _Folded: {"sqlite": "lower({})", "postgresql": _POSTGRESQL_FOLDED},
    _TextPosition: {"sqlite": "instr({})", "postgresql": "strpos({})"},
    _ByteLength: {"sqlite": "length(CAST({} AS BLOB))", "postgresql": "octet_length({})"},
    _InCodeOrder: {"sqlite": "{}", "postgresql": '({}) COLLATE "C"'},
    # Exact on both: an integer or a float on SQLite, any number of digits on PostgreSQL.
    _Number: {"sqlite": "CAST({} AS NUMERIC)", "postgresql": "CAST({} AS numeric)"},
    _NullsFirst: {"sqlite": "{}", "postgresql": "{} NULLS FIRST"},
    _NullsLast: {"sqlite": "{}", "postgresql": "{} NULLS LAST"},
}


_DIGITS_OF_DATE = "-".join("[0-9]" * number for number in (4, 2, 2))
"""A pattern of both databases."""

_FIELD_VALUES: dict[FieldType, type[FunctionElement[Any]]] = {
    FieldType.TEXT: _TextField,
    FieldType.NUMBER: _NumberField,
    FieldType.BOOLEAN: _BooleanField,
    FieldType.DATE: _DateField,
}

# SQLite's own LIKE folds ASCII, and is much faster than our function.
_SQLITE_HAS_PATTERN = "CASE WHEN length(CAST({0} AS BLOB)) = length({0}) THEN {0} ELSE lower({0}) END LIKE lower({1})"
_POSTGRESQL_HAS_PATTERN = f"{_POSTGRESQL_FOLDED.format('{0}')} LIKE {_POSTGRESQL_FOLDED.format('{1}')} ESCAPE ''"

_SQLITE_PATH = """'$."' || {1} || '"'"""
_SQLITE_KIND = f"json_type({{0}}, {_SQLITE_PATH})"
_SQLITE_VALUE = f"json_extract({{0}}, {_SQLITE_PATH})"
_POSTGRESQL_KIND = "jsonb_typeof(CAST({0} AS jsonb) -> {1})"
_POSTGRESQL_VALUE = "(CAST({0} AS jsonb) ->> {1})"

_NUMBERED_TEMPLATES: dict[type[FunctionElement[Any]], dict[str, str]] = {
    _ColumnHasPattern: {"sqlite": _SQLITE_HAS_PATTERN, "postgresql": _POSTGRESQL_HAS_PATTERN},
    _HasPattern: {  # the inner query computes the text once
        "sqlite": f"(SELECT {_SQLITE_HAS_PATTERN.replace('{0}', 'text')} FROM (SELECT {{0}} AS text))",  # noqa: S608
        "postgresql": _POSTGRESQL_HAS_PATTERN,
    },
    _TextField: {
        "sqlite": f"CASE {_SQLITE_KIND} WHEN 'text' THEN {_SQLITE_VALUE} END",
        "postgresql": f"CASE {_POSTGRESQL_KIND} WHEN 'string' THEN {_POSTGRESQL_VALUE} END",
    },
    _NumberField: {
        "sqlite": f"CASE WHEN {_SQLITE_KIND} IN ('integer', 'real') THEN {_SQLITE_VALUE} END",
        "postgresql": f"CASE {_POSTGRESQL_KIND} WHEN 'number' THEN CAST({_POSTGRESQL_VALUE} AS numeric) END",
    },
    _BooleanField: {
        "sqlite": f"CASE {_SQLITE_KIND} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END",
        "postgresql": f"CASE {_POSTGRESQL_KIND} WHEN 'boolean' THEN CAST({_POSTGRESQL_VALUE} AS boolean) END",
    },
    _DateField: {
        "sqlite": f"CASE WHEN {_SQLITE_KIND} = 'text' AND {_SQLITE_VALUE} GLOB '{_DIGITS_OF_DATE}'"
        f" THEN {_SQLITE_VALUE} END",
        "postgresql": f"CASE WHEN {_POSTGRESQL_KIND} = 'string' AND {_POSTGRESQL_VALUE} ~ '^{_DIGITS_OF_DATE}$'"
        f" THEN {_POSTGRESQL_VALUE} END",
    },
}


def _compile_by_dialect(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    template = _TEMPLATES[type(element)][compiler.dialect.name]
    parts = [compiler.process(clause, **options) for clause in element.clauses]
    return template.format(", ".join(parts), *parts)


def _compile_numbered(element: FunctionElement[Any], compiler: SQLCompiler, **options: Any) -> str:
    template = _NUMBERED_TEMPLATES[type(element)][compiler.dialect.name]
    return f"({template.format(*(compiler.process(clause, **options) for clause in element.clauses))})"


for _element in _TEMPLATES:
    compiles(_element)(_compile_by_dialect)
for _element in _NUMBERED_TEMPLATES:
    compiles(_element)(_compile_numbered)

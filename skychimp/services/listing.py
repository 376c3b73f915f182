"""What every list can do: limit, offset, search and sort; and how one row is named."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, Table, false, or_

from skychimp import addresses
from skychimp.errors import InvalidValue

LARGEST = 2**63 - 1


@dataclass(frozen=True)
class ListOptions:
    """Which part of a list is wanted; `sort` is a column's name, with `-` in front for the other way round."""

    limit: int | None = None
    offset: int = 0
    search: str | None = None
    sort: str | None = None


def apply(
    query: Select[Any], page: ListOptions, *, searched: Sequence[Any], sorted_by: Mapping[str, Any]
) -> Select[Any]:
    """Apply a page to a query; the first of `sorted_by` is the usual order. Raises InvalidValue for another column."""
    if page.search:
        sought = searchable(page.search)
        query = query.where(or_(*(column.icontains(sought, autoescape=True) for column in searched)))
    usual = next(iter(sorted_by))
    query = query.order_by(_order(page.sort or usual, sorted_by), sorted_by[usual])
    if page.limit is not None:
        query = query.limit(min(page.limit, LARGEST))
    if page.offset:
        query = query.offset(min(page.offset, LARGEST))
    return query


_ID = re.compile(r"[0-9]{1,18}")


def is_named(table: Table, name: str) -> ColumnElement[bool]:
    """The condition of the row that a person means by an id or an e-mail; of none where it is neither."""
    if _ID.fullmatch(name):
        named: ColumnElement[bool] = table.c.id == int(name)
        return named
    try:
        return table.c.address_key == addresses.parse(name.strip()).key
    except InvalidValue:
        return false()


def is_id(number: int) -> bool:
    """Whether a number can be an id at all: the store has none beyond 64 bits, and can't even be asked for one."""
    return 0 < number <= LARGEST


def searchable(text: str) -> str:
    """The text, which the store can be asked for. Raises InvalidValue."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue("the text to search for is not UTF-8") from None
    return text


def _order(sort: str, columns: Mapping[str, Any]) -> ColumnElement[Any]:
    column = columns.get(sort.removeprefix("-"))
    if column is None:
        raise InvalidValue(f"a list can't be sorted by {sort!r}", "it can by " + ", ".join(columns))
    ordered: ColumnElement[Any] = column.desc() if sort.startswith("-") else column.asc()
    return ordered

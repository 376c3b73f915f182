"""What every list can do: limit, offset, search and sort."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, or_

from skychimp.errors import InvalidValue


@dataclass(frozen=True)
class Page:
    """Which part of a list is wanted; `sort` is a column's name, with `-` in front for the other way round."""

    limit: int | None = None
    offset: int = 0
    search: str | None = None
    sort: str | None = None


def narrow(query: Select[Any], page: Page, *, searched: Sequence[Any], sorted_by: Mapping[str, Any]) -> Select[Any]:
    """Apply a page to a query; the first of `sorted_by` is the usual order. Raises InvalidValue for another column."""
    if page.search:
        query = query.where(or_(*(column.icontains(page.search, autoescape=True) for column in searched)))
    query = query.order_by(_order(page.sort or next(iter(sorted_by)), sorted_by))
    if page.limit is not None or page.offset:
        query = query.limit(-1 if page.limit is None else page.limit).offset(page.offset)
    return query


def _order(sort: str, columns: Mapping[str, Any]) -> ColumnElement[Any]:
    column = columns.get(sort.removeprefix("-"))
    if column is None:
        raise InvalidValue(f"a list can't be sorted by {sort!r}", "it can by " + ", ".join(columns))
    ordered: ColumnElement[Any] = column.desc() if sort.startswith("-") else column.asc()
    return ordered

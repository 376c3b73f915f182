"""Limit, search and sort lists; find single rows, and restrict queries to what an actor may see."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from sqlalchemy import ColumnElement, Select, Table, false, or_, true

from skychimp import addresses
from skychimp.errors import InvalidValue, NotFound
from skychimp.permissions import Actor, Scope
from skychimp.shell import run_hint
from skychimp.store.sql import contains
from skychimp.text import shortened
from skychimp.translation import Phrase, joined, tr

MAX_INTEGER = 2**63 - 1
"""The largest integer of a database column. A larger one cannot even be passed in a query."""


class _HasId(Protocol):
    @property
    def id(self) -> object: ...


Name = TypeVar("Name")
Row = TypeVar("Row", bound=_HasId)

_ID = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class ListOptions:
    """Which rows of a list to return. `sort` is the name of a column, with `-` in front for descending order."""

    limit: int | None = None
    offset: int = 0
    search: str | None = None
    sort: str | None = None


def apply(
    query: Select[Any], options: ListOptions, *, searched: Sequence[Any], sorted_by: Mapping[str, Any]
) -> Select[Any]:
    """Add list options to a query.

    `searched` are the columns to search in, `sorted_by` the columns to sort by, by name, the default one first.
    Raises InvalidValue for any other column to sort by.
    """
    if options.search:
        text = checked_search(options.search)
        query = query.where(or_(*(contains(column, text) for column in searched)))
    default = next(iter(sorted_by))
    query = query.order_by(_order(options.sort or default, sorted_by), sorted_by[default])
    if options.limit is not None:
        query = query.limit(min(options.limit, MAX_INTEGER))
    if options.offset:
        query = query.offset(min(options.offset, MAX_INTEGER))
    return query


def in_scope(scope: Scope, actor: Actor, owner_column: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that a row is in the scope that `authorize` returned to this actor."""
    if scope == Scope.ALL:
        return true()
    owned: ColumnElement[bool] = owner_column == actor.user_id
    return owned


def matches_id_or_email(table: Table, name: str) -> ColumnElement[bool]:
    """Return the condition that a row has this id or email address. It is false if the name is neither."""
    if _ID.fullmatch(name):
        has_id: ColumnElement[bool] = table.c.id == int(name)
        return has_id
    try:
        return table.c.address_key == addresses.parse(name.strip(), addresses.STORED).key
    except InvalidValue:
        return false()


def is_valid_id(number: int) -> bool:
    """Return whether a number can be the id of a row."""
    return 0 < number <= MAX_INTEGER


def find_all(names: Iterable[Name], find: Callable[[Name], Row]) -> list[Row]:
    """Return the objects with these names or ids, each once.

    All names are tried. If some are unknown, raises a NotFound that has all of them. Raises what `find` raises, too.
    """
    found: dict[object, Row] = {}
    unknown: list[NotFound] = []
    for name in dict.fromkeys(names):
        try:
            row = find(name)
            found.setdefault(row.id, row)
        except NotFound as error:
            unknown.append(error)
    require_found(unknown)
    return list(found.values())


def require_found(unknown: Sequence[NotFound]) -> None:
    """Raise the error of what was not found, one for all of them, if there is any."""
    if len(unknown) > 1:
        raise NotFound(joined(", ", (error.message for error in unknown)), unknown[0].hint, parts=unknown)
    if unknown:
        raise unknown[0]


def not_found(noun: str, name: object) -> NotFound:
    """Return the error that a client, message, mailing or the like does not exist, or is not the actor's."""
    text = str(name)
    if not text.isprintable() or not text or " " in text or len(text) > addresses.MAX_LENGTH:
        text = shortened(text)
    return NotFound(_not_found(noun, text), run_hint(f"{noun}s", "list"), kind=noun, name=str(name))


def checked_search(text: str) -> str:
    """Return a text to search for. Raises InvalidValue if it is not valid UTF-8, or has a NUL."""
    if "\0" in text:
        raise InvalidValue(tr("the text to search for contains a NUL character"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidValue(tr("the text to search for is not valid UTF-8")) from None
    return text


def _not_found(noun: str, name: str) -> Phrase:
    match noun:
        case "client":
            return tr("client {name} not found", name=name)
        case "delivery":
            return tr("delivery {name} not found", name=name)
        case "layout":
            return tr("layout {name} not found", name=name)
        case "mailing":
            return tr("mailing {name} not found", name=name)
        case "message":
            return tr("message {name} not found", name=name)
        case "segment":
            return tr("segment {name} not found", name=name)
        case "session":
            return tr("session {name} not found", name=name)
        case "user":
            return tr("user {name} not found", name=name)
    return tr("{noun} {name} not found", noun=noun, name=name)


def _order(sort: str, columns: Mapping[str, Any]) -> ColumnElement[Any]:
    column = columns.get(sort.removeprefix("-"))
    if column is None:
        raise InvalidValue(
            tr("cannot sort by {sort}", sort=shortened(sort)),
            tr("choose one of: {columns}", columns=", ".join(columns)),
        )
    ordered: ColumnElement[Any] = column.desc() if sort.startswith("-") else column.asc()
    return ordered

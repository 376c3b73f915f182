"""Import clients by the thousand."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from sqlalchemy import select

from skychimp import addresses
from skychimp.errors import InvalidValue
from skychimp.models import Client
from skychimp.permissions import Action, Actor, authorize
from skychimp.services.clients.clients import checked_client
from skychimp.store import client_import
from skychimp.store.client_import import NewClient
from skychimp.store.database import Store

_C = Client.__table__


IMPORT_BATCH = 10_000


class ClientRow(NamedTuple):
    """One client as it comes from a file, still unchecked; `line` is where it stood."""

    line: int
    email: str
    name: str
    comment: str
    tags: Sequence[str]


class BadRow(NamedTuple):
    """A row that can't be used, and why."""

    line: int
    reason: str


class LeftOut(NamedTuple):
    """A row that is not to be written to, and why: what another tool says of it, as `unsubscribed`."""

    line: int
    reason: str
    email: str
    is_client: bool = False
    """Whether there is such a client already, who is written to as before."""


@dataclass
class ImportResult:
    created: int = 0
    updated: int = 0
    skipped: int = 0
    bad: int = 0
    left_out: int = 0


def import_rows(
    store: Store,
    actor: Actor,
    rows: Iterable[ClientRow | BadRow | LeftOut],
    *,
    change_known: Sequence[str] = (),
    on_bad: Callable[[BadRow | LeftOut], None],
    on_batch: Callable[[ImportResult], None] = lambda result: None,
) -> ImportResult:
    """Add many clients, a batch a transaction; `on_bad` is told of each row that can't be used or is left out, the
    others go in.

    An address that is known, from the store or from an earlier row, is skipped; or, where `change_known` names what is
    to be changed of it (email, name, comment, tags), the later row wins.
    """
    authorize(actor, Action.CHANGE_CLIENTS)
    result = ImportResult()
    rows = iter(rows)
    while batch := list(islice(rows, IMPORT_BATCH)):
        for left in _left_out(store, actor, batch):
            result.left_out += 1
            on_bad(left)
        people = _usable(batch, bool(change_known), result, on_bad)
        if people:
            with store.write() as db:
                created = client_import.add(db.connection(), actor.user_id, people, change_known)
            result.created += created
            _count_known(result, len(people) - created, bool(change_known))
        on_batch(result)
    return result


def _left_out(store: Store, actor: Actor, batch: Sequence[ClientRow | BadRow | LeftOut]) -> Iterator[LeftOut]:
    """Those of a batch that are not to be written to, each with whether it is a client all the same."""
    found: list[tuple[str, LeftOut]] = []
    for row in batch:
        if isinstance(row, LeftOut):
            key = row.email
            with suppress(InvalidValue):
                key = addresses.parse(row.email.strip()).key
            found.append((key, row))
    if not found:
        return
    keys = select(_C.c.address_key).where(_C.c.owner_id == actor.user_id, _C.c.address_key.in_(key for key, _ in found))
    with store.read() as db:
        known = set(db.scalars(keys))
    yield from (row._replace(is_client=key in known) for key, row in found)


def _usable(
    batch: Sequence[ClientRow | BadRow | LeftOut],
    last_wins: bool,
    result: ImportResult,
    on_bad: Callable[[BadRow | LeftOut], None],
) -> Collection[NewClient]:
    people: dict[str, NewClient] = {}
    for row in batch:
        if isinstance(row, LeftOut):
            continue
        try:
            if isinstance(row, BadRow):
                raise InvalidValue(row.reason)
            person = checked_client(row.email, row.name, row.comment, row.tags)
        except InvalidValue as error:
            result.bad += 1
            on_bad(BadRow(row.line, error.message))
            continue
        if person.address_key in people:
            _count_known(result, 1, last_wins)
        if last_wins or person.address_key not in people:
            people[person.address_key] = person
    return people.values()


def _count_known(result: ImportResult, number: int, changed: bool) -> None:
    if changed:
        result.updated += number
    else:
        result.skipped += number

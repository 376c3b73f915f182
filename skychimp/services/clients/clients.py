"""Clients: whom a user's mailings go to."""

import json
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, select, text, true, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp import addresses
from skychimp.access import Actor, reach
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import UNFINISHED_SQL, Client, ClientTag, Mailing, Occurrence
from skychimp.services import audit
from skychimp.services.listing import Page, is_named, narrow
from skychimp.store import imports, queue
from skychimp.store.engine import Store
from skychimp.store.imports import Person

_C = Client.__table__
_T = ClientTag.__table__
_O = Occurrence.__table__
_M = Mailing.__table__

IMPORT_BATCH = 10_000
LONGEST_NAME = 1_000
LONGEST_COMMENT = 10_000
LONGEST_TAG = 100
MOST_TAGS = 100

SORTED_BY = {"id": _C.c.id, "email": _C.c.address_key, "name": func.lower(_C.c.name), "created_at": _C.c.created_at}


@dataclass(frozen=True)
class ClientInfo:
    id: int
    email: str
    name: str
    comment: str
    tags: list[str]
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None


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


def create(
    store: Store, actor: Actor, *, email: str, name: str = "", comment: str = "", tags: Sequence[str] = ()
) -> ClientInfo:
    """Add a client. Raises InvalidValue for what can't be used, Conflict where there is that address already."""
    reach(actor, "change clients")
    person = _checked(email, name, comment, tags)
    with store.write() as session:
        row = {**_columns(person), "owner_id": actor.user_id, "created_at": datetime.now(UTC)}
        try:
            client_id = session.execute(insert(_C).values(row).returning(_C.c.id)).scalar_one()
        except IntegrityError:
            hint = f"change it: skychimp clients update {person.email}"
            raise Conflict(f"there is already a client {person.email}", hint) from None
        _set_tags(session, client_id, person.tags)
        return _get(session, actor, str(client_id))


def show(store: Store, actor: Actor, client: str) -> ClientInfo:
    """One client, by id or e-mail. Raises NotFound."""
    reach(actor, "see clients")
    with store.read() as session:
        return _get(session, actor, client)


def list_clients(store: Store, actor: Actor, page: Page, tag: str | None = None) -> Iterator[ClientInfo]:
    """The actor's clients, as they are read. Raises InvalidValue."""
    reach(actor, "see clients")
    query = narrow(_own(actor), page, searched=(_C.c.email, _C.c.name, _C.c.comment), sorted_by=SORTED_BY)
    with store.read() as session:
        yield from map(_info, session.execute(query.where(_has(tag)).execution_options(yield_per=1000)))


def number(store: Store, actor: Actor, tag: str | None = None) -> int:
    """How many clients the actor has. Raises InvalidValue."""
    reach(actor, "see clients")
    with store.read() as session:
        return session.scalar(select(func.count()).where(_C.c.owner_id == actor.user_id, _has(tag))) or 0


def change(
    store: Store,
    actor: Actor,
    client: str,
    *,
    email: str | None = None,
    name: str | None = None,
    comment: str | None = None,
    tags: Sequence[str] | None = None,
    clear_bad: bool = False,
) -> ClientInfo:
    """Change what is given; another address, or `clear_bad`, makes it good again.

    Raises NotFound, Conflict, InvalidValue.
    """
    reach(actor, "change clients")
    with store.write() as session:
        old = _get(session, actor, client)
        person = _checked(
            email if email is not None else old.email,
            name if name is not None else old.name,
            comment if comment is not None else old.comment,
            tags or (),
        )
        values = _columns(person)
        if clear_bad or person.address_key != addresses.parse(old.email).key:
            values |= {"bad_at": None, "bad_reason": None}
        try:
            session.execute(update(_C).where(_C.c.id == old.id).values(values))
        except IntegrityError:
            raise Conflict(f"there is already a client {person.email}") from None
        if tags is not None:
            session.execute(delete(_T).where(_T.c.client_id == old.id))
            _set_tags(session, old.id, person.tags)
        return _get(session, actor, str(old.id))


def remove(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Delete a client; what still waits for it is cancelled, what was sent stays in the ledger. Raises NotFound."""
    reach(actor, "change clients")
    with store.write() as session:
        gone = _get(session, actor, client)
        key = addresses.parse(gone.email).key
        unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
        waiting = unfinished.where(text(UNFINISHED_SQL.replace("state", "occurrence.state")))
        queue.cancel(session.connection(), waiting, key)
        session.execute(delete(_C).where(_C.c.id == gone.id))
        audit.record(session, actor, "delete", "client", gone.id)
    return gone


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
    reach(actor, "change clients")
    result = ImportResult()
    rows = iter(rows)
    while batch := list(islice(rows, IMPORT_BATCH)):
        for left in _left_out(store, actor, batch):
            result.left_out += 1
            on_bad(left)
        people = _usable(batch, bool(change_known), result, on_bad)
        if people:
            with store.write() as session:
                created = imports.add(session.connection(), actor.user_id, people, change_known)
            result.created += created
            _count_known(result, len(people) - created, bool(change_known))
        on_batch(result)
    return result


def checked_tags(tags: Sequence[str]) -> list[str]:
    """Tags without duplicates, in order. Raises InvalidValue for too many, or one that is empty, long or has commas."""
    for tag in tags:
        if not tag.strip() or "," in tag or ";" in tag:
            raise InvalidValue(f"{_short(tag)} can't be a tag", "a tag is one line without commas or semicolons")
    found = sorted({one_line(tag, "tag", LONGEST_TAG) for tag in tags}) if tags else []
    if len(found) > MOST_TAGS:
        raise InvalidValue(f"{len(found)} tags are too many", f"at most {MOST_TAGS} at once")
    return found


def one_line(value: str, what: str, longest: int) -> str:
    """The value without spaces around it. Raises InvalidValue unless it is one line of Unicode; `what` names it."""
    if not value.isprintable() and (fault := _fault(value)):
        raise InvalidValue(f"the {what} {_short(value)} holds {fault}", f"a {what} is one line")
    if len(value) > longest:
        raise InvalidValue(f"the {what} {_short(value)} is longer than {longest} characters")
    return value.strip()


def some_lines(value: str, what: str, longest: int) -> str:
    """The value with LF line ends. Raises InvalidValue unless it is lines of Unicode; `what` names it."""
    value = value.replace("\r\n", "\n").replace("\r", "\n")
    if fault := _fault(value.translate(_LAYOUT)):
        raise InvalidValue(f"the {what} {_short(value)} holds {fault}")
    if len(value) > longest:
        raise InvalidValue(f"the {what} {_short(value)} is longer than {longest} characters")
    return value


def _checked(email: str, name: str, comment: str, tags: Sequence[str] = ()) -> Person:
    email = email.strip()
    if not email or len(email) > addresses.LONGEST:
        raise InvalidValue(f"the address {_short(email)} is too long" if email else "the address is missing")
    address = addresses.parse(email)
    name = one_line(name, "name", LONGEST_NAME)
    return Person(
        address.email,
        address.key,
        name,
        some_lines(comment, "comment", LONGEST_COMMENT) if comment else "",
        checked_tags(tags) if tags else (),
    )


_LAYOUT = dict.fromkeys(map(ord, "\t\n"), " ")
_FAULTS = {
    "Cc": "a control character or a line break",
    "Zl": "a line break",
    "Zp": "a line break",
    "Cs": "what is not UTF-8",
}


def _fault(value: str) -> str | None:
    """What a person's text must not hold, if it does; format characters are a part of many scripts."""
    if value.isprintable():
        return None
    return next(filter(None, (_FAULTS.get(unicodedata.category(character)) for character in value)), None)


def _short(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")


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
    with store.read() as session:
        known = set(session.scalars(keys))
    yield from (row._replace(is_client=key in known) for key, row in found)


def _usable(
    batch: Sequence[ClientRow | BadRow | LeftOut],
    last_wins: bool,
    result: ImportResult,
    on_bad: Callable[[BadRow | LeftOut], None],
) -> Collection[Person]:
    people: dict[str, Person] = {}
    for row in batch:
        if isinstance(row, LeftOut):
            continue
        try:
            if isinstance(row, BadRow):
                raise InvalidValue(row.reason)
            person = _checked(row.email, row.name, row.comment, row.tags)
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


def _columns(person: Person) -> dict[str, Any]:
    return {name: value for name, value in person._asdict().items() if name != "tags"}


def _set_tags(session: Session, client_id: int, tags: Sequence[str]) -> None:
    if tags:
        session.execute(insert(_T), [{"client_id": client_id, "tag": tag} for tag in tags])


def _own(actor: Actor) -> Select[tuple[object, ...]]:
    return select(_C, queue.tags_of_client().label("tags")).where(_C.c.owner_id == actor.user_id)


def _has(tag: str | None) -> ColumnElement[bool]:
    """Whether a client has a tag; any does, where none is asked for."""
    if tag is None:
        return true()
    return _C.c.id.in_(select(_T.c.client_id).where(_T.c.tag.in_(checked_tags([tag]))))


def _get(session: Session, actor: Actor, client: str) -> ClientInfo:
    row = session.execute(_own(actor).where(is_named(_C, client))).one_or_none()
    if row is None:
        raise NotFound(f"there is no client {_short(client)}", "see them: skychimp clients list")
    return _info(row)


def _info(row: Row[tuple[object, ...]]) -> ClientInfo:
    return ClientInfo(
        row.id, row.email, row.name, row.comment, json.loads(row.tags), row.created_at, row.bad_at, row.bad_reason
    )

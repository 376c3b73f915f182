"""Clients: whom a user's mailings go to."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, select, text, true, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp import addresses
from skychimp.errors import Conflict, InvalidValue, NotFound
from skychimp.models import UNFINISHED_SQL, Client, ClientTag, Mailing, Occurrence
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.listing import ListOptions, apply, is_named
from skychimp.store import queue
from skychimp.store.client_import import NewClient
from skychimp.store.database import Store
from skychimp.text import checked_tags, one_line, shortened, some_lines

_C = Client.__table__
_T = ClientTag.__table__
_O = Occurrence.__table__
_M = Mailing.__table__

LONGEST_NAME = 1_000
LONGEST_COMMENT = 10_000

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


def create(
    store: Store, actor: Actor, *, email: str, name: str = "", comment: str = "", tags: Sequence[str] = ()
) -> ClientInfo:
    """Add a client. Raises InvalidValue for what can't be used, Conflict where there is that address already."""
    authorize(actor, Action.CHANGE_CLIENTS)
    person = checked_client(email, name, comment, tags)
    with store.write() as db:
        row = {**_columns(person), "owner_id": actor.user_id, "created_at": datetime.now(UTC)}
        try:
            client_id = db.execute(insert(_C).values(row).returning(_C.c.id)).scalar_one()
        except IntegrityError:
            hint = f"change it: skychimp clients update {person.email}"
            raise Conflict(f"there is already a client {person.email}", hint) from None
        _set_tags(db, client_id, person.tags)
        return _get(db, actor, str(client_id))


def show(store: Store, actor: Actor, client: str) -> ClientInfo:
    """One client, by id or e-mail. Raises NotFound."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        return _get(db, actor, client)


def list_clients(store: Store, actor: Actor, page: ListOptions, tag: str | None = None) -> Iterator[ClientInfo]:
    """The actor's clients, as they are read. Raises InvalidValue."""
    authorize(actor, Action.SEE_CLIENTS)
    query = apply(_own(actor), page, searched=(_C.c.email, _C.c.name, _C.c.comment), sorted_by=SORTED_BY)
    with store.read() as db:
        yield from map(_info, db.execute(query.where(_has(tag)).execution_options(yield_per=1000)))


def number(store: Store, actor: Actor, tag: str | None = None) -> int:
    """How many clients the actor has. Raises InvalidValue."""
    authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        return db.scalar(select(func.count()).where(_C.c.owner_id == actor.user_id, _has(tag))) or 0


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
    authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        old = _get(db, actor, client)
        person = checked_client(
            email if email is not None else old.email,
            name if name is not None else old.name,
            comment if comment is not None else old.comment,
            tags or (),
        )
        values = _columns(person)
        if clear_bad or person.address_key != addresses.parse(old.email).key:
            values |= {"bad_at": None, "bad_reason": None}
        try:
            db.execute(update(_C).where(_C.c.id == old.id).values(values))
        except IntegrityError:
            raise Conflict(f"there is already a client {person.email}") from None
        if tags is not None:
            db.execute(delete(_T).where(_T.c.client_id == old.id))
            _set_tags(db, old.id, person.tags)
        return _get(db, actor, str(old.id))


def remove(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Delete a client; what still waits for it is cancelled, what was sent stays in the ledger. Raises NotFound."""
    authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        gone = _get(db, actor, client)
        key = addresses.parse(gone.email).key
        unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
        waiting = unfinished.where(text(UNFINISHED_SQL.replace("state", "occurrence.state")))
        queue.cancel(db.connection(), waiting, key)
        db.execute(delete(_C).where(_C.c.id == gone.id))
        audit.record(db, actor, "delete", "client", gone.id)
    return gone


def checked_client(email: str, name: str, comment: str, tags: Sequence[str] = ()) -> NewClient:
    email = email.strip()
    if not email or len(email) > addresses.LONGEST:
        raise InvalidValue(f"the address {shortened(email)} is too long" if email else "the address is missing")
    address = addresses.parse(email)
    name = one_line(name, "name", LONGEST_NAME)
    return NewClient(
        address.email,
        address.key,
        name,
        some_lines(comment, "comment", LONGEST_COMMENT) if comment else "",
        checked_tags(tags) if tags else (),
    )


def _columns(person: NewClient) -> dict[str, Any]:
    return {name: value for name, value in person._asdict().items() if name != "tags"}


def _set_tags(db: Session, client_id: int, tags: Sequence[str]) -> None:
    if tags:
        db.execute(insert(_T), [{"client_id": client_id, "tag": tag} for tag in tags])


def _own(actor: Actor) -> Select[tuple[object, ...]]:
    return select(_C, queue.tags_of_client().label("tags")).where(_C.c.owner_id == actor.user_id)


def _has(tag: str | None) -> ColumnElement[bool]:
    """Whether a client has a tag; any does, where none is asked for."""
    if tag is None:
        return true()
    return _C.c.id.in_(select(_T.c.client_id).where(_T.c.tag.in_(checked_tags([tag]))))


def _get(db: Session, actor: Actor, client: str) -> ClientInfo:
    row = db.execute(_own(actor).where(is_named(_C, client))).one_or_none()
    if row is None:
        raise NotFound(f"there is no client {shortened(client)}", "see them: skychimp clients list")
    return _info(row)


def _info(row: Row[tuple[object, ...]]) -> ClientInfo:
    return ClientInfo(
        row.id, row.email, row.name, row.comment, json.loads(row.tags), row.created_at, row.bad_at, row.bad_reason
    )

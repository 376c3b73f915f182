"""Create, change, delete and list clients, the recipients of a user's mailings."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from skychimp import addresses
from skychimp.errors import Conflict, InvalidValue
from skychimp.models import Client, ClientTag, Mailing, Occurrence
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.listing import ListOptions, apply, in_scope, matches_id_or_email, not_found
from skychimp.shell import arguments, run_hint
from skychimp.store import queue
from skychimp.store.client_import import NewClient
from skychimp.store.conditions import is_unfinished
from skychimp.store.database import Store
from skychimp.text import MAX_COMMENT_LENGTH, MAX_NAME_LENGTH, checked_tags, count_of, one_line, shortened, some_lines

_C = Client.__table__
_T = ClientTag.__table__
_O = Occurrence.__table__
_M = Mailing.__table__

SORTED_BY = {"id": _C.c.id, "email": _C.c.address_key, "name": func.lower(_C.c.name), "created_at": _C.c.created_at}


@dataclass(frozen=True)
class ClientInfo:
    """A client as its owner sees it. `bad_at` is set once a server has said that the address does not exist."""

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
    """Create a client. Raises InvalidValue, and Conflict if the actor has a client with this address."""
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    client = validate_client(email, name, comment, tags)
    with store.write() as db:
        row = {**_columns(client), "owner_id": actor.user_id, "created_at": store.now()}
        try:
            client_id = db.execute(insert(_C).values(row).returning(_C.c.id)).scalar_one()
        except IntegrityError:
            raise _already_exists(client.email) from None
        _add_tags(db, client_id, client.tags)
        return _get(db, actor, scope, str(client_id))


def show(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Return one client by its id or email address. Raises NotFound."""
    scope = authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        return _get(db, actor, scope, client)


def list_clients(store: Store, actor: Actor, options: ListOptions, tag: str | None = None) -> Iterator[ClientInfo]:
    """Yield the actor's clients, while they are read. `tag` selects those that have it. Raises InvalidValue."""
    scope = authorize(actor, Action.SEE_CLIENTS)
    query = apply(
        _select_clients(actor, scope), options, searched=(_C.c.email, _C.c.name, _C.c.comment), sorted_by=SORTED_BY
    )
    with store.read() as db:
        yield from map(_client_info, db.execute(query.where(_has_tag(tag)).execution_options(yield_per=1000)))


def export(store: Store, actor: Actor, tag: str | None = None) -> Iterator[ClientInfo]:
    """Yield the actor's clients for a file, after recording that in the audit trail. Raises InvalidValue."""
    detail = count_of(count(store, actor, tag), "client")
    audit.record_if_possible(store, actor, "export", "client", None, detail)
    yield from list_clients(store, actor, ListOptions(), tag)


def count(store: Store, actor: Actor, tag: str | None = None) -> int:
    """Return how many clients the actor has. `tag` counts those that have it. Raises InvalidValue."""
    scope = authorize(actor, Action.SEE_CLIENTS)
    with store.read() as db:
        return db.scalar(select(func.count(_C.c.id)).where(in_scope(scope, actor, _C.c.owner_id), _has_tag(tag))) or 0


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
    """Change the values that are given. `tags` replaces all tags.

    A new address, or `clear_bad`, clears the mark of a bad address. Raises NotFound, Conflict, InvalidValue.
    """
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        old = _get(db, actor, scope, client)
        new = validate_client(
            email if email is not None else old.email,
            name if name is not None else old.name,
            comment if comment is not None else old.comment,
            tags or (),
        )
        values = _columns(new)
        if clear_bad or new.address_key != addresses.parse(old.email).key:
            values |= {"bad_at": None, "bad_reason": None}
        try:
            db.execute(update(_C).where(_C.c.id == old.id).values(values))
        except IntegrityError:
            raise _already_exists(new.email) from None
        if tags is not None:
            db.execute(delete(_T).where(_T.c.client_id == old.id))
            _add_tags(db, old.id, new.tags)
        return _get(db, actor, scope, str(old.id))


def remove(store: Store, actor: Actor, client: str) -> ClientInfo:
    """Delete a client and return it. Queued deliveries are cancelled; the log is kept. Raises NotFound."""
    scope = authorize(actor, Action.CHANGE_CLIENTS)
    with store.write() as db:
        deleted = _get(db, actor, scope, client)
        key = addresses.parse(deleted.email).key
        unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == actor.user_id)
        waiting = unfinished.where(is_unfinished())
        queue.cancel_for_address(db.connection(), waiting, key)
        db.execute(delete(_C).where(_C.c.id == deleted.id))
        audit.record(db, actor, "delete", "client", deleted.id)
    return deleted


def validate_client(email: str, name: str, comment: str, tags: Sequence[str] = ()) -> NewClient:
    """Return a client that can be stored. Raises InvalidValue if one of the values is not valid."""
    email = email.strip()
    if not email:
        raise InvalidValue("missing email address")
    if len(email) > addresses.MAX_LENGTH:
        raise InvalidValue(f"the email address {shortened(email)} is too long")
    address = addresses.parse(email)
    name = one_line(name, "name", MAX_NAME_LENGTH)
    comment = some_lines(comment, "comment", MAX_COMMENT_LENGTH) if comment else ""
    return NewClient(address.email, address.key, name, comment, checked_tags(tags) if tags else ())


def _columns(client: NewClient) -> dict[str, Any]:
    return {name: value for name, value in client._asdict().items() if name != "tags"}


def _add_tags(db: Session, client_id: int, tags: Sequence[str]) -> None:
    if tags:
        db.execute(insert(_T), [{"client_id": client_id, "tag": tag} for tag in tags])


def _already_exists(email: str) -> Conflict:
    return Conflict(f"client {email} already exists", run_hint("clients", "show", *arguments(email)))


def _select_clients(actor: Actor, scope: Scope) -> Select[tuple[object, ...]]:
    return select(_C, queue.client_tags().label("tags")).where(in_scope(scope, actor, _C.c.owner_id))


def _has_tag(tag: str | None) -> ColumnElement[bool]:
    """Return the condition that a client has a tag, or that is always true if `tag` is None."""
    if tag is None:
        return true()
    return _C.c.id.in_(select(_T.c.client_id).where(_T.c.tag.in_(checked_tags([tag]))))


def _get(db: Session, actor: Actor, scope: Scope, client: str) -> ClientInfo:
    row = db.execute(_select_clients(actor, scope).where(matches_id_or_email(_C, client))).one_or_none()
    if row is None:
        raise not_found("client", client)
    return _client_info(row)


def _client_info(row: Row[tuple[object, ...]]) -> ClientInfo:
    return ClientInfo(
        row.id, row.email, row.name, row.comment, json.loads(row.tags), row.created_at, row.bad_at, row.bad_reason
    )

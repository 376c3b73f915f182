"""Personal data: all that is kept of a client is erased, and all that is a user's own is given out."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, delete, or_, select, true
from sqlmodel import Session

from skychimp import addresses
from skychimp.errors import Conflict, NotFound, StoreFailed
from skychimp.models import Attempt, Client, Delivery, DeliveryState, Mailing, Occurrence, Post, Role
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.clients import clients
from skychimp.services.listing import ListOptions
from skychimp.services.mailings import mailings
from skychimp.services.messages import messages
from skychimp.services.users import users
from skychimp.store import ledger, queue
from skychimp.store.database import Store

_A = Attempt.__table__
_C = Client.__table__
_D = Delivery.__table__
_M = Mailing.__table__
_O = Occurrence.__table__
_P = Post.__table__


@dataclass(frozen=True)
class Traces:
    """How much is, or was, kept of one person; `cancelled` counts the letters that will not go out now."""

    clients: int
    deliveries: int
    attempts: int = 0
    cancelled: int = 0


def traces(store: Store, actor: Actor, email: str, *, everywhere: bool = False) -> Traces:
    """What `forget` would erase. Raises NotFound where that is nothing, Denied, InvalidValue for the address."""
    with store.read() as db:
        found = _find(db, actor, email, everywhere)
    return Traces(len(found.client_ids), len(found.states))


def forget(store: Store, actor: Actor, email: str, *, everywhere: bool = False) -> Traces:
    """Erase a person from the actor's clients and ledger, or from everybody's; what was sent is counted as before.

    What waits for that person is cancelled. Then the file is written anew, so that no trace is left in its gaps.
    Raises NotFound where there is nothing, Conflict where a letter is on its way just now, Denied, InvalidValue, and
    StoreFailed where all is erased but the file could not be written anew.
    """
    with store.write() as db:
        found = _find(db, actor, email, everywhere)
        if DeliveryState.SENDING in found.states.values():
            raise Conflict(
                f"a letter to {email} is being sent just now", "try again in a moment, or after the next skychimp run"
            )
        ids = list(found.states)
        cancelled = queue.cancel_these(db.connection(), ids)
        attempts = ledger.erase(db.connection(), ids)
        db.execute(delete(_C).where(_C.c.id.in_(found.client_ids)))
        done = Traces(len(found.client_ids), len(ids), attempts, cancelled)
        audit.record(db, actor, "forget", "client", None, f"clients: {done.clients}, deliveries: {done.deliveries}")
    try:
        store.rewrite()
    except StoreFailed as error:
        raise StoreFailed(
            f"{email} is forgotten, but the file could not be written anew and may hold traces: {error.message}",
            f"mend that, then write it anew: sqlite3 {store.path} VACUUM",
        ) from error
    return done


def export(store: Store, actor: Actor) -> Iterator[tuple[str, Any]]:
    """All that is a user's own, part by part; each part but the account is an iterator, to be read before the next."""
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    owner = replace(actor, role=Role.USER)  # whatever else the role reaches, these are one's own
    everything = ListOptions()
    yield "account", users.own(store, actor)
    yield "clients", clients.list_clients(store, owner, everything)
    yield "messages", messages.list_messages(store, owner, everything)
    yield "mailings", mailings.list_mailings(store, owner, everything)
    yield "attempts", _attempts(store, owner)
    yield "posts", _posts(store, owner)


@dataclass(frozen=True)
class _Found:
    client_ids: list[int]
    states: dict[int, DeliveryState]
    """Of each delivery, by its id."""


def _find(db: Session, actor: Actor, email: str, everywhere: bool) -> _Found:
    """A person's clients and deliveries: those to the address, and to any that such a client had before."""
    authorize(actor, Action.FORGET_EVERYWHERE if everywhere else Action.CHANGE_CLIENTS)
    key = addresses.parse(email.strip()).key

    def owned(owner_id: ColumnElement[int]) -> ColumnElement[bool]:
        return true() if everywhere else owner_id == actor.user_id

    client_ids = list(db.scalars(select(_C.c.id).where(_C.c.address_key == key, owned(_C.c.owner_id))))
    to_address = (
        select(_D.c.id)
        .join(_O, _O.c.id == _D.c.occurrence_id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_D.c.address_key == key, owned(_M.c.owner_id))
    )
    all_of = select(_D.c.id, _D.c.state).where(or_(_D.c.id.in_(to_address), _D.c.client_id.in_(client_ids)))
    states = {row.id: DeliveryState(row.state) for row in db.execute(all_of)}
    if not client_ids and not states:
        raise NotFound(f"nothing is kept of {email}", "see whom you write to: skychimp clients list")
    return _Found(client_ids, states)


def _attempts(store: Store, owner: Actor) -> Iterator[dict[str, Any]]:
    columns = (
        _O.c.mailing_id, _O.c.due_at, _D.c.address.label("email"), _A.c.number.label("attempt"),
        _A.c.finished_at.label("at"), _A.c.outcome.label("status"), _A.c.reply, _A.c.relay,
    )  # fmt: skip
    mine = (
        select(_A.c.id)
        .join(_D, _D.c.id == _A.c.delivery_id)
        .join(_O, _O.c.id == _D.c.occurrence_id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_M.c.owner_id == owner.user_id)
    )
    joined = select(*columns).join(_D, _D.c.id == _A.c.delivery_id).join(_O, _O.c.id == _D.c.occurrence_id)
    with store.read() as db:
        for row in db.execute(joined.where(_A.c.id.in_(mine)).order_by(_A.c.id).execution_options(yield_per=1000)):
            yield dict(row._mapping)


def _posts(store: Store, author: Actor) -> Iterator[dict[str, Any]]:
    with store.read() as db:
        mine = select(_P).where(_P.c.author_id == author.user_id).order_by(_P.c.id)
        for row in db.execute(mine.execution_options(yield_per=100)):
            yield dict(row._mapping)

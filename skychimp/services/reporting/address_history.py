"""Why: everything about one address; what chose it, what left it out, what was tried, and what servers said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Row, Select, and_, select
from sqlmodel import Session

from skychimp import addresses
from skychimp.delivery.composing import compose
from skychimp.delivery.sending import replies
from skychimp.errors import NotFound
from skychimp.models import (
    Attempt,
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Mailing,
    MailingClient,
    MailingTag,
    Message,
    Occurrence,
    OccurrenceState,
    StoreInfo,
    User,
)
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.store.database import Store

_A = Attempt.__table__
_C = Client.__table__
_T = ClientTag.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__
_MSG = Message.__table__
_U = User.__table__

ALIKE = 500
"""How many addresses with the same beginning are looked at for one that may have been meant."""


@dataclass(frozen=True)
class ClientOf:
    """The address as somebody's client; name, comment and tags only for that owner."""

    id: int
    owner: str
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None
    name: str | None
    comment: str | None
    tags: Sequence[str] | None


@dataclass(frozen=True)
class Tried:
    """One attempt, with the server's whole reply, what it means, and the id in the server's own log."""

    at: datetime
    attempt: int
    status: str
    phase: str
    reply: str
    meaning: str
    queue_id: str
    relay: str


@dataclass(frozen=True)
class Chosen:
    """A delivery to the address, and all that was tried; `next_try_at` is None where nothing more is."""

    delivery_id: int
    mailing_id: int
    subject: str
    owner: str
    due_at: datetime
    state: DeliveryState
    next_try_at: datetime | None
    message_id: str
    attempts: Sequence[Tried]


@dataclass(frozen=True)
class LeftOut:
    """A reason for which a mailing's occurrences have no letter for the address, and how many."""

    mailing_id: int
    subject: str
    owner: str
    reason: str
    times: int
    first_due_at: datetime
    last_due_at: datetime


@dataclass(frozen=True)
class Coming:
    """What a mailing's next due time will do; `reason` says why the address is left out, None where it is chosen."""

    mailing_id: int
    subject: str
    owner: str
    next_at: datetime
    reason: str | None


@dataclass(frozen=True)
class AddressHistory:
    email: str
    clients: Sequence[ClientOf]
    chosen: Sequence[Chosen]
    left_out: Sequence[LeftOut]
    coming: Sequence[Coming]


def address_history(store: Store, actor: Actor, email: str) -> AddressHistory:
    """Everything about an address that the actor may see: of one's own mailings, or of everybody's.

    Raises InvalidValue, and NotFound where no mailing and no client is about it.
    """
    allowed = authorize(actor, Action.SEE_REPORTS)
    address = addresses.parse(email.strip())
    with store.read() as db:
        owners = select(_U.c.id) if allowed == Scope.ALL else select(_U.c.id).where(_U.c.id == actor.user_id)
        clients = {row.owner_id: row for row in db.execute(_clients(owners, address.key))}
        chosen = _chosen(db, owners, address.key)
        if not clients and not chosen:
            raise _unknown(db, actor, address)
        whose = owners.where(_U.c.id.in_(clients)) if allowed == Scope.ALL else owners
        audiences = _Audiences(db, clients)
        left_out = _gathered(_left_out(db, whose, address.key, audiences))
        coming = [_coming(row, audiences) for row in db.execute(_to_come(whose))]
        known = [_client_of(db, row, actor) for row in clients.values()]
    return AddressHistory(address.email, known, chosen, left_out, coming)


# Who it is


def _clients(owners: Select[tuple[int]], key: str) -> Select[tuple[object, ...]]:
    mine = and_(_C.c.owner_id.in_(owners), _C.c.address_key == key)
    return select(_C, _U.c.email.label("owner")).join(_U, _U.c.id == _C.c.owner_id).where(mine).order_by(_C.c.id)


def _client_of(db: Session, row: Row[Any], actor: Actor) -> ClientOf:
    is_own = row.owner_id == actor.user_id
    tags = db.execute(select(_T.c.tag).where(_T.c.client_id == row.id).order_by(_T.c.tag)).scalars().all()
    return ClientOf(
        id=row.id,
        owner=row.owner,
        created_at=row.created_at,
        bad_at=row.bad_at,
        bad_reason=row.bad_reason,
        name=row.name if is_own else None,
        comment=row.comment if is_own else None,
        tags=tags if is_own else None,
    )


def _unknown(db: Session, actor: Actor, address: addresses.Address) -> NotFound:
    """Nobody knows the address; those of the actor's own clients that look like it may have been meant."""
    beginning = address.key[:2]
    alike = select(_C.c.address_key).where(
        _C.c.owner_id == actor.user_id, _C.c.address_key >= beginning, _C.c.address_key < beginning + "\U0010ffff"
    )
    found = db.execute(alike.order_by(_C.c.address_key).limit(ALIKE)).scalars().all()
    near = get_close_matches(address.key, found, n=3, cutoff=0.75)
    hint = "did you mean " + " or ".join(near) + "?" if near else "see them: skychimp clients list"
    return NotFound(f"{address.email} is no client, and nothing was ever sent there", hint)


# What chose it


def _chosen(db: Session, owners: Select[tuple[int]], key: str) -> list[Chosen]:
    """The deliveries to an address, the oldest due time first."""
    columns = (
        _D.c.id, _D.c.state, _D.c.next_try_at, _O.c.mailing_id, _O.c.subject, _O.c.due_at, _O.c.return_path,
        _U.c.email.label("owner"),
    )  # fmt: skip
    query = (
        select(*columns)
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_O, _O.c.mailing_id == _M.c.id)
        .join(_D, and_(_D.c.occurrence_id == _O.c.id, _D.c.address_key == key))
        .where(_M.c.owner_id.in_(owners))
        .order_by(_O.c.due_at, _D.c.id)
    )
    rows = db.execute(query).all()
    tried: dict[int, list[Tried]] = {}
    attempts = select(_A).where(_A.c.delivery_id.in_([row.id for row in rows]))
    for attempt in db.execute(attempts.order_by(_A.c.delivery_id, _A.c.number)):
        tried.setdefault(attempt.delivery_id, []).append(_tried(attempt))
    secret = db.execute(select(StoreInfo.__table__.c.secret)).scalar_one()
    return [
        Chosen(
            delivery_id=row.id,
            mailing_id=row.mailing_id,
            subject=row.subject,
            owner=row.owner,
            due_at=row.due_at,
            state=DeliveryState(row.state),
            next_try_at=row.next_try_at,
            message_id=compose.message_id(secret, row.id, row.return_path.rpartition("@")[2]),
            attempts=tried.get(row.id, []),
        )
        for row in rows
    ]


def _tried(row: Row[Any]) -> Tried:
    return Tried(
        at=row.finished_at,
        attempt=row.number,
        status=row.outcome,
        phase=row.phase,
        reply=row.reply,
        meaning=replies.explain(row.outcome, row.phase, row.code or 0, row.enhanced).what,
        queue_id=replies.queue_id(row.reply),
        relay=row.relay,
    )


# What left it out


class _Audiences:
    """Whether a mailing's audience holds the address, as things are now, and what it is made of."""

    def __init__(self, db: Session, clients: Mapping[int, Row[Any]]) -> None:
        ids = [row.id for row in clients.values()]
        named = select(_MC.c.mailing_id).where(_MC.c.client_id.in_(ids))
        tagged = select(_MT.c.mailing_id).join(_T, _T.c.tag == _MT.c.tag).where(_T.c.client_id.in_(ids))
        self.clients = clients
        self._named = set(db.execute(named).scalars())
        self._tagged = set(db.execute(tagged).scalars())
        self._session = db

    def outside(self, mailing: Row[Any]) -> str | None:
        """Why the address is not in a mailing's audience; None where it is."""
        if mailing.all_clients or mailing.mailing_id in self._named | self._tagged:
            return None
        tags = select(_MT.c.tag).where(_MT.c.mailing_id == mailing.mailing_id).order_by(_MT.c.tag)
        wanted = ", ".join(self._session.execute(tags).scalars())
        return f"it has no tag of: {wanted}" if wanted else "it is not among the clients that the mailing names"


def _left_out(db: Session, owners: Select[tuple[int]], key: str, audiences: _Audiences) -> Iterable[LeftOut]:
    """Every occurrence without a delivery to the address, each with its reason."""
    columns = (
        _O.c.mailing_id, _O.c.subject, _O.c.due_at, _O.c.state, _O.c.opened_at, _O.c.cursor, _M.c.all_clients,
        _M.c.owner_id, _U.c.email.label("owner"),
    )  # fmt: skip
    query = (
        select(*columns)
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_O, _O.c.mailing_id == _M.c.id)
        .outerjoin(_D, and_(_D.c.occurrence_id == _O.c.id, _D.c.address_key == key))
        .where(_M.c.owner_id.in_(owners), _D.c.id.is_(None))
        .order_by(_O.c.due_at, _O.c.id)
    )
    for row in db.execute(query):
        client = audiences.clients.get(row.owner_id)
        reason = why_not(row, client, None if client is None else audiences.outside(row))
        yield LeftOut(row.mailing_id, row.subject, row.owner, reason, 1, row.due_at, row.due_at)


def why_not(occurrence: Any, client: Any | None, outside: str | None) -> str:
    """Why an occurrence has no delivery for a client, from what is known today; pure.

    `outside` says why the client is not in the mailing's audience, None where it is.
    """
    if occurrence.state == OccurrenceState.MISSED:
        return "nobody got it: it was missed, and too late to be sent afterwards"
    if occurrence.state == OccurrenceState.SKIPPED:
        return "nobody got it: it was skipped, for there was no new post to tell of"
    if occurrence.state == OccurrenceState.CANCELLED:
        return "the mailing was deleted while this was being opened"
    if client is None:
        return f"it is no client of {occurrence.owner}"
    if client.created_at > occurrence.opened_at:
        return f"it became a client at {_moment(client.created_at)}, after this was opened"
    if outside:
        return outside
    if occurrence.state == OccurrenceState.OPENING and client.id > occurrence.cursor:
        return "this is still being opened, and its turn is to come"
    if client.bad_at is not None and client.bad_at <= occurrence.opened_at:
        return _bad(client)
    return "it came into the audience, or was good again, after this was opened"


def _gathered(left_out: Iterable[LeftOut]) -> list[LeftOut]:
    """One row for a mailing and reason."""
    found: dict[tuple[int, str], LeftOut] = {}
    for one in left_out:
        first = found.get((one.mailing_id, one.reason), one)
        times = 1 if first is one else first.times + 1
        found[one.mailing_id, one.reason] = LeftOut(
            one.mailing_id, one.subject, one.owner, one.reason, times, first.first_due_at, one.last_due_at
        )
    return list(found.values())


# What comes


def _to_come(owners: Select[tuple[int]]) -> Select[tuple[object, ...]]:
    columns = (
        _M.c.id.label("mailing_id"), _MSG.c.subject, _M.c.next_at, _M.c.all_clients, _M.c.owner_id, _M.c.disabled_at,
        _M.c.disabled_reason, _U.c.email.label("owner"), _U.c.blocked_at,
    )  # fmt: skip
    return (
        select(*columns)
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_MSG, _MSG.c.id == _M.c.message_id)
        .where(_M.c.owner_id.in_(owners), _M.c.deleted_at.is_(None), _M.c.next_at.is_not(None))
        .order_by(_M.c.next_at, _M.c.id)
    )


def _coming(mailing: Row[Any], audiences: _Audiences) -> Coming:
    client = audiences.clients.get(mailing.owner_id)
    if client is None:
        reason: str | None = f"it is no client of {mailing.owner}"
    elif mailing.disabled_at is not None:
        reason = f"the mailing is disabled: {mailing.disabled_reason}"
    elif mailing.blocked_at is not None:
        reason = f"{mailing.owner} is blocked"
    else:
        reason = audiences.outside(mailing) or (_bad(client) if client.bad_at is not None else None)
    return Coming(mailing.mailing_id, mailing.subject, mailing.owner, mailing.next_at, reason)


def _bad(client: Any) -> str:
    return f"a bad address since {_moment(client.bad_at)}: {client.bad_reason}"


def _moment(at: datetime) -> str:
    return at.isoformat(" ", "seconds")

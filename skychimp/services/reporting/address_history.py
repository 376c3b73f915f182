"""Report the history of one address: which mailings included it, which left it out and why, and every attempt."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, Select, and_, or_, select

from skychimp import addresses
from skychimp.delivery.composing import compose
from skychimp.delivery.sending import replies
from skychimp.delivery.sending.refusals import faults
from skychimp.errors import NotFound
from skychimp.models import (
    EVERYBODY,
    DeliveryState,
    OccurrenceState,
    tables,
)
from skychimp.permissions import Action, Actor, Scope, authorize
from skychimp.services import audit
from skychimp.services.listing import in_scope
from skychimp.shell import run_hint
from skychimp.store.clients import audience, suppressions
from skychimp.store.conditions import current_state, why_stopped
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import count_of, did_you_mean
from skychimp.translation import tr

_A = tables.attempt
_C = tables.client
_T = tables.client_tag
_D = tables.delivery
_O = tables.occurrence
_R = tables.returned_mail
_M = tables.mailing
_MSG = tables.message
_S = tables.suppression
_U = tables.user

MOST_SIMILAR = 500
"""How many addresses with the same beginning are compared to find one that may have been meant."""


@dataclass(frozen=True)
class KnownClient:
    """The address as a user's client. Name, comment and tags are shown only to that user."""

    id: int
    owner: str
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None
    name: str | None
    comment: str | None
    tags: Sequence[str] | None


@dataclass(frozen=True)
class KnownSuppression:
    """A suppression of the address or its domain. It holds for all users if `owner` is None, without a topic for all.

    Suppressions of forgotten addresses are not known.
    """

    address: str
    owner: str | None
    topic: str | None
    reason: str
    source: str
    at: datetime


@dataclass(frozen=True)
class AttemptInfo:
    """An attempt with the server's whole reply, what the reply means, and the queue id in the server's own log."""

    at: datetime
    attempt: int
    status: str
    phase: str
    reply: str
    meaning: str
    queue_id: str
    relay: str


@dataclass(frozen=True)
class ReturnedInfo:
    """What came back for an email after it was sent: `bounced`, `complaint` and the like, and the server's reply."""

    at: datetime
    kind: str
    reply: str


@dataclass(frozen=True)
class DeliveryInfo:
    """A delivery to the address with its attempts. `next_try_at` is None if there is no further try.

    `reason` says why the address gets no email now, if the delivery was cancelled or waits for a canary.
    """

    delivery_id: int
    mailing_id: int
    subject: str
    owner: str
    due_at: datetime
    state: DeliveryState
    next_try_at: datetime | None
    reason: str | None
    message_id: str
    attempts: Sequence[AttemptInfo]
    returned: Sequence[ReturnedInfo]


@dataclass(frozen=True)
class Exclusion:
    """A reason why occurrences of a mailing have no delivery to the address, and how many they are."""

    mailing_id: int
    subject: str
    owner: str
    reason: str
    times: int
    first_due_at: datetime
    last_due_at: datetime


@dataclass(frozen=True)
class NextOccurrence:
    """A mailing's next due time. `reason` says why the address would be left out, and is None if it would not."""

    mailing_id: int
    subject: str
    owner: str
    next_at: datetime
    reason: str | None


@dataclass(frozen=True)
class AddressHistory:
    """Everything about an address that the actor may see."""

    email: str
    clients: Sequence[KnownClient]
    suppressions: Sequence[KnownSuppression]
    chosen: Sequence[DeliveryInfo]
    left_out: Sequence[Exclusion]
    coming: Sequence[NextOccurrence]


def address_history(store: Store, actor: Actor, email: str, *, require_consent: bool = False) -> AddressHistory:
    """Return everything about an address that the actor may see: in their own mailings, or in all.

    `require_consent` is the setting of that name.
    Raises InvalidValue for an invalid address, and NotFound if it is neither a client nor suppressed nor in any
    delivery.
    """
    scope = authorize(actor, Action.SEE_REPORTS)
    address = addresses.parse(email.strip(), addresses.STORED)
    with store.read() as db:
        owners = select(_U.c.id).where(in_scope(scope, actor, _U.c.id))
        clients = _find_clients(db, owners, address.key)
        known_suppressions = _find_suppressions(db, owners, address.key)
        membership = _Membership(db, clients, address.key, store.now(), require_consent)
        deliveries = _find_deliveries(db, owners, address.key, membership)
        if not clients and not known_suppressions and not deliveries:
            raise _no_record(db, actor, address)
        # A manager sees what left an address out only for the users who have it as a client.
        if scope == Scope.ALL:
            owners = owners.where(_U.c.id.in_([client.owner_id for client in clients]))
        history = AddressHistory(
            email=address.email,
            clients=[_known_client(db, client, actor) for client in clients],
            suppressions=known_suppressions,
            chosen=deliveries,
            left_out=_grouped(_exclusions(db, owners, address.key, membership)),
            coming=[_next_occurrence(mailing, membership) for mailing in _next_due_times(db, owners)],
        )
    _record_view(store, actor, history)
    return history


def _record_view(store: Store, actor: Actor, history: AddressHistory) -> None:
    """Record in the audit trail that the actor sees an address in other users' data. The address is not recorded."""
    owners = {client.owner for client in history.clients} | {delivery.owner for delivery in history.chosen}
    owners |= {suppression.owner for suppression in history.suppressions if suppression.owner is not None}
    others = owners - {actor.email}
    if others:
        client_id = next((client.id for client in history.clients if client.owner in others), None)
        audit.record_view(store, actor, "client", client_id, f"history with {count_of(len(others), 'user')}")


# The clients with the address, and its suppressions


class _Client(NamedTuple):
    id: int
    owner_id: int
    owner: str
    created_at: datetime
    bad_at: datetime | None
    bad_reason: str | None
    name: str
    comment: str
    consent_at: datetime | None


def _find_clients(db: Session, owners: Select[tuple[int]], key: str) -> list[_Client]:
    columns = (_C.c.id, _C.c.owner_id, _U.c.email, _C.c.created_at, _C.c.bad_at, _C.c.bad_reason)
    query = select(*columns, _C.c.name, _C.c.comment, _C.c.consent_at).join(_U, _U.c.id == _C.c.owner_id)
    query = query.where(_C.c.owner_id.in_(owners), _C.c.address_key == key)
    return [_Client._make(row) for row in db.execute(query.order_by(_C.c.id))]


def _known_client(db: Session, client: _Client, actor: Actor) -> KnownClient:
    is_own = client.owner_id == actor.user_id
    tags = db.execute(select(_T.c.tag).where(_T.c.client_id == client.id).order_by(_T.c.tag)).scalars().all()
    return KnownClient(
        id=client.id,
        owner=client.owner,
        created_at=client.created_at,
        bad_at=client.bad_at,
        bad_reason=client.bad_reason,
        name=client.name if is_own else None,
        comment=client.comment if is_own else None,
        tags=tags if is_own else None,
    )


def _find_suppressions(db: Session, owners: Select[tuple[int]], key: str) -> list[KnownSuppression]:
    query = select(_S.c.address, _U.c.email, _S.c.topic, _S.c.reason, _S.c.source, _S.c.at)
    query = query.outerjoin(_U, _U.c.id == _S.c.owner_id).where(_S.c.address_key.in_(suppressions.keys_for(key)))
    query = query.where(or_(_S.c.owner_id.in_(owners), _S.c.owner_id == EVERYBODY), suppressions.is_in_force())
    rows = db.execute(query.order_by(_S.c.at, _S.c.id))
    return [KnownSuppression(address, owner, topic or None, *more) for address, owner, topic, *more in rows]


def _no_record(db: Session, actor: Actor, address: addresses.Address) -> NotFound:
    """Return the error for an unknown address. The hint names similar addresses of the actor's own clients only."""
    start = address.key[:2]
    similar = select(_C.c.address_key).where(
        _C.c.owner_id == actor.user_id, _C.c.address_key >= start, _C.c.address_key < start + "\U0010ffff"
    )
    keys = db.execute(similar.order_by(_C.c.address_key).limit(MOST_SIMILAR)).scalars()
    hint = did_you_mean(address.key, keys, most=3, cutoff=0.75)
    return NotFound(tr("no record of {email}", email=address.email), hint or run_hint("clients", "list"))


# The deliveries to the address


def _find_deliveries(
    db: Session, owners: Select[tuple[int]], key: str, membership: "_Membership"
) -> list[DeliveryInfo]:
    """Return the deliveries to an address in order of their due times."""
    query = (
        select(
            _D.c.id, current_state().label("state"), _D.c.next_try_at, _O.c.mailing_id, _O.c.subject, _O.c.due_at,
            _O.c.canary_until, _O.c.return_path, _U.c.email.label("owner"), _M.c.owner_id, _M.c.topic,
        )
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_O, _O.c.mailing_id == _M.c.id)
        .join(_D, and_(_D.c.occurrence_id == _O.c.id, _D.c.address_key == key))
        .where(_M.c.owner_id.in_(owners))
        .order_by(_O.c.due_at, _D.c.id)
    )  # fmt: skip
    rows = db.execute(query).all()
    attempts = _attempts_by_delivery(db, [row.id for row in rows])
    returned = _returned_by_delivery(db, [row.id for row in rows])
    secret = db.execute(select(tables.store_info.c.secret)).scalar_one()
    return [
        DeliveryInfo(
            delivery_id=row.id,
            mailing_id=row.mailing_id,
            subject=row.subject,
            owner=row.owner,
            due_at=row.due_at,
            state=DeliveryState(row.state),
            next_try_at=row.next_try_at,
            reason=_why_not_sent(row, membership),
            message_id=compose.message_id(secret, row.id, row.return_path.rpartition("@")[2]),
            attempts=attempts.get(row.id, []),
            returned=returned.get(row.id, []),
        )
        for row in rows
    ]


def _why_not_sent(row: Row[Any], membership: "_Membership") -> str | None:
    """Return why a delivery is not sent, None if nothing keeps it back."""
    if row.state == DeliveryState.CANCELLED:
        return membership.why_unsent(row.owner_id, row.topic)
    waits = row.next_try_at is not None and row.next_try_at == row.canary_until
    return "the canary of the mailing is sent first" if waits else None


def _attempts_by_delivery(db: Session, delivery_ids: Sequence[int]) -> dict[int, list[AttemptInfo]]:
    attempts: dict[int, list[AttemptInfo]] = {}
    query = select(_A).where(_A.c.delivery_id.in_(delivery_ids)).order_by(_A.c.delivery_id, _A.c.number)
    for row in db.execute(query):
        attempts.setdefault(row.delivery_id, []).append(
            AttemptInfo(
                at=row.finished_at,
                attempt=row.number,
                status=row.outcome,
                phase=row.phase,
                reply=row.reply,
                meaning=faults.explain(row.outcome, row.phase, row.code or 0, row.enhanced, row.reply).meaning,
                queue_id=replies.queue_id(row.reply),
                relay=row.relay,
            )
        )
    return attempts


def _returned_by_delivery(db: Session, delivery_ids: Sequence[int]) -> dict[int, list[ReturnedInfo]]:
    returned: dict[int, list[ReturnedInfo]] = {}
    for row in db.execute(select(_R).where(_R.c.delivery_id.in_(delivery_ids)).order_by(_R.c.id)):
        returned.setdefault(row.delivery_id, []).append(ReturnedInfo(row.at, row.kind, row.reply))
    return returned


# The occurrences without a delivery to the address


class _Membership:
    """Answers whether the address is in a mailing's audience now, as a client of the mailing's owner, and gets it."""

    def __init__(self, db: Session, clients: Sequence[_Client], key: str, now: datetime, require_consent: bool) -> None:
        self._db = db.connection()
        self._key = key
        self._now = now
        self._require_consent = require_consent
        self._clients = {client.owner_id: client for client in clients}
        self._suppressions: dict[tuple[int, str], audience.Found | None] = {}
        self._ids = [client.id for client in clients]
        self._mailing_ids = audience.mailings_with(self._db, self._ids, now)

    def client_of(self, owner_id: int) -> _Client | None:
        """Return the address as a client of this user, or None if it is not a client."""
        return self._clients.get(owner_id)

    def why_outside(self, mailing_id: int) -> str | None:
        """Return why the client is not in the audience, or None if it is."""
        if mailing_id in self._mailing_ids:
            return None
        return audience.why_outside(self._db, mailing_id, self._ids, self._now)

    def why_unsent(self, owner_id: int, topic: str, at: datetime | None = None) -> str | None:
        """Return why the address gets no mailing of this user with this topic, or None if it does.

        With `at`, only what was known then counts, but for a consent, which counts as it is now.
        """
        client, suppression = self.client_of(owner_id), self._suppression(owner_id, topic)
        if suppression is not None and at is not None and suppression.at > at:
            suppression = None
        is_bad = client is not None and client.bad_at is not None and (at is None or client.bad_at <= at)
        bad = (client.bad_at, client.bad_reason) if client is not None and is_bad else (None, None)
        lacks_consent = self._require_consent and client is not None and client.consent_at is None
        return audience.why_not(*bad, suppression, lacks_consent=lacks_consent)

    def _suppression(self, owner_id: int, topic: str) -> audience.Found | None:
        if (owner_id, topic) not in self._suppressions:
            found = audience.find_suppression(self._db, self._key, owner_id, topic)
            self._suppressions[owner_id, topic] = found
        return self._suppressions[owner_id, topic]


class _Omission(NamedTuple):
    """An occurrence without a delivery to the address."""

    mailing_id: int
    subject: str
    due_at: datetime
    state: OccurrenceState
    opened_at: datetime
    cursor: int
    owner_id: int
    topic: str
    owner: str


def _exclusions(db: Session, owners: Select[tuple[int]], key: str, membership: _Membership) -> Iterator[Exclusion]:
    """Yield each occurrence without a delivery to the address, with the reason, in order of the due times."""
    query = (
        select(
            _O.c.mailing_id, _O.c.subject, _O.c.due_at, _O.c.state, _O.c.opened_at, _O.c.cursor, _M.c.owner_id,
            _M.c.topic, _U.c.email.label("owner"),
        )
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_O, _O.c.mailing_id == _M.c.id)
        .outerjoin(_D, and_(_D.c.occurrence_id == _O.c.id, _D.c.address_key == key))
        .where(_M.c.owner_id.in_(owners), _D.c.id.is_(None))
        .order_by(_O.c.due_at, _O.c.id)
    )  # fmt: skip
    for occurrence in map(_Omission._make, db.execute(query)):
        client = membership.client_of(occurrence.owner_id)
        outside = None if client is None else membership.why_outside(occurrence.mailing_id)
        unsent = membership.why_unsent(occurrence.owner_id, occurrence.topic, occurrence.opened_at)
        reason = why_left_out(occurrence, client, outside, unsent)
        yield Exclusion(
            occurrence.mailing_id, occurrence.subject, occurrence.owner, reason, 1, occurrence.due_at, occurrence.due_at
        )


def why_left_out(occurrence: _Omission, client: _Client | None, outside: str | None, unsent: str | None) -> str:
    """Return why an occurrence has no delivery for a client, judging by what is known today; pure.

    `client` is None if the address is not a client of the mailing's owner. `outside` says why the client is not in the
    mailing's audience, and is None if it is. `unsent` says why a client in it got no email at that time.
    """
    if occurrence.state == OccurrenceState.MISSED:
        return "missed: it was too late to send the occurrence to anyone"
    if occurrence.state == OccurrenceState.SKIPPED:
        return "skipped: there was no new post"
    if occurrence.state == OccurrenceState.CANCELLED:
        return "the mailing was deleted while the occurrence was opening"
    if client is None:
        return f"not a client of {occurrence.owner}"
    if client.created_at > occurrence.opened_at:
        return f"became a client at {_format_time(client.created_at)}, after the occurrence was opened"
    if outside:
        return outside
    if occurrence.state == OccurrenceState.OPENING and client.id > occurrence.cursor:
        return "the occurrence is still opening, and has not reached this client yet"
    return unsent or "joined the audience, or could get email again, after the occurrence was opened"


def _grouped(exclusions: Iterable[Exclusion]) -> list[Exclusion]:
    """Return one row for each mailing and reason."""
    groups: dict[tuple[int, str], Exclusion] = {}
    for latest in exclusions:
        key = (latest.mailing_id, latest.reason)
        if group := groups.get(key):
            latest = replace(latest, times=group.times + 1, first_due_at=group.first_due_at)
        groups[key] = latest
    return list(groups.values())


# The next due times


class _NextDue(NamedTuple):
    mailing_id: int
    subject: str
    next_at: datetime
    owner_id: int
    topic: str
    owner: str
    disabled_at: datetime | None
    disabled_reason: str | None
    held_reason: str | None
    blocked_at: datetime | None


def _next_due_times(db: Session, owners: Select[tuple[int]]) -> list[_NextDue]:
    query = (
        select(
            _M.c.id, _MSG.c.subject, _M.c.next_at, _M.c.owner_id, _M.c.topic, _U.c.email, _M.c.disabled_at,
            _M.c.disabled_reason, _M.c.held_reason, _U.c.blocked_at,
        )
        .select_from(_M)
        .join(_U, _U.c.id == _M.c.owner_id)
        .join(_MSG, _MSG.c.id == _M.c.message_id)
        .where(_M.c.owner_id.in_(owners), _M.c.deleted_at.is_(None), _M.c.next_at.is_not(None))
        .order_by(_M.c.next_at, _M.c.id)
    )  # fmt: skip
    return [_NextDue._make(row) for row in db.execute(query)]


def _next_occurrence(mailing: _NextDue, membership: _Membership) -> NextOccurrence:
    client = membership.client_of(mailing.owner_id)
    if client is None:
        reason: str | None = tr("not a client of {owner}", owner=mailing.owner)
    else:
        unsent = membership.why_unsent(mailing.owner_id, mailing.topic)
        stopped = why_stopped(mailing.disabled_at, mailing.disabled_reason, mailing.held_reason, mailing.blocked_at)
        reason = stopped or membership.why_outside(mailing.mailing_id) or unsent
    return NextOccurrence(mailing.mailing_id, mailing.subject, mailing.owner, mailing.next_at, reason)


def _format_time(at: datetime) -> str:
    return at.isoformat(" ", "seconds")

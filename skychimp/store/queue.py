"""Create, lease, return and finish deliveries. Every function is part of its caller's transaction.

A run leases many deliveries at once, in one row. Until the lease is closed, its deliveries' own rows stay as they are,
but for those that were not sent: see `ledger.record_attempts`. Nobody else can lease them meanwhile.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    delete,
    exists,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import Insert

from skychimp.models import (
    Attempt,
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Intent,
    Lease,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
    has_state,
)
from skychimp.store import audience
from skychimp.store.conditions import (
    awaits_resend,
    has_intent,
    has_waiting_state,
    is_leased,
    is_running,
    is_unfinished,
    is_unknown,
    is_waiting,
    may_send,
    was_sent,
)
from skychimp.store.database import POSTGRESQL
from skychimp.store.sql import id_list, ids_in, insert_or, json_list

_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__
_T = ClientTag.__table__
_A = Attempt.__table__
_L = Lease.__table__
_I = Intent.__table__

AFTER_RESTORE, AFTER_FAILOVER, AFTER_COPY = "after a restore", "after a fail-over", "as it is a copy"

OPENING_BATCH = 10_000
"""How many clients get their deliveries in one transaction while an occurrence opens."""


class ClaimedDelivery(NamedTuple):
    """A delivery that only this run may send, as long as the lease exists. `tags` is a JSON list."""

    id: int
    occurrence_id: int
    client_id: int
    address: str
    name: str
    comment: str
    tags: str
    attempts: int
    given_back: int
    lease_id: int

    @property
    def key(self) -> "ClaimKey":
        """What tells claims apart. A run may have claimed a delivery twice, if it seemed to be dead in between."""
        return self.id, self.lease_id


ClaimKey = tuple[int, int]
"""The ids of a delivery and of its lease."""


def is_held(db: Connection) -> bool:
    """Return whether the store is on hold until a person releases it."""
    return why_held(db) is not None


def why_held(db: Connection) -> str | None:
    """Return since what the store is on hold, such as "after a restore", or None if it is not."""
    info = StoreInfo.__table__.c
    row = db.execute(select(info.held_at, info.held_reason)).one_or_none()
    return None if row is None or row.held_at is None else row.held_reason or AFTER_RESTORE


def hold(db: Connection, reason: str, now: datetime, *, blind: bool) -> None:
    """Put the store on hold. `blind` says that it is not known what else was sent from it."""
    values = {"held_at": now, "held_blind": blind, "held_reason": reason, "database_id": None}
    db.execute(update(StoreInfo.__table__).values(values))


def release(db: Connection) -> None:
    """End the store's hold."""
    db.execute(update(StoreInfo.__table__).values(held_at=None, held_blind=None, held_reason=None))


# Opening


def create_occurrence(db: Connection, row: dict[str, object]) -> int | None:
    """Create an occurrence and return its id, or None if the mailing already has one for that local due time."""
    statement = insert_or(_O).values(row).on_conflict_do_nothing(index_elements=["mailing_id", "due_local"])
    occurrence_id: int | None = db.scalar(statement.returning(_O.c.id))
    return occurrence_id


def create_deliveries(db: Connection, occurrence_id: int, batch: int = OPENING_BATCH) -> bool:
    """Create deliveries for the next `batch` clients of an occurrence's audience. Return True once all are created.

    An address that is twice in the audience gets one delivery, and a bad address none. Calling it again is harmless.
    """
    occurrence = db.execute(
        select(_O.c.state, _O.c.cursor, _O.c.due_at, _M.c.id, _M.c.owner_id, _M.c.all_clients, _M.c.deleted_at)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == occurrence_id)
    ).one()
    if occurrence.state != OccurrenceState.OPENING or occurrence.deleted_at is not None:
        return True
    # A batch is a range of the owner's clients, even if the audience has few of them, so that no batch takes long.
    following = select(_C.c.id).where(_C.c.owner_id == occurrence.owner_id, _C.c.id > occurrence.cursor)
    until = db.scalar(following.order_by(_C.c.id).limit(1).offset(batch - 1))
    client_ids = audience.client_ids(
        occurrence.id, all_clients=occurrence.all_clients, after=occurrence.cursor, until=until
    )
    is_in_batch = _C.c.id.in_(select(client_ids.subquery().c.id))
    in_order = db.dialect.name == POSTGRESQL  # as the rows come on SQLite
    db.execute(_insert_deliveries(occurrence_id, occurrence.due_at, is_in_batch, in_order=in_order))
    progress = {"state": OccurrenceState.OPEN} if until is None else {"cursor": until}
    db.execute(update(_O).where(_O.c.id == occurrence_id).values(progress))
    return until is None


def client_tags() -> ColumnElement[str]:
    """Return the expression for the tags of the query's client row, as a JSON list in order."""
    tags = select(_T.c.tag).where(_T.c.client_id == _C.c.id).order_by(_T.c.tag).correlate(_C).subquery()
    return select(json_list(tags.c.tag)).scalar_subquery()


def _insert_deliveries(
    occurrence_id: int, due_at: datetime, is_in_batch: ColumnElement[bool], *, in_order: bool
) -> Insert:
    columns = {
        "occurrence_id": literal(occurrence_id),
        "client_id": _C.c.id,
        "address": _C.c.email,
        "address_key": _C.c.address_key,
        "name": _C.c.name,
        "comment": _C.c.comment,
        "tags": client_tags(),
        "state": literal(DeliveryState.QUEUED.value),
        "attempts": literal(0),
        "given_back": literal(0),
        "next_try_at": literal(due_at, _D.c.next_try_at.type),
    }
    rows = select(*columns.values()).where(is_in_batch, audience.can_receive())
    if in_order:
        rows = rows.order_by(_C.c.id)
    statement = insert_or(_D).from_select(list(columns), rows)
    return statement.on_conflict_do_nothing(index_elements=["occurrence_id", "address_key"])


# Leasing


def due_occurrences(db: Connection, now: datetime, mailing_id: int | None = None) -> list[int]:
    """Return the ids of the occurrences that have something to send now, in order of their due times.

    Occurrences whose opening was interrupted, and whose deadline has passed since, are included: every client is to
    have a delivery, even if it only expires.
    """
    has_due_deliveries = exists().where(_D.c.occurrence_id == _O.c.id, _is_due(now))
    is_opening = _O.c.state == OccurrenceState.OPENING
    was_interrupted = and_(is_opening, _O.c.deadline <= now, _M.c.deleted_at.is_(None))
    query = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(is_unfinished(), or_(and_(may_send(now), or_(is_opening, has_due_deliveries)), was_interrupted))
        .order_by(_O.c.due_at, _O.c.id)
    )
    return list(db.scalars(query if mailing_id is None else query.where(_M.c.id == mailing_id)))


def lease(
    db: Connection, occurrence_id: int, run_id: int, now: datetime, due_by: datetime, limit: int
) -> list[ClaimedDelivery]:
    """Lease up to `limit` deliveries of an occurrence whose next try is at `due_by` or before, the earliest first."""
    if db.dialect.name == POSTGRESQL:
        # Another run may be leasing at the same time. The query after this one sees what it has leased.
        db.execute(select(_O.c.id).where(_O.c.id == occurrence_id).with_for_update(key_share=True))
    sendable_id = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == occurrence_id, may_send(now))
        .scalar_subquery()
    )
    next_deliveries = (
        select(*(_D.c[name] for name in ClaimedDelivery._fields[:-1]))
        .where(_D.c.occurrence_id == sendable_id, _is_due(due_by))
        .order_by(_D.c.next_try_at)
        .limit(limit)
    )
    rows = db.execute(next_deliveries).all()
    if not rows:
        return []
    values = {"run_id": run_id, "occurrence_id": occurrence_id, "delivery_ids": json.dumps([row.id for row in rows])}
    lease_id: int = db.execute(insert(_L).values(values).returning(_L.c.id)).scalar_one()
    return [ClaimedDelivery._make((*row, lease_id)) for row in rows]


def _is_due(at: datetime) -> ColumnElement[bool]:
    return and_(has_waiting_state(), _D.c.next_try_at <= at, ~is_leased())


# Returning what was not sent


def give_back(db: Connection, claims: Sequence[ClaimedDelivery]) -> None:
    """Take deliveries that the run will not send now out of their leases. No final dot was written for them."""
    if not claims:
        return
    ids = id_list([claimed.id for claimed in claims])
    lease_ids = {claimed.lease_id for claimed in claims}
    db.execute(delete(_I).where(_I.c.delivery_id.in_(ids), _I.c.lease_id.in_(lease_ids)))
    leased = ids_in(_L.c.delivery_ids).c.value
    remaining = select(json_list(leased)).where(leased.not_in(ids)).correlate(_L).scalar_subquery()
    db.execute(update(_L).where(_L.c.id.in_(lease_ids)).values(delivery_ids=remaining))
    db.execute(delete(_L).where(_L.c.id.in_(lease_ids), _L.c.delivery_ids == "[]"))
    cancel_obsolete(db, [claimed.id for claimed in claims])


def close_leases(db: Connection, run_id: int, lease_ids: Sequence[int] | None = None) -> None:
    """Close leases of a run, all or those with these ids.

    A lease stays open if one of its deliveries has an intent and no result: its run died while it was sending that one.
    """
    is_closed = and_(_L.c.run_id == run_id, true() if lease_ids is None else _L.c.id.in_(lease_ids))
    ids = db.scalars(select(_L.c.id).where(is_closed)).all()
    fold(db, _intended(ids))
    has_intents = exists().where(_I.c.lease_id == _L.c.id)
    db.execute(delete(_L).where(_L.c.id.in_(ids), ~has_intents))


def fold(db: Connection, delivery_ids: Select[tuple[int]]) -> None:
    """Record in the own rows of these deliveries what was sent under leases that are open, and remove the intents."""
    sent = update(_D).where(_D.c.id.in_(delivery_ids), was_sent())
    db.execute(sent.values(state=DeliveryState.SENT, next_try_at=None, attempts=_D.c.attempts + 1))
    is_sent = exists().where(_D.c.id == _I.c.delivery_id, has_state(_D.c.state, DeliveryState.SENT))
    db.execute(delete(_I).where(_I.c.delivery_id.in_(delivery_ids), is_sent))


def rescue(db: Connection, run_id: int, now: datetime, resend_after: timedelta | None, relay: str) -> int:
    """Take back a dead run's deliveries: those being sent become unknown, and the others can be leased again.

    Returns how many are unknown. `resend_after` is None if a person decides about them.
    """
    close_leases(db, run_id)
    lease_ids = db.scalars(select(_L.c.id).where(_L.c.run_id == run_id)).all()
    reply = "the run died before the server's reply was recorded"
    resend_at = None if resend_after is None else now + resend_after
    unknown_ids = _set_unknown(db, _D.c.id.in_(_intended(lease_ids)), now, "dot", reply, relay, resend_at)
    db.execute(delete(_I).where(_I.c.lease_id.in_(lease_ids)))
    db.execute(delete(_L).where(_L.c.id.in_(lease_ids)))
    cancel_obsolete(db, unknown_ids)
    return len(unknown_ids)


def disable_mailing(db: Connection, mailing_id: int, reason: str, now: datetime, by: int | None = None) -> None:
    """Disable a mailing. `by` is a user's id, or None for the system. No further intent of it is recorded.

    A mailing that is disabled already keeps its reason.
    """
    db.execute(
        update(_M)
        .where(_M.c.id == mailing_id, _M.c.disabled_at.is_(None))
        .values(disabled_at=now, disabled_by_id=by, disabled_reason=reason)
    )


def _intended(lease_ids: Sequence[int]) -> Select[tuple[int]]:
    return select(_I.c.delivery_id).where(_I.c.lease_id.in_(lease_ids))


# Unknown deliveries


def mark_unknown(db: Connection, now: datetime) -> Sequence[int]:
    """Leave all unfinished deliveries to a person's decision, and return their ids.

    For a restored store: they may have been sent from elsewhere since the backup was made.
    """
    in_unfinished = _D.c.occurrence_id.in_(select(_O.c.id).where(is_unfinished()))
    resends = update(_D).where(awaits_resend(), in_unfinished).values(next_try_at=None)
    resend_ids = db.scalars(resends.returning(_D.c.id)).all()
    reply = "it was waiting when the backup was made; what happened to it since is not known"
    for run_id in db.scalars(select(_L.c.run_id).distinct()).all():
        close_leases(db, run_id)
    db.execute(delete(_I))
    db.execute(delete(_L))
    waiting_ids = _set_unknown(db, and_(is_waiting(), in_unfinished), now, "", reply, "", None)
    return [*resend_ids, *waiting_ids]


def resolve_as(db: Connection, ids: Sequence[int], state: DeliveryState) -> None:
    """Record a person's decision that these unknown deliveries were sent, or that they failed."""
    unknown = update(_D).where(_D.c.id.in_(ids), _D.c.state == DeliveryState.UNKNOWN)
    db.execute(unknown.values(state=state, next_try_at=None))


def resend(db: Connection, ids: Sequence[int], now: datetime, deadline: datetime) -> None:
    """Queue these unknown deliveries again, as a person decided. A finished occurrence is reopened until `deadline`."""
    occurrence_ids = select(_D.c.occurrence_id).where(_D.c.id.in_(ids)).distinct()
    occurrences = update(_O).where(_O.c.id.in_(occurrence_ids))
    db.execute(occurrences.where(_O.c.deadline <= now).values(deadline=deadline))
    finished = occurrences.where(_O.c.state == OccurrenceState.FINISHED)
    db.execute(finished.values(state=OccurrenceState.OPEN, finished_at=None, deadline=deadline))
    mailing_ids = select(_O.c.mailing_id).where(_O.c.id.in_(occurrence_ids))
    db.execute(update(_M).where(_M.c.id.in_(mailing_ids)).values(status=MailingStatus.RUNNING))
    unknown = update(_D).where(_D.c.id.in_(ids), _D.c.state == DeliveryState.UNKNOWN)
    db.execute(unknown.values(state=DeliveryState.QUEUED, next_try_at=now))
    cancel_obsolete(db, ids)


def _set_unknown(
    db: Connection,
    is_lost: ColumnElement[bool],
    now: datetime,
    phase: str,
    reply: str,
    relay: str,
    resend_at: datetime | None,
) -> Sequence[int]:
    """Make the deliveries with a condition unknown, with an attempt that gives the reason. Return their ids."""
    attempts = select(
        _D.c.id, _D.c.attempts + 1, literal(now, _A.c.started_at.type), literal(now, _A.c.started_at.type),
        literal(Outcome.UNKNOWN.value), literal(phase), null(), literal(""), literal(reply), literal(relay),
    ).where(is_lost)  # fmt: skip
    names = ["delivery_id", "number", "started_at", "finished_at", "outcome", "phase", "code", "enhanced", "reply"]
    db.execute(insert(_A).from_select([*names, "relay"], attempts))
    unknown = {
        "state": DeliveryState.UNKNOWN,
        "attempts": _D.c.attempts + 1,
        "next_try_at": resend_at,
    }
    return db.scalars(update(_D).where(is_lost).values(unknown).returning(_D.c.id)).all()


# Cancelling


def cancel_for_address(db: Connection, occurrences: Select[tuple[int]], address_key: str) -> None:
    """Cancel an address's pending deliveries in these occurrences, after its client was deleted or turned bad."""
    _cancel(db, and_(_D.c.occurrence_id.in_(occurrences), _D.c.address_key == address_key))


def cancel_deliveries(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Cancel those of these deliveries that are pending, and return how many."""
    return _cancel(db, _D.c.id.in_(id_list(delivery_ids)))


def cancel_obsolete(db: Connection, delivery_ids: Sequence[int]) -> None:
    """Finish those of these deliveries that need no further try.

    One with a recorded success is sent, whatever came of a later try. One whose client is deleted or bad is cancelled.
    """
    if not delivery_ids:
        return
    is_selected = _D.c.id.in_(delivery_ids)
    has_success = exists().where(_A.c.delivery_id == _D.c.id, _A.c.outcome == Outcome.SENT)
    sent = update(_D).where(is_selected, ~has_intent(), has_success)
    db.execute(sent.values(state=DeliveryState.SENT, next_try_at=None))
    # If the client has another address by now, what is known of that one says nothing about this delivery's.
    is_good = or_(audience.can_receive(), _C.c.address_key != _D.c.address_key)
    has_good_client = exists().where(_C.c.id == _D.c.client_id, is_good)
    obsolete = update(_D).where(is_selected, _awaits_a_try(), ~has_good_client)
    db.execute(obsolete.values(state=DeliveryState.CANCELLED, next_try_at=None))


def _cancel(db: Connection, is_selected: ColumnElement[bool]) -> int:
    cancelled = update(_D).where(is_selected, _awaits_a_try()).values(state=DeliveryState.CANCELLED, next_try_at=None)
    return db.execute(cancelled).rowcount


def _awaits_a_try() -> ColumnElement[bool]:
    return or_(is_waiting(), awaits_resend())


# Time


def sweep(db: Connection, now: datetime) -> list[int]:
    """Cancel, expire, requeue and finish whatever is due for it. Return the occurrences that are finished now.

    Deliveries of deleted mailings are cancelled, those past their deadline expire, and unknown ones are queued again
    when their wait is over. In a store on hold nothing happens.
    """
    if is_held(db):
        return []
    unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(is_unfinished())
    _stop(db, unfinished.where(_M.c.deleted_at.is_not(None)), DeliveryState.CANCELLED)
    _stop(db, unfinished.where(_O.c.deadline <= now), DeliveryState.EXPIRED)
    db.execute(
        update(_D)
        .where(is_unknown(), _D.c.occurrence_id.in_(unfinished), _D.c.next_try_at <= now)
        .values(state=DeliveryState.QUEUED)
    )
    return _finish(db, now)


def _stop(db: Connection, occurrences: Select[tuple[int]], state: DeliveryState) -> None:
    is_selected = _D.c.occurrence_id.in_(occurrences)
    stopped = update(_D).values(state=state, next_try_at=None)
    db.execute(stopped.where(is_waiting(), is_selected))
    if state == DeliveryState.EXPIRED:  # an unknown delivery stays unknown, and a person decides
        stopped = update(_D).values(next_try_at=None)
    db.execute(stopped.where(awaits_resend(), is_selected))


def _finish(db: Connection, now: datetime) -> list[int]:
    def has(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(_D.c.occurrence_id == _O.c.id, condition)

    is_done = and_(is_unfinished(), ~has(has_waiting_state()), ~has(awaits_resend()))
    is_deleted = exists().where(_M.c.id == _O.c.mailing_id, _M.c.deleted_at.is_not(None))
    done = update(_O).where(is_done).values(finished_at=now)
    db.execute(done.where(is_deleted).values(state=OccurrenceState.CANCELLED))
    # An occurrence that is still opening has clients without a delivery.
    finished = done.where(_O.c.state == OccurrenceState.OPEN).values(state=OccurrenceState.FINISHED)
    finished_ids = list(db.scalars(finished.returning(_O.c.id)))
    has_unfinished = exists().where(_O.c.mailing_id == _M.c.id, is_unfinished())
    completed = update(_M).where(is_running(), _M.c.next_at.is_(None), ~has_unfinished)
    db.execute(completed.values(status=MailingStatus.COMPLETED))
    return finished_ids

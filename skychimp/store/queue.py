"""Create, claim, requeue and finish deliveries. Every function is part of its caller's transaction."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as insert_or_skip

from skychimp.models import (
    Attempt,
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
)
from skychimp.store import audience
from skychimp.store.conditions import (
    awaits_resend,
    is_in_flight,
    is_running,
    is_unfinished,
    is_unknown,
    is_waiting,
    may_send,
)

_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__
_T = ClientTag.__table__
_A = Attempt.__table__

OPENING_BATCH = 10_000
"""How many clients get their deliveries in one transaction while an occurrence opens."""


class ClaimedDelivery(NamedTuple):
    """A delivery that only this run may send. `tags` is a JSON list, and `token` belongs to this claim alone."""

    id: int
    occurrence_id: int
    client_id: int
    address: str
    name: str
    comment: str
    tags: str
    attempts: int
    given_back: int
    token: int


def is_held(db: Connection) -> bool:
    """Return whether the store was restored and is on hold until a person releases it."""
    return db.scalar(select(StoreInfo.__table__.c.held_at)) is not None


# Opening


def create_occurrence(db: Connection, row: dict[str, object]) -> int | None:
    """Create an occurrence and return its id, or None if the mailing already has one for that local due time."""
    statement = insert_or_skip(_O).values(row).on_conflict_do_nothing(index_elements=["mailing_id", "due_local"])
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
    db.execute(_insert_deliveries(occurrence_id, occurrence.due_at, _C.c.id.in_(select(client_ids.subquery().c.id))))
    progress = {"state": OccurrenceState.OPEN} if until is None else {"cursor": until}
    db.execute(update(_O).where(_O.c.id == occurrence_id).values(progress))
    return until is None


def client_tags() -> ColumnElement[str]:
    """Return the expression for the tags of the query's client row, as a JSON list in order."""
    tags = select(_T.c.tag).where(_T.c.client_id == _C.c.id).order_by(_T.c.tag).correlate(_C).subquery()
    return select(func.json_group_array(tags.c.tag)).scalar_subquery()


def _insert_deliveries(occurrence_id: int, due_at: datetime, is_in_batch: ColumnElement[bool]) -> Insert:
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
    statement = insert_or_skip(_D).from_select(list(columns), rows)
    return statement.on_conflict_do_nothing(index_elements=["occurrence_id", "address_key"])


# Claiming


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


def claim(
    db: Connection, occurrence_id: int, run_id: int, token: int, now: datetime, due_by: datetime, limit: int
) -> list[ClaimedDelivery]:
    """Claim up to `limit` deliveries of an occurrence whose next try is at `due_by` or before, the earliest first."""
    sendable_id = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == occurrence_id, may_send(now))
        .scalar_subquery()
    )
    is_next = _D.c.id.in_(
        select(_D.c.id)
        .where(_D.c.occurrence_id == sendable_id, _is_due(due_by))
        .order_by(_D.c.next_try_at)
        .limit(limit)
    )
    claimed = update(_D).where(is_next).values(state=DeliveryState.CLAIMED, run_id=run_id, token=token)
    rows = db.execute(claimed.returning(*(_D.c[name] for name in ClaimedDelivery._fields)))
    return [ClaimedDelivery._make(row) for row in rows]


def _is_due(at: datetime) -> ColumnElement[bool]:
    return and_(is_waiting(), _D.c.next_try_at <= at)


# Putting back what was not sent


def release(
    db: Connection, run_id: int, delivery_ids: Sequence[int] | None = None, *, only_claimed: bool = False
) -> int:
    """Put a run's unsent deliveries back into the queue, all or those with these ids. Return how many.

    With ids, the caller knows that no final dot was written, and deliveries in the state sending are put back too,
    unless `only_claimed`: a newer claim may be sending the same delivery.
    """
    is_unsent = only_claimed or delivery_ids is None
    states = [DeliveryState.CLAIMED] if is_unsent else [DeliveryState.CLAIMED, DeliveryState.SENDING]
    is_selected = true() if delivery_ids is None else _D.c.id.in_(delivery_ids)
    released = db.execute(
        update(_D)
        .where(is_in_flight(), _D.c.run_id == run_id, _D.c.state.in_(states), is_selected)
        .values(state=DeliveryState.QUEUED, run_id=None, token=None)
    ).rowcount
    cancel_obsolete(db, delivery_ids or ())
    return released


def rescue(db: Connection, run_id: int, now: datetime, resend_after: timedelta | None, relay: str) -> int:
    """Take back a dead run's deliveries: those claimed are queued again, those being sent become unknown.

    Returns how many are unknown. `resend_after` is None if a person decides about them.
    """
    release(db, run_id)
    is_sending = and_(is_in_flight(), _D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    reply = "the run died before the server's reply was recorded"
    resend_at = None if resend_after is None else now + resend_after
    unknown_ids = _set_unknown(db, is_sending, now, "dot", reply, relay, resend_at)
    cancel_obsolete(db, unknown_ids)
    return len(unknown_ids)


def requeue_for_owner(db: Connection, owner_id: int) -> None:
    """Put back what any run has claimed of a user's mailings, after the user was blocked."""
    occurrences = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id)
    _requeue_claimed(db, occurrences.where(_M.c.owner_id == owner_id, is_unfinished()))


def disable_mailing(db: Connection, mailing_id: int, reason: str, now: datetime, by: int | None = None) -> None:
    """Disable a mailing, and put back what any run has claimed of it. `by` is a user's id, or None for the system.

    A mailing that is disabled already keeps its reason.
    """
    db.execute(
        update(_M)
        .where(_M.c.id == mailing_id, _M.c.disabled_at.is_(None))
        .values(disabled_at=now, disabled_by_id=by, disabled_reason=reason)
    )
    _requeue_claimed(db, select(_O.c.id).where(_O.c.mailing_id == mailing_id, is_unfinished()))


def _requeue_claimed(db: Connection, occurrences: Select[tuple[int]]) -> None:
    db.execute(
        update(_D)
        .where(is_in_flight(), _D.c.occurrence_id.in_(occurrences), _D.c.state == DeliveryState.CLAIMED)
        .values(state=DeliveryState.QUEUED, run_id=None, token=None)
    )


# Unknown deliveries


def mark_unknown(db: Connection, now: datetime) -> Sequence[int]:
    """Leave all unfinished deliveries to a person's decision, and return their ids.

    For a restored store: they may have been sent from elsewhere since the backup was made.
    """
    in_unfinished = _D.c.occurrence_id.in_(select(_O.c.id).where(is_unfinished()))
    resends = update(_D).where(awaits_resend(), in_unfinished).values(next_try_at=None)
    resend_ids = db.scalars(resends.returning(_D.c.id)).all()
    reply = "it was waiting when the backup was made; what happened to it since is not known"
    waiting_ids = _set_unknown(db, and_(is_waiting(), in_unfinished), now, "", reply, "", None)
    in_flight_ids = _set_unknown(db, and_(is_in_flight(), in_unfinished), now, "", reply, "", None)
    return [*resend_ids, *waiting_ids, *in_flight_ids]


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
        "run_id": None,
        "token": None,
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
    sent = update(_D).where(is_selected, _D.c.state != DeliveryState.SENDING, has_success)
    db.execute(sent.values(state=DeliveryState.SENT, next_try_at=None))
    # If the client has another address by now, what is known of that one says nothing about this delivery's.
    is_good = or_(audience.can_receive(), _C.c.address_key != _D.c.address_key)
    has_good_client = exists().where(_C.c.id == _D.c.client_id, is_good)
    obsolete = update(_D).where(is_selected, _awaits_a_try(), ~has_good_client)
    db.execute(obsolete.values(state=DeliveryState.CANCELLED, next_try_at=None))


def id_list(ids: Sequence[int]) -> Select[tuple[int]]:
    """Return ids as a query with one parameter. A list of parameters has a limit."""
    return select(func.json_each(json.dumps(ids)).table_valued("value").c.value)


def _cancel(db: Connection, is_selected: ColumnElement[bool]) -> int:
    is_pending = or_(_D.c.state == DeliveryState.CLAIMED, _awaits_a_try())
    cancelled = update(_D).where(is_selected, is_pending).values(state=DeliveryState.CANCELLED, next_try_at=None)
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
    db.execute(stopped.where(is_in_flight(), is_selected, _D.c.state == DeliveryState.CLAIMED))
    if state == DeliveryState.EXPIRED:  # an unknown delivery stays unknown, and a person decides
        stopped = update(_D).values(next_try_at=None)
    db.execute(stopped.where(awaits_resend(), is_selected))


def _finish(db: Connection, now: datetime) -> list[int]:
    def has(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(_D.c.occurrence_id == _O.c.id, condition)

    is_done = and_(is_unfinished(), ~has(is_waiting()), ~has(awaits_resend()), ~has(is_in_flight()))
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

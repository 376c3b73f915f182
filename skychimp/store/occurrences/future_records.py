"""Undo what runs recorded while the clock was ahead. Every function is part of its caller's transaction.

What was sent stays sent, and the attempts stay in the log with the times of the wrong clock.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    case,
    delete,
    exists,
    literal,
    or_,
    select,
    update,
)

from skychimp.models import (
    DeliveryState,
    MailingStatus,
    OccurrenceState,
    tables,
)
from skychimp.store import queue
from skychimp.store.conditions import awaits_resend, has_waiting_state, is_before_end, is_unfinished

_A = tables.attempt
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_R = tables.relay_state

_UNSENT_STATES = (OccurrenceState.MISSED, OccurrenceState.SKIPPED)


class UnsentOccurrence(NamedTuple):
    """A due time for which nothing was sent."""

    mailing_id: int
    due_at: datetime


def forget_unsent(db: Connection, now: datetime) -> list[UnsentOccurrence]:
    """Delete the occurrences that were recorded as missed or skipped after now, and return them."""
    has_deliveries = exists().where(_D.c.occurrence_id == _O.c.id)
    is_early = and_(_O.c.state.in_(_UNSENT_STATES), _O.c.opened_at > now, ~has_deliveries)
    deleted = delete(_O).where(is_early).returning(_O.c.mailing_id, _O.c.due_at)
    return [UnsentOccurrence._make(row) for row in db.execute(deleted)]


def requeue_expired(db: Connection, now: datetime) -> int:
    """Queue the deliveries again that expired before their mailing's end, and return how many.

    Their time to give up starts again. An unknown delivery that was no longer resent is left to a person's decision.
    """
    early = db.execute(_ended_too_early(now)).all()
    expired = (_D.c.occurrence_id.in_([row.id for row in early]), _D.c.state == DeliveryState.EXPIRED)
    values = {"state": DeliveryState.QUEUED, "next_try_at": _now_or_when_due(now), "give_up_at": None}
    requeued = db.execute(update(_D).where(*expired).values(values).returning(_D.c.id, _D.c.occurrence_id)).all()
    _reopen(db, early, {row.occurrence_id for row in requeued})
    queue.cancel_obsolete(db, [row.id for row in requeued])
    return len(requeued)


def retry_at_once(db: Connection, now: datetime) -> None:
    """Let deliveries that were tried after now wait no longer for their next try, which counts from then."""
    was_tried = exists().where(_A.c.delivery_id == _D.c.id, _A.c.finished_at > now)
    in_unfinished = _D.c.occurrence_id.in_(select(_O.c.id).where(is_unfinished()))
    waits = and_(or_(has_waiting_state(), awaits_resend()), _D.c.next_try_at > now)
    db.execute(update(_D).where(in_unfinished, waits, was_tried).values(next_try_at=_now_or_when_due(now)))


def wait_from_now(db: Connection, now: datetime) -> None:
    """Let clients wait for a canary from now on, if their occurrence was opened after now."""
    opened = select(_O.c.id, _O.c.due_at, _O.c.opened_at, _O.c.canary_until)
    early = opened.where(is_unfinished(), _O.c.canary_until.is_not(None), _O.c.opened_at > now)
    for occurrence in db.execute(early).all():
        until = max(now, occurrence.due_at) + (occurrence.canary_until - occurrence.opened_at)
        waits = and_(_D.c.occurrence_id == occurrence.id, _D.c.next_try_at == occurrence.canary_until)
        db.execute(update(_D).where(waits, has_waiting_state()).values(next_try_at=until))
        db.execute(update(_O).where(_O.c.id == occurrence.id).values(canary_until=until))


def probe_at_once(db: Connection, now: datetime) -> None:
    """Let paused mail servers be probed by the next run. The pause may come from the wrong clock, as in TLS."""
    db.execute(update(_R).where(_R.c.paused_at > now).values(paused_at=now))
    db.execute(update(_R).where(_R.c.next_probe_at > now).values(next_probe_at=now))


def _ended_too_early(now: datetime) -> Select[Any]:
    """Return a query for the occurrences of mailings that exist, which were ended after now and may still send."""
    was_ended = or_(_O.c.finished_at > now, _O.c.state == OccurrenceState.OPENING)
    return (
        select(_O.c.id, _O.c.mailing_id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(was_ended, is_before_end(now), _M.c.deleted_at.is_(None))
    )


def _reopen(db: Connection, occurrences: Sequence[Row[Any]], ids: set[int]) -> None:
    finished = update(_O).where(_O.c.id.in_(ids), _O.c.state == OccurrenceState.FINISHED)
    db.execute(finished.values(state=OccurrenceState.OPEN, finished_at=None))
    mailing_ids = {row.mailing_id for row in occurrences if row.id in ids}
    db.execute(update(_M).where(_M.c.id.in_(mailing_ids)).values(status=MailingStatus.RUNNING))


def _now_or_when_due(now: datetime) -> ColumnElement[datetime]:
    """Return the expression for the time of the next try. What was opened too early waits for its due time."""
    present = literal(now, _O.c.due_at.type)
    due_at = select(case((_O.c.due_at > now, _O.c.due_at), else_=present)).where(_O.c.id == _D.c.occurrence_id)
    return due_at.correlate(_D).scalar_subquery()

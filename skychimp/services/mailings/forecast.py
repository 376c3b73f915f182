"""Forecast what the next run would do: which clients get an email, which do not, and why. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select, true

from skychimp.delivery.scheduling import planner
from skychimp.delivery.scheduling.planner import DueMailing
from skychimp.models import Delivery, DeliveryState, Mailing, Occurrence, OccurrenceState, User
from skychimp.store import audience, queue
from skychimp.store.conditions import current_state, is_enabled, is_unfinished, why_stopped
from skychimp.store.database import Store

_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_U = User.__table__


@dataclass(frozen=True)
class Forecast:
    """What the next run would do about one client in one occurrence.

    `left_out` is the reason for sending nothing now, or None. `email` is "" in a row about a whole occurrence.
    """

    mailing_id: int
    due_at: datetime
    email: str
    left_out: str | None


def forecast(store: Store, now: datetime, mailing_id: int | None = None) -> Iterator[Forecast]:
    """Yield a row for each client of the mailings that have something due, of all mailings or of one.

    A mailing that is stopped, and an occurrence that is missed or skipped, is a single row.
    """
    with store.read() as transaction:
        db = transaction.connection().execution_options(yield_per=1000)
        yield from _stopped_mailings(db, now, mailing_id)
        for mailing in planner.due_mailings(db, now, mailing_id):
            yield from _new_occurrences(db, mailing, now)
        for occurrence in _unfinished_occurrences(db, mailing_id):
            yield from _open_occurrence(db, occurrence, now)


def _stopped_mailings(db: Connection, now: datetime, mailing_id: int | None) -> Iterator[Forecast]:
    query = (
        select(_M.c.id, _M.c.next_at, _M.c.disabled_at, _M.c.disabled_reason, _U.c.blocked_at)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(_M.c.next_at <= now, _M.c.deleted_at.is_(None), ~is_enabled())
        .where(_M.c.id == mailing_id if mailing_id is not None else true())
    )
    for row in db.execute(query.order_by(_M.c.id)):
        yield Forecast(row.id, row.next_at, "", why_stopped(row.disabled_at, row.disabled_reason, row.blocked_at))


def _new_occurrences(db: Connection, mailing: DueMailing, now: datetime) -> Iterator[Forecast]:
    """Yield the rows of the occurrences that the next run would open, or record as missed or skipped."""
    has_content = not mailing.digest or planner.has_new_posts(db, mailing, now)
    for due in mailing.plan.open:
        if has_content:
            yield from _audience_rows(db, mailing, mailing.id, due.at)
        else:
            yield Forecast(mailing.id, due.at, "", "skipped: there is no new post")
        has_content = not mailing.digest  # the first occurrence of a digest contains all new posts
    for due in mailing.plan.missed:
        yield Forecast(mailing.id, due.at, "", "missed: too late to be sent")


def _open_occurrence(db: Connection, occurrence: "_Unfinished", now: datetime) -> Iterator[Forecast]:
    """Yield a row for each delivery of an occurrence, and for each client whose delivery is not created yet."""
    stopped = why_stopped(occurrence.disabled_at, occurrence.disabled_reason, occurrence.blocked_at)
    if stopped is None and occurrence.deadline <= now:
        stopped = "its deadline has passed"
    deliveries = select(_D.c.address, current_state(), _D.c.next_try_at).where(_D.c.occurrence_id == occurrence.id)
    for address, state, next_try_at in db.execute(deliveries):
        reason = stopped or _why_not_now(DeliveryState(state), next_try_at, now)
        yield Forecast(occurrence.mailing_id, occurrence.due_at, address, reason)
    if occurrence.state == OccurrenceState.OPENING:
        yield from _audience_rows(
            db, occurrence, occurrence.mailing_id, occurrence.due_at, after=occurrence.cursor, stopped=stopped
        )


def _audience_rows(
    db: Connection,
    mailing: "DueMailing | _Unfinished",
    mailing_id: int,
    due_at: datetime,
    *,
    after: int = 0,
    stopped: str | None = None,
) -> Iterator[Forecast]:
    """Yield a row for each client in a mailing's audience whose id is above `after`, read in batches."""
    while members := audience.members(
        db, mailing_id, all_clients=mailing.all_clients, after=after, limit=queue.OPENING_BATCH
    ):
        for member in members:
            bad = audience.why_bad(member.bad_at, member.bad_reason) if member.bad_at is not None else None
            yield Forecast(mailing_id, due_at, member.email, bad or stopped)
        after = members[-1].client_id


class _Unfinished(NamedTuple):
    """An unfinished occurrence, with what may stop it."""

    id: int
    mailing_id: int
    due_at: datetime
    deadline: datetime
    state: OccurrenceState
    cursor: int
    all_clients: bool
    disabled_at: datetime | None
    disabled_reason: str | None
    blocked_at: datetime | None


def _unfinished_occurrences(db: Connection, mailing_id: int | None) -> list[_Unfinished]:
    query = (
        select(
            _O.c.id, _O.c.mailing_id, _O.c.due_at, _O.c.deadline, _O.c.state, _O.c.cursor, _M.c.all_clients,
            _M.c.disabled_at, _M.c.disabled_reason, _U.c.blocked_at,
        )
        .join(_M, _M.c.id == _O.c.mailing_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(is_unfinished())
        .where(_O.c.mailing_id == mailing_id if mailing_id is not None else true())
    )  # fmt: skip
    return [_Unfinished._make(row) for row in db.execute(query.order_by(_O.c.due_at, _O.c.id))]


def _why_not_now(state: DeliveryState, next_try_at: datetime | None, now: datetime) -> str | None:
    """Return why nothing is sent for a delivery now, or None if it is sent."""
    if state == DeliveryState.UNKNOWN and next_try_at is None:
        return "unknown: waiting for a person's decision"
    if state in (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.UNKNOWN) and next_try_at is not None:
        return None if next_try_at <= now else f"{state}: next try at {next_try_at.isoformat(timespec='seconds')}"
    return "already sent" if state == DeliveryState.SENT else str(state)

"""Send an occurrence to a sample of its clients first: its canary. Every function is part of its caller's transaction.

While an occurrence has a `canary_until`, its deliveries with that time as `next_try_at` wait for the canary, and all
others are the canary. Once that time has come and the canary's results are known, `judge` lets the others go, or holds
the mailing.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, or_, select, true, update

from skychimp.models import DeliveryState, OccurrenceState, tables
from skychimp.models.base import has_state
from skychimp.store import holds
from skychimp.store.clients import audience
from skychimp.store.clients.audience import Selection
from skychimp.store.conditions import (
    awaits_resend,
    current_state,
    has_success,
    has_waiting_state,
    is_unfinished,
    may_send,
)
from skychimp.store.occurrences import return_counts
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

_C = tables.client
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence

# A client's place in an occurrence's order is a product modulo a prime, which both databases can compute. With a factor
# that is the golden ratio's part of the prime, the first places are spread evenly over all ids (Fibonacci hashing). The
# next due time has others. No product is larger than a 64-bit integer.
_PRIME, _FACTOR, _FACTOR_OF_TIME = 2**31 - 1, 1_327_217_884, 69_621

_FAILED_STATES = (DeliveryState.FAILED, DeliveryState.EXPIRED, DeliveryState.UNKNOWN)
_TRIED_STATES = (*_FAILED_STATES, DeliveryState.SENT, DeliveryState.OUTBOX, DeliveryState.DEFERRED)


def sample_size(canary: str, number: int) -> int:
    """Return how many of `number` clients are the canary: at least 1. `canary` is as in `Mailing`, pure."""
    if not canary:
        return number
    part = int(number * Decimal(canary[:-1]) / 100) if canary.endswith("%") else int(canary)
    return min(max(part, 1), number)


def choose(db: Connection, occurrence_id: int) -> None:
    """Choose the canary among an occurrence's deliveries, which all wait. It is due now.

    It is the same each time. If it is all of them, nobody waits.
    """
    columns = (_O.c.canary_until, _O.c.due_at, _M.c.canary)
    query = select(*columns).join(_M, _M.c.id == _O.c.mailing_id).where(_O.c.id == occurrence_id)
    canary_until, due_at, canary = db.execute(query).one()
    of_occurrence = _D.c.occurrence_id == occurrence_id
    number = db.scalar(select(func.count()).select_from(_D).where(of_occurrence)) or 0
    size = sample_size(canary, number)
    first = select(_D.c.id).where(of_occurrence).order_by(_place(_D.c.client_id, due_at), _D.c.id).limit(size)
    chosen = update(_D).where(_D.c.id.in_(first), has_waiting_state(), _D.c.next_try_at == canary_until)
    db.execute(chosen.values(next_try_at=due_at))
    if size == number:
        db.execute(update(_O).where(_O.c.id == occurrence_id).values(canary_until=None))


def sample(db: Connection, chosen: Selection, canary: str, due_at: datetime) -> frozenset[int]:
    """Return the ids of the clients that would be the canary if an occurrence with this audience opened now."""
    size = sample_size(canary, audience.count(db, chosen).recipients)
    ids = audience.client_ids(chosen).order_by(None).subquery()
    receiving = select(_C.c.id).join(ids, ids.c.id == _C.c.id).where(audience.can_receive(chosen))
    return frozenset(db.scalars(receiving.order_by(_place(_C.c.id, due_at), _C.c.id).limit(size)))


class Results(NamedTuple):
    """How many emails of a canary were tried, how many of them failed, and how many came back or got a complaint."""

    failed: int
    tried: int
    came_back: int = 0

    def why_bad(self, failure_rate: float) -> Phrase | None:
        """Return why the other clients are not to get the email, or None if they are.

        `failure_rate` is the largest fraction that may fail. A canary of which nothing was tried says nothing.
        """
        if not self.tried:
            return tr("no canary email was sent")
        bad = self.failed + self.came_back
        if bad / self.tried <= failure_rate:
            return None
        emails = count_of(self.tried, "canary email")
        if not self.came_back:
            return tr("{number:,} of {emails} failed", number=bad, emails=emails)
        return tr("{number:,} of {emails} failed, came back or were marked as spam", number=bad, emails=emails)


NOT_COUNTED: Mapping[int, Results] = {}


class Judged(NamedTuple):
    """An occurrence whose canary was judged. `held_reason` is None if the other clients get it now."""

    occurrence_id: int
    mailing_id: int
    held_reason: str | None


def count_results(db: Connection, now: datetime) -> Mapping[int, Results]:
    """Count the results of the canaries that can be judged now, by their occurrences' ids. It may read very many rows.

    An email counts as failed if it expired after a try, or if a person has to decide what became of it. So does one
    that bounced, for whatever reason, or got a complaint: until then only the canary was sent.
    """
    return {occurrence_id: _count(db, occurrence_id, until) for occurrence_id, _, until in _known(db, now)}


def judge(db: Connection, now: datetime, results: Mapping[int, Results], failure_rate: float) -> list[Judged]:
    """Let the clients go who wait for a canary whose results are known, or hold its mailing until a person enables it.

    `results` is what `count_results` has returned shortly before. Return what was decided.
    """
    judged = [
        Judged(occurrence_id, mailing_id, results[occurrence_id].why_bad(failure_rate))
        for occurrence_id, mailing_id, _ in _known(db, now)
        if occurrence_id in results
    ]
    for occurrence_id, mailing_id, held_reason in judged:
        end_wait(db, _O.c.id == occurrence_id)
        if held_reason is not None:
            holds.hold_mailing(db, mailing_id, held_reason, None, now)
            return_counts.set_held(db, occurrence_id)
    return judged


def end_wait(db: Connection, is_selected: ColumnElement[bool]) -> None:
    """Let nobody wait for the canaries of these occurrences any more. Their `next_try_at` counts alone."""
    db.execute(update(_O).where(is_selected, _O.c.canary_until.is_not(None)).values(canary_until=None))


class Waiting(NamedTuple):
    """How many emails wait for the canary of an occurrence, at least until a time."""

    mailing_id: int
    until: datetime
    emails: int


def list_waiting(db: Connection, mailing_id: int | None = None) -> list[Waiting]:
    """Return the unfinished occurrences whose canary was not judged yet, the oldest first."""
    is_selected = true() if mailing_id is None else _O.c.mailing_id == mailing_id
    waits = and_(_D.c.occurrence_id == _O.c.id, has_waiting_state(), _D.c.next_try_at == _O.c.canary_until)
    number = select(func.count()).select_from(_D).where(waits).correlate(_O).scalar_subquery()
    query = select(_O.c.mailing_id, _O.c.canary_until, number)
    query = query.where(is_unfinished(), _O.c.canary_until.is_not(None), is_selected)
    return [Waiting._make(row) for row in db.execute(query.order_by(_O.c.id))]


def has_due_deliveries(now: datetime, is_free: ColumnElement[bool]) -> ColumnElement[bool]:
    """Return the condition of an occurrence with a delivery that is due and does not wait for a canary.

    `is_free` is the condition of a delivery that can be taken.
    """

    def has(*is_in_range: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(_D.c.occurrence_id == _O.c.id, has_waiting_state(), *is_in_range, is_free)

    # Two ranges rather than one without that time: all who wait would be read to find that nobody else is due.
    until, at = _O.c.canary_until, _D.c.next_try_at
    return case((until <= now, or_(has(at < until), has(at > until, at <= now))), else_=has(at <= now))


def _known(db: Connection, now: datetime) -> list[tuple[int, int, datetime]]:
    """Return the occurrences whose wait is over and whose canary's results are known, with mailing and `canary_until`.

    Those of a deferred email are, and those of an unknown one if it is not sent again.
    """

    def has(*is_selected: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(_D.c.occurrence_id == _O.c.id, *is_selected)

    is_queued = (has_waiting_state(), has_state(_D.c.state, DeliveryState.QUEUED), ~has_success())
    is_open = and_(_O.c.state == OccurrenceState.OPEN, _O.c.canary_until <= now)
    query = (
        select(_O.c.id, _O.c.mailing_id, _O.c.canary_until)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(is_open, may_send(now))
        .where(~has(_D.c.next_try_at < _O.c.canary_until, *is_queued))
        .where(~has(_D.c.next_try_at > _O.c.canary_until, *is_queued))
        .where(~has(awaits_resend()))
    )
    return [(row[0], row[1], row[2]) for row in db.execute(query)]


def _count(db: Connection, occurrence_id: int, canary_until: datetime) -> Results:
    is_canary = _D.c.next_try_at.is_distinct_from(canary_until)
    state = current_state()
    rows = select(state, func.count()).where(_D.c.occurrence_id == occurrence_id, is_canary).group_by(state)
    numbers = {DeliveryState(name): number for name, number in db.execute(rows)}
    failed, tried = (sum(numbers.get(name, 0) for name in names) for names in (_FAILED_STATES, _TRIED_STATES))
    sent = numbers.get(DeliveryState.SENT, 0)
    return Results(failed, tried, min(return_counts.read_one(db, occurrence_id).came_back, sent))


def _place(client_id: ColumnElement[int], due_at: datetime) -> ColumnElement[int]:
    turn = round(due_at.timestamp()) * _FACTOR_OF_TIME % _PRIME
    return (client_id % _PRIME * _FACTOR + turn) % _PRIME

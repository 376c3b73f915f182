"""Tell how far the unfinished occurrences of a mailing are.

That may read all their deliveries. Where others wait for the store's lock meanwhile, `read_progress` does so before,
in a transaction that only reads, and `unfinished_occurrences` looks up what has changed since.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, and_, exists, func, or_, select

from skychimp.models import (
    SUCCESSES,
    DeliveryState,
    OccurrenceState,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store.conditions import has_intent, has_waiting_state, is_unfinished

_A = tables.attempt
_D = tables.delivery
_I = tables.intent
_O = tables.occurrence


class UnfinishedOccurrence(NamedTuple):
    """An occurrence that may still send something.

    `has_begun` says whether an email was sent, or may have been, or is in the outbox. `has_untried` says whether a
    client was not tried yet.
    """

    id: int
    due_at: datetime
    has_begun: bool
    has_untried: bool


class Progress(NamedTuple):
    """What was read about unfinished occurrences, by their ids, after the attempt with the id `last_attempt_id`."""

    occurrences: Mapping[int, UnfinishedOccurrence] = {}
    last_attempt_id: int = 0


NOTHING_READ = Progress()


def read_progress(db: Connection, mailing_ids: Iterable[int], before: Progress = NOTHING_READ) -> Progress:
    """Return how far the unfinished occurrences of some mailings are.

    What has begun according to the progress `before` is not looked at again for that.
    """
    last_attempt_id = newest_attempt_id(db)  # first, so that no attempt is between it and what is read
    occurrences = {}
    for mailing_id in mailing_ids:
        for row in _unfinished_rows(db, mailing_id):
            known = before.occurrences.get(row.id)
            has_begun = (known is not None and known.has_begun) or _has_begun(db, row.id)
            occurrences[row.id] = UnfinishedOccurrence(row.id, row.due_at, has_begun, _has_untried(db, row))
    return Progress(occurrences, last_attempt_id)


def unfinished_occurrences(
    db: Connection, mailing_id: int, progress: Progress = NOTHING_READ
) -> list[UnfinishedOccurrence]:
    """Return the unfinished occurrences of a mailing.

    Those in `progress` are not read again, but for what has been sent since.
    """
    return [_present(db, row, progress) for row in _unfinished_rows(db, mailing_id)]


def newest_attempt_id(db: Connection) -> int:
    """Return the id of the newest attempt, 0 if there is none."""
    return db.scalar(select(func.max(_A.c.id))) or 0


def _unfinished_rows(db: Connection, mailing_id: int) -> Sequence[Row[int, datetime, OccurrenceState]]:
    columns = (_O.c.id, _O.c.due_at, _O.c.state)
    return db.execute(select(*columns).where(_O.c.mailing_id == mailing_id, is_unfinished())).all()


def _present(db: Connection, row: Row[int, datetime, OccurrenceState], progress: Progress) -> UnfinishedOccurrence:
    known = progress.occurrences.get(row.id)
    if known is None:
        return UnfinishedOccurrence(row.id, row.due_at, _has_begun(db, row.id), _has_untried(db, row))
    return known._replace(has_begun=known.has_begun or _has_begun_since(db, row.id, progress.last_attempt_id))


def _has_begun(db: Connection, occurrence_id: int) -> bool:
    has_arrived = or_(has_state(_D.c.state, *SUCCESSES, DeliveryState.UNKNOWN), _D.c.dated_at.is_not(None))
    begun = exists().where(_D.c.occurrence_id == occurrence_id, or_(has_arrived, has_intent()))
    return bool(db.scalar(select(begun)))


def _has_begun_since(db: Connection, occurrence_id: int, last_attempt_id: int) -> bool:
    """Return whether an email is being sent, or was sent since an attempt. Each attempt had an intent before."""
    # Subqueries rather than joins: a database might begin with the deliveries, of which there are most.
    intended = select(_I.c.delivery_id).where(_occurrence_of(_I.c.delivery_id) == occurrence_id)
    may_have_arrived = and_(_A.c.id > last_attempt_id, _A.c.outcome.in_([*SUCCESSES, Outcome.UNKNOWN]))
    tried = select(_A.c.delivery_id).where(may_have_arrived, _occurrence_of(_A.c.delivery_id) == occurrence_id)
    return any(db.scalar(query.limit(1)) is not None for query in (intended, tried))


def _occurrence_of(delivery_id: ColumnElement[int]) -> ColumnElement[int]:
    return select(_D.c.occurrence_id).where(_D.c.id == delivery_id).scalar_subquery()


def _has_untried(db: Connection, row: Row[int, datetime, OccurrenceState]) -> bool:
    if row.state == OccurrenceState.OPENING:
        return True
    is_untried = and_(has_waiting_state(), ~has_intent(), _D.c.attempts == _D.c.given_back)
    return bool(db.scalar(select(exists().where(_D.c.occurrence_id == row.id, is_untried))))

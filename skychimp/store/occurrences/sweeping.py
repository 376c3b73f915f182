"""End the deliveries whose time is over, and the occurrences that have none left.

But for what takes a store, this is part of the caller's transaction.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, cast, exists, select, update

from skychimp.models import (
    CatchUp,
    DeliveryState,
    MailingStatus,
    OccurrenceState,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store import holds, ledger
from skychimp.store.conditions import (
    awaits_resend,
    has_waiting_state,
    is_before_end,
    is_running,
    is_unfinished,
    is_unknown,
    is_waiting,
)
from skychimp.store.database import Store
from skychimp.store.occurrences import progress

_D = tables.delivery
_O = tables.occurrence
_M = tables.mailing
_A = tables.attempt

SWEEP_BATCH = 5_000
"""How many deliveries one sweep changes for the same reason, so that those who send need not wait long."""


Looked = Mapping[tuple[int, int], int]
"""Pairs of an occurrence and a newer one, of which nothing was to be replaced, with the newest attempt at that time."""

NOTHING_LOOKED: Looked = {}


class Swept(NamedTuple):
    """The occurrences that a sweep has finished, and how many deliveries it has let expire and replaced.

    `is_complete` says that nothing is left to change. Otherwise the next sweep goes on. `looked` is for the next sweep,
    once this one is committed.
    """

    finished: Sequence[int] = ()
    expired: int = 0
    replaced: int = 0
    is_complete: bool = True
    looked: Looked = NOTHING_LOOKED


def sweep(db: Connection, now: datetime, batch: int = SWEEP_BATCH, looked: Looked = NOTHING_LOOKED) -> Swept:
    """Cancel, expire, requeue and finish whatever is due for it, up to `batch` deliveries of each kind.

    Deliveries of deleted mailings are cancelled, those past their mailing's end expire, and those that a newer
    occurrence replaces end. Unknown ones are queued again when their wait is over. In a store on hold nothing happens.
    With what earlier sweeps have `looked` at, only deliveries that were deferred since are looked at again.
    What is left when it returns is not sent, as `may_send` is checked before each email.
    """
    if holds.is_held(db):
        return Swept(looked=looked)
    unfinished = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(is_unfinished())
    is_deleted = _M.c.deleted_at.is_not(None)
    in_deleted = _D.c.occurrence_id.in_(unfinished.where(is_deleted))
    in_ended = _D.c.occurrence_id.in_(unfinished.where(~is_deleted, ~is_before_end(now)))
    in_others = _D.c.occurrence_id.in_(unfinished.where(~is_deleted, is_before_end(now)))
    others = [
        _change(db, and_(is_waiting(), in_deleted), batch, state=DeliveryState.CANCELLED, next_try_at=None),
        _change(db, and_(awaits_resend(), in_deleted), batch, state=DeliveryState.CANCELLED, next_try_at=None),
        # An unknown delivery stays unknown, and a person decides.
        _change(db, and_(awaits_resend(), in_ended), batch, next_try_at=None),
        _change(db, and_(is_unknown(), in_others, _D.c.next_try_at <= now), batch, state=DeliveryState.QUEUED),
    ]
    expired = _change(db, and_(is_waiting(), in_ended), batch, state=DeliveryState.EXPIRED, next_try_at=None)
    unsent = _replace_unsent_deliveries(db, _partly_replaced(db), batch)
    deferred, looked = _replace_deferred(db, batch, looked)
    is_complete = max(expired, unsent, deferred, *others) < batch
    return Swept(_finish(db, now), expired, unsent + deferred, is_complete, looked)


def look_ahead(store: Store, looked: Looked) -> Looked:
    """Return `looked` with the pairs of occurrences that are not in it yet and of which nothing is to be replaced.

    It may read all their deliveries, so it does that in a transaction that keeps nobody from writing. Raises
    StoreFailed.
    """
    with store.read() as transaction:
        new = [pair for pair in _pairs(transaction.connection()) if pair not in looked]
    if not new:
        return looked
    newest = ledger.newest_attempt_id(store)
    with store.read() as transaction:
        db = transaction.connection()
        done = [pair for pair in new if not db.scalar(select(exists().where(_is_replaced(*pair))))]
    return {**looked, **dict.fromkeys(done, newest)}


def sweep_in_batches(store: Store, now: datetime) -> None:
    """Sweep until nothing is left to change. If it is killed meanwhile, the next run goes on. Raises StoreFailed."""
    looked = look_ahead(store, NOTHING_LOOKED)
    store.write_in_batches(lambda db: sweep(db.connection(), now, looked=looked).is_complete)


def replace_unsent(db: Connection, occurrence_ids: Sequence[int], now: datetime, batch: int = SWEEP_BATCH) -> int:
    """End occurrences of which nothing was sent, as a newer one is opened.

    Return the number of deliveries that it has replaced. If that is `batch`, sweeps replace the rest.
    """
    if not occurrence_ids:
        return 0
    replaced = update(_O).where(_O.c.id.in_(occurrence_ids))
    db.execute(replaced.values(state=OccurrenceState.MISSED, finished_at=now))
    return _replace_unsent_deliveries(db, occurrence_ids, batch)


def _replace_unsent_deliveries(db: Connection, occurrence_ids: Sequence[int], batch: int) -> int:
    if not occurrence_ids:
        return 0
    is_selected = and_(has_waiting_state(), _D.c.occurrence_id.in_(occurrence_ids))
    return _change(db, is_selected, batch, state=DeliveryState.REPLACED, next_try_at=None)


def _partly_replaced(db: Connection) -> Sequence[int]:
    """Return the occurrences that `replace_unsent` has ended, and that have deliveries left."""
    # It looks up one waiting delivery of each occurrence, however many wait.
    found = select(cast(0, BigInteger).label("id")).cte("found", recursive=True)
    following = select(_D.c.occurrence_id).where(has_waiting_state(), _D.c.occurrence_id > found.c.id)
    following_id = following.order_by(_D.c.occurrence_id).limit(1).scalar_subquery()
    found = found.union_all(select(following_id).where(found.c.id.is_not(None)))
    ids = db.scalars(select(found.c.id).where(found.c.id > 0)).all()
    return db.scalars(select(_O.c.id).where(_O.c.id.in_(ids), _O.c.state == OccurrenceState.MISSED)).all()


def _replace_deferred(db: Connection, batch: int, looked: Looked) -> tuple[int, Looked]:
    """End the deferred deliveries whose clients get an email of a newer occurrence. They hold up nothing."""
    number, now_looked = 0, dict(looked)
    newest = progress.newest_attempt_id(db)
    for pair in _pairs(db):
        left = batch - number
        if left:
            is_replaced = _is_replaced(*pair, looked.get(pair))
            changed = _change(db, is_replaced, left, state=DeliveryState.REPLACED, next_try_at=None)
            number += changed
            if not changed:
                now_looked[pair] = newest
    return number, now_looked


def _pairs(db: Connection) -> Sequence[tuple[int, int]]:
    """Return each unfinished occurrence with each newer one of its mailing."""
    newer = _O.alias("newer")
    is_newer = and_(
        newer.c.mailing_id == _O.c.mailing_id,
        newer.c.due_at > _O.c.due_at,
        # Not while it is opening: each sweep would look in vain for those whose turn has not come.
        newer.c.state.in_([OccurrenceState.OPEN, OccurrenceState.FINISHED]),
    )
    pairs = select(_O.c.id, newer.c.id).join(_M, _M.c.id == _O.c.mailing_id).join(newer, is_newer)
    return [(row[0], row[1]) for row in db.execute(pairs.where(is_unfinished(), _M.c.catch_up != CatchUp.ALL))]


def _is_replaced(older_id: int, newer_id: int, after: int | None = None) -> ColumnElement[bool]:
    """Return the condition of a deferred delivery whose client gets an email of a newer occurrence.

    With `after`, it is one that was deferred after that attempt.
    """
    replacement = _D.alias("replacement")
    has_replacement = exists().where(
        replacement.c.occurrence_id == newer_id, replacement.c.address_key == _D.c.address_key
    )
    is_deferred = and_(has_state(_D.c.state, DeliveryState.DEFERRED), is_waiting(), has_replacement.correlate(_D))
    if after is None:
        return and_(_D.c.occurrence_id == older_id, is_deferred)
    tried = select(_A.c.delivery_id).where(_A.c.id > after, _A.c.outcome == Outcome.DEFERRED)
    # + 0 keeps the database from reading all deliveries of the occurrence.
    return and_(_D.c.id.in_(tried), _D.c.occurrence_id + 0 == older_id, is_deferred)


def _change(db: Connection, is_selected: ColumnElement[bool], limit: int, **values: object) -> int:
    """Change up to `limit` of the selected deliveries, and return how many."""
    ids = select(_D.c.id).where(is_selected).limit(limit).correlate(None)
    return db.execute(update(_D).where(_D.c.id.in_(ids)).values(values)).rowcount


def _finish(db: Connection, now: datetime) -> list[int]:
    def has(condition: ColumnElement[bool]) -> ColumnElement[bool]:
        return exists().where(_D.c.occurrence_id == _O.c.id, condition)

    is_done = and_(is_unfinished(), ~has(has_waiting_state()), ~has(awaits_resend()))
    is_deleted = exists().where(_M.c.id == _O.c.mailing_id, _M.c.deleted_at.is_not(None))
    done = update(_O).where(is_done).values(finished_at=now, canary_until=None)
    db.execute(done.where(is_deleted).values(state=OccurrenceState.CANCELLED))
    # An occurrence that is still opening has clients without a delivery.
    finished = done.where(_O.c.state == OccurrenceState.OPEN).values(state=OccurrenceState.FINISHED)
    finished_ids = list(db.scalars(finished.returning(_O.c.id)))
    has_unfinished = exists().where(_O.c.mailing_id == _M.c.id, is_unfinished())
    completed = update(_M).where(is_running(), _M.c.next_at.is_(None), ~has_unfinished)
    db.execute(completed.values(status=MailingStatus.COMPLETED))
    return finished_ids

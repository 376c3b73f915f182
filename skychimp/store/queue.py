"""The queue of deliveries: open, claim, release, rescue, sweep. Each function is a part of its caller's transaction."""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Subquery,
    TextClause,
    and_,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    text,
    true,
    union,
    update,
)
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as insert_or_skip

from skychimp.models import (
    IN_FLIGHT_SQL,
    RUNNING_SQL,
    UNFINISHED_SQL,
    UNKNOWN_SQL,
    WAITING_SQL,
    Attempt,
    Client,
    ClientTag,
    Delivery,
    DeliveryState,
    Mailing,
    MailingClient,
    MailingStatus,
    MailingTag,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
    User,
)

_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_C = Client.__table__
_T = ClientTag.__table__
_MC = MailingClient.__table__
_MT = MailingTag.__table__
_U = User.__table__
_A = Attempt.__table__
_INFO = StoreInfo.__table__

OPENING_BATCH = 10_000
_UNFINISHED = text(UNFINISHED_SQL.replace("state", "occurrence.state"))
_RUNNING = text(RUNNING_SQL.replace("status", "mailing.status"))
_WAITING = text(WAITING_SQL.replace("state", "delivery.state"))
_UNKNOWN = text(UNKNOWN_SQL.replace("state", "delivery.state"))
_HELD = text(IN_FLIGHT_SQL.replace("state", "delivery.state"))


class ClaimedDelivery(NamedTuple):
    """A delivery that this run alone may send; `tags` is a JSON list."""

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
    """Whether the store was restored and waits for a person."""
    return db.scalar(select(_INFO.c.held_at)) is not None


def open_occurrence(db: Connection, row: dict[str, object]) -> int | None:
    """Make an occurrence; None where there already is one for that mailing and local due time."""
    statement = insert_or_skip(_O).values(row).on_conflict_do_nothing(index_elements=["mailing_id", "due_local"])
    made: int | None = db.scalar(statement.returning(_O.c.id))
    return made


def fill(db: Connection, occurrence_id: int, batch: int = OPENING_BATCH) -> bool:
    """Make the deliveries of the next `batch` clients of an occurrence's audience; True once all are made.

    The same address twice is one delivery, a bad address none. Twice is the same as once.
    """
    row = db.execute(
        select(_O.c.state, _O.c.cursor, _O.c.due_at, _M.c.id, _M.c.owner_id, _M.c.all_clients, _M.c.deleted_at)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .where(_O.c.id == occurrence_id)
    ).one()
    if row.state != OccurrenceState.OPENING or row.deleted_at is not None:
        return True
    coming = select(_C.c.id).where(_C.c.owner_id == row.owner_id, _C.c.id > row.cursor).order_by(_C.c.id)
    until = db.scalar(coming.limit(1).offset(batch - 1))
    chosen = audience(row.id, row.owner_id, all_clients=row.all_clients, after=row.cursor, until=until)
    db.execute(_deliveries(occurrence_id, row.due_at, chosen.subquery()))
    done = {"state": OccurrenceState.OPEN} if until is None else {"cursor": until}
    db.execute(update(_O).where(_O.c.id == occurrence_id).values(done))
    return until is None


def audience(
    mailing_id: int, owner_id: int, *, all_clients: bool, after: int = 0, until: int | None = None
) -> Select[tuple[int]]:
    """The ids of the clients that a mailing goes to, bad addresses included, in order: those in (`after`, `until`]."""
    if all_clients:
        own = select(_C.c.id).where(_C.c.owner_id == owner_id, _between(_C.c.id, after, until))
        return own.order_by(_C.c.id)
    named = select(_MC.c.client_id.label("id")).where(
        _MC.c.mailing_id == mailing_id, _between(_MC.c.client_id, after, until)
    )
    tagged = (
        select(_T.c.client_id.label("id"))
        .join(_MT, _MT.c.tag == _T.c.tag)
        .join(_C, _C.c.id == _T.c.client_id)
        .where(_MT.c.mailing_id == mailing_id, _C.c.owner_id == owner_id, _between(_T.c.client_id, after, until))
    )
    both = union(named, tagged).subquery()
    return select(both.c.id).order_by(both.c.id)


def _between(client_id: ColumnElement[int], after: int, until: int | None) -> ColumnElement[bool]:
    return client_id > after if until is None else and_(client_id > after, client_id <= until)


def tags_of_client() -> ColumnElement[str]:
    """The tags of the client row at hand, as a JSON list in order."""
    tags = select(_T.c.tag).where(_T.c.client_id == _C.c.id).order_by(_T.c.tag).correlate(_C).subquery()
    return select(func.json_group_array(tags.c.tag)).scalar_subquery()


def _deliveries(occurrence_id: int, due_at: datetime, chosen: Subquery) -> Insert:
    columns = {
        "occurrence_id": literal(occurrence_id),
        "client_id": _C.c.id,
        "address": _C.c.email,
        "address_key": _C.c.address_key,
        "name": _C.c.name,
        "comment": _C.c.comment,
        "tags": tags_of_client(),
        "state": literal(DeliveryState.QUEUED.value),
        "attempts": literal(0),
        "given_back": literal(0),
        "next_try_at": literal(due_at, _D.c.next_try_at.type),
    }
    rows = select(*columns.values()).where(_C.c.id.in_(select(chosen.c.id)), _C.c.bad_at.is_(None))
    skip = insert_or_skip(_D).from_select(list(columns), rows)
    return skip.on_conflict_do_nothing(index_elements=["occurrence_id", "address_key"])


def sendable(now: datetime) -> ColumnElement[bool]:
    """The condition under which an occurrence, joined with its mailing and owner, is being sent."""
    return and_(
        _UNFINISHED,
        select(_INFO.c.held_at).scalar_subquery().is_(None),
        _O.c.deadline > now,
        _M.c.disabled_at.is_(None),
        _M.c.deleted_at.is_(None),
        _U.c.blocked_at.is_(None),
    )


def due(db: Connection, now: datetime, mailing_id: int | None = None) -> list[int]:
    """The occurrences of which something may be sent now, the oldest first.

    And those whose opening was cut off and whose deadline has passed since: each client is to have its delivery.
    """
    joined = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).join(_U, _U.c.id == _M.c.owner_id)
    waiting = exists().where(_D.c.occurrence_id == _O.c.id, _due_by(now))
    opening = _O.c.state == OccurrenceState.OPENING
    cut_off = and_(opening, _O.c.deadline <= now, _M.c.deleted_at.is_(None))
    chosen = joined.where(_UNFINISHED, or_(and_(sendable(now), or_(opening, waiting)), cut_off))
    if mailing_id is not None:
        chosen = chosen.where(_M.c.id == mailing_id)
    return list(db.scalars(chosen.order_by(_O.c.due_at, _O.c.id)))


def _due_by(at: datetime) -> ColumnElement[bool]:
    return and_(_WAITING, _D.c.next_try_at <= at)


def claim(
    db: Connection, occurrence_id: int, run_id: int, token: int, now: datetime, due_by: datetime, limit: int
) -> list[ClaimedDelivery]:
    """Take up to `limit` deliveries of one occurrence whose next try is at `due_by` or before."""
    allowed = (
        select(_O.c.id)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(_O.c.id == occurrence_id, sendable(now))
        .scalar_subquery()
    )
    next_ones = (
        select(_D.c.id).where(_D.c.occurrence_id == allowed, _due_by(due_by)).order_by(_D.c.next_try_at).limit(limit)
    )
    taken = (
        update(_D)
        .where(_D.c.id.in_(next_ones))
        .values(state=DeliveryState.CLAIMED, run_id=run_id, token=token)
        .returning(*(_D.c[name] for name in ClaimedDelivery._fields))
    )
    return [ClaimedDelivery._make(row) for row in db.execute(taken)]


def release(
    db: Connection, run_id: int, delivery_ids: Sequence[int] | None = None, *, only_claimed: bool = False
) -> int:
    """Give back what a run holds and has not sent (or only those ids): nothing was risked.

    With `only_claimed` those ids stay that are being sent: by a newer claim than the one that is given back.
    """
    is_unsent = only_claimed or delivery_ids is None
    states = [DeliveryState.CLAIMED] if is_unsent else [DeliveryState.CLAIMED, DeliveryState.SENDING]
    given_back = db.execute(
        update(_D)
        .where(_HELD, _D.c.run_id == run_id, _D.c.state.in_(states))
        .where(_D.c.id.in_(delivery_ids) if delivery_ids is not None else true())
        .values(state=DeliveryState.QUEUED, run_id=None, token=None)
    ).rowcount
    cancel_obsolete(db, delivery_ids or ())
    return given_back


def rescue(db: Connection, run_id: int, now: datetime, resend_after: timedelta | None, relay: str) -> int:
    """Take back what a dead run held: a claimed one is queued again, one being sent is unknown.

    Returns how many are unknown. `resend_after` is None where a person decides about them.
    """
    release(db, run_id)
    sending = and_(_HELD, _D.c.run_id == run_id, _D.c.state == DeliveryState.SENDING)
    words = "the run died before the server's reply was recorded"
    resend_at = None if resend_after is None else now + resend_after
    unknown = _lose(db, sending, now, "dot", words, relay, resend_at)
    cancel_obsolete(db, unknown)
    return len(unknown)


def mark_unknown(db: Connection, now: datetime) -> Sequence[int]:
    """Make all that waits or is under way unknown, for a person: it may have been sent from elsewhere. Their ids."""
    mine = _D.c.occurrence_id.in_(select(_O.c.id).where(_UNFINISHED))
    awaits_resend = update(_D).where(_UNKNOWN, mine, _D.c.next_try_at.is_not(None)).values(next_try_at=None)
    known = db.scalars(awaits_resend.returning(_D.c.id)).all()
    words = "it waited when the backup was made; what came of it since is not known"
    waiting = _lose(db, and_(_WAITING, mine), now, "", words, "", None)
    held = _lose(db, and_(_HELD, mine), now, "", words, "", None)
    return [*known, *waiting, *held]


def _lose(
    db: Connection,
    lost: ColumnElement[bool],
    now: datetime,
    phase: str,
    words: str,
    relay: str,
    resend_at: datetime | None,
) -> Sequence[int]:
    """Make deliveries unknown, with an attempt that says why; their ids."""
    tried = select(
        _D.c.id, _D.c.attempts + 1, literal(now, _A.c.started_at.type), literal(now, _A.c.started_at.type),
        literal(Outcome.UNKNOWN.value), literal(phase), null(), literal(""), literal(words), literal(relay),
    ).where(lost)  # fmt: skip
    names = ["delivery_id", "number", "started_at", "finished_at", "outcome", "phase", "code", "enhanced", "reply"]
    db.execute(insert(_A).from_select([*names, "relay"], tried))
    unknown = {
        "state": DeliveryState.UNKNOWN,
        "attempts": _D.c.attempts + 1,
        "next_try_at": resend_at,
        "run_id": None,
        "token": None,
    }
    return db.scalars(update(_D).where(lost).values(unknown).returning(_D.c.id)).all()


def cancel(db: Connection, occurrences: Select[tuple[int]], address_key: str) -> None:
    """Cancel what one address still waits for in some occurrences: the client is gone, or its address is bad."""
    _cancel(db, and_(_D.c.occurrence_id.in_(occurrences), _D.c.address_key == address_key))


def cancel_these(db: Connection, delivery_ids: Sequence[int]) -> int:
    """Cancel those of some deliveries that still wait or are claimed; how many."""
    return _cancel(db, _D.c.id.in_(listed(delivery_ids)))


def listed(ids: Sequence[int]) -> Select[tuple[int]]:
    """Ids as a query, however many."""
    return select(func.json_each(json.dumps(ids)).table_valued("value").c.value)


def _cancel(db: Connection, mine: ColumnElement[bool]) -> int:
    stoppable = or_(_D.c.state == DeliveryState.CLAIMED, _awaits_a_try())
    stopped = update(_D).where(mine, stoppable).values(state=DeliveryState.CANCELLED, next_try_at=None)
    return db.execute(stopped).rowcount


def cancel_obsolete(db: Connection, delivery_ids: Sequence[int]) -> None:
    """Call off, of these, what needs no further try: it was sent all the same, or its client is gone or bad by now."""
    if not delivery_ids:
        return
    these = _D.c.id.in_(delivery_ids)
    is_sent = exists().where(_A.c.delivery_id == _D.c.id, _A.c.outcome == Outcome.SENT)
    sent = update(_D).where(these, _D.c.state != DeliveryState.SENDING, is_sent)
    db.execute(sent.values(state=DeliveryState.SENT, next_try_at=None))
    is_good = or_(_C.c.bad_at.is_(None), _C.c.address_key != _D.c.address_key)
    gone = ~exists().where(_C.c.id == _D.c.client_id, is_good)
    waiting = update(_D).where(these, _awaits_a_try(), gone)
    db.execute(waiting.values(state=DeliveryState.CANCELLED, next_try_at=None))


def disable(db: Connection, mailing_id: int, reason: str, now: datetime, by: int | None = None) -> None:
    """Stop a mailing (`by` None: the system does it); what a run has claimed of it is queued again."""
    db.execute(
        update(_M)
        .where(_M.c.id == mailing_id, _M.c.disabled_at.is_(None))
        .values(disabled_at=now, disabled_by_id=by, disabled_reason=reason)
    )
    _take_back(db, select(_O.c.id).where(_O.c.mailing_id == mailing_id, _UNFINISHED))


def requeue_for_owner(db: Connection, owner_id: int) -> None:
    """Queue again what any run has claimed of a user who is blocked: nobody claims it from here on."""
    mine = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_M.c.owner_id == owner_id, _UNFINISHED)
    _take_back(db, mine)


def _take_back(db: Connection, occurrences: Select[tuple[int]]) -> None:
    db.execute(
        update(_D)
        .where(_HELD, _D.c.occurrence_id.in_(occurrences), _D.c.state == DeliveryState.CLAIMED)
        .values(state=DeliveryState.QUEUED, run_id=None, token=None)
    )


def unknown_ones() -> TextClause:
    """The condition of a delivery whose final reply never came; they have an index of their own."""
    return _UNKNOWN


def resolve_as(db: Connection, ids: Sequence[int], state: DeliveryState) -> None:
    """A person knows what became of these unknown ones: sent or failed."""
    mine = update(_D).where(_D.c.id.in_(ids), _D.c.state == DeliveryState.UNKNOWN)
    db.execute(mine.values(state=state, next_try_at=None))


def resend(db: Connection, ids: Sequence[int], now: datetime, deadline: datetime) -> None:
    """A person has these unknown ones sent again; an occurrence that is over opens again, until `deadline`."""
    mine = select(_D.c.occurrence_id).where(_D.c.id.in_(ids)).distinct()
    again = update(_O).where(_O.c.id.in_(mine))
    db.execute(again.where(_O.c.deadline <= now).values(deadline=deadline))
    finished = again.where(_O.c.state == OccurrenceState.FINISHED)
    db.execute(finished.values(state=OccurrenceState.OPEN, finished_at=None, deadline=deadline))
    mailings = select(_O.c.mailing_id).where(_O.c.id.in_(mine))
    db.execute(update(_M).where(_M.c.id.in_(mailings)).values(status=MailingStatus.RUNNING))
    queued = update(_D).where(_D.c.id.in_(ids), _D.c.state == DeliveryState.UNKNOWN)
    db.execute(queued.values(state=DeliveryState.QUEUED, next_try_at=now))
    cancel_obsolete(db, ids)


def sweep(db: Connection, now: datetime) -> list[int]:
    """Move on what time or a person has decided: cancelled, expired, due again, finished, completed.

    Returns the occurrences that are finished now; none in a restored store that waits for a person.
    """
    if is_held(db):
        return []
    joined = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id).where(_UNFINISHED)
    _stop(db, joined.where(_M.c.deleted_at.is_not(None)), DeliveryState.CANCELLED)
    _stop(db, joined.where(_O.c.deadline <= now), DeliveryState.EXPIRED)
    db.execute(
        update(_D)
        .where(_UNKNOWN, _D.c.occurrence_id.in_(joined), _D.c.next_try_at <= now)
        .values(state=DeliveryState.QUEUED)
    )
    return _finish(db, now)


def _stop(db: Connection, occurrences: Select[tuple[int]], state: DeliveryState) -> None:
    mine = _D.c.occurrence_id.in_(occurrences)
    stopped = update(_D).values(state=state, next_try_at=None)
    db.execute(stopped.where(_WAITING, mine))
    db.execute(stopped.where(_HELD, mine, _D.c.state == DeliveryState.CLAIMED))
    if state == DeliveryState.EXPIRED:  # an unknown one stays unknown, for a person
        stopped = update(_D).values(next_try_at=None)
    db.execute(stopped.where(_UNKNOWN, mine, _D.c.next_try_at.is_not(None)))


def _finish(db: Connection, now: datetime) -> list[int]:
    waiting = exists().where(_D.c.occurrence_id == _O.c.id, _WAITING)
    resend = exists().where(_D.c.occurrence_id == _O.c.id, _UNKNOWN, _D.c.next_try_at.is_not(None))
    held = exists().where(_D.c.occurrence_id == _O.c.id, _HELD)
    deleted = exists().where(_M.c.id == _O.c.mailing_id, _M.c.deleted_at.is_not(None))
    done = and_(_UNFINISHED, ~waiting, ~resend, ~held)
    over = update(_O).values(finished_at=now)
    db.execute(over.where(done, deleted).values(state=OccurrenceState.CANCELLED))
    finish = over.where(done, _O.c.state == OccurrenceState.OPEN).values(state=OccurrenceState.FINISHED)
    finished = list(db.scalars(finish.returning(_O.c.id)))
    still = exists().where(_O.c.mailing_id == _M.c.id, _UNFINISHED)
    db.execute(update(_M).where(_RUNNING, _M.c.next_at.is_(None), ~still).values(status=MailingStatus.COMPLETED))
    return finished


def _awaits_a_try() -> ColumnElement[bool]:
    return or_(_WAITING, and_(_UNKNOWN, _D.c.next_try_at.is_not(None)))

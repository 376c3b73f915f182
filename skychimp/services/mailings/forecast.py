"""What the next run would do: whom it would write to, and whom it would leave out, and why. Changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, or_, select, text, true

from skychimp.delivery.scheduling import planner
from skychimp.models import UNFINISHED_SQL, Client, Delivery, DeliveryState, Mailing, Occurrence, User
from skychimp.store import queue
from skychimp.store.database import Store

_C = Client.__table__
_D = Delivery.__table__
_O = Occurrence.__table__
_M = Mailing.__table__
_U = User.__table__


@dataclass(frozen=True)
class Forecast:
    """One client in one occurrence: `left_out` says why it would get nothing now, None where it would."""

    mailing_id: int
    due_at: datetime
    email: str
    left_out: str | None


def forecast(store: Store, now: datetime, mailing_id: int | None = None) -> Iterator[Forecast]:
    """Each client of each mailing that has something due, as it is read; a mailing that is stopped is one row."""
    with store.read() as transaction:
        db = transaction.connection().execution_options(yield_per=1000)
        yield from _stopped(db, now, mailing_id)
        for mailing, plan in planner.due(db, now, mailing_id):
            has_news = not mailing.digest or bool(planner.new_posts(db, mailing, now))
            for chosen in plan.open:
                if has_news:
                    yield from _coming(db, mailing, chosen.at, after=0, blocked=None)
                else:
                    yield Forecast(mailing.id, chosen.at, "", "skipped: there is no new post")
                has_news = not mailing.digest  # its first one tells of all there is
            for missed in plan.missed:
                yield Forecast(mailing.id, missed.at, "", "missed: too late to be sent")
        for row in _unfinished(db, mailing_id):
            blocked = _why_not(row, now)
            for delivery in db.execute(select(_D).where(_D.c.occurrence_id == row.id)):
                yield Forecast(row.mailing_id, row.due_at, delivery.address, blocked or _why_not_now(delivery, now))
            if row.state == "opening":
                yield from _coming(db, row, row.due_at, after=row.cursor, blocked=blocked)


def _stopped(db: Connection, now: datetime, mailing_id: int | None) -> Iterator[Forecast]:
    wanted = (
        select(_M, _U.c.blocked_at)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(
            _M.c.next_at <= now,
            _M.c.deleted_at.is_(None),
            or_(_M.c.disabled_at.is_not(None), _U.c.blocked_at.is_not(None)),
        )
        .where(_M.c.id == mailing_id if mailing_id is not None else true())
    )
    for row in db.execute(wanted.order_by(_M.c.id)):
        yield Forecast(row.id, row.next_at, "", _who_stops(row))


def _coming(
    db: Connection, row: Row[tuple[object, ...]], due_at: datetime, *, after: int, blocked: str | None
) -> Iterator[Forecast]:
    """The clients beyond `after` of an audience, in batches as they would be opened."""
    mailing_id = getattr(row, "mailing_id", row.id)
    while True:
        chosen = queue.audience(mailing_id, row.owner_id, all_clients=row.all_clients, after=after)
        batch = chosen.limit(queue.OPENING_BATCH).subquery()
        clients = select(_C.c.id, _C.c.email, _C.c.bad_at, _C.c.bad_reason).join(batch, batch.c.id == _C.c.id)
        found = db.execute(clients.order_by(_C.c.id)).all()
        for client in found:
            bad = f"bad address: {client.bad_reason}" if client.bad_at is not None else None
            yield Forecast(mailing_id, due_at, client.email, bad or blocked)
        if not found:
            return
        after = found[-1].id


def _unfinished(db: Connection, mailing_id: int | None) -> list[Row[tuple[object, ...]]]:
    wanted = (
        select(_O, _M.c.owner_id, _M.c.all_clients, _M.c.disabled_at, _M.c.disabled_reason, _U.c.blocked_at)
        .join(_M, _M.c.id == _O.c.mailing_id)
        .join(_U, _U.c.id == _M.c.owner_id)
        .where(text(UNFINISHED_SQL.replace("state", "occurrence.state")))
        .where(_O.c.mailing_id == mailing_id if mailing_id is not None else true())
    )
    return list(db.execute(wanted.order_by(_O.c.due_at, _O.c.id)))


def _who_stops(row: Row[tuple[object, ...]]) -> str | None:
    if row.disabled_at is not None:
        return f"the mailing is disabled: {row.disabled_reason}"
    return "its owner is blocked" if row.blocked_at is not None else None


def _why_not(row: Row[tuple[object, ...]], now: datetime) -> str | None:
    return _who_stops(row) or ("its deadline has passed" if row.deadline <= now else None)


def _why_not_now(delivery: Row[tuple[object, ...]], now: datetime) -> str | None:
    if delivery.state == DeliveryState.UNKNOWN and delivery.next_try_at is None:
        return "unknown: a person decides"
    if delivery.state in (DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.UNKNOWN):
        if delivery.next_try_at <= now:
            return None
        return f"{delivery.state}: the next try is at {delivery.next_try_at.isoformat(timespec='seconds')}"
    return f"{delivery.state} already" if delivery.state == DeliveryState.SENT else str(delivery.state)

"""Status: is anything sending, and what waits."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from skychimp.models import DeliveryState, Mailing, Run, StoreInfo, User
from skychimp.store import ledger, relay_pauses, runs
from skychimp.store.database import Store

_M = Mailing.__table__
_RUN = Run.__table__
_U = User.__table__


@dataclass(frozen=True)
class RunInfo:
    """One sending process; `ended_at` is None while it lives, and for one that died."""

    id: int
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    sent: int
    deferred: int
    failed: int
    unknown: int


@dataclass(frozen=True)
class Status:
    """`sending` is how many processes live; `oldest_due_at` is the oldest due time that nobody has opened yet."""

    sending: int
    last_heartbeat_at: datetime | None
    last_run: RunInfo | None
    oldest_due_at: datetime | None
    queue: dict[DeliveryState, int]
    relay: relay_pauses.Paused | None
    held: bool
    as_of: datetime


def status(store: Store) -> Status:
    """Whether something is sending and what waits; needs no login."""
    now = datetime.now(UTC)
    with store.read() as transaction:
        db = transaction.connection()
        dead = runs.dead(db, store.path)
        living = select(func.count()).where(_RUN.c.ended_at.is_(None), _RUN.c.id.not_in(dead))
        return Status(
            sending=db.scalar(living) or 0,
            last_heartbeat_at=db.scalar(select(func.max(_RUN.c.heartbeat_at))),
            last_run=_last_run(db),
            oldest_due_at=_oldest_due(db, now),
            queue=ledger.left(db),
            relay=relay_pauses.latest_paused(db),
            held=db.scalar(select(StoreInfo.__table__.c.held_at)) is not None,
            as_of=now,
        )


def _last_run(db: Connection) -> RunInfo | None:
    row = db.execute(select(_RUN).order_by(_RUN.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else RunInfo(*row)


def _oldest_due(db: Connection, now: datetime) -> datetime | None:
    """What is stopped, by hand or with its owner, is not waited for."""
    going = (_M.c.disabled_at.is_(None), _M.c.deleted_at.is_(None), _U.c.blocked_at.is_(None))
    due = select(_M.c.next_at).join(_U, _U.c.id == _M.c.owner_id).where(_M.c.next_at <= now, *going)
    oldest: datetime | None = db.scalar(due.order_by(_M.c.next_at).limit(1))
    return oldest

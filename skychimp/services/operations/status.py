"""Report whether anything is being sent, and what is waiting."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, and_, func, select

from skychimp.models import DeliveryState, Mailing, Run
from skychimp.store import ledger, queue, relay_pauses, runs
from skychimp.store.conditions import is_enabled
from skychimp.store.database import Store

_M = Mailing.__table__
_RUN = Run.__table__


@dataclass(frozen=True)
class RunInfo:
    """One sending process. `ended_at` is None while it is alive, and if it died."""

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
    """The state of sending.

    `sending` is the number of sending processes that are alive, `oldest_due_at` the oldest due time that no process has
    opened yet, `queue` the number of waiting deliveries by state,
    and `held` whether the store is on hold, which `held_reason` explains.
    """

    sending: int
    last_heartbeat_at: datetime | None
    last_run: RunInfo | None
    oldest_due_at: datetime | None
    queue: dict[DeliveryState, int]
    relay: relay_pauses.RelayPause | None
    held: bool
    held_reason: str | None
    as_of: datetime


def status(store: Store) -> Status:
    """Return the state of sending. No login is required."""
    now = store.now()
    with store.read() as transaction:
        db = transaction.connection()
        held_reason = queue.why_held(db)
        is_alive = and_(_RUN.c.ended_at.is_(None), _RUN.c.id.not_in(runs.dead_runs(db, store.path, now)))
        return Status(
            sending=db.scalar(select(func.count()).where(is_alive)) or 0,
            last_heartbeat_at=db.scalar(select(func.max(_RUN.c.heartbeat_at))),
            last_run=_last_run(db),
            oldest_due_at=_oldest_due(db, now),
            queue=ledger.count_pending_by_state(db),
            relay=relay_pauses.latest_pause(db),
            held=held_reason is not None,
            held_reason=held_reason,
            as_of=now,
        )


def _last_run(db: Connection) -> RunInfo | None:
    columns = [_RUN.c[field.name] for field in fields(RunInfo)]
    row = db.execute(select(*columns).order_by(_RUN.c.id.desc()).limit(1)).one_or_none()
    return None if row is None else RunInfo(*row)


def _oldest_due(db: Connection, now: datetime) -> datetime | None:
    """Return the oldest due time that is not opened yet. Disabled mailings and those of blocked owners do not count."""
    due = select(_M.c.next_at).where(_M.c.next_at <= now, is_enabled())
    oldest: datetime | None = db.scalar(due.order_by(_M.c.next_at).limit(1))
    return oldest

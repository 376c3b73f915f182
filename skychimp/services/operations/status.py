"""Report whether anything is being sent, and what is waiting."""

from dataclasses import dataclass, fields
from datetime import datetime

from sqlalchemy import Connection, func, select

from skychimp.models import DeliveryState, Outcome, tables
from skychimp.services.mailings import outbox_mail
from skychimp.store import holds, ledger, relay_pauses, runs
from skychimp.store.conditions import is_before_end, is_enabled, is_unfinished, is_waiting
from skychimp.store.database import Store
from skychimp.store.holds import HeldMailing
from skychimp.store.occurrences import canary
from skychimp.store.occurrences.canary import Waiting
from skychimp.translation import Phrase

_A = tables.attempt
_D = tables.delivery
_M = tables.mailing
_O = tables.occurrence
_RUN = tables.run


@dataclass(frozen=True)
class RunInfo:
    """One sending process. `ended_at` is None while it is alive, and if it died.

    `relay` is what it sends through, "" if an older version has started it.
    """

    id: int
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    sent: int
    outbox: int
    deferred: int
    failed: int
    unknown: int
    relay: str


@dataclass(frozen=True)
class Status:
    """The state of sending.

    `sending` is the number of sending processes that are alive, `oldest_due_at` the oldest due time that no process has
    opened yet, `queue` the number of waiting deliveries by state, and `held` whether the store is on hold, which
    `held_reason` explains. `oldest_waiting_at` is when the next try of the email that waits longest was due, and
    `last_attempt_at` when an email was last tried. `relay` is paused, `unavailable_relay` does not answer, and
    `held_mailings` wait for a person. `canaries` tells how many of the queued deliveries wait for a canary. `outbox` is
    the number of emails that were only written to the outbox.
    """

    sending: int
    last_heartbeat_at: datetime | None
    last_run: RunInfo | None
    oldest_due_at: datetime | None
    oldest_waiting_at: datetime | None
    last_attempt_at: datetime | None
    queue: dict[DeliveryState, int]
    outbox: int
    relay: relay_pauses.RelayPause | None
    unavailable_relay: relay_pauses.UnavailableRelay | None
    held: bool
    held_reason: Phrase | None
    held_mailings: list[HeldMailing]
    canaries: list[Waiting]
    as_of: datetime

    @property
    def stuck_since(self) -> datetime | None:
        """Since when a due email waits and no email was tried, None if none waits. A long mailing is not stuck."""
        if self.oldest_waiting_at is None or self.last_attempt_at is None:
            return self.oldest_waiting_at
        return max(self.oldest_waiting_at, self.last_attempt_at)


def status(store: Store) -> Status:
    """Return the state of sending. No login is required."""
    now = store.now()
    with store.read() as transaction:
        db = transaction.connection()
        held_reason = holds.why_held(db)
        return Status(
            sending=runs.count_living(db, store.path, now),
            last_heartbeat_at=db.scalar(select(func.max(_RUN.c.heartbeat_at))),
            last_run=_last_run(db),
            oldest_due_at=_oldest_due(db, now),
            oldest_waiting_at=_oldest_waiting(db, now),
            last_attempt_at=_last_attempt(db),
            queue=ledger.count_pending_by_state(db),
            outbox=outbox_mail.count_in_outbox(db),
            relay=relay_pauses.latest_pause(db),
            unavailable_relay=relay_pauses.unavailable_relay(db),
            held=held_reason is not None,
            held_reason=held_reason,
            held_mailings=holds.held_mailings(db),
            canaries=canary.list_waiting(db),
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


def _oldest_waiting(db: Connection, now: datetime) -> datetime | None:
    """Return the oldest time of a try that is due and was not made yet."""
    sendable = select(_O.c.id).join(_M, _M.c.id == _O.c.mailing_id)
    sendable = sendable.where(is_unfinished(), is_before_end(now), is_enabled())
    times = [
        db.scalar(
            select(_D.c.next_try_at)
            .where(_D.c.occurrence_id == occurrence_id, is_waiting(), _D.c.next_try_at <= now)
            .order_by(_D.c.next_try_at)
            .limit(1)
        )
        for occurrence_id in db.scalars(sendable).all()
    ]
    return min(filter(None, times), default=None)


def _last_attempt(db: Connection) -> datetime | None:
    """Return when the newest attempt ended. One that was given back brought no email further."""
    attempts = select(_A.c.finished_at).where(_A.c.id > 0, _A.c.outcome != Outcome.GIVEN_BACK)
    newest: datetime | None = db.scalar(attempts.order_by(_A.c.id.desc()).limit(1))
    return newest

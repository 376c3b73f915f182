"""Accept this machine's clock as right, after it was wrong or is said to be."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, or_, select

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.models import Mailing, MailingStatus, Occurrence, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.mailings.schedules import opened_times
from skychimp.services.operations.backups import RESUMED
from skychimp.store import runs
from skychimp.store.database import Store
from skychimp.store.occurrences import future_records
from skychimp.store.session import Session
from skychimp.text import count_of
from skychimp.translation import tr

_A = tables.audit_entry
_M = tables.mailing
_O = tables.occurrence

_NAMED = 50
"""How many due times an entry of the audit trail names at most."""


@dataclass(frozen=True)
class PassedDueTime:
    """A due time after now that is not sent again, because a run has opened it while the clock was ahead."""

    mailing_id: int
    due_at: datetime


@dataclass(frozen=True)
class AcceptedClock:
    """How many mailings have a new due time, and what was recorded while the clock was ahead.

    `restored` counts the due times that are no longer missed or skipped, `requeued` the emails that expired too early.
    """

    mailings: int
    restored: int
    requeued: int
    passed: list[PassedDueTime]


def accept(store: Store, actor: Actor) -> AcceptedClock:
    """Accept this machine's clock, and compute the next due time of each mailing again.

    What is due now stays due. What a run recorded as missed, skipped or expired while the clock was ahead is due again,
    in the grace of its mailing and until its end. Retries, and probes of mail servers, that wait for a time of the
    wrong clock are due at once. What was sent is not sent again. Raises NotLoggedIn, Denied and StoreFailed.
    """
    authorize(actor, Action.ACCEPT_CLOCK)
    with store.write() as db:
        now = store.now()
        connection = db.connection()
        runs.accept_clock(connection, now)
        future_records.probe_at_once(connection, now)
        future_records.retry_at_once(connection, now)
        future_records.wait_from_now(connection, now)
        requeued = future_records.requeue_expired(connection, now)
        missed = _forget_unsent(db, now)
        passed = [PassedDueTime(row.mailing_id, row.due_at) for row in _opened_after(db, now)]
        mailings = _unfinished_mailings(db, missed)
        for mailing in mailings:
            _set_next_due_time(db, mailing, missed.get(mailing.id or 0, []), now)
        accepted = AcceptedClock(len(mailings), sum(map(len, missed.values())), requeued, passed)
        audit.record(db, actor, "accept clock", "store_info", 1, _describe(accepted))
    return accepted


def _forget_unsent(db: Session, now: datetime) -> dict[int, list[datetime]]:
    """Delete the occurrences that were missed or skipped after now, and return their due times by mailing.

    Those that a person gave up after a restore stay: the lost store may have sent them.
    """
    if db.scalar(select(exists().where(_A.c.action == RESUMED, _A.c.at > now))):
        return {}
    unsent: dict[int, list[datetime]] = {}
    for row in future_records.forget_unsent(db.connection(), now):
        unsent.setdefault(row.mailing_id, []).append(row.due_at)
    return unsent


def _opened_after(db: Session, now: datetime) -> Sequence[Occurrence]:
    opened = select(Occurrence).join(Mailing, _M.c.id == _O.c.mailing_id)
    opened = opened.where(_O.c.due_at > now, _M.c.deleted_at.is_(None))
    return db.execute(opened.order_by(_O.c.mailing_id, _O.c.due_at)).scalars().all()


def _unfinished_mailings(db: Session, missed: dict[int, list[datetime]]) -> Sequence[Mailing]:
    """Return the mailings that have something to send, also those that were completed by missing it."""
    is_unfinished = or_(_M.c.status != MailingStatus.COMPLETED, _M.c.id.in_(missed))
    return db.execute(select(Mailing).where(_M.c.deleted_at.is_(None), is_unfinished)).scalars().all()


def _set_next_due_time(db: Session, mailing: Mailing, missed: Sequence[datetime], now: datetime) -> None:
    """Set a mailing's next due time: the first that is due now or was wrongly missed, or else the next one."""
    opened = opened_times(db, mailing.id or 0)
    due = [mailing.next_at] if mailing.next_at is not None and mailing.next_at <= now else []
    mailing.next_at = min([*due, *missed, *_unrecorded(mailing, len(missed), opened, now)], default=None)
    if mailing.status == MailingStatus.COMPLETED and missed:
        mailing.status = MailingStatus.RUNNING if opened else MailingStatus.CREATED


def _unrecorded(mailing: Mailing, missed: int, opened: set[str], now: datetime) -> Iterator[datetime]:
    """Yield the first due time from now on that was not opened, and the last one before now if it may be unrecorded.

    A run records the last missed due times only, if there are very many, as with a clock that is years ahead.
    """
    with suppress(OSError, ValueError, KeyError):  # an unknown time zone; `open_due` reports it
        schedule = planner.schedule_of(mailing)
        last = recurrence.latest(schedule, now) if missed >= recurrence.MAX_MISSED - 1 else None
        if last is not None and last.local.isoformat() not in opened:
            yield last.at
        coming = recurrence.next_unopened(schedule, now, opened)
        if coming is not None:
            yield coming.at


def _describe(accepted: AcceptedClock) -> str:
    text = tr(
        "{mailings}, {restored:,} due again",
        mailings=count_of(accepted.mailings, "mailing"),
        restored=accepted.restored,
    )
    text += f", {count_of(accepted.requeued, 'email')} queued again" if accepted.requeued else ""
    if not accepted.passed:
        return text
    due_times = [f"mailing {due.mailing_id} at {due.due_at:%Y-%m-%d %H:%M}" for due in accepted.passed[:_NAMED]]
    return f"{text}, {len(accepted.passed):,} opened already: {', '.join(due_times)}"

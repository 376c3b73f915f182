"""Accept this machine's clock as right, after it was wrong or is said to be."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, exists, or_, select
from sqlmodel import Session

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.models import AuditEntry, Delivery, Mailing, MailingStatus, Occurrence, OccurrenceState
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.operations.backups import RESUMED
from skychimp.store import runs
from skychimp.store.database import Store
from skychimp.text import count_of

_A = AuditEntry.__table__
_D = Delivery.__table__
_M = Mailing.__table__
_O = Occurrence.__table__

_NAMED = 50
"""How many due times an entry of the audit trail names at most."""


@dataclass(frozen=True)
class PassedDueTime:
    """A due time after now that is not sent again, because a run has opened it while the clock was ahead."""

    mailing_id: int
    due_at: datetime


@dataclass(frozen=True)
class AcceptedClock:
    """How many mailings have a new due time, and how many due times are no longer recorded as missed."""

    mailings: int
    restored: int
    passed: list[PassedDueTime]


def accept(store: Store, actor: Actor) -> AcceptedClock:
    """Accept this machine's clock, and compute the next due time of each mailing again.

    What is due now stays due. What a run recorded as missed while the clock was ahead is due again, in the grace of its
    mailing. Raises NotLoggedIn, Denied and StoreFailed.
    """
    authorize(actor, Action.ACCEPT_CLOCK)
    with store.write() as db:
        now = store.now()
        runs.accept_clock(db.connection(), now)
        missed = _forget_missed(db, now)
        passed = [PassedDueTime(row.mailing_id, row.due_at) for row in _opened_after(db, now)]
        mailings = _unfinished_mailings(db, missed)
        for mailing in mailings:
            _set_next_due_time(db, mailing, missed.get(mailing.id or 0, []), now)
        accepted = AcceptedClock(len(mailings), sum(map(len, missed.values())), passed)
        audit.record(db, actor, "accept clock", "store_info", 1, _describe(accepted))
    return accepted


def _forget_missed(db: Session, now: datetime) -> dict[int, list[datetime]]:
    """Delete the missed occurrences that were recorded after now, and return their due times by mailing.

    Those that a person gave up after a restore stay: the lost store may have sent them.
    """
    if db.scalar(select(exists().where(_A.c.action == RESUMED, _A.c.at > now))):
        return {}
    has_deliveries = exists().where(_D.c.occurrence_id == _O.c.id)
    recorded = (_O.c.state == OccurrenceState.MISSED, _O.c.opened_at > now, ~has_deliveries)
    missed: dict[int, list[datetime]] = {}
    for row in db.execute(delete(_O).where(*recorded).returning(_O.c.mailing_id, _O.c.due_at)):
        missed.setdefault(row.mailing_id, []).append(row.due_at)
    return missed


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
    opened = set(db.execute(select(_O.c.due_local).where(_O.c.mailing_id == mailing.id)).scalars())
    due = [mailing.next_at] if mailing.next_at is not None and mailing.next_at <= now else []
    coming = _coming(mailing, opened, now)
    mailing.next_at = min([*due, *missed, *coming], default=None)
    if mailing.status == MailingStatus.COMPLETED and missed:
        mailing.status = MailingStatus.RUNNING if opened else MailingStatus.CREATED


def _coming(mailing: Mailing, opened: set[str], now: datetime) -> Iterator[datetime]:
    """Yield the first due time from now on that was not opened, if there is one."""
    with suppress(OSError, ValueError, KeyError):  # an unknown time zone; `open_due` reports it
        for due in recurrence.upcoming(planner.schedule_of(mailing), now):
            if due.local.isoformat() not in opened:
                yield due.at
                return


def _describe(accepted: AcceptedClock) -> str:
    text = f"{count_of(accepted.mailings, 'mailing')}, {accepted.restored:,} due again"
    if not accepted.passed:
        return text
    due_times = [f"mailing {due.mailing_id} at {due.due_at:%Y-%m-%d %H:%M}" for due in accepted.passed[:_NAMED]]
    return f"{text}, {len(accepted.passed):,} opened already: {', '.join(due_times)}"

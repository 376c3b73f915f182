"""Set when a mailing is sent, from what a user typed."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from skychimp.delivery.scheduling import recurrence, time_input
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.errors import InvalidValue
from skychimp.models import CatchUp, Every, MailingStatus, tables
from skychimp.store.session import Session
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

_O = tables.occurrence


@dataclass(frozen=True)
class ScheduleInput:
    """A schedule as a user typed it. Times without an offset are local to `timezone`."""

    start: str
    end: str | None
    every: Every
    timezone: str


@dataclass(frozen=True)
class CatchUpPolicy:
    """What to do about due times that were missed because nothing was sending.

    `grace` is how late an occurrence may still be sent. None means the default of the mailing's period.
    """

    catch_up: CatchUp = CatchUp.LATEST
    grace: timedelta | None = None


DEFAULT_CATCH_UP = CatchUpPolicy()


def parse_schedule(typed: ScheduleInput, now: datetime) -> Schedule:
    """Return the schedule that a user typed.

    Raises InvalidValue if a time or zone is invalid, or the end is not after the start.
    """
    start = time_input.parse_local(typed.start, typed.timezone, now)
    end = None if typed.end is None else time_input.parse_when(typed.end, typed.timezone, now)
    if end is not None and end <= recurrence.to_utc(start, typed.timezone):
        raise InvalidValue(tr("--end must be after --start"), tr("use a later --end"))
    return Schedule(start, typed.timezone, typed.every, end)


def first_due(schedule: Schedule, now: datetime) -> datetime | None:
    """Return the first due time (UTC) of a mailing that has sent nothing yet, or None if it has none.

    This is the latest due time in the past if the mailing has not ended, otherwise the next one.
    """
    if schedule.end is None or now < schedule.end:
        latest = recurrence.latest(schedule, now)
        if latest is not None:
            return latest.at
    return _next_due(schedule, now)


def schedule_columns(schedule: Schedule) -> dict[str, Any]:
    """Return the columns of a mailing that hold its start and end."""
    start_at = recurrence.to_utc(schedule.start, schedule.timezone)
    return {"start_local": schedule.start.isoformat(), "start_at": start_at, "end_at": schedule.end}


def opened_times(db: Session, mailing_id: int) -> set[str]:
    """Return the wall-clock times (ISO 8601) for which a mailing has an occurrence. None of them is opened again."""
    return set(db.scalars(select(_O.c.due_local).where(_O.c.mailing_id == mailing_id)))


def reschedule(db: Session, mailing: "Mailing", typed: ScheduleInput, now: datetime) -> None:
    """Give a mailing another schedule. Raises InvalidValue.

    A mailing that has opened an occurrence sends nothing for due times before `now`, and nothing again for a
    wall-clock time that it has opened, in whatever zone. Any other one starts again.
    """
    schedule = parse_schedule(typed, now)
    opened = opened_times(db, mailing.id or 0)
    mailing.next_at = _next_after_change(mailing, schedule, opened, now)
    mailing.every, mailing.timezone = typed.every, typed.timezone
    for name, value in schedule_columns(schedule).items():
        setattr(mailing, name, value)
    if mailing.next_at is not None and mailing.status == MailingStatus.COMPLETED:
        mailing.status = MailingStatus.RUNNING if opened else MailingStatus.CREATED
    elif mailing.next_at is None and mailing.status == MailingStatus.CREATED:
        mailing.status = MailingStatus.COMPLETED


def _next_due(schedule: Schedule, since: datetime) -> datetime | None:
    due = next(recurrence.upcoming(schedule, since), None)
    return due.at if due else None


def _next_after_change(mailing: "Mailing", schedule: Schedule, opened: set[str], now: datetime) -> datetime | None:
    """Return the next due time that a run will open.

    A due time that is past but not opened yet counts if the new schedule has it too, and if it is not too late.
    """
    past = _past_due(mailing, schedule, opened, now)
    if past is not None and _opens_now(mailing, schedule, past, opened, now):
        return past
    this_second = now.replace(microsecond=0)  # "--start now" has no microseconds and must still count
    following = recurrence.next_unopened(schedule, this_second, opened)
    return None if following is None else following.at


def _past_due(mailing: "Mailing", schedule: Schedule, opened: set[str], now: datetime) -> datetime | None:
    """Return the first due time before now that is to be opened if it is not too late, or None."""
    first = mailing.next_at if opened else first_due(schedule, now)
    if first is None or first > now or _next_due(schedule, first) != first:
        return None
    return first


def _opens_now(mailing: "Mailing", schedule: Schedule, first: datetime, opened: set[str], now: datetime) -> bool:
    """Return whether a run would open an occurrence now, if `first` is the first due time that is not handled yet."""
    grace = None if mailing.grace is None else timedelta(seconds=mailing.grace)
    plan = recurrence.make_plan(
        schedule, next_at=first, since=mailing.created_at, now=now, catch_up=mailing.catch_up, grace=grace
    )
    return any(due.local.isoformat() not in opened for due in plan.open)

"""Set when a mailing is sent, from what a user typed."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import exists, select
from sqlmodel import Session

from skychimp.delivery.scheduling import recurrence, time_input
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.errors import InvalidValue
from skychimp.models import CatchUp, Every, Mailing, MailingStatus, Occurrence
from skychimp.store import queue

_O = Occurrence.__table__


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
        raise InvalidValue("--end must be after --start", "use a later --end")
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


def reschedule(db: Session, mailing: Mailing, typed: ScheduleInput, now: datetime) -> None:
    """Give a mailing another schedule. Raises InvalidValue.

    A mailing that has opened an occurrence sends nothing for due times before `now`. Any other one starts again.
    """
    schedule = parse_schedule(typed, now)
    has_opened = bool(db.scalar(select(exists().where(_O.c.mailing_id == mailing.id))))
    mailing.next_at = _next_after_change(schedule, mailing.next_at, now) if has_opened else first_due(schedule, now)
    mailing.every, mailing.timezone = typed.every, typed.timezone
    for name, value in schedule_columns(schedule).items():
        setattr(mailing, name, value)
    if mailing.next_at is not None and mailing.status == MailingStatus.COMPLETED:
        mailing.status = MailingStatus.RUNNING if has_opened else MailingStatus.CREATED
    elif mailing.next_at is None and mailing.status == MailingStatus.CREATED:
        mailing.status = MailingStatus.COMPLETED
    db.flush()
    queue.sweep(db.connection(), now)  # an end in the past expires what is still queued


def _next_due(schedule: Schedule, since: datetime) -> datetime | None:
    due = next(recurrence.upcoming(schedule, since), None)
    return due.at if due else None


def _next_after_change(schedule: Schedule, next_at: datetime | None, now: datetime) -> datetime | None:
    """Return the next due time. A due time that is past but not opened yet counts if the new schedule has it too."""
    this_second = now.replace(microsecond=0)  # "--start now" has no microseconds and must still count
    if next_at is not None and next_at < this_second and _next_due(schedule, next_at) == next_at:
        return next_at
    return _next_due(schedule, this_second)

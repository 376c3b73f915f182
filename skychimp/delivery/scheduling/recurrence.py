"""Compute when a mailing is due; pure.

Due time k is computed from the start, as wall-clock time in the mailing's time zone, and never from due time k-1, so
errors do not add up. If a clock change skips a time, it moves forward by the length of the gap. If a time occurs twice,
the first one counts. In a month without the day, the last day is used. A date that the zone skipped has no due time.
"""

from calendar import monthrange
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import count, takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo

from skychimp.models import CatchUp, Every
from skychimp.text import NO_TEXT
from skychimp.translation import Phrase, joined, tr

GRACE = {Every.DAY: timedelta(hours=12), Every.WEEK: timedelta(days=2), Every.MONTH: timedelta(days=5)}
"""How late an occurrence may still be sent. A one-time mailing may be as late as its end allows."""

SKIP_GRACE = timedelta(minutes=10)
"""The grace of a mailing that skips missed occurrences: a run started by cron may be this late."""

MAX_MISSED = 1000
"""How many missed due times a plan lists at most."""

LAST_YEAR = 9990
"""The calendar's last year, with room for time zones and arithmetic below datetime's 9999."""

_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a mailing is due: a start in local time without an offset, an IANA time zone, and a period.

    The end is aware and exclusive, or None for no end.
    """

    start: datetime
    timezone: str
    every: Every
    end: datetime | None = None


class DueTime(NamedTuple):
    """A due time: the instant in UTC, and the wall-clock time that identifies it in the ledger.

    `note` explains what is unusual about it, such as a clock change; "" if nothing is.
    """

    at: datetime
    local: datetime
    note: Phrase = NO_TEXT


class Plan(NamedTuple):
    """What to do about the due times up to now: those to open, those that were missed, and the next one after now."""

    open: list[DueTime]
    missed: list[DueTime]
    next_at: datetime | None


def due_time(schedule: Schedule, k: int) -> DueTime | None:
    """Return due time number k, counted from 0; None if the zone skipped its date or it is not before the end."""
    local = _local_time(schedule, k)
    if local is None:
        return None
    zone = ZoneInfo(schedule.timezone)
    at = _to_utc(local, zone)
    if _is_skipped_date(local, zone) or (schedule.end is not None and at >= schedule.end):
        return None
    return DueTime(at, local, _note(schedule, local, at, zone))


def upcoming(schedule: Schedule, since: datetime) -> Iterator[DueTime]:
    """Yield the due times at `since` and later, in order."""
    for k in count(max(0, _nearby_number(schedule, since) - 2)):
        local = _local_time(schedule, k)
        if local is None or (schedule.end is not None and to_utc(local, schedule.timezone) >= schedule.end):
            return
        due = due_time(schedule, k)
        if due is not None and due.at >= since:
            yield due


def next_unopened(schedule: Schedule, since: datetime, opened: Container[str]) -> DueTime | None:
    """Return the first due time at `since` or later that was not opened, or None.

    `opened` has the wall-clock times (ISO 8601) that have an occurrence. Each counts once, also after a change of zone.
    """
    return next((due for due in upcoming(schedule, since) if due.local.isoformat() not in opened), None)


def latest(schedule: Schedule, now: datetime) -> DueTime | None:
    """Return the last due time at `now` or before, or None if there is none yet."""
    last = now if schedule.end is None else min(now, schedule.end)
    for k in range(_nearby_number(schedule, last) + 2, -1, -1):
        due = due_time(schedule, k)
        if due is not None and due.at <= now:
            return due
    return None


def nearest(schedule: Schedule, at: datetime) -> DueTime | None:
    """Return the due time closest to an instant and at most a day away, or None. The schedule's end is ignored.

    After a change of a zone's rules, this finds the new instant of the due time that was at `at` by the old rules.
    """
    candidates = takewhile(lambda due: due.at <= at + _DAY, upcoming(replace(schedule, end=None), at - _DAY))
    return min(candidates, key=lambda due: abs(due.at - at), default=None)


def make_plan(
    schedule: Schedule,
    *,
    next_at: datetime,
    since: datetime,
    now: datetime,
    catch_up: CatchUp = CatchUp.LATEST,
    grace: timedelta | None = None,
) -> Plan:
    """Decide which due times from `next_at`, the first one not handled yet, to `now` are opened and which were missed.

    The latest one is opened (or all of them, depending on `catch_up`) if it is before the end and within its grace.
    The others were missed; the last MAX_MISSED of them are listed. Lateness counts from the due time, or from `since`
    if that is later: a mailing is not late for what was past when it was created.
    """
    newest = latest(schedule, now)
    following = next(upcoming(schedule, now + timedelta(microseconds=1)), None)
    following_at = following.at if following else None
    if newest is None or newest.at < next_at:
        return Plan([], [], following_at)
    first = max(next_at, newest.at - _period(schedule.every) * MAX_MISSED)
    due_times = list(takewhile(lambda due: due.at <= newest.at, upcoming(schedule, first)))
    max_lateness = _default_grace(schedule.every, catch_up) if grace is None else grace
    is_over = schedule.end is not None and now >= schedule.end
    opened = [
        due
        for due in (due_times if catch_up == CatchUp.ALL else due_times[-1:])
        if not is_over and now - max(due.at, since) <= max_lateness
    ]
    return Plan(opened, due_times[: len(due_times) - len(opened)][-MAX_MISSED:], following_at)


def to_utc(local: datetime, timezone: str) -> datetime:
    """Return the instant of a wall-clock time. In a gap it moves forward; if it occurs twice, it is the first."""
    return _to_utc(local, ZoneInfo(timezone))


def to_local(at: datetime, timezone: str) -> datetime:
    """Return the wall-clock time of an instant, without an offset."""
    return at.astimezone(ZoneInfo(timezone)).replace(tzinfo=None, fold=0)


def _default_grace(every: Every, catch_up: CatchUp) -> timedelta:
    if catch_up == CatchUp.SKIP:
        return SKIP_GRACE
    return timedelta.max if catch_up == CatchUp.ALL else GRACE.get(every, timedelta.max)


def _local_time(schedule: Schedule, k: int) -> datetime | None:
    """Return the wall-clock time of due time k, or None after the last one of the period or the calendar."""
    start = schedule.start
    try:
        if schedule.every == Every.MONTH:
            year, month = divmod(start.year * 12 + start.month - 1 + k, 12)
            if year > LAST_YEAR:
                return None
            return start.replace(year=year, month=month + 1, day=min(start.day, monthrange(year, month + 1)[1]))
        if schedule.every == Every.ONCE:
            return start if k == 0 else None
        local = start + k * _period(schedule.every)
    except OverflowError:
        return None
    return local if local.year <= LAST_YEAR else None


def _nearby_number(schedule: Schedule, at: datetime) -> int:
    """Return the number of a due time near `at`. Clock changes make it at most two off."""
    if schedule.every == Every.ONCE:
        return 0
    local = to_local(at, schedule.timezone)
    if schedule.every == Every.MONTH:
        return (local.year - schedule.start.year) * 12 + local.month - schedule.start.month
    return (local - schedule.start) // _period(schedule.every)


def _period(every: Every) -> timedelta:
    return {Every.DAY: _DAY, Every.WEEK: timedelta(weeks=1)}.get(every, timedelta(days=31))


def _to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    # fold=0 reads a time in a gap with the offset before the gap, which moves it forward (PEP 495).
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _is_skipped_date(local: datetime, zone: ZoneInfo) -> bool:
    """Return whether the zone never had this date: its first and its last moment are both in a gap."""
    ends = (datetime.combine(local, time.min), datetime.combine(local, time.max))
    return all(_to_utc(end, zone).astimezone(zone).date() != local.date() for end in ends)


def _note(schedule: Schedule, local: datetime, at: datetime, zone: ZoneInfo) -> Phrase:
    notes = []
    if schedule.every == Every.MONTH and local.day != schedule.start.day:
        notes.append(tr("last day of the month"))
    if at.astimezone(zone).replace(tzinfo=None) != local:
        notes.append(tr("moved from {time:%H:%M} by the clock change", time=local))
    if local.replace(tzinfo=zone, fold=0).utcoffset() > local.replace(tzinfo=zone, fold=1).utcoffset():  # type: ignore[operator]
        notes.append(tr("first of two {time:%H:%M}", time=local))
    return joined(", ", notes) if notes else NO_TEXT

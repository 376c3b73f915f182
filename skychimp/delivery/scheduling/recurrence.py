"""When a mailing is due; pure.

Occurrence k is computed from the start, as local wall-clock time in the mailing's zone, and never from occurrence k-1:
nothing drifts. A gap in the zone's clock shifts a time forward by the gap's length, an overlap uses the first of the
two, a month without the day uses its last day, and a date that the zone skipped altogether is skipped.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import count, takewhile
from typing import NamedTuple
from zoneinfo import ZoneInfo

from skychimp.models import CatchUp, Every

GRACE = {Every.DAY: timedelta(hours=12), Every.WEEK: timedelta(days=2), Every.MONTH: timedelta(days=5)}
"""How late an occurrence may be and still be sent; a mailing that goes out once may be as late as its end allows."""

ON_TIME = timedelta(minutes=10)
"""How late an occurrence may be of a mailing that skips what it missed: as late as a run from cron may come."""

DAY = timedelta(days=1)
MOST_MISSED = 1000
LAST_YEAR = 9990


@dataclass(frozen=True, slots=True)
class Schedule:
    """A start in local time without an offset, its IANA zone, the period, and an end (aware, excluded) or None."""

    start: datetime
    timezone: str
    every: Every
    end: datetime | None = None


class Due(NamedTuple):
    """One due time: the instant, in UTC; the wall-clock time it stands for, its name in the ledger; and what is odd."""

    at: datetime
    local: datetime
    note: str = ""


class Plan(NamedTuple):
    """What is to be done about the due times up to now: those to open, those missed, and the next one to come."""

    open: list[Due]
    missed: list[Due]
    next_at: datetime | None


def occurrence(schedule: Schedule, k: int) -> Due | None:
    """The k-th due time, from 0; None where there is none: the zone skipped the date, or it is not before the end."""
    local = _local(schedule, k)
    if local is None:
        return None
    zone = ZoneInfo(schedule.timezone)
    at = _to_utc(local, zone)
    if _is_skipped(local, zone) or (schedule.end is not None and at >= schedule.end):
        return None
    return Due(at, local, _note(schedule, local, at, zone))


def upcoming(schedule: Schedule, since: datetime) -> Iterator[Due]:
    """The due times at `since` and later, in order."""
    for k in count(max(0, _near(schedule, since) - 2)):
        local = _local(schedule, k)
        if local is None or (schedule.end is not None and to_utc(local, schedule.timezone) >= schedule.end):
            return
        due = occurrence(schedule, k)
        if due is not None and due.at >= since:
            yield due


def latest(schedule: Schedule, now: datetime) -> Due | None:
    """The last due time at `now` or before; None where there is none yet."""
    newest = now if schedule.end is None else min(now, schedule.end)
    for k in range(_near(schedule, newest) + 2, -1, -1):
        due = occurrence(schedule, k)
        if due is not None and due.at <= now:
            return due
    return None


def nearest(schedule: Schedule, at: datetime) -> Due | None:
    """The due time, before the end or not, that lies nearest to an instant; None where none is within a day of it.

    Where a zone's rules have changed, this is what has become of the due time that was at that instant.
    """
    around = takewhile(lambda due: due.at <= at + DAY, upcoming(replace(schedule, end=None), at - DAY))
    return min(around, key=lambda due: abs(due.at - at), default=None)


def plan(
    schedule: Schedule,
    *,
    next_at: datetime,
    since: datetime,
    now: datetime,
    catch_up: CatchUp = CatchUp.LATEST,
    grace: timedelta | None = None,
) -> Plan:
    """Decide about all due times from `next_at`, the first not dealt with, to `now`.

    The latest is opened (by `catch_up`, each of them), if it is before the end and not later than its grace; the others
    are missed, of which the last 1000 are named. Lateness counts from `since`, the mailing's creation, where that is
    later than the due time: what was past when it was made is not late.
    """
    newest = latest(schedule, now)
    coming = next(upcoming(schedule, now + timedelta(microseconds=1)), None)
    next_one = coming.at if coming else None
    if newest is None or newest.at < next_at:
        return Plan([], [], next_one)
    first = max(next_at, newest.at - _period(schedule.every) * MOST_MISSED)
    dues = list(takewhile(lambda due: due.at <= newest.at, upcoming(schedule, first)))
    longest = _longest_grace(schedule.every, catch_up) if grace is None else grace
    is_over = schedule.end is not None and now >= schedule.end
    opened = [
        due
        for due in (dues if catch_up == CatchUp.ALL else dues[-1:])
        if not is_over and now - max(due.at, since) <= longest
    ]
    return Plan(opened, dues[: len(dues) - len(opened)][-MOST_MISSED:], next_one)


def _longest_grace(every: Every, catch_up: CatchUp) -> timedelta:
    if catch_up == CatchUp.SKIP:
        return ON_TIME
    return timedelta.max if catch_up == CatchUp.ALL else GRACE.get(every, timedelta.max)


def to_utc(local: datetime, timezone: str) -> datetime:
    """The instant of a wall-clock time: a gap shifts it forward, an overlap means the first."""
    return _to_utc(local, ZoneInfo(timezone))


def to_local(at: datetime, timezone: str) -> datetime:
    """The wall-clock time of an instant, without an offset."""
    return at.astimezone(ZoneInfo(timezone)).replace(tzinfo=None, fold=0)


def _local(schedule: Schedule, k: int) -> datetime | None:
    """The k-th wall-clock time, or None beyond what the period or the calendar has."""
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


def _near(schedule: Schedule, at: datetime) -> int:
    """The k of a wall-clock time near `at`, at most two off: a clock that is set back or forth makes the difference."""
    if schedule.every == Every.ONCE:
        return 0
    local = to_local(at, schedule.timezone)
    if schedule.every == Every.MONTH:
        return (local.year - schedule.start.year) * 12 + local.month - schedule.start.month
    return (local - schedule.start) // _period(schedule.every)


def _period(every: Every) -> timedelta:
    return {Every.DAY: timedelta(days=1), Every.WEEK: timedelta(weeks=1)}.get(every, timedelta(days=31))


def _to_utc(local: datetime, zone: ZoneInfo) -> datetime:
    # fold=0 reads a time in a gap with the offset before it, which is what shifts it forward (PEP 495)
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _is_skipped(local: datetime, zone: ZoneInfo) -> bool:
    """Whether the zone had no such date at all: its first and last moment both lie in a gap."""
    ends = (datetime.combine(local, time.min), datetime.combine(local, time.max))
    return all(_to_utc(end, zone).astimezone(zone).date() != local.date() for end in ends)


def _note(schedule: Schedule, local: datetime, at: datetime, zone: ZoneInfo) -> str:
    notes = []
    if schedule.every == Every.MONTH and local.day != schedule.start.day:
        notes.append("the last day of the month")
    if at.astimezone(zone).replace(tzinfo=None) != local:
        notes.append(f"moved from {local:%H:%M} by the clock change")
    if local.replace(tzinfo=zone, fold=0).utcoffset() > local.replace(tzinfo=zone, fold=1).utcoffset():  # type: ignore[operator]
        notes.append(f"the first of two {local:%H:%M}")
    return ", ".join(notes)

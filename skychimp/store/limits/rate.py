"""Keep `smtp.rate` for all processes and hosts of a store. A process reserves time slots for its next emails.

Rates per second and minute are spaced evenly: the store has the time of the next free slot. Rates per hour and day are
rolling windows: the store counts the emails of each minute. The functions are parts of their callers' transactions.
"""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, delete, select, update

from skychimp.config.types import Rate
from skychimp.models import tables
from skychimp.store.sql import insert_or

_SLOT = tables.rate_slot
_COUNT = tables.rate_count

HORIZON = timedelta(seconds=0.5)
"""How far ahead slots are reserved. A process that is killed loses no more than these."""
MAX_DELAY = timedelta(seconds=0.1)
"""How late a slot may be given out. So the time that a reservation takes costs no slots."""

_MINUTE = timedelta(minutes=1)
_DAY_MINUTES = 24 * 60
_NO_TIME = timedelta()


class Reservation(NamedTuple):
    """Time slots: `number` of them, the first one at `first_at`, the others each `interval` later.

    If none is free, `number` is 0, and `first_at` is the time of the next one. `minute` is where they are counted.
    """

    first_at: datetime
    interval: timedelta
    number: int
    minute: int

    @property
    def end(self) -> datetime:
        """Return the time of the first slot behind these."""
        return self.first_at + self.number * self.interval


def reserve(db: Connection, rates: Sequence[Rate], now: datetime, wanted: int) -> Reservation:
    """Reserve time slots for at most this number of emails, which are to be sent within HORIZON or the next slot."""
    interval = spacing(rates)
    minute = _minute_of(now)
    first_at = _next_slot(db, interval, now)
    room, window_at = room_in_windows(_read_counts(db, rates, minute), rates, now)
    if not room or first_at > now + HORIZON:
        return Reservation(max(first_at, window_at), interval, 0, minute)
    fitting = max(1, HORIZON // interval) if interval else wanted
    reserved = Reservation(first_at, interval, min(wanted, fitting, room), minute)
    _take(db, rates, reserved)
    return reserved


def count_one(db: Connection, rates: Sequence[Rate], now: datetime) -> None:
    """Count an email that did not wait for a slot. Those of mailings wait instead."""
    interval = spacing(rates)
    _take(db, rates, Reservation(max(now, _next_slot(db, interval, now)), interval, 1, _minute_of(now)))


def give_back(db: Connection, reserved: Reservation, unused: int) -> None:
    """Give back the last `unused` slots of a reservation.

    If others have reserved behind them, they still count less in the windows.
    """
    earlier = reserved.end - unused * reserved.interval
    db.execute(update(_SLOT).where(_SLOT.c.next_at == reserved.end).values(next_at=earlier))
    counted = update(_COUNT).where(_COUNT.c.minute == reserved.minute, _COUNT.c.emails >= unused)
    db.execute(counted.values(emails=_COUNT.c.emails - unused))


def spacing(rates: Sequence[Rate]) -> timedelta:
    """Return the time between two emails, by the slowest of the rates per second and minute."""
    # Rounded up to whole microseconds, so that the rate is never exceeded.
    intervals_us = (-(-rate.period_s * 1_000_000 // rate.emails) for rate in rates if rate.is_even)
    return timedelta(microseconds=max(intervals_us, default=0))


def room_in_windows(counts: Sequence[tuple[int, int]], rates: Sequence[Rate], now: datetime) -> tuple[int, datetime]:
    """Return how many emails the rolling windows allow now, and from when on they allow one.

    `counts` are the emails by minute, the oldest first. All emails of a minute count until its end leaves the window.
    """
    room, free_at = sys.maxsize, now
    for rate in _windows(rates):
        inside = [(_leaves_at(minute, rate), emails) for minute, emails in counts if _leaves_at(minute, rate) > now]
        left = rate.emails - sum(emails for _, emails in inside)
        room = min(room, max(left, 0))
        for leaves_at, emails in inside:
            if left > 0:
                break
            left += emails
            free_at = max(free_at, leaves_at)
    return room, free_at


def _leaves_at(minute: int, rate: Rate) -> datetime:
    return datetime.fromtimestamp((minute + 1) * 60 + rate.period_s, UTC)


def _windows(rates: Sequence[Rate]) -> Iterator[Rate]:
    return (rate for rate in rates if not rate.is_even)


def _minute_of(now: datetime) -> int:
    return int(now.timestamp()) // 60


def _next_slot(db: Connection, interval: timedelta, now: datetime) -> datetime:
    """Return the time of the next free slot, and lock it until the end of the transaction.

    One further ahead than the rate explains is taken as free now: the clock was set back, or the rate was lower.
    """
    query = select(_SLOT.c.next_at).with_for_update()
    next_at = db.scalar(query)
    if next_at is None:
        db.execute(insert_or(_SLOT).values(id=1, next_at=now).on_conflict_do_nothing())
        next_at = db.scalar(query) or now
    if not interval or next_at > now + interval + _MINUTE:
        return now
    return max(next_at, now - MAX_DELAY)


def _read_counts(db: Connection, rates: Sequence[Rate], minute: int) -> Sequence[tuple[int, int]]:
    """Return how many emails count in each minute, the oldest first. Those of the future count now.

    There are some after the clock was set back. They were sent not long ago.
    """
    if not any(_windows(rates)):
        return ()
    rows = db.execute(select(_COUNT.c.minute, _COUNT.c.emails).order_by(_COUNT.c.minute)).all()
    if not rows or rows[-1].minute <= minute + 1:
        return [(row.minute, row.emails) for row in rows]
    early = sum(row.emails for row in rows if row.minute > minute + 1)
    db.execute(delete(_COUNT).where(_COUNT.c.minute > minute + 1))
    _count(db, minute, early)
    return _read_counts(db, rates, minute)


def _take(db: Connection, rates: Sequence[Rate], reserved: Reservation) -> None:
    db.execute(update(_SLOT).values(next_at=reserved.end))
    if any(_windows(rates)):
        _count(db, reserved.minute, reserved.number)
        db.execute(delete(_COUNT).where(_COUNT.c.minute < reserved.minute - _DAY_MINUTES - 1))


def _count(db: Connection, minute: int, emails: int) -> None:
    statement = insert_or(_COUNT).values(minute=minute, emails=emails)
    added = {"emails": _COUNT.c.emails + emails}
    db.execute(statement.on_conflict_do_update(index_elements=["minute"], set_=added))

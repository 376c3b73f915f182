"""Test the time slots of a store: evenly spaced ones, rolling windows, and clocks that are set."""

from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.queue_steps import DAY, MINUTE, NOW, rows, write

from skychimp.config.types import Rate
from skychimp.models import RateCount, RateSlot
from skychimp.store.database import Store
from skychimp.store.limits import rate
from skychimp.store.limits.rate import HORIZON, MAX_DELAY, Reservation

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
TEN_A_SECOND, SIX_A_MINUTE, FIVE_AN_HOUR, EIGHT_A_DAY = Rate(10, "s"), Rate(6, "min"), Rate(5, "h"), Rate(8, "d")


def reserve(store: Store, now: datetime, *rates: Rate, wanted: int = 1000) -> Reservation:
    return write(store, lambda db: rate.reserve(db, rates, now, wanted))


def send_greedily(store: Store, rates: tuple[Rate, ...], until: timedelta) -> list[timedelta]:
    """Return when emails are sent after NOW if each slot is used and the next ones are reserved at once."""
    sent: list[timedelta] = []
    now = NOW
    while now < NOW + until:
        reserved = reserve(store, now, *rates)
        sent += [reserved.first_at + number * reserved.interval - NOW for number in range(reserved.number)]
        now = reserved.end if reserved.number and reserved.interval else max(reserved.first_at, now + timedelta(0, 1))
    return [at for at in sent if at < until]


@pytest.mark.parametrize(
    ("rates", "interval"),
    [
        ((TEN_A_SECOND,), SECOND / 10),
        ((SIX_A_MINUTE, TEN_A_SECOND), 10 * SECOND),
        ((FIVE_AN_HOUR, EIGHT_A_DAY), timedelta()),
        ((Rate(3, "s"),), timedelta(microseconds=333_334)),
    ],
)
def test_the_slowest_even_rate_is_the_time_between_two_emails(rates: tuple[Rate, ...], interval: timedelta) -> None:
    assert rate.spacing(rates) == interval


def test_slots_follow_each_other_over_reservations(store: Store) -> None:
    first = reserve(store, NOW, TEN_A_SECOND)
    second = reserve(store, NOW + SECOND / 5, TEN_A_SECOND, wanted=2)
    assert (first.first_at, first.number) == (NOW, HORIZON // first.interval)
    assert (second.first_at, second.number) == (NOW + SECOND / 2, 2)


def test_slots_that_are_too_far_ahead_are_not_reserved(store: Store) -> None:
    assert reserve(store, NOW, SIX_A_MINUTE).number == 1
    for now in (NOW, NOW + 9 * SECOND):
        refused = reserve(store, now, SIX_A_MINUTE)
        assert (refused.number, refused.first_at) == (0, NOW + 10 * SECOND)
    assert reserve(store, NOW + 10 * SECOND - HORIZON, SIX_A_MINUTE).first_at == NOW + 10 * SECOND


def test_slots_that_nobody_took_are_lost_but_for_a_moment(store: Store) -> None:
    reserve(store, NOW, TEN_A_SECOND, wanted=1)
    assert reserve(store, NOW + HOUR, TEN_A_SECOND).first_at == NOW + HOUR - MAX_DELAY


@pytest.mark.parametrize(
    ("change", "is_explained"),
    [(-30 * SECOND, True), (-HOUR, False), (-2 * DAY, False)],
    ids=["half a minute", "an hour", "two days"],
)
def test_slot_in_the_far_future_is_taken_as_now_after_the_clock_was_set_back(
    store: Store, change: timedelta, is_explained: bool
) -> None:
    reserve(store, NOW, SIX_A_MINUTE)
    reserved = reserve(store, NOW + change, SIX_A_MINUTE)
    assert reserved.first_at == (NOW + 10 * SECOND if is_explained else NOW + change)


def test_windows_are_used_as_fast_as_possible_and_roll_on(store: Store) -> None:
    sent = send_greedily(store, (FIVE_AN_HOUR, EIGHT_A_DAY), 2 * DAY)
    in_an_hour = timedelta(minutes=61)  # an email counts until its whole minute is past
    in_a_day = DAY + MINUTE
    assert sent[:8] == [timedelta()] * 5 + [in_an_hour] * 3
    assert sent[8:16] == [in_a_day] * 5 + [in_a_day + in_an_hour] * 3
    assert len(sent) == 16


@given(
    st.lists(st.integers(0, 90), max_size=60),
    st.integers(1, 20),
)
def test_no_window_is_ever_exceeded(steps_s: list[int], emails: int) -> None:
    counts: dict[int, int] = {}
    sent: list[datetime] = []
    now, limit = NOW, Rate(emails, "h")
    for step_s in steps_s:
        now += timedelta(minutes=step_s / 10)
        room, free_at = rate.room_in_windows(sorted(counts.items()), (limit,), now)
        taken = min(room, 7)
        sent += [now] * taken
        minute = int(now.timestamp()) // 60
        counts[minute] = counts.get(minute, 0) + taken
        assert (free_at > now) == (room == 0)
        assert sum(at > now - HOUR for at in sent) <= emails
        if not room:
            assert rate.room_in_windows(sorted(counts.items()), (limit,), free_at)[0] > 0
            assert rate.room_in_windows(sorted(counts.items()), (limit,), free_at - SECOND)[0] == 0


def test_even_rate_and_window_hold_together(store: Store) -> None:
    sent = send_greedily(store, (TEN_A_SECOND, Rate(30, "h")), HOUR)
    assert sent == [number * SECOND / 10 for number in range(30)]


@pytest.mark.parametrize(("change", "waits_for"), [(-3 * DAY, DAY + MINUTE), (-HOUR, DAY + MINUTE)])
def test_emails_counted_in_the_future_count_now(store: Store, change: timedelta, waits_for: timedelta) -> None:
    """They were sent not long ago, before the clock was set back. So they count, but for one window at most."""
    reserve(store, NOW, EIGHT_A_DAY)
    refused = reserve(store, NOW + change, EIGHT_A_DAY)
    assert (refused.number, refused.first_at) == (0, NOW + change + waits_for)
    assert [counted.emails for counted in rows(store, RateCount)] == [8]


def test_counts_older_than_all_windows_are_removed(store: Store) -> None:
    for day in range(4):
        assert reserve(store, NOW + day * 2 * DAY, EIGHT_A_DAY).number == 8
    assert len(rows(store, RateCount)) == 1


@pytest.mark.parametrize(
    ("give_back", "left", "next_slot"),
    [
        (lambda db, first, second: rate.give_back(db, second, 2), 5, 3),
        (lambda db, first, second: rate.give_back(db, first, 2), 5, 5),  # others have reserved behind them
        (lambda db, first, second: rate.give_back(db, first, 0), 3, 5),
    ],
    ids=["the last", "not the last", "none"],
)
def test_unused_slots_are_given_back(store: Store, give_back: Callable[..., None], left: int, next_slot: int) -> None:
    rates = (TEN_A_SECOND, EIGHT_A_DAY)
    first, second = reserve(store, NOW, *rates, wanted=2), reserve(store, NOW, *rates, wanted=3)

    write(store, lambda db: give_back(db, first, second))

    assert rows(store, RateSlot)[0].next_at == NOW + next_slot * SECOND / 10
    reserved = reserve(store, NOW + SECOND, EIGHT_A_DAY)
    assert reserved.number == left


def test_email_that_does_not_wait_counts(store: Store) -> None:
    rates = (SIX_A_MINUTE, EIGHT_A_DAY)
    for _ in range(2):
        write(store, lambda db: rate.count_one(db, rates, NOW))
    assert reserve(store, NOW, *rates).first_at == NOW + 20 * SECOND
    assert reserve(store, NOW + MINUTE, EIGHT_A_DAY).number == 6

"""Due times: a table of cases, and properties that hold for every schedule in many kinds of time zones."""

import csv
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from skychimp.delivery.scheduling import recurrence
from skychimp.delivery.scheduling.recurrence import (
    GRACE,
    MAX_MISSED,
    DueTime,
    Plan,
    Schedule,
    due_time,
    latest,
    make_plan,
    to_local,
    to_utc,
    upcoming,
)
from skychimp.delivery.scheduling.time_input import parse_local, parse_past, parse_when
from skychimp.errors import InvalidValue
from skychimp.models import CatchUp, Every
from skychimp.store.clients.queries import parser as queries

with (Path(__file__).parents[2] / "cases" / "recurrence.csv").open(encoding="utf-8") as file:
    CASES = list(csv.DictReader(file))

ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # its daylight saving time is in winter, and negative
    "America/New_York",
    "America/Sao_Paulo",  # clocks changed at midnight, so a day had no 00:00
    "Africa/Casablanca",  # clocks go back during Ramadan only
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # daylight saving of half an hour
    "Antarctica/Troll",  # daylight saving of two hours
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Kiritimati",  # had no 31 December 1994
    "Pacific/Kwajalein",  # had no 21 August 1993
]
PERIODS = {Every.DAY: timedelta(days=1), Every.WEEK: timedelta(weeks=1), Every.MONTH: timedelta(days=28)}
MAX_PERIODS = 60
"""How many due times a test computes one by one."""

zones = st.sampled_from(ZONES)
starts = st.datetimes(datetime(1975, 1, 1), datetime(2040, 1, 1)).map(
    lambda local: local.replace(second=0, microsecond=0)
)
special_starts = st.sampled_from(
    [
        datetime(2011, 12, 30, 9),
        datetime(2011, 12, 1, 23, 59),
        datetime(1994, 12, 31),
        datetime(1993, 8, 20, 12),
        datetime(2018, 11, 3, 0, 30),
        datetime(2026, 3, 28, 2, 30),
        datetime(2026, 10, 24, 2, 30),
        datetime(2028, 2, 29, 12),
    ]
)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    start, zone, every = draw(starts | special_starts), draw(zones), draw(st.sampled_from(Every))
    length = draw(st.none() | st.integers(1, MAX_PERIODS * 24 * 60))
    end = None if length is None else to_utc(start, zone) + timedelta(minutes=length)
    return Schedule(start, zone, every, end)


@st.composite
def moments(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """Return a schedule and an instant near its start, often within seconds of a due time."""
    schedule = draw(schedules())
    period = PERIODS.get(schedule.every, timedelta(days=1))
    away = draw(st.integers(-3, MAX_PERIODS - 5)) * period
    return schedule, to_utc(schedule.start, schedule.timezone) + away + draw(offsets)


offsets = st.one_of(st.just(timedelta()), st.integers(-90_000, 90_000).map(lambda seconds: timedelta(seconds=seconds)))


def computed_one_by_one(schedule: Schedule) -> list[DueTime]:
    return [due for k in range(MAX_PERIODS) if (due := due_time(schedule, k)) is not None]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_case(case: dict[str, str]) -> None:
    end = to_utc(datetime.fromisoformat(case["end_local"]), case["zone"]) if case["end_local"] else None
    schedule = Schedule(datetime.fromisoformat(case["start_local"]), case["zone"], Every(case["every"]), end)
    expected = [utc(text) for text in case["expected_due_utc"].split()]
    instants = [due.at for due in islice(upcoming(schedule, utc(case["from_utc"])), len(expected) + 1)]
    assert instants[: len(expected)] == expected
    if end is not None or schedule.every == Every.ONCE:
        assert instants == expected


@pytest.mark.parametrize(
    ("zone", "start", "every", "expected"),
    [
        (
            "Pacific/Apia",
            "2011-12-29T09:00",
            Every.DAY,
            ["2011-12-29T19:00Z", "2011-12-30T19:00Z"],  # the 29th and the 31st
        ),
        ("Pacific/Apia", "2011-12-30T09:00", Every.ONCE, []),
        ("Pacific/Apia", "2011-12-23T09:00", Every.WEEK, ["2011-12-23T19:00Z", "2012-01-05T19:00Z"]),
        ("Pacific/Apia", "2011-11-30T23:30", Every.MONTH, ["2011-12-01T09:30Z", "2012-01-30T09:30Z"]),
        ("America/Sao_Paulo", "2018-11-03T00:30", Every.DAY, ["2018-11-03T03:30Z", "2018-11-04T03:30Z"]),
        ("Australia/Lord_Howe", "2026-10-03T02:10", Every.DAY, ["2026-10-02T15:40Z", "2026-10-03T15:40Z"]),
        ("Africa/Casablanca", "2026-02-14T02:30", Every.DAY, ["2026-02-14T01:30Z", "2026-02-15T01:30Z"]),
        ("Europe/Dublin", "2026-10-24T01:30", Every.DAY, ["2026-10-24T00:30Z", "2026-10-25T00:30Z"]),
    ],
)
def test_due_times_across_unusual_clock_changes(zone: str, start: str, every: Every, expected: list[str]) -> None:
    schedule = Schedule(datetime.fromisoformat(start), zone, every)
    due_times = upcoming(schedule, utc("1990-01-01T00:00Z"))
    assert [due.at for due in islice(due_times, 2)] == [utc(text) for text in expected]


@pytest.mark.parametrize(
    ("zone", "start", "every", "k", "note"),
    [
        ("Europe/Berlin", "2026-03-28T02:30", Every.DAY, 0, ""),
        ("Europe/Berlin", "2026-03-28T02:30", Every.DAY, 1, "moved from 02:30 by the clock change"),
        ("Europe/Berlin", "2026-10-24T02:30", Every.DAY, 1, "first of two 02:30"),
        ("Europe/Berlin", "2026-10-24T01:59", Every.DAY, 1, ""),
        ("UTC", "2027-01-31T09:00", Every.MONTH, 1, "last day of the month"),
        ("Europe/Berlin", "2026-01-31T02:30", Every.MONTH, 1, "last day of the month"),
        ("Asia/Gaza", "2027-01-31T02:30", Every.MONTH, 1, "last day of the month"),
    ],
)
def test_note_explains_an_unusual_due_time(zone: str, start: str, every: Every, k: int, note: str) -> None:
    due = due_time(Schedule(datetime.fromisoformat(start), zone, every), k)
    assert due is not None
    assert due.note == note


@given(schedules(), st.integers(0, 30_000), st.integers(1, 5))
def test_due_times_strictly_increase(schedule: Schedule, k: int, more: int) -> None:
    earlier, later = due_time(schedule, k), due_time(schedule, k + more)
    assume(earlier is not None and later is not None)
    assert earlier is not None
    assert later is not None
    assert earlier.at < later.at
    assert earlier.local < later.local


@given(schedules(), st.integers(0, 30_000))
def test_wall_clock_time_is_kept_except_in_a_gap(schedule: Schedule, k: int) -> None:
    due = due_time(schedule, k)
    assume(due is not None)
    assert due is not None
    assert due.local.time() == schedule.start.time()
    zone = ZoneInfo(schedule.timezone)
    shown = due.at.astimezone(zone)
    readings = [due.local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)]
    exists = due.local in [reading.astimezone(zone).replace(tzinfo=None) for reading in readings]
    assert (shown.replace(tzinfo=None) == due.local) == exists
    if exists:
        assert due.at == min(readings)
    else:  # moved by the length of the gap
        assert shown.replace(tzinfo=None) - due.local == abs(readings[0] - readings[1])


@given(schedules(), st.integers(0, 400))
def test_monthly_keeps_the_day_or_uses_the_last_one(schedule: Schedule, k: int) -> None:
    due = due_time(Schedule(schedule.start, "UTC", Every.MONTH), k)
    assert due is not None
    months = (due.local.year - schedule.start.year) * 12 + due.local.month - schedule.start.month
    assert months == k
    if due.local.day != schedule.start.day:
        assert due.local.day < schedule.start.day
        assert (due.local + timedelta(days=1)).day == 1


@given(moments())
@example((Schedule(datetime(2026, 10, 20, 2, 30), "Europe/Berlin", Every.DAY), utc("2026-10-25T01:10Z")))
@example((Schedule(datetime(2012, 1, 2, 9), "Pacific/Apia", Every.DAY), utc("2012-01-01T19:00Z")))
def test_upcoming_and_latest_agree_with_computing_one_by_one(moment: tuple[Schedule, datetime]) -> None:
    schedule, at = moment
    due_times = computed_one_by_one(schedule)
    assert list(islice(upcoming(schedule, at), 4)) == [due for due in due_times if due.at >= at][:4]
    past = [due for due in due_times if due.at <= at]
    assert latest(schedule, at) == (past[-1] if past else None)


@settings(deadline=None)
@given(moments(), st.integers(0, MAX_PERIODS), st.integers(-200_000, 200_000))
def test_plan_agrees_with_computing_one_by_one(
    moment: tuple[Schedule, datetime], number_handled: int, age: int
) -> None:
    schedule, now = moment
    since = now - timedelta(seconds=age)
    due_times = computed_one_by_one(schedule)
    assume(number_handled < len(due_times))
    next_at = due_times[number_handled].at
    decided = make_plan(schedule, next_at=next_at, since=since, now=now)

    past = [due for due in due_times if next_at <= due.at <= now]
    future = [due for due in due_times if due.at > now]
    assert decided.next_at == (future[0].at if future else None)
    open_window = schedule.end is None or now < schedule.end
    grace = GRACE.get(schedule.every, timedelta.max)
    sendable = past and open_window and now - max(past[-1].at, since) <= grace
    assert decided.open == (past[-1:] if sendable else [])
    assert decided.missed == (past[:-1] if sendable else past)


DAILY = Schedule(datetime(2026, 1, 1, 9), "UTC", Every.DAY)


@pytest.mark.parametrize(
    ("every", "end", "next_at", "now", "opened", "missed"),
    [
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-05T08:59:59Z", None, 0),
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-05T09:00Z", "2026-01-05T09:00Z", 0),
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-05T21:00Z", "2026-01-05T09:00Z", 0),
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-05T21:00:01Z", None, 1),
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-08T10:00Z", "2026-01-08T09:00Z", 3),
        (Every.DAY, None, "2026-01-05T09:00Z", "2026-01-08T08:00Z", None, 3),
        (Every.DAY, "2026-01-08T10:00Z", "2026-01-05T09:00Z", "2026-01-08T09:59:59Z", "2026-01-08T09:00Z", 3),
        (Every.DAY, "2026-01-08T10:00Z", "2026-01-05T09:00Z", "2026-01-08T10:00Z", None, 4),
        (Every.WEEK, None, "2026-01-08T09:00Z", "2026-01-10T09:00Z", "2026-01-08T09:00Z", 0),
        (Every.WEEK, None, "2026-01-08T09:00Z", "2026-01-10T09:00:01Z", None, 1),
        (Every.MONTH, None, "2026-02-01T09:00Z", "2026-02-06T09:00Z", "2026-02-01T09:00Z", 0),
        (Every.MONTH, None, "2026-02-01T09:00Z", "2026-02-06T09:00:01Z", None, 1),
        (Every.ONCE, None, "2026-01-01T09:00Z", "2036-01-01T09:00Z", "2026-01-01T09:00Z", 0),
        (Every.ONCE, "2026-02-01T00:00Z", "2026-01-01T09:00Z", "2026-01-31T23:59:59Z", "2026-01-01T09:00Z", 0),
        (Every.ONCE, "2026-02-01T00:00Z", "2026-01-01T09:00Z", "2026-02-01T00:00Z", None, 1),
    ],
)
def test_plan_by_grace_and_end(
    every: Every, end: str | None, next_at: str, now: str, opened: str | None, missed: int
) -> None:
    schedule = Schedule(DAILY.start, "UTC", every, utc(end) if end else None)
    decided = make_plan(schedule, next_at=utc(next_at), since=DAILY.start.replace(tzinfo=UTC), now=utc(now))
    assert [due.at for due in decided.open] == ([utc(opened)] if opened else [])
    assert len(decided.missed) == missed


def test_due_time_before_creation_is_not_late() -> None:
    """Created in the middle of a month with a start on the first: it is sent, however old the start is."""
    created_at = utc("2026-01-19T12:00Z")
    monthly = Schedule(DAILY.start, "UTC", Every.MONTH)
    newest = latest(monthly, created_at)
    assert newest is not None
    decided = make_plan(monthly, next_at=newest.at, since=created_at, now=created_at + timedelta(minutes=1))
    assert decided == Plan([newest], [], utc("2026-02-01T09:00Z"))


def test_due_time_is_found_during_the_repeated_hour() -> None:
    """Due at the first 02:30, with the next run at the second 02:10: it is due now, not tomorrow."""
    schedule = Schedule(datetime(2026, 10, 1, 2, 30), "Europe/Berlin", Every.DAY)
    due = utc("2026-10-25T00:30Z")
    decided = make_plan(schedule, next_at=due, since=utc("2026-10-01T00:00Z"), now=utc("2026-10-25T01:10Z"))
    assert ([occurrence.at for occurrence in decided.open], decided.missed, decided.next_at) == (
        [due],
        [],
        utc("2026-10-26T01:30Z"),
    )


@pytest.mark.parametrize("every", [Every.DAY, Every.WEEK, Every.MONTH])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Apia"])
def test_cost_of_a_long_pause_is_limited_to_the_missed_times_that_are_listed(
    every: Every, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def counted(schedule: Schedule, k: int) -> DueTime | None:
        nonlocal calls
        calls += 1
        return due_time(schedule, k)

    monkeypatch.setattr(recurrence, "due_time", counted)
    start = datetime(1971, 1, 31, 9)
    schedule = Schedule(start, zone, every)
    now = datetime(9000, 6, 1, tzinfo=UTC)
    newest = latest(schedule, now)
    assert newest is not None
    assert calls < 10
    decided = make_plan(schedule, next_at=to_utc(start, zone), since=to_utc(start, zone), now=newest.at)
    assert decided.open == [newest]
    assert len(decided.missed) == MAX_MISSED
    assert decided.missed[-1].at < newest.at <= decided.missed[-1].at + timedelta(days=32)
    assert calls < MAX_MISSED * 1.1

    calls = 0
    ended = Schedule(start, zone, every, to_utc(datetime(1972, 1, 1), zone))
    decided = make_plan(ended, next_at=to_utc(start, zone), since=to_utc(start, zone), now=now)
    assert (decided.open, decided.next_at) == ([], None)
    assert decided.missed[0].local == start
    assert calls < 400


def test_calendar_ends_in_its_last_year() -> None:
    last = latest(DAILY, datetime(9990, 12, 31, 12, tzinfo=UTC))
    assert last is not None
    assert last.at == datetime(9990, 12, 31, 9, tzinfo=UTC)
    assert list(upcoming(DAILY, last.at + timedelta(seconds=1))) == []
    monthly = Schedule(datetime(9990, 11, 30, 9), "UTC", Every.MONTH)
    assert [due.at.month for due in upcoming(monthly, utc("2026-01-01T00:00Z"))] == [11, 12]


NOW = datetime(2026, 7, 1, 12, 0, 0, 999_999, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "at", "local"),
    [
        ("now", "2026-07-01T12:00Z", "2026-07-01T14:00"),
        (" now ", "2026-07-01T12:00Z", "2026-07-01T14:00"),
        ("+0s", "2026-07-01T12:00Z", "2026-07-01T14:00"),
        ("+10m", "2026-07-01T12:10Z", "2026-07-01T14:10"),
        ("+1d12h", "2026-07-03T00:00Z", "2026-07-03T02:00"),
        ("2026-12-01", "2026-11-30T23:00Z", "2026-12-01T00:00"),
        ("2026-12-01 09:00", "2026-12-01T08:00Z", "2026-12-01T09:00"),
        ("2026-12-01T09:00", "2026-12-01T08:00Z", "2026-12-01T09:00"),
        ("2026-12-01T09:00:30.9", "2026-12-01T08:00:30Z", "2026-12-01T09:00:30"),
        ("2026-12-01T09:00+03:00", "2026-12-01T06:00Z", "2026-12-01T07:00"),
        ("2026-12-01 09:00+03:00", "2026-12-01T06:00Z", "2026-12-01T07:00"),
        ("2026-12-01T09:00Z", "2026-12-01T09:00Z", "2026-12-01T10:00"),
        ("1970-01-01T00:00", "1969-12-31T23:00Z", "1970-01-01T00:00"),
        ("NOW", "2026-07-01T12:00Z", "2026-07-01T14:00"),
        ("today", "2026-06-30T22:00Z", "2026-07-01T00:00"),
        ("tomorrow", "2026-07-01T22:00Z", "2026-07-02T00:00"),
        ("today 9:00", "2026-07-01T07:00Z", "2026-07-01T09:00"),
        ("Tomorrow 09:00", "2026-07-02T07:00Z", "2026-07-02T09:00"),
        ("tomorrow 9am", "2026-07-02T07:00Z", "2026-07-02T09:00"),
        ("yesterday 9:30 PM", "2026-06-30T19:30Z", "2026-06-30T21:30"),
        ("tomorrow 12am", "2026-07-01T22:00Z", "2026-07-02T00:00"),
        ("tomorrow 12:05pm", "2026-07-02T10:05Z", "2026-07-02T12:05"),
        ("2026-12-01 9:00", "2026-12-01T08:00Z", "2026-12-01T09:00"),
        ("2026-12-01 9am", "2026-12-01T08:00Z", "2026-12-01T09:00"),
        ("14:00:01", "2026-07-01T12:00:01Z", "2026-07-01T14:00:01"),
        ("14:00", "2026-07-02T12:00Z", "2026-07-02T14:00"),
        ("9am", "2026-07-02T07:00Z", "2026-07-02T09:00"),
        ("09:00", "2026-07-02T07:00Z", "2026-07-02T09:00"),
        # in a gap: the wall-clock time is kept, and only the instant moves on that day
        ("2027-03-28 02:30", "2027-03-28T01:30Z", "2027-03-28T02:30"),
        ("2026-10-25 02:30", "2026-10-25T00:30Z", "2026-10-25T02:30"),
        ("2026-10-25T02:30+02:00", "2026-10-25T00:30Z", "2026-10-25T02:30"),
    ],
)
def test_valid_time_is_parsed(text: str, at: str, local: str) -> None:
    assert parse_when(text, "Europe/Berlin", NOW) == utc(at)
    assert parse_local(text, "Europe/Berlin", NOW) == datetime.fromisoformat(local)


@pytest.mark.parametrize(
    ("text", "at"),
    [("09:00", "2026-07-01T07:00Z"), ("14:00", "2026-07-01T12:00Z"), ("3pm", "2026-06-30T13:00Z")],
)
def test_past_clock_time_is_the_last_one(text: str, at: str) -> None:
    assert parse_past(text, "Europe/Berlin", NOW) == utc(at)
    assert queries.parse_time(text, "Europe/Berlin", NOW) == utc(at)


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "+", "+10", "10m", "+-1m", "+1w", "+1.5h", "+١m", "+99999999999d", "+" + "9" * 5000 + "s",
        "2026-13-01 09:00", "2026-02-30", "2026-12-01 25:00", "2026-12-01 09:00 Berlin", "2026-12-01+03:00",
        "2026-12-01x09:00", "2026-12-01 9", "20261201", "2026-W49-1", "2026-12", "9", "24:00", "9:5", "0am", "13pm",
        "09:00Z",
        "tomorrow 9", "tomorrow at 9am", "tomorrow  9am", "tomorrow09:00", "monday 9am", "٢٠٢٦-12-01", "٩:00",
        "2026-12-01 09:00\n2026-12-02", "1969-12-31 23:59", "9991-01-01", "0001-01-01T00:00+14:00",
        "9999-12-31T23:59-14:00",         "2026-12-01T09:00+25:00", "\ud800", "\x00",
    ],
)  # fmt: skip
def test_invalid_time_is_refused(text: str) -> None:
    for parse in (parse_when, parse_local):
        with pytest.raises(InvalidValue) as caught:
            parse(text, "Europe/Berlin", NOW)
        assert caught.value.message.isprintable()
        assert caught.value.hint is not None


def test_future_time_in_the_second_of_two_repeated_hours_is_refused() -> None:
    """A schedule can only express the first of the two, so it would be sent an hour early."""
    before = utc("2026-10-25T00:00Z")
    for text in ("2026-10-25T02:30+01:00", "2026-10-25T01:30Z", "+90m"):
        with pytest.raises(InvalidValue, match="second 02:30"):
            parse_local(text, "Europe/Berlin", before)
        assert parse_when(text, "Europe/Berlin", before) == utc("2026-10-25T01:30Z")
    assert parse_local("now", "Europe/Berlin", utc("2026-10-25T01:30Z")) == datetime(2026, 10, 25, 2, 30)


@given(zones, st.datetimes(datetime(1975, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_wall_clock_time_of_an_instant_means_this_instant_or_an_earlier_one(zone: str, at: datetime) -> None:
    local = to_local(at, zone)
    assert local.tzinfo is None
    assert local.fold == 0
    assert to_utc(local, zone) <= at
    assert to_local(to_utc(local, zone), zone) == local


@pytest.mark.parametrize(
    ("catch_up", "grace", "opened"),
    [
        (CatchUp.LATEST, None, ["2026-01-05"]),
        (CatchUp.LATEST, timedelta(hours=1), []),
        (CatchUp.LATEST, timedelta(hours=3), ["2026-01-05"]),
        (CatchUp.ALL, None, ["2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05"]),
        (CatchUp.ALL, timedelta(hours=26), ["2026-01-04", "2026-01-05"]),
        (CatchUp.SKIP, None, []),
        (CatchUp.SKIP, timedelta(hours=3), ["2026-01-05"]),
    ],
)
def test_plan_follows_the_catch_up_policy(catch_up: CatchUp, grace: timedelta | None, opened: list[str]) -> None:
    decided = make_plan(
        DAILY,
        next_at=utc("2026-01-02T09:00Z"),
        since=utc("2026-01-01T09:00Z"),
        now=utc("2026-01-05T11:00Z"),
        catch_up=catch_up,
        grace=grace,
    )
    assert [f"{due.local:%Y-%m-%d}" for due in decided.open] == opened
    assert len(decided.open) + len(decided.missed) == 4
    assert decided.next_at == utc("2026-01-06T09:00Z")


def test_mailing_that_skips_is_on_time_if_cron_runs_minutes_later() -> None:
    due = utc("2026-01-05T09:00Z")
    decided = make_plan(
        DAILY, next_at=due, since=due - timedelta(days=4), now=due + timedelta(minutes=5), catch_up=CatchUp.SKIP
    )
    assert [occurrence.at for occurrence in decided.open] == [due]

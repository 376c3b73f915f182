"""When a mailing is due: the table of cases, and properties that hold for every schedule in every kind of zone."""

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
    MOST_MISSED,
    Due,
    Plan,
    Schedule,
    latest,
    occurrence,
    plan,
    to_local,
    to_utc,
    upcoming,
)
from skychimp.delivery.scheduling.time_input import parse_local, parse_when
from skychimp.errors import InvalidValue
from skychimp.models import CatchUp, Every

with (Path(__file__).parents[2] / "cases" / "recurrence.csv").open(encoding="utf-8") as file:
    CASES = list(csv.DictReader(file))

ZONES = [
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # its winter is the daylight saving, and is set back
    "America/New_York",
    "America/Sao_Paulo",  # changed at midnight: a day had no 00:00
    "Africa/Casablanca",  # goes back for Ramadan only
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "Antarctica/Troll",  # two hours
    "Pacific/Apia",  # had no 30 December 2011
    "Pacific/Kiritimati",  # had no 31 December 1994
    "Pacific/Kwajalein",  # had no 21 August 1993
]
PERIODS = {Every.DAY: timedelta(days=1), Every.WEEK: timedelta(weeks=1), Every.MONTH: timedelta(days=28)}
MOST = 60  # periods that a test looks at

zones = st.sampled_from(ZONES)
starts = st.datetimes(datetime(1975, 1, 1), datetime(2040, 1, 1)).map(
    lambda local: local.replace(second=0, microsecond=0)
)
odd_starts = st.sampled_from(
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
    start, zone, every = draw(starts | odd_starts), draw(zones), draw(st.sampled_from(Every))
    length = draw(st.none() | st.integers(1, MOST * 24 * 60))
    end = None if length is None else to_utc(start, zone) + timedelta(minutes=length)
    return Schedule(start, zone, every, end)


@st.composite
def moments(draw: st.DrawFn) -> tuple[Schedule, datetime]:
    """A schedule and an instant near its beginning: often near one of its due times, to the second."""
    schedule = draw(schedules())
    period = PERIODS.get(schedule.every, timedelta(days=1))
    away = draw(st.integers(-3, MOST - 5)) * period
    return schedule, to_utc(schedule.start, schedule.timezone) + away + draw(nearly)


nearly = st.one_of(st.just(timedelta()), st.integers(-90_000, 90_000).map(lambda seconds: timedelta(seconds=seconds)))


def all_dues(schedule: Schedule) -> list[Due]:
    """By looking at one after the other, and at nothing else."""
    return [due for k in range(MOST) if (due := occurrence(schedule, k)) is not None]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_cases(case: dict[str, str]) -> None:
    end = to_utc(datetime.fromisoformat(case["end_local"]), case["zone"]) if case["end_local"] else None
    schedule = Schedule(datetime.fromisoformat(case["start_local"]), case["zone"], Every(case["every"]), end)
    expected = [utc(text) for text in case["expected_due_utc"].split()]
    found = [due.at for due in islice(upcoming(schedule, utc(case["from_utc"])), len(expected) + 1)]
    assert found[: len(expected)] == expected
    if end is not None or schedule.every == Every.ONCE:
        assert found == expected


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
def test_zones_with_a_history(zone: str, start: str, every: Every, expected: list[str]) -> None:
    schedule = Schedule(datetime.fromisoformat(start), zone, every)
    found = upcoming(schedule, utc("1990-01-01T00:00Z"))
    assert [due.at for due in islice(found, 2)] == [utc(text) for text in expected]


@pytest.mark.parametrize(
    ("zone", "start", "every", "k", "note"),
    [
        ("Europe/Berlin", "2026-03-28T02:30", Every.DAY, 0, ""),
        ("Europe/Berlin", "2026-03-28T02:30", Every.DAY, 1, "moved from 02:30 by the clock change"),
        ("Europe/Berlin", "2026-10-24T02:30", Every.DAY, 1, "the first of two 02:30"),
        ("Europe/Berlin", "2026-10-24T01:59", Every.DAY, 1, ""),
        ("UTC", "2027-01-31T09:00", Every.MONTH, 1, "the last day of the month"),
        ("Europe/Berlin", "2026-01-31T02:30", Every.MONTH, 1, "the last day of the month"),
        ("Asia/Gaza", "2027-01-31T02:30", Every.MONTH, 1, "the last day of the month"),
    ],
)
def test_what_is_odd_is_said(zone: str, start: str, every: Every, k: int, note: str) -> None:
    due = occurrence(Schedule(datetime.fromisoformat(start), zone, every), k)
    assert due is not None
    assert due.note == note


@given(schedules(), st.integers(0, 30_000), st.integers(1, 5))
def test_occurrences_strictly_increase(schedule: Schedule, k: int, more: int) -> None:
    earlier, later = occurrence(schedule, k), occurrence(schedule, k + more)
    assume(earlier is not None and later is not None)
    assert earlier is not None
    assert later is not None
    assert earlier.at < later.at
    assert earlier.local < later.local


@given(schedules(), st.integers(0, 30_000))
def test_the_wall_clock_is_kept_except_in_a_gap(schedule: Schedule, k: int) -> None:
    due = occurrence(schedule, k)
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
    else:  # shifted by the length of the gap
        assert shown.replace(tzinfo=None) - due.local == abs(readings[0] - readings[1])


@given(schedules(), st.integers(0, 400))
def test_a_month_keeps_the_day_or_takes_the_last(schedule: Schedule, k: int) -> None:
    due = occurrence(Schedule(schedule.start, "UTC", Every.MONTH), k)
    assert due is not None
    months = (due.local.year - schedule.start.year) * 12 + due.local.month - schedule.start.month
    assert months == k
    if due.local.day != schedule.start.day:
        assert due.local.day < schedule.start.day
        assert (due.local + timedelta(days=1)).day == 1


@given(moments())
@example((Schedule(datetime(2026, 10, 20, 2, 30), "Europe/Berlin", Every.DAY), utc("2026-10-25T01:10Z")))
@example((Schedule(datetime(2012, 1, 2, 9), "Pacific/Apia", Every.DAY), utc("2012-01-01T19:00Z")))
def test_upcoming_and_latest_agree_with_looking_at_each(moment: tuple[Schedule, datetime]) -> None:
    schedule, at = moment
    dues = all_dues(schedule)
    assert list(islice(upcoming(schedule, at), 4)) == [due for due in dues if due.at >= at][:4]
    past = [due for due in dues if due.at <= at]
    assert latest(schedule, at) == (past[-1] if past else None)


@settings(deadline=None)
@given(moments(), st.integers(0, MOST), st.integers(-200_000, 200_000))
def test_a_plan_agrees_with_looking_at_each(moment: tuple[Schedule, datetime], done: int, age: int) -> None:
    schedule, now = moment
    since = now - timedelta(seconds=age)
    dues = all_dues(schedule)
    assume(done < len(dues))
    next_at = dues[done].at
    made = plan(schedule, next_at=next_at, since=since, now=now)

    due = [each for each in dues if next_at <= each.at <= now]
    coming = [each for each in dues if each.at > now]
    assert made.next_at == (coming[0].at if coming else None)
    open_window = schedule.end is None or now < schedule.end
    grace = GRACE.get(schedule.every, timedelta.max)
    sendable = due and open_window and now - max(due[-1].at, since) <= grace
    assert made.open == (due[-1:] if sendable else [])
    assert made.missed == (due[:-1] if sendable else due)


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
def test_grace_and_end(every: Every, end: str | None, next_at: str, now: str, opened: str | None, missed: int) -> None:
    schedule = Schedule(DAILY.start, "UTC", every, utc(end) if end else None)
    made = plan(schedule, next_at=utc(next_at), since=DAILY.start.replace(tzinfo=UTC), now=utc(now))
    assert [due.at for due in made.open] == ([utc(opened)] if opened else [])
    assert len(made.missed) == missed


def test_what_was_past_at_creation_is_not_late() -> None:
    """Made on a Monday, for a start at the beginning of the month: the first one goes out whatever its age."""
    made_at = utc("2026-01-19T12:00Z")
    monthly = Schedule(DAILY.start, "UTC", Every.MONTH)
    newest = latest(monthly, made_at)
    assert newest is not None
    made = plan(monthly, next_at=newest.at, since=made_at, now=made_at + timedelta(minutes=1))
    assert made == Plan([newest], [], utc("2026-02-01T09:00Z"))


def test_an_occurrence_is_not_overlooked_in_the_second_of_two_hours() -> None:
    """Due at the first 02:30, and the next run comes at the second 02:10: it is due, not lost until tomorrow."""
    schedule = Schedule(datetime(2026, 10, 1, 2, 30), "Europe/Berlin", Every.DAY)
    due = utc("2026-10-25T00:30Z")
    made = plan(schedule, next_at=due, since=utc("2026-10-01T00:00Z"), now=utc("2026-10-25T01:10Z"))
    assert ([one.at for one in made.open], made.missed, made.next_at) == ([due], [], utc("2026-10-26T01:30Z"))


@pytest.mark.parametrize("every", [Every.DAY, Every.WEEK, Every.MONTH])
@pytest.mark.parametrize("zone", ["UTC", "Pacific/Apia"])
def test_an_age_of_missed_occurrences_costs_no_more_than_the_thousand_that_are_named(
    every: Every, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    def counted(schedule: Schedule, k: int) -> Due | None:
        nonlocal looked_at
        looked_at += 1
        return occurrence(schedule, k)

    monkeypatch.setattr(recurrence, "occurrence", counted)
    start = datetime(1971, 1, 31, 9)
    schedule = Schedule(start, zone, every)
    now = datetime(9000, 6, 1, tzinfo=UTC)
    newest = latest(schedule, now)
    assert newest is not None
    assert looked_at < 10
    made = plan(schedule, next_at=to_utc(start, zone), since=to_utc(start, zone), now=newest.at)
    assert made.open == [newest]
    assert len(made.missed) == MOST_MISSED
    assert made.missed[-1].at < newest.at <= made.missed[-1].at + timedelta(days=32)
    assert looked_at < MOST_MISSED * 1.1

    looked_at = 0
    ended = Schedule(start, zone, every, to_utc(datetime(1972, 1, 1), zone))
    made = plan(ended, next_at=to_utc(start, zone), since=to_utc(start, zone), now=now)
    assert (made.open, made.next_at) == ([], None)
    assert made.missed[0].local == start
    assert looked_at < 400


def test_the_calendar_has_an_end() -> None:
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
        # in a gap: the wall-clock time is kept, and is another instant only on that day
        ("2027-03-28 02:30", "2027-03-28T01:30Z", "2027-03-28T02:30"),
        ("2026-10-25 02:30", "2026-10-25T00:30Z", "2026-10-25T02:30"),
        ("2026-10-25T02:30+02:00", "2026-10-25T00:30Z", "2026-10-25T02:30"),
    ],
)
def test_times_that_a_person_writes(text: str, at: str, local: str) -> None:
    assert parse_when(text, "Europe/Berlin", NOW) == utc(at)
    assert parse_local(text, "Europe/Berlin", NOW) == datetime.fromisoformat(local)


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "NOW", "+", "+10", "10m", "+-1m", "+1w", "+1.5h", "+١m", "+99999999999d", "+" + "9" * 5000 + "s",
        "2026-13-01 09:00", "2026-02-30", "2026-12-01 25:00", "2026-12-01 09:00 Berlin", "2026-12-01+03:00",
        "2026-12-01x09:00", "2026-12-01 9", "20261201", "2026-W49-1", "2026-12", "09:00", "٢٠٢٦-12-01",
        "2026-12-01 09:00\n2026-12-02", "1969-12-31 23:59", "9991-01-01", "0001-01-01T00:00+14:00",
        "9999-12-31T23:59-14:00",         "2026-12-01T09:00+25:00", "\ud800", "\x00",
    ],
)  # fmt: skip
def test_what_is_not_a_time(text: str) -> None:
    for parse in (parse_when, parse_local):
        with pytest.raises(InvalidValue) as told:
            parse(text, "Europe/Berlin", NOW)
        assert told.value.message.isprintable()
        assert told.value.hint is not None


@pytest.mark.parametrize(
    "zone",
    [
        "",
        "Mars/Olympus",
        "Europe",
        "../etc/passwd",
        "/etc/localtime",
        "UTC\x00",
        "Zürich",
        "a" * 5000,
        "\ud800",
        "tzdata.zi",
    ],
)
def test_what_is_not_a_zone(zone: str) -> None:
    with pytest.raises(InvalidValue, match="no time zone"):
        parse_when("now", zone, NOW)


def test_the_second_of_two_hours_is_refused_while_it_is_to_come() -> None:
    """It would be sent an hour early: a schedule knows only the first of the two."""
    before = utc("2026-10-25T00:00Z")
    for text in ("2026-10-25T02:30+01:00", "2026-10-25T01:30Z", "+90m"):
        with pytest.raises(InvalidValue, match="second 02:30"):
            parse_local(text, "Europe/Berlin", before)
        assert parse_when(text, "Europe/Berlin", before) == utc("2026-10-25T01:30Z")
    assert parse_local("now", "Europe/Berlin", utc("2026-10-25T01:30Z")) == datetime(2026, 10, 25, 2, 30)


@given(zones, st.datetimes(datetime(1975, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_an_instant_has_one_wall_clock_time_and_that_time_is_at_most_this_instant(zone: str, at: datetime) -> None:
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
def test_a_mailing_catches_up_as_it_was_told(catch_up: CatchUp, grace: timedelta | None, opened: list[str]) -> None:
    made = plan(
        DAILY,
        next_at=utc("2026-01-02T09:00Z"),
        since=utc("2026-01-01T09:00Z"),
        now=utc("2026-01-05T11:00Z"),
        catch_up=catch_up,
        grace=grace,
    )
    assert [f"{due.local:%Y-%m-%d}" for due in made.open] == opened
    assert len(made.open) + len(made.missed) == 4
    assert made.next_at == utc("2026-01-06T09:00Z")


def test_a_mailing_that_skips_is_on_time_when_a_run_comes_from_cron() -> None:
    due = utc("2026-01-05T09:00Z")
    made = plan(
        DAILY, next_at=due, since=due - timedelta(days=4), now=due + timedelta(minutes=5), catch_up=CatchUp.SKIP
    )
    assert [one.at for one in made.open] == [due]

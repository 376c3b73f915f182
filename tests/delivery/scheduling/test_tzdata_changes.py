"""When a zone's rules change, a mailing keeps its wall-clock time: nothing is opened twice, and nothing skipped."""

import shutil
import zoneinfo
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import Home
from support.queue_steps import client, mailing, rows, write

from skychimp.delivery.scheduling import planner, recurrence, tzdata_changes
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.models import Every, Mailing, MailingStatus, Occurrence, OccurrenceState, StoreInfo
from skychimp.permissions import Actor
from skychimp.services.operations import housekeeping
from skychimp.store.database import Store

ZONE = "Test/Zone"
BEFORE = datetime(2026, 12, 7, 12, tzinfo=UTC)
"""A Monday; in Berlin it is 13:00."""

Become = Callable[[str], None]


@pytest.fixture
def become(tmp_path: Path) -> Iterator[Become]:
    """Gives the zone of these tests the rules of another one."""
    folder = tmp_path / "zoneinfo"
    (folder / "Test").mkdir(parents=True)

    def become(zone: str) -> None:
        place(zone, folder)
        zoneinfo.reset_tzpath([str(folder), *before])

    before = zoneinfo.TZPATH
    yield become
    zoneinfo.reset_tzpath(before)
    ZoneInfo.clear_cache()


def place(zone: str, folder: Path) -> None:
    with resources.as_file(resources.files("tzdata") / "zoneinfo" / zone) as file:
        shutil.copy(file, folder / ZONE)


def daily(store: Store, ada: Actor, every: Every = Every.DAY, end: datetime | None = None) -> None:
    """A mailing of 09:00 in the zone, which was opened for the last time before BEFORE, if it ever was."""
    client(store, ada, "bob")
    start = datetime(2026, 12, 8, 9) if every == Every.ONCE else datetime(2026, 12, 1, 9)
    schedule = Schedule(start, ZONE, every, end)
    coming = next(recurrence.upcoming(schedule, BEFORE))
    mailing(
        store, ada, every=every, start=start.replace(tzinfo=UTC), timezone=ZONE, start_local=start.isoformat(),
        start_at=recurrence.to_utc(start, ZONE), end_at=end, next_at=coming.at, status=MailingStatus.RUNNING,
    )  # fmt: skip


def follow(store: Store) -> int:
    return write(store, tzdata_changes.update_due_times)


def look(store: Store, at: datetime) -> list[str]:
    """What a run opens then, by its wall-clock time."""
    known = {row.id for row in rows(store, Occurrence)}
    give_up = timedelta(days=3)
    write(
        store,
        lambda db: planner.open_due(db, at, sender="a@b.test", return_path="a@b.test", give_up_after=give_up),
    )
    return [row.due_local for row in rows(store, Occurrence) if row.id not in known and row.state != "missed"]


@pytest.mark.parametrize(
    ("rules", "hour"),
    [
        ("Europe/London", 9),  # an hour later by UTC
        ("Europe/Moscow", 6),  # two hours earlier
        ("Asia/Tokyo", 0),
        ("America/New_York", 14),
    ],
)
@pytest.mark.parametrize("every", [Every.DAY, Every.WEEK, Every.MONTH, Every.ONCE])
def test_the_wall_clock_time_stays(
    store: Store, ada: Actor, become: Become, every: Every, rules: str, hour: int
) -> None:
    become("Europe/Berlin")
    daily(store, ada, every)
    assert follow(store) == 0
    (before,) = [row.next_at for row in rows(store, Mailing)]
    assert before is not None
    assert before.hour == 8
    become(rules)
    assert follow(store) == 1
    (after,) = [row.next_at for row in rows(store, Mailing)]
    assert after == before.replace(hour=hour)
    assert follow(store) == 0


def test_a_time_that_is_past_by_the_new_rules_is_sent_late_and_not_skipped(
    store: Store, ada: Actor, become: Become
) -> None:
    become("Europe/Berlin")
    daily(store, ada)
    follow(store)
    become("Europe/Moscow")
    now = datetime(2026, 12, 8, 7, tzinfo=UTC)  # it was to be 08:00, and is 06:00
    assert look(store, now) == []
    assert follow(store) == 1
    assert look(store, now) == ["2026-12-08T09:00:00"]
    assert look(store, now + timedelta(hours=1)) == []
    assert look(store, now + timedelta(hours=23)) == ["2026-12-09T09:00:00"]


def test_what_was_opened_is_not_opened_again(store: Store, ada: Actor, become: Become) -> None:
    become("Europe/Berlin")
    daily(store, ada)
    follow(store)
    assert look(store, datetime(2026, 12, 8, 8, tzinfo=UTC)) == ["2026-12-08T09:00:00"]
    become("Europe/London")  # 09:00 comes again, an hour later
    follow(store)
    assert look(store, datetime(2026, 12, 8, 9, tzinfo=UTC)) == []
    assert look(store, datetime(2026, 12, 9, 8, 59, tzinfo=UTC)) == []
    assert look(store, datetime(2026, 12, 9, 9, tzinfo=UTC)) == ["2026-12-09T09:00:00"]


def test_the_last_one_before_the_end_stays_before_it(store: Store, ada: Actor, become: Become) -> None:
    become("Europe/Berlin")
    daily(store, ada, end=datetime(2026, 12, 8, 8, 30, tzinfo=UTC))
    follow(store)
    become("America/New_York")
    follow(store)
    (row,) = rows(store, Mailing)
    assert row.end_at == datetime(2026, 12, 8, 14, 30, tzinfo=UTC)
    assert look(store, datetime(2026, 12, 8, 14, tzinfo=UTC)) == ["2026-12-08T09:00:00"]
    assert rows(store, Mailing)[0].next_at is None


def test_a_zone_that_is_unknown_by_now_keeps_no_other_back(store: Store, ada: Actor, become: Become) -> None:
    become("Europe/Berlin")
    daily(store, ada)
    daily_at_home = mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="Nowhere/Here")
    become("Europe/Moscow")
    assert follow(store) == 1
    assert [row.next_at for row in rows(store, Mailing) if row.id == daily_at_home] == [BEFORE]


def test_without_the_system_s_files_the_package_s_count(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="Europe/Berlin")
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    try:
        follow(store)
        by_package = rows(store, StoreInfo)[0].zone_rules
        write(store, lambda connection: connection.exec_driver_sql("UPDATE mailing SET timezone = 'Europe/Moscow'"))
        follow(store)
        assert rows(store, StoreInfo)[0].zone_rules != by_package
        assert tzdata_changes._rules("Europe/Moscow").startswith(b"TZif")
    finally:
        zoneinfo.reset_tzpath(before)


def test_a_daemon_hears_of_it_within_the_hour(store: Store, ada: Actor, become: Become) -> None:
    """By its housekeeping; rules that it has read before are read again."""
    become("Europe/Berlin")
    daily(store, ada)
    housekeeping.tidy(store)
    become("Europe/London")
    housekeeping.tidy(store)
    assert [row.next_at for row in rows(store, Mailing)] == [datetime(2026, 12, 8, 9, tzinfo=UTC)]


def test_a_run_hears_of_it_at_once(store: Store, ada: Actor, become: Become, tmp_path: Path) -> None:
    """The installed command, with rules by which what was to come in an hour is past."""
    become("Etc/UTC")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start = now + timedelta(hours=1)
    client(store, ada, "bob")
    mailing(store, ada, every=Every.DAY, start=start, timezone=ZONE)
    follow(store)
    store.close()
    become("Etc/GMT-2")
    home = Home(tmp_path, SKYCHIMP_STORE=str(store.path), SKYCHIMP_MAIL__SENDER="a@b.test")
    home.environ["PYTHONTZPATH"] = str(tmp_path / "zoneinfo")
    done = home.run("run", "--json")
    assert (done.status, done.json["sent"]) == (0, 1), done.err
    assert "time zones have new rules" in done.err
    (opened,) = rows(store, Occurrence)
    assert opened.due_local == start.replace(tzinfo=None).isoformat()
    assert opened.state == OccurrenceState.FINISHED
    assert rows(store, StoreInfo)[0].zone_rules


REAL = ("Europe/Berlin", "Europe/Moscow", "America/New_York", "Asia/Tokyo", "Australia/Lord_Howe", "Africa/Casablanca")


@given(
    start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)).map(
        lambda at: at.replace(second=0, microsecond=0)
    ),
    every=st.sampled_from([Every.DAY, Every.WEEK, Every.MONTH]),
    since=st.integers(0, 400),
    old=st.sampled_from(REAL),
    hours=st.integers(-3, 3),
)
def test_whatever_the_rules(start: datetime, every: Every, since: int, old: str, hours: int) -> None:
    """A due time that a shift of some hours has moved is still found as the one it is."""
    schedule = Schedule(start, old, every)
    due = next(recurrence.upcoming(schedule, start.replace(tzinfo=UTC) + timedelta(days=since)))
    found = recurrence.nearest(schedule, due.at + timedelta(hours=hours))
    assert found is not None
    assert found.local == due.local

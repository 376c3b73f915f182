"""New time zone rules: a mailing keeps its wall-clock time, and nothing is opened twice or skipped."""

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
from sqlalchemy import update
from support.command import Home
from support.queue_steps import create_client, create_mailing, rows, write

from skychimp.delivery.scheduling import planner, recurrence, tzdata_changes
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.models import Every, Mailing, MailingStatus, Occurrence, OccurrenceState, StoreInfo
from skychimp.permissions import Actor
from skychimp.services.operations import housekeeping
from skychimp.store.database import Store

ZONE = "Test/Zone"
BEFORE = datetime(2026, 12, 7, 12, tzinfo=UTC)
"""A Monday; in Berlin it is 13:00."""

SetRules = Callable[[str], None]


@pytest.fixture
def set_rules(tmp_path: Path) -> Iterator[SetRules]:
    """Return a function that gives the zone of these tests the rules of another one."""
    folder = tmp_path / "zoneinfo"
    (folder / "Test").mkdir(parents=True)

    def set_rules(zone: str) -> None:
        copy_rules(zone, folder)
        zoneinfo.reset_tzpath([str(folder), *before])

    before = zoneinfo.TZPATH
    yield set_rules
    zoneinfo.reset_tzpath(before)
    ZoneInfo.clear_cache()


def copy_rules(zone: str, folder: Path) -> None:
    with resources.as_file(resources.files("tzdata") / "zoneinfo" / zone) as file:
        shutil.copy(file, folder / ZONE)


def create_mailing_at_nine(store: Store, ada: Actor, every: Every = Every.DAY, end: datetime | None = None) -> None:
    """Create a mailing at 09:00 in the zone, whose next due time is the first one after BEFORE."""
    create_client(store, ada, "bob")
    start = datetime(2026, 12, 8, 9) if every == Every.ONCE else datetime(2026, 12, 1, 9)
    schedule = Schedule(start, ZONE, every, end)
    following = next(recurrence.upcoming(schedule, BEFORE))
    create_mailing(
        store, ada, every=every, start=start.replace(tzinfo=UTC), timezone=ZONE, start_local=start.isoformat(),
        start_at=recurrence.to_utc(start, ZONE), end_at=end, next_at=following.at, status=MailingStatus.RUNNING,
    )  # fmt: skip


def update_due_times(store: Store) -> int:
    return write(store, tzdata_changes.update_due_times)


def open_at(store: Store, at: datetime) -> list[str]:
    """Open what is due at a time, and return the wall-clock times of the occurrences."""
    known = {row.id for row in rows(store, Occurrence)}
    write(
        store,
        lambda db: planner.open_due(db, at, sender="a@b.test", return_path="a@b.test"),
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
def test_wall_clock_time_stays(
    store: Store, ada: Actor, set_rules: SetRules, every: Every, rules: str, hour: int
) -> None:
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada, every)
    assert update_due_times(store) == 0
    (before,) = [row.next_at for row in rows(store, Mailing)]
    assert before is not None
    assert before.hour == 8
    set_rules(rules)
    assert update_due_times(store) == 1
    (after,) = [row.next_at for row in rows(store, Mailing)]
    assert after == before.replace(hour=hour)
    assert update_due_times(store) == 0


def test_due_time_that_is_past_by_the_new_rules_is_sent_late_and_not_skipped(
    store: Store, ada: Actor, set_rules: SetRules
) -> None:
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada)
    update_due_times(store)
    set_rules("Europe/Moscow")
    now = datetime(2026, 12, 8, 7, tzinfo=UTC)  # due at 08:00 by the old rules, at 06:00 by the new ones
    assert open_at(store, now) == []
    assert update_due_times(store) == 1
    assert open_at(store, now) == ["2026-12-08T09:00:00"]
    assert open_at(store, now + timedelta(hours=1)) == []
    assert open_at(store, now + timedelta(hours=23)) == ["2026-12-09T09:00:00"]


def test_occurrence_is_not_opened_again(store: Store, ada: Actor, set_rules: SetRules) -> None:
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada)
    update_due_times(store)
    assert open_at(store, datetime(2026, 12, 8, 8, tzinfo=UTC)) == ["2026-12-08T09:00:00"]
    set_rules("Europe/London")  # 09:00 is an hour later, and comes again today
    update_due_times(store)
    assert open_at(store, datetime(2026, 12, 8, 9, tzinfo=UTC)) == []
    assert open_at(store, datetime(2026, 12, 9, 8, 59, tzinfo=UTC)) == []
    assert open_at(store, datetime(2026, 12, 9, 9, tzinfo=UTC)) == ["2026-12-09T09:00:00"]


def test_last_occurrence_stays_before_the_end(store: Store, ada: Actor, set_rules: SetRules) -> None:
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada, end=datetime(2026, 12, 8, 8, 30, tzinfo=UTC))
    update_due_times(store)
    set_rules("America/New_York")
    update_due_times(store)
    (row,) = rows(store, Mailing)
    assert row.end_at == datetime(2026, 12, 8, 14, 30, tzinfo=UTC)
    assert open_at(store, datetime(2026, 12, 8, 14, tzinfo=UTC)) == ["2026-12-08T09:00:00"]
    assert rows(store, Mailing)[0].next_at is None


@pytest.mark.parametrize(
    ("old", "new", "hour"),
    [
        ("Europe/Berlin", "Europe/London", 17),
        ("Europe/Berlin", "Africa/Lagos", 17),  # no summer time any more: the due time in winter stays
        ("Africa/Lagos", "Europe/Berlin", 16),
        ("Europe/Berlin", "Asia/Tokyo", 9),
        ("Europe/Berlin", "Europe/Paris", 16),
    ],
)
def test_end_keeps_its_wall_clock_time(
    store: Store, ada: Actor, set_rules: SetRules, old: str, new: str, hour: int
) -> None:
    """It ends on 1 July at 18:00."""
    set_rules(old)
    local = datetime(2027, 7, 1, 18)
    create_mailing_at_nine(store, ada, end=recurrence.to_utc(local, ZONE))
    update_due_times(store)
    set_rules(new)
    update_due_times(store)
    assert [row.end_at for row in rows(store, Mailing)] == [datetime(2027, 7, 1, hour, tzinfo=UTC)]
    assert recurrence.to_local(datetime(2027, 7, 1, hour, tzinfo=UTC), ZONE) == local
    assert update_due_times(store) == 0


def test_end_stays_if_only_another_zone_is_new(store: Store, ada: Actor) -> None:
    """In Casablanca the clock changes around Ramadan, which the footer of its rules leaves out."""
    ends = datetime(2027, 2, 20, 18, tzinfo=UTC)
    create_mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="Africa/Casablanca", end_at=ends)
    update_due_times(store)
    (before,) = rows(store, Mailing)
    create_mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="UTC")
    assert update_due_times(store) == 0
    assert rows(store, Mailing)[0].end_at == before.end_at


@pytest.mark.parametrize("stored", [None, "0" * 64])
def test_rules_that_an_older_version_stored_are_replaced(
    store: Store, ada: Actor, set_rules: SetRules, stored: str | None
) -> None:
    """Its end moves as the next due time does."""
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada, end=datetime(2027, 1, 8, 9, tzinfo=UTC))
    write(store, lambda db: db.execute(update(StoreInfo.__table__).values(zone_rules=stored)))
    set_rules("Europe/London")
    assert [update_due_times(store), update_due_times(store)] == [1, 0]
    assert [row.end_at for row in rows(store, Mailing)] == [datetime(2027, 1, 8, 10, tzinfo=UTC)]


def test_unknown_zone_does_not_affect_other_mailings(store: Store, ada: Actor, set_rules: SetRules) -> None:
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada)
    in_unknown_zone = create_mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="Nowhere/Here")
    set_rules("Europe/Moscow")
    assert update_due_times(store) == 1
    assert [row.next_at for row in rows(store, Mailing) if row.id == in_unknown_zone] == [BEFORE]


def test_rules_of_the_tzdata_package_are_used_without_system_files(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.DAY, start=BEFORE, timezone="Europe/Berlin")
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([])
    try:
        update_due_times(store)
        by_package = rows(store, StoreInfo)[0].zone_rules
        write(store, lambda db: db.exec_driver_sql("UPDATE mailing SET timezone = 'Europe/Moscow'"))
        update_due_times(store)
        assert rows(store, StoreInfo)[0].zone_rules != by_package
        assert tzdata_changes._read_rules("Europe/Moscow").startswith(b"TZif")
    finally:
        zoneinfo.reset_tzpath(before)


def test_housekeeping_of_a_daemon_applies_new_rules(store: Store, ada: Actor, set_rules: SetRules) -> None:
    """Rules that the process has read before are read again."""
    set_rules("Europe/Berlin")
    create_mailing_at_nine(store, ada)
    housekeeping.tidy(store)
    set_rules("Europe/London")
    housekeeping.tidy(store)
    assert [row.next_at for row in rows(store, Mailing)] == [datetime(2026, 12, 8, 9, tzinfo=UTC)]


def test_run_applies_new_rules_before_it_opens(
    store: Store, store_url: str, ada: Actor, set_rules: SetRules, tmp_path: Path
) -> None:
    """The installed command, with rules that make a due time in the next hour past."""
    set_rules("Etc/UTC")
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start = now + timedelta(hours=1)
    create_client(store, ada, "bob")
    create_mailing(store, ada, every=Every.DAY, start=start, timezone=ZONE)
    update_due_times(store)
    store.close()
    set_rules("Etc/GMT-2")
    home = Home(tmp_path, SKYCHIMP_STORE=store_url, SKYCHIMP_MAIL__SENDER="a@b.test")
    home.environ["PYTHONTZPATH"] = str(tmp_path / "zoneinfo")
    done = home.run("run", "--json")
    assert (done.status, done.json["outbox"]) == (0, 1), done.err
    assert "time zone rules changed" in done.err
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
def test_due_time_is_recognised_after_a_shift_of_some_hours(
    start: datetime, every: Every, since: int, old: str, hours: int
) -> None:
    schedule = Schedule(start, old, every)
    due = next(recurrence.upcoming(schedule, start.replace(tzinfo=UTC) + timedelta(days=since)))
    moved = recurrence.nearest(schedule, due.at + timedelta(hours=hours))
    assert moved is not None
    assert moved.local == due.local

"""Test the daemon with a clock that libfaketime moves: it opens the occurrences that a calendar gives."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support import daemons
from support.command import Home
from support.daemons import Daemon
from support.sending import rows
from support.servers import CountingReceiver

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format, Occurrence, OccurrenceState
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store.database import Store

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
MAILINGS = {
    "Europe/Berlin": ("2027-02-01 09:00", Every.DAY),
    "America/New_York": ("2027-02-01 02:30", Every.DAY),
    "Pacific/Auckland": ("2027-02-03 18:00", Every.WEEK),
    "Europe/Moscow": ("2027-01-31 12:00", Every.MONTH),
}
"""The start in local time and the period by time zone, for the mailings 1, 2, 3 and 4."""

pytestmark = [
    pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed"),
    pytest.mark.sqlite,  # with PostgreSQL, the time is that of the server, whose clock is not moved here
]


class Clock:
    """Sets the wall clock of the daemon. Its monotonic clock is not changed."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "faketime"

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # with it, a thread that waits ends its wait at once, all the time
        }

    def set(self, at: datetime) -> None:
        draft = self.file.with_suffix(".new")
        draft.write_text(f"{(at - datetime.now(UTC)).total_seconds():+.0f}")
        draft.rename(self.file)


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as receiver:
        yield receiver


def create_mailings(store: Store, ada: Actor) -> None:
    message = messages.create(store, ada, MessageContent("Hello", "text", Format.TEXT))
    clients.create(store, ada, email="bob@example.org")
    for zone, (start, every) in MAILINGS.items():
        schedule = ScheduleInput(start, None, every, zone)
        mailings.create(store, ada, message_id=message.id, schedule=schedule, audience=Audience(all_clients=True))


def expected_due_times(first: datetime, last: datetime) -> list[tuple[datetime, int]]:
    """Return the due times from the first to the last with their mailing ids, from known UTC offsets and dates."""
    due: list[tuple[datetime, int]] = []
    day = first.replace(hour=0, minute=0)
    while day <= last:
        berlin = 8 if day < datetime(2027, 3, 28, tzinfo=UTC) else 7  # 09:00 CET, then CEST
        due.append((day.replace(hour=berlin), 1))
        # 02:30 EST; on 14 March it does not exist and is 03:30 EDT, the same instant; then EDT
        new_york = 7 if day <= datetime(2027, 3, 14, tzinfo=UTC) else 6
        due.append((day.replace(hour=new_york, minute=30), 2))
        if day.weekday() == 2:  # Wednesdays 18:00: NZDT up to 4 April, then NZST
            due.append((day.replace(hour=5 if day < datetime(2027, 4, 4, tzinfo=UTC) else 6), 3))
        if (day.month, day.day) in ((1, 31), (2, 28), (3, 31), (4, 30)):  # the 31st, or a month's last day
            due.append((day.replace(hour=9), 4))
        day += timedelta(days=1)
    return [(at, mailing_id) for at, mailing_id in sorted(due) if first <= at <= last]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(
            "2027-03-27T12:00", "2027-03-29T12:00", id="two days around a clock change", marks=pytest.mark.slow
        ),
        pytest.param("2027-02-01T00:00", "2027-04-30T23:00", id="a quarter", marks=pytest.mark.soak),
    ],
)
@pytest.mark.timeout(900)
def test_daemon_follows_the_calendars_of_four_time_zones(
    store: Store, ada: Actor, tmp_path: Path, clock: Clock, receiver: CountingReceiver, first: str, last: str
) -> None:
    begin, end = (datetime.fromisoformat(at).replace(tzinfo=UTC) for at in (first, last))
    create_mailings(store, ada)
    expected = expected_due_times(begin, end)
    clock.set(begin)
    with Daemon(store, daemons.write_config(tmp_path, receiver.port), daemons.clean_environ(**clock.environ)) as daemon:
        # Send what is due before the clock moves: a jump of a day would make these emails expire.
        daemon.wait_for(lambda: "mailings due" in daemon.event_names and not unfinished(store))
        for at, _ in expected:
            clock.set(at + timedelta(seconds=30))
            daemon.wait_for(lambda: is_sent(store, at, receiver))  # noqa: B023
        daemon.wait_for(lambda: not unfinished(store))
        assert daemon.stop() == 0
    assert receiver.accepted_count == len(finished(store))
    opened = sorted((row.due_at, row.mailing_id) for row in rows(store, Occurrence) if row.due_at >= begin)
    assert opened == expected
    assert all(count == 1 for count in receiver.email_counts().values())
    for row in rows(store, Occurrence):  # the local time stays the same, except for the hour that does not exist
        zone, (start, _) = list(MAILINGS.items())[row.mailing_id - 1]
        local = row.due_at.astimezone(ZoneInfo(zone))
        assert f"{local:%H:%M}" == ("03:30" if (row.mailing_id, local.month, local.day) == (2, 3, 14) else start[-5:])


def clock_errors(daemon: Daemon) -> int:
    return sum("but the store was last used at" in str(event) for event in daemon.event_names)


def is_sent(store: Store, at: datetime, receiver: CountingReceiver) -> bool:
    """Return whether the occurrence that was due at a time was opened, and all emails have been sent."""
    opened = [row.due_at for row in rows(store, Occurrence) if row.state != OccurrenceState.MISSED]
    return at in opened and receiver.accepted_count == len(opened)


def unfinished(store: Store) -> list[Occurrence]:
    return [row for row in rows(store, Occurrence) if row.state in (OccurrenceState.OPENING, OccurrenceState.OPEN)]


def finished(store: Store) -> list[Occurrence]:
    return [row for row in rows(store, Occurrence) if row.state == OccurrenceState.FINISHED]


def test_clock_that_is_set_back_and_forward_repeats_and_skips_nothing(
    store: Store, ada: Actor, tmp_path: Path, clock: Clock, receiver: CountingReceiver
) -> None:
    create_mailings(store, ada)
    noon = datetime(2027, 2, 10, 12, 0, tzinfo=UTC)
    clock.set(noon)
    with Daemon(store, daemons.write_config(tmp_path, receiver.port), daemons.clean_environ(**clock.environ)) as daemon:
        daemon.wait_for(lambda: len(finished(store)) == 3)  # the monthly one is too late to be sent
        clock.set(noon - timedelta(hours=5))  # before two due times that were just sent
        daemon.wait_for(lambda: clock_errors(daemon) == 1)
        assert len(finished(store)) == 3
        time.sleep(2.5)  # it polls each second
        assert clock_errors(daemon) == 1
        clock.set(noon)
        clock.set(noon + timedelta(days=1))
        daemon.wait_for(lambda: len(finished(store)) == 5)
        assert daemon.stop() == 0
    assert sorted(receiver.email_counts().values()) == [1] * 5
    assert len({(row.mailing_id, row.due_local) for row in rows(store, Occurrence)}) == len(rows(store, Occurrence))


@pytest.mark.slow
def test_run_with_a_clock_that_was_days_ahead_loses_no_email(
    store: Store, store_url: str, ada: Actor, tmp_path: Path, clock: Clock, receiver: CountingReceiver
) -> None:
    """The installed command: one run three days ahead, the right clock accepted, and then a run each day."""
    start = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    message = messages.create(store, ada, MessageContent("Hello", "text", Format.TEXT))
    clients.create(store, ada, email="bob@example.org")
    for every in (Every.DAY, Every.ONCE):  # the second one is over in the future
        end = None if every == Every.DAY else (start + timedelta(days=2)).isoformat()
        schedule = ScheduleInput(start.isoformat(), end, every, "UTC")
        mailings.create(store, ada, message_id=message.id, schedule=schedule, audience=Audience(all_clients=True))
    store.close()
    home = Home(tmp_path, SKYCHIMP_STORE=store_url, SKYCHIMP_CONFIG=str(daemons.write_config(tmp_path, receiver.port)))

    def run_on_day(day: int) -> object:
        clock.set(start + timedelta(days=day, minutes=1))
        return home.run("run", "--json", environ=clock.environ).json["sent"]

    assert run_on_day(3) == 1
    refused = home.run("run")
    assert (refused.status, "--accept-clock" in refused.err) == (3, True)
    accepted = home.run("doctor", "--accept-clock", "--operator", "--yes", "--json")
    assert (accepted.json["restored"], len(accepted.json["passed"])) == (4, 1)
    assert [run_on_day(day) for day in range(5)] == [2, 1, 1, 0, 1]
    assert sorted(receiver.email_counts().values()) == [1] * 6

"""A changed schedule promises only what a run then does, also on a day that was sent already."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlmodel import Session
from support.command import Home
from support.queue_steps import create_client, create_mailing

from skychimp.delivery.scheduling import planner, recurrence
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.models import CatchUp, Every, Mailing, Occurrence, OccurrenceState
from skychimp.permissions import Actor
from skychimp.services.mailings.schedules import ScheduleInput, reschedule
from skychimp.store.database import Store

ZONES = ("Europe/Berlin", "America/New_York", "Pacific/Kiritimati", "Asia/Kathmandu", "UTC")
MARCH = datetime(2026, 3, 20)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

starts = st.integers(0, 24 * 20).map(lambda hours: MARCH + hours * HOUR)
moments = st.integers(0, 60 * 24 * 30).map(lambda minutes: MARCH.replace(tzinfo=UTC) + timedelta(minutes=minutes))
changes = st.fixed_dictionaries(
    {"start": st.none() | starts, "every": st.sampled_from(Every), "timezone": st.sampled_from(ZONES)}
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=starts,
    every=st.sampled_from(Every),
    timezone=st.sampled_from(ZONES),
    catch_up=st.sampled_from(CatchUp),
    moments=st.lists(moments, min_size=1, max_size=6).map(sorted),
    end=st.none() | moments,
    change=changes,
)
@example(  # sent today at 09:00 in Berlin, and 09:00 in New York is still to come
    start=MARCH + 9 * HOUR,
    every=Every.DAY,
    timezone="Europe/Berlin",
    catch_up=CatchUp.LATEST,
    moments=[MARCH.replace(tzinfo=UTC) + 9 * HOUR] * 2,
    end=None,
    change={"start": None, "every": Every.DAY, "timezone": "America/New_York"},
)
def test_next_due_time_of_a_changed_schedule_is_the_next_one_to_open(
    store: Store,
    ada: Actor,
    start: datetime,
    every: Every,
    timezone: str,
    catch_up: CatchUp,
    moments: Sequence[datetime],
    end: datetime | None,
    change: dict[str, object],
) -> None:
    first = recurrence.to_utc(start, timezone)
    mailing_id = create_mailing(
        store, ada, every=every, start=first, timezone=timezone, start_local=start.isoformat(), catch_up=catch_up,
        created_at=moments[0] - DAY,
    )  # fmt: skip
    *runs, now = moments
    with store.write() as db:
        for at in runs:
            opened_at(db, mailing_id, at)
        mailing = db.get_one(Mailing, mailing_id)
        db.refresh(mailing)
        new_start, new_zone = change["start"] or start, str(change["timezone"])
        assert isinstance(new_start, datetime)
        if end is not None and end <= recurrence.to_utc(new_start, new_zone):
            end = None
        typed = ScheduleInput(
            new_start.isoformat(), None if end is None else end.isoformat(), Every(str(change["every"])), new_zone
        )
        reschedule(db, mailing, typed, now)
        promised = mailing.next_at
        if promised is None:
            assert opened_at(db, mailing_id, now) == opened_at(db, mailing_id, now + 40 * DAY) == []
        elif promised <= now:
            assert opened_at(db, mailing_id, now)
        else:
            assert opened_at(db, mailing_id, promised - timedelta(seconds=1)) == []
            assert opened_at(db, mailing_id, promised) == [promised]


def opened_at(db: Session, mailing_id: int, at: datetime) -> list[datetime]:
    """Open what is due at a time, and return the due times that were opened."""
    db.flush()
    query = Occurrence.__table__.select().where(
        Occurrence.__table__.c.mailing_id == mailing_id, Occurrence.__table__.c.state != OccurrenceState.MISSED
    )
    known = {row.id for row in db.execute(query)}
    planner.open_due(db.connection(), at, sender="a@b.test", return_path="a@b.test", mailing_id=mailing_id)
    return [row.due_at for row in db.execute(query) if row.id not in known]


def test_command_says_when_the_next_email_goes_out_after_a_change_of_zone(home: Home, store: Store, ada: Actor) -> None:
    """In Kiritimati it was sent today. In Honolulu, 24 hours behind, the same wall-clock time comes again."""
    create_client(store, ada, "bob")
    home.call("messages", "create", "--subject", "s", "--body", "b")
    here = datetime.now(UTC) + 14 * HOUR
    start = (here - timedelta(minutes=2)).strftime("%Y-%m-%d %H:%M")
    mailing = (
        "--message",
        "1",
        "--every",
        "day",
        "--all-clients",
        "--start",
        start,
        "--timezone",
        "Pacific/Kiritimati",
    )
    assert home.call("mailings", "create", *mailing).status == 0
    changed = home.call("mailings", "update", "1", "--timezone", "Pacific/Honolulu", "--json")
    local = recurrence.to_local(datetime.fromisoformat(changed.json["next_at"]), "Pacific/Honolulu")
    assert local == datetime.fromisoformat(start) + DAY
    assert f"next due {local:%Y-%m-%d %H:%M} Pacific/Honolulu" in changed.err
    (due,) = home.call("mailings", "preview", "1", "--next", "1", "--json").json
    assert due["due_at"] == changed.json["next_at"]


def test_due_time_that_is_too_late_is_not_promised(home: Home, store: Store, ada: Actor) -> None:
    home.call("messages", "create", "--subject", "s", "--body", "b")
    create_client(store, ada, "bob")
    start = (datetime.now(UTC) - 13 * HOUR).strftime("%Y-%m-%dT%H:%MZ")
    mailing = ("--message", "1", "--every", "day", "--all-clients", "--start", start)
    home.call("mailings", "create", *mailing, "--no-send")
    with store.write() as db:
        db.get_one(Mailing, 1).created_at -= DAY
    changed = home.call("mailings", "update", "1", "--end", "+9d", "--json")
    assert datetime.fromisoformat(changed.json["next_at"]) == datetime.fromisoformat(start) + DAY


@pytest.mark.parametrize(("opened", "expected"), [(set(), 1), ({"2026-03-01T09:00:00"}, 2)])
def test_next_unopened_leaves_out_wall_clock_times(opened: set[str], expected: int) -> None:
    schedule = Schedule(datetime(2026, 3, 1, 9), "UTC", Every.DAY)
    due = recurrence.next_unopened(schedule, datetime(2026, 3, 1, tzinfo=UTC), opened)
    assert due is not None
    assert due.local.day == expected

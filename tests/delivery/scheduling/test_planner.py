"""The planner: what is due is opened once, with all that its letters need, and what was missed is said."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.queue_steps import (
    DAY,
    GIVE_UP_AFTER,
    MINUTE,
    NOW,
    change,
    claim,
    client,
    delete_mailing,
    due,
    fill,
    mailing,
    number_of,
    occurrence_state,
    one,
    open_due,
    opened,
    rows,
    send,
    status,
    sweep,
    write,
)

from skychimp.delivery.scheduling import planner
from skychimp.delivery.scheduling.recurrence import Schedule
from skychimp.models import (
    Delivery,
    Every,
    Format,
    Mailing,
    MailingStatus,
    Message,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
    User,
)
from skychimp.permissions import Actor
from skychimp.store.database import Store

HOUR = timedelta(hours=1)


def history(store: Store, mailing_id: int = 1) -> list[tuple[str, OccurrenceState]]:
    """Local due time and state of each occurrence of a mailing."""
    found = [row for row in rows(store, Occurrence) if row.mailing_id == mailing_id]
    return [(row.due_local, row.state) for row in found]


def test_an_occurrence_keeps_all_that_its_letters_need(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.DAY, timezone="Asia/Tokyo", start_local="2026-03-02T18:00:00")
    change(store, Message, 1, format=Format.MARKDOWN, html="<p>Hello")

    assert open_due(store, NOW + MINUTE) == 1
    change(store, Message, 1, subject="Other", body="Other", format=Format.TEXT, html=None)
    change(store, Mailing, 1, timezone="UTC")

    found = one(store, Occurrence, 1)
    assert (found.mailing_id, found.state, found.cursor) == (1, OccurrenceState.OPENING, 0)
    assert (found.due_at, found.due_local, found.timezone) == (NOW, "2026-03-02T18:00:00", "Asia/Tokyo")
    assert (found.subject, found.body) == ("Hello", "Dear {{ client.name }}")
    assert (found.format, found.html) == (Format.MARKDOWN, "<p>Hello")
    assert (found.sender, found.return_path) == ("Ada <ada@skychimp.test>", "ada@skychimp.test")
    assert (found.opened_at, found.finished_at) == (NOW + MINUTE, None)
    assert number_of(store, Delivery) == 0


def test_twice_is_the_same_as_once(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.DAY)

    assert [open_due(store) for _ in range(3)] == [1, 0, 0]
    change(store, Mailing, 1, next_at=NOW)
    assert open_due(store) == 0

    assert history(store) == [("2026-03-02T09:00:00", OccurrenceState.OPENING)]
    assert one(store, Mailing, 1).next_at == NOW + DAY


DEADLINES = {
    "what the settings allow": (Every.MONTH, None, 3 * DAY, 3 * DAY),
    "the next due time": (Every.DAY, None, 3 * DAY, DAY),
    "the next due time, in a month": (Every.MONTH, None, 99 * DAY, 31 * DAY),
    "the end": (Every.ONCE, 5 * HOUR, 3 * DAY, 5 * HOUR),
    "the end before the next due time": (Every.DAY, 23 * HOUR, 3 * DAY, 23 * HOUR),
    "the settings before the end": (Every.ONCE, 9 * DAY, HOUR, HOUR),
    "nothing else": (Every.ONCE, None, 3 * DAY, 3 * DAY),
}


@pytest.mark.parametrize("what", DEADLINES)
@pytest.mark.parametrize("late", [timedelta(), 30 * MINUTE])
def test_the_deadline_is_the_earliest_of_three(store: Store, ada: Actor, what: str, late: timedelta) -> None:
    """Opening and what the settings allow, the next due time, the end."""
    every, end, give_up_after, expected = DEADLINES[what]
    mailing(store, ada, every=every, end_at=NOW + end if end else None)

    open_due(store, NOW + late, give_up_after)

    since_opening = late if expected == give_up_after else timedelta()
    assert one(store, Occurrence, 1).deadline == NOW + expected + since_opening


def test_a_deadline_stays_when_the_schedule_changes(store: Store, ada: Actor) -> None:
    """The occurrence that is open goes on beside the one that the new schedule opens."""
    opened(store, ada, "bob", every=Every.MONTH)
    change(store, Mailing, 1, every=Every.DAY, next_at=NOW + DAY)

    assert open_due(store, NOW + DAY) == 1
    fill(store, 2)

    assert [found.deadline for found in rows(store, Occurrence)] == [NOW + GIVE_UP_AFTER, NOW + 2 * DAY]
    assert due(store, NOW + DAY) == [1, 2]


# Late, or too late

OPENING, MISSED = OccurrenceState.OPENING, OccurrenceState.MISSED
DOWN = {
    "a day, by the last of its grace": (Every.DAY, None, 4 * DAY + 12 * HOUR, [MISSED] * 4 + [OPENING]),
    "a day, too late": (Every.DAY, None, 4 * DAY + 12 * HOUR + MINUTE, [MISSED] * 5),
    "a week, in its grace": (Every.WEEK, None, 9 * DAY, [MISSED, OPENING]),
    "a week, too late": (Every.WEEK, None, 9 * DAY + MINUTE, [MISSED, MISSED]),
    "once, without an end": (Every.ONCE, None, 400 * DAY, [OPENING]),
    "once, before its end": (Every.ONCE, 10 * DAY, 10 * DAY - MINUTE, [OPENING]),
    "once, after its end": (Every.ONCE, 10 * DAY, 10 * DAY, [MISSED]),
    "every day, after the end": (Every.DAY, DAY + HOUR, 9 * DAY, [MISSED, MISSED]),
}


@pytest.mark.parametrize("what", DOWN)
def test_after_a_time_without_runs(store: Store, ada: Actor, what: str) -> None:
    """The latest is sent if it is within its grace, the others are recorded as missed."""
    every, end, down, expected = DOWN[what]
    mailing(store, ada, every=every, end_at=NOW + end if end else None)

    assert open_due(store, NOW + down) == expected.count(OPENING)

    assert [state for _, state in history(store)] == expected
    for found in rows(store, Occurrence):
        if found.state == MISSED:
            assert (found.deadline, found.finished_at) == (found.due_at, NOW + down)
    assert status(store) == (
        MailingStatus.RUNNING
        if OPENING in expected
        else MailingStatus.COMPLETED
        if one(store, Mailing, 1).next_at is None
        else MailingStatus.CREATED
    )
    assert due(store, NOW + down) == [row.id for row in rows(store, Occurrence) if row.state == OPENING]


def test_what_was_past_when_the_mailing_was_made_is_not_late(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.MONTH, start=NOW - 20 * DAY, created_at=NOW)

    assert open_due(store) == 1


def test_a_missed_one_is_never_opened_later(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.DAY)
    open_due(store, NOW + 13 * HOUR)
    change(store, Mailing, 1, next_at=NOW)

    assert open_due(store, NOW + HOUR) == 0
    assert history(store) == [("2026-03-02T09:00:00", MISSED)]


# What is not opened


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Mailing, {"disabled_at": NOW}),
        (Mailing, {"next_at": NOW + MINUTE}),
        (Mailing, {"next_at": None}),
        (User, {"blocked_at": NOW}),
        (StoreInfo, {"held_at": NOW}),
    ],
)
def test_what_keeps_a_mailing_from_being_opened(
    store: Store, ada: Actor, table: type[Mailing], values: dict[str, object]
) -> None:
    mailing(store, ada)
    before = one(store, table, 1).model_dump() | values
    change(store, table, 1, **values)

    assert open_due(store) == 0

    assert rows(store, Occurrence) == []
    assert one(store, table, 1).model_dump() == before


def test_a_deleted_mailing_is_not_opened(store: Store, ada: Actor) -> None:
    mailing(store, ada)
    delete_mailing(store, 1)

    assert open_due(store) == 0


def test_only_the_mailing_that_is_asked_for(store: Store, ada: Actor) -> None:
    for _ in range(3):
        mailing(store, ada)

    who = "ada@skychimp.test"
    number = write(
        store,
        lambda db: planner.open_due(db, NOW, sender=who, return_path=who, give_up_after=DAY, mailing_id=2),
    )

    assert number == 1
    assert [found.mailing_id for found in rows(store, Occurrence)] == [2]
    assert open_due(store) == 2


# From the first occurrence to the last


def test_a_mailing_from_created_to_completed(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")
    mailing(store, ada, every=Every.DAY, end_at=NOW + 2 * DAY)
    assert status(store) == MailingStatus.CREATED

    for number in (1, 2):
        now = NOW + (number - 1) * DAY
        open_due(store, now)
        assert status(store) == MailingStatus.RUNNING
        fill(store, number)
        send(store, 1, Outcome.SENT, *claim(store, now=now, occurrence_id=number))
        sweep(store, now)

    assert one(store, Mailing, 1).next_at is None
    assert (occurrence_state(store, 2), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


@pytest.mark.parametrize(
    ("every", "start", "local_times"),
    [
        (Every.DAY, "2026-03-28T02:30:00", ["2026-03-28T02:30:00", "2026-03-29T02:30:00", "2026-03-30T02:30:00"]),
        (Every.MONTH, "2026-01-31T09:00:00", ["2026-01-31T09:00:00", "2026-02-28T09:00:00", "2026-03-31T09:00:00"]),
    ],
)
def test_each_occurrence_is_named_by_its_wall_clock_time(
    store: Store, ada: Actor, every: Every, start: str, local_times: list[str]
) -> None:
    """Through the night without 02:30, and through a short month."""
    first = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    mailing(store, ada, every=every, start_local=start, start=first, timezone="Europe/Berlin")

    for _ in local_times:
        now = one(store, Mailing, 1).next_at
        assert now is not None
        assert open_due(store, now) == 1

    assert [local for local, _ in history(store)] == local_times
    instants = [found.due_at.astimezone(ZoneInfo("Europe/Berlin")) for found in rows(store, Occurrence)]
    assert [at.hour for at in instants] == [2, 3, 2] if every == Every.DAY else [9, 9, 9]


# What it says beforehand


def test_what_is_due_and_what_will_be_done_about_it(store: Store, ada: Actor) -> None:
    later = mailing(store, ada, start=NOW + MINUTE, every=Every.DAY)
    sooner = mailing(store, ada, every=Every.DAY, start=NOW - DAY)
    mailing(store, ada, start=NOW + DAY)

    found = write(store, lambda db: list(planner.due(db, NOW + MINUTE)))

    assert [row.id for row, _ in found] == [sooner, later]
    plan = found[0][1]
    assert ([due.at for due in plan.open], [missed.at for missed in plan.missed], plan.next_at) == (
        [NOW],
        [NOW - DAY],
        NOW + DAY,
    )
    assert rows(store, Occurrence) == []
    assert [row.id for row, _ in write(store, lambda c: list(planner.due(c, NOW + MINUTE, later)))] == [later]


def test_a_schedule_is_what_the_row_says(store: Store, ada: Actor) -> None:
    mailing(store, ada, every=Every.WEEK, timezone="Asia/Tokyo", end_at=NOW + DAY)

    assert planner.schedule(one(store, Mailing, 1)) == Schedule(
        NOW.replace(tzinfo=None), "Asia/Tokyo", Every.WEEK, NOW + DAY
    )


def test_a_due_time_is_shown_in_its_zone() -> None:
    assert planner.due_in_zone(NOW, "Asia/Kathmandu").isoformat() == "2026-03-02T14:45:00+05:45"

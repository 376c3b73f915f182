"""The planner: what is due is opened once, with everything its emails need, and missed due times are recorded."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from support.queue_steps import (
    DAY,
    GIVE_UP_AFTER,
    MINUTE,
    NOW,
    claim,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    delete_mailing,
    due_occurrences,
    get_row,
    occurrence_state,
    open_due,
    open_mailing,
    rows,
    send,
    status,
    sweep,
    update_row,
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
    """Return the local due time and the state of each occurrence of a mailing."""
    occurrences = [row for row in rows(store, Occurrence) if row.mailing_id == mailing_id]
    return [(occurrence.due_local, occurrence.state) for occurrence in occurrences]


def test_occurrence_keeps_everything_its_emails_need(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.DAY, timezone="Asia/Tokyo", start_local="2026-03-02T18:00:00")
    update_row(store, Message, 1, format=Format.MARKDOWN, html="<p>Hello")

    assert open_due(store, NOW + MINUTE) == 1
    update_row(store, Message, 1, subject="Other", body="Other", format=Format.TEXT, html=None)
    update_row(store, Mailing, 1, timezone="UTC")

    occurrence = get_row(store, Occurrence, 1)
    assert (occurrence.mailing_id, occurrence.state, occurrence.cursor) == (1, OccurrenceState.OPENING, 0)
    assert (occurrence.due_at, occurrence.due_local, occurrence.timezone) == (NOW, "2026-03-02T18:00:00", "Asia/Tokyo")
    assert (occurrence.subject, occurrence.body) == ("Hello", "Dear {{ client.name }}")
    assert (occurrence.format, occurrence.html) == (Format.MARKDOWN, "<p>Hello")
    assert (occurrence.sender, occurrence.return_path) == ("Ada <ada@skychimp.test>", "ada@skychimp.test")
    assert (occurrence.opened_at, occurrence.finished_at) == (NOW + MINUTE, None)
    assert count_rows(store, Delivery) == 0


def test_opening_twice_opens_nothing_more(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.DAY)

    assert [open_due(store) for _ in range(3)] == [1, 0, 0]
    update_row(store, Mailing, 1, next_at=NOW)
    assert open_due(store) == 0

    assert history(store) == [("2026-03-02T09:00:00", OccurrenceState.OPENING)]
    assert get_row(store, Mailing, 1).next_at == NOW + DAY


DEADLINES = {
    "give_up_after": (Every.MONTH, None, 3 * DAY, 3 * DAY),
    "the next due time": (Every.DAY, None, 3 * DAY, DAY),
    "the next due time, in a month": (Every.MONTH, None, 99 * DAY, 31 * DAY),
    "the end": (Every.ONCE, 5 * HOUR, 3 * DAY, 5 * HOUR),
    "the end before the next due time": (Every.DAY, 23 * HOUR, 3 * DAY, 23 * HOUR),
    "give_up_after before the end": (Every.ONCE, 9 * DAY, HOUR, HOUR),
    "give_up_after of a mailing without an end": (Every.ONCE, None, 3 * DAY, 3 * DAY),
}


@pytest.mark.parametrize("case", DEADLINES)
@pytest.mark.parametrize("late", [timedelta(), 30 * MINUTE])
def test_deadline_is_the_earliest_of_three_times(store: Store, ada: Actor, case: str, late: timedelta) -> None:
    """The end of give_up_after, the next due time, and the mailing's end."""
    every, end, give_up_after, expected = DEADLINES[case]
    create_mailing(store, ada, every=every, end_at=NOW + end if end else None)

    open_due(store, NOW + late, give_up_after)

    since_opening = late if expected == give_up_after else timedelta()
    assert get_row(store, Occurrence, 1).deadline == NOW + expected + since_opening


def test_deadline_stays_when_the_schedule_changes(store: Store, ada: Actor) -> None:
    """The open occurrence continues while the new schedule opens another one."""
    open_mailing(store, ada, "bob", every=Every.MONTH)
    update_row(store, Mailing, 1, every=Every.DAY, next_at=NOW + DAY)

    assert open_due(store, NOW + DAY) == 1
    create_deliveries(store, 2)

    assert [occurrence.deadline for occurrence in rows(store, Occurrence)] == [NOW + GIVE_UP_AFTER, NOW + 2 * DAY]
    assert due_occurrences(store, NOW + DAY) == [1, 2]


# Late due times

OPENING, MISSED = OccurrenceState.OPENING, OccurrenceState.MISSED
DOWNTIMES = {
    "daily, at the end of its grace": (Every.DAY, None, 4 * DAY + 12 * HOUR, [MISSED] * 4 + [OPENING]),
    "daily, too late": (Every.DAY, None, 4 * DAY + 12 * HOUR + MINUTE, [MISSED] * 5),
    "weekly, within its grace": (Every.WEEK, None, 9 * DAY, [MISSED, OPENING]),
    "weekly, too late": (Every.WEEK, None, 9 * DAY + MINUTE, [MISSED, MISSED]),
    "once, without an end": (Every.ONCE, None, 400 * DAY, [OPENING]),
    "once, before its end": (Every.ONCE, 10 * DAY, 10 * DAY - MINUTE, [OPENING]),
    "once, after its end": (Every.ONCE, 10 * DAY, 10 * DAY, [MISSED]),
    "daily, after the end": (Every.DAY, DAY + HOUR, 9 * DAY, [MISSED, MISSED]),
}


@pytest.mark.parametrize("case", DOWNTIMES)
def test_after_a_downtime_only_the_latest_is_opened_within_its_grace(store: Store, ada: Actor, case: str) -> None:
    """The others are recorded as missed."""
    every, end, downtime, expected = DOWNTIMES[case]
    create_mailing(store, ada, every=every, end_at=NOW + end if end else None)

    assert open_due(store, NOW + downtime) == expected.count(OPENING)

    assert [state for _, state in history(store)] == expected
    for occurrence in rows(store, Occurrence):
        if occurrence.state == MISSED:
            assert (occurrence.deadline, occurrence.finished_at) == (occurrence.due_at, NOW + downtime)
    assert status(store) == (
        MailingStatus.RUNNING
        if OPENING in expected
        else MailingStatus.COMPLETED
        if get_row(store, Mailing, 1).next_at is None
        else MailingStatus.CREATED
    )
    assert due_occurrences(store, NOW + downtime) == [row.id for row in rows(store, Occurrence) if row.state == OPENING]


def test_due_time_before_creation_is_not_late(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.MONTH, start=NOW - 20 * DAY, created_at=NOW)

    assert open_due(store) == 1


def test_missed_occurrence_is_never_opened(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.DAY)
    open_due(store, NOW + 13 * HOUR)
    update_row(store, Mailing, 1, next_at=NOW)

    assert open_due(store, NOW + HOUR) == 0
    assert history(store) == [("2026-03-02T09:00:00", MISSED)]


# Mailings that are not opened


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
def test_mailing_is_not_opened(store: Store, ada: Actor, table: type[Mailing], values: dict[str, object]) -> None:
    create_mailing(store, ada)
    before = get_row(store, table, 1).model_dump() | values
    update_row(store, table, 1, **values)

    assert open_due(store) == 0

    assert rows(store, Occurrence) == []
    assert get_row(store, table, 1).model_dump() == before


def test_deleted_mailing_is_not_opened(store: Store, ada: Actor) -> None:
    create_mailing(store, ada)
    delete_mailing(store, 1)

    assert open_due(store) == 0


def test_only_the_requested_mailing_is_opened(store: Store, ada: Actor) -> None:
    for _ in range(3):
        create_mailing(store, ada)

    sender = "ada@skychimp.test"
    number = write(
        store,
        lambda db: planner.open_due(db, NOW, sender=sender, return_path=sender, give_up_after=DAY, mailing_id=2),
    )

    assert number == 1
    assert [occurrence.mailing_id for occurrence in rows(store, Occurrence)] == [2]
    assert open_due(store) == 2


# From the first occurrence to the last


def test_status_goes_from_created_over_running_to_completed(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")
    create_mailing(store, ada, every=Every.DAY, end_at=NOW + 2 * DAY)
    assert status(store) == MailingStatus.CREATED

    for number in (1, 2):
        now = NOW + (number - 1) * DAY
        open_due(store, now)
        assert status(store) == MailingStatus.RUNNING
        create_deliveries(store, number)
        send(store, 1, Outcome.SENT, *claim(store, now=now, occurrence_id=number))
        sweep(store, now)

    assert get_row(store, Mailing, 1).next_at is None
    assert (occurrence_state(store, 2), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


@pytest.mark.parametrize(
    ("every", "start", "local_times"),
    [
        (Every.DAY, "2026-03-28T02:30:00", ["2026-03-28T02:30:00", "2026-03-29T02:30:00", "2026-03-30T02:30:00"]),
        (Every.MONTH, "2026-01-31T09:00:00", ["2026-01-31T09:00:00", "2026-02-28T09:00:00", "2026-03-31T09:00:00"]),
    ],
)
def test_occurrence_is_identified_by_its_wall_clock_time(
    store: Store, ada: Actor, every: Every, start: str, local_times: list[str]
) -> None:
    """Across a night without 02:30, and a short month."""
    first = datetime.fromisoformat(start).replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
    create_mailing(store, ada, every=every, start_local=start, start=first, timezone="Europe/Berlin")

    for _ in local_times:
        now = get_row(store, Mailing, 1).next_at
        assert now is not None
        assert open_due(store, now) == 1

    assert [local for local, _ in history(store)] == local_times
    instants = [occurrence.due_at.astimezone(ZoneInfo("Europe/Berlin")) for occurrence in rows(store, Occurrence)]
    assert [at.hour for at in instants] == [2, 3, 2] if every == Every.DAY else [9, 9, 9]


# Due mailings


def test_due_mailings_come_with_their_plan(store: Store, ada: Actor) -> None:
    later = create_mailing(store, ada, start=NOW + MINUTE, every=Every.DAY)
    sooner = create_mailing(store, ada, every=Every.DAY, start=NOW - DAY)
    create_mailing(store, ada, start=NOW + DAY)

    mailings = write(store, lambda db: list(planner.due_mailings(db, NOW + MINUTE)))

    assert [mailing.id for mailing in mailings] == [sooner, later]
    plan = mailings[0].plan
    assert ([due.at for due in plan.open], [missed.at for missed in plan.missed], plan.next_at) == (
        [NOW],
        [NOW - DAY],
        NOW + DAY,
    )
    assert rows(store, Occurrence) == []
    assert [mailing.id for mailing in write(store, lambda db: list(planner.due_mailings(db, NOW + MINUTE, later)))] == [
        later
    ]


def test_schedule_of_a_mailing(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, every=Every.WEEK, timezone="Asia/Tokyo", end_at=NOW + DAY)

    assert planner.schedule_of(get_row(store, Mailing, 1)) == Schedule(
        NOW.replace(tzinfo=None), "Asia/Tokyo", Every.WEEK, NOW + DAY
    )


def test_due_time_is_shown_in_its_zone() -> None:
    assert planner.local_due_time(NOW, "Asia/Kathmandu").isoformat() == "2026-03-02T14:45:00+05:45"

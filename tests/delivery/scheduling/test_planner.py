"""The planner: what is due is opened once, with everything its emails need, and missed due times are recorded."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    claim,
    close_leases,
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
    CatchUp,
    Client,
    Delivery,
    DeliveryState,
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
from skychimp.store.occurrences.progress import UnfinishedOccurrence

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


# While the last occurrence is being sent


def begin_daily(store: Store, ada: Actor, *names: str, **more: Any) -> None:
    """Open a daily mailing to some clients."""
    open_mailing(store, ada, *names, every=Every.DAY, **more)


def test_next_occurrence_waits_for_clients_who_were_not_tried(store: Store, ada: Actor) -> None:
    begin_daily(store, ada, "ann", "bob")
    send(store, 1, Outcome.SENT, *claim(store, limit=1))
    close_leases(store)

    assert open_due(store, NOW + DAY) == 0
    assert get_row(store, Mailing, 1).next_at == NOW + DAY
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY))
    close_leases(store)

    assert open_due(store, NOW + DAY + HOUR) == 1


@pytest.mark.parametrize("outcome", [Outcome.DEFERRED, Outcome.UNKNOWN])
def test_clients_who_were_tried_hold_up_nothing(store: Store, ada: Actor, outcome: Outcome) -> None:
    begin_daily(store, ada, "ann", "bob")
    first, second = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, outcome, second)
    close_leases(store)

    assert open_due(store, NOW + DAY) == 1


def test_deferred_email_is_replaced_by_a_newer_one(store: Store, ada: Actor) -> None:
    """One whose client is no longer in the audience stays, and so does an unknown one."""
    begin_daily(store, ada, "ann", "bob", "cid")
    ann, bob, cid = claim(store)
    send(store, 1, Outcome.DEFERRED, ann, bob)
    send(store, 1, Outcome.UNKNOWN, cid)
    update_row(store, Client, 2, bad_at=NOW)  # so that bob is not in the next audience

    assert open_due(store, NOW + DAY) == 1
    create_deliveries(store, 2)
    sweep(store, NOW + DAY)

    states = [row.state for row in rows(store, Delivery) if row.occurrence_id == 1]
    assert states == [DeliveryState.REPLACED, DeliveryState.DEFERRED, DeliveryState.QUEUED]


def test_nothing_sent_is_replaced_by_the_newer_one(store: Store, ada: Actor) -> None:
    begin_daily(store, ada, "ann", "bob")

    assert open_due(store, NOW + DAY) == 1

    assert history(store)[0] == ("2026-03-02T09:00:00", OccurrenceState.MISSED)
    assert {row.state for row in rows(store, Delivery)} == {DeliveryState.REPLACED}


def test_daily_limit_reaches_everybody(store: Store, ada: Actor) -> None:
    """Ten emails a day, 25 clients, and a mailing that is due each day: everybody gets the first one."""
    names = [f"c{number:02}" for number in range(25)]
    begin_daily(store, ada, *names)
    for day in range(3):
        now = NOW + day * DAY
        assert open_due(store, now) == 0
        send(store, 1, Outcome.SENT, *claim(store, now=now, limit=10))
        close_leases(store)
    assert {row.state for row in rows(store, Delivery)} == {DeliveryState.SENT}


def test_mailing_that_catches_up_on_all_waits_for_nothing(store: Store, ada: Actor) -> None:
    begin_daily(store, ada, "ann", catch_up=CatchUp.ALL)

    assert open_due(store, NOW + 2 * DAY) == 2

    assert [state for _, state in history(store)] == [OccurrenceState.OPEN, *[OccurrenceState.OPENING] * 2]


@pytest.mark.parametrize("has_begun", [False, True])
@pytest.mark.parametrize("has_untried", [False, True])
def test_occurrence_is_still_being_sent(has_begun: bool, has_untried: bool) -> None:
    occurrence = UnfinishedOccurrence(1, NOW, has_begun, has_untried)
    assert planner.is_still_being_sent([occurrence]) == (has_begun and has_untried)
    assert not planner.is_still_being_sent([])


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
            assert occurrence.finished_at == NOW + downtime
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
    opened = write(
        store,
        lambda db: planner.open_due(db, NOW, sender=sender, return_path=sender, mailing_id=2),
    )

    assert opened.occurrences == 1
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

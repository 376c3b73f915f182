"""A forecast shows what the next run would do for each client, and why it would leave clients out."""

from datetime import UTC, datetime, timedelta

import pytest
from support import ledger_rows

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Client, Delivery, DeliveryState, Every, Format, Mailing, Occurrence, OccurrenceState, User
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.forecast import forecast
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store.database import Store
from skychimp.store.occurrences import opening

NOW = datetime(2030, 1, 3, 10, tzinfo=UTC)


def create_due_mailing(store: Store, owner: Actor, audience: Audience | None = None) -> int:
    """Create a mailing that is due daily at nine since 1 January 2030, and return its id."""
    message = messages.create(store, owner, MessageContent("Hello", "", Format.TEXT))
    schedule = ScheduleInput("2030-01-01 09:00", None, Every.DAY, "UTC")
    mailing = mailings.create(
        store, owner, message_id=message.id, schedule=schedule, audience=audience or Audience(all_clients=True)
    )
    return mailing.id


def forecast_rows(
    store: Store, now: datetime = NOW, mailing_id: int | None = None
) -> list[tuple[int, str, str, str | None]]:
    """Return mailing, day, name and reason of each row."""
    return [
        (row.mailing_id, f"{row.due_at:%d}", row.email.partition("@")[0], row.left_out)
        for row in forecast(store, now, mailing_id)
    ]


@pytest.fixture
def owner(store: Store, ada: Actor) -> Actor:
    """Ada, with clients a, b (a bad address) and c (a VIP)."""
    for name in "abc":
        clients.create(store, ada, email=f"{name}@example.org", tags=["vip"] if name == "c" else [])
    with store.write() as db:
        client = db.get_one(Client, 2)
        client.bad_at, client.bad_reason = NOW, "550 5.1.1 gone"
    return ada


def test_forecast_of_an_audience_and_of_missed_occurrences(store: Store, owner: Actor) -> None:
    create_due_mailing(store, owner)

    assert forecast_rows(store) == [
        (1, "03", "a", None),
        (1, "03", "b", "bad address since 2030-01-03 10:00:00+00:00: 550 5.1.1 gone"),
        (1, "03", "c", None),
        (1, "01", "", "missed: too late to be sent"),
        (1, "02", "", "missed: too late to be sent"),
    ]


def test_audience_is_read_in_batches(store: Store, owner: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "OPENING_BATCH", 1)
    create_due_mailing(store, owner)

    assert [row[2] for row in forecast_rows(store, NOW - timedelta(days=2))] == ["a", "b", "c"]


def test_forecast_changes_nothing(store: Store, owner: Actor) -> None:
    create_due_mailing(store, owner)

    assert forecast_rows(store) == forecast_rows(store)


def test_forecast_of_one_mailing_and_before_its_start(store: Store, owner: Actor, bob: Actor) -> None:
    create_due_mailing(store, owner, Audience(tags=["vip"]))
    create_due_mailing(store, owner, Audience(client_ids=[1]))
    create_due_mailing(store, bob)

    first_day = NOW - timedelta(days=2)
    assert forecast_rows(store, first_day) == [(1, "01", "c", None), (2, "01", "a", None)]
    assert forecast_rows(store, first_day, mailing_id=2) == [(2, "01", "a", None)]
    assert forecast_rows(store, first_day - timedelta(hours=2)) == []


def test_stopped_mailing_has_a_reason(store: Store, owner: Actor, bob: Actor) -> None:
    mailings.disable(store, owner, create_due_mailing(store, owner), "a pause")
    create_due_mailing(store, bob)
    with store.write() as db:
        db.get_one(User, bob.user_id).blocked_at = NOW

    assert forecast_rows(store, NOW - timedelta(days=2)) == [
        (1, "01", "", "the mailing is disabled: a pause"),
        (2, "01", "", "the mailing's owner is blocked"),
    ]


@pytest.mark.parametrize(
    ("state", "wait", "left_out"),
    [
        (DeliveryState.QUEUED, timedelta(), None),
        (DeliveryState.DEFERRED, timedelta(), None),
        (DeliveryState.DEFERRED, timedelta(minutes=5), "deferred: next try at 2030-01-03T10:05:00+00:00"),
        (DeliveryState.UNKNOWN, timedelta(), None),
        (DeliveryState.UNKNOWN, None, "unknown: waiting for a person's decision"),
        (DeliveryState.SENT, None, "already sent"),
        (DeliveryState.FAILED, None, "failed"),
        (DeliveryState.CANCELLED, None, "cancelled"),
    ],
)
def test_delivery_of_an_open_occurrence(
    store: Store, owner: Actor, state: DeliveryState, wait: timedelta | None, left_out: str | None
) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner), NOW)
    ledger_rows.delivery(store, occurrence, "a@example.org", state, None if wait is None else NOW + wait)

    assert forecast_rows(store) == [(1, "03", "a", left_out)]


def test_opening_occurrence_that_is_late_or_stopped(store: Store, owner: Actor) -> None:
    mailing_id = ledger_rows.mailing(store, owner)
    occurrence = ledger_rows.occurrence(store, mailing_id, NOW)
    ledger_rows.delivery(store, occurrence, "a@example.org", DeliveryState.QUEUED)
    with store.write() as db:
        mailing = db.get_one(Mailing, mailing_id)
        mailing.all_clients, mailing.end_at = True, NOW + timedelta(hours=1)
        opening = db.get_one(Occurrence, occurrence)
        opening.state, opening.cursor = OccurrenceState.OPENING, 2
        db.get_one(Delivery, 1).client_id = 1

    assert forecast_rows(store) == [(1, "03", "a", None), (1, "03", "c", None)]
    late = "the mailing has ended"
    assert forecast_rows(store, NOW + timedelta(hours=1)) == [(1, "03", "a", late), (1, "03", "c", late)]
    mailings.disable(store, owner, mailing_id, "a pause")
    assert {row[3] for row in forecast_rows(store)} == {"the mailing is disabled: a pause"}

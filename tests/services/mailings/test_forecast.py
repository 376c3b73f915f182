"""What the next run would do, and whom it would leave out."""

from datetime import UTC, datetime, timedelta

import pytest
from support import ledger_rows

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Client, Delivery, DeliveryState, Every, Format, Mailing, Occurrence, OccurrenceState, User
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.forecast import forecast
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.store import queue
from skychimp.store.database import Store

NOW = datetime(2030, 1, 3, 10, tzinfo=UTC)


def due_mailing(store: Store, owner: Actor, audience: Audience | None = None) -> int:
    """A mailing that is due daily at nine since the first of January 2030."""
    message = messages.create(store, owner, MessageContent("Hello", "", Format.TEXT))
    when = When("2030-01-01 09:00", None, Every.DAY, "UTC")
    made = mailings.create(
        store, owner, message_id=message.id, when=when, audience=audience or Audience(all_clients=True)
    )
    return made.id


def seen(store: Store, now: datetime = NOW, mailing_id: int | None = None) -> list[tuple[int, str, str, str | None]]:
    return [
        (row.mailing_id, f"{row.due_at:%d}", row.email.partition("@")[0], row.left_out)
        for row in forecast(store, now, mailing_id)
    ]


@pytest.fixture
def people(store: Store, ada: Actor) -> Actor:
    for name in "abc":
        clients.create(store, ada, email=f"{name}@example.org", tags=["vip"] if name == "c" else [])
    with store.write() as db:
        bad = db.get_one(Client, 2)
        bad.bad_at, bad.bad_reason = NOW, "550 5.1.1 gone"
    return ada


def test_who_would_get_it_who_not_and_what_was_missed(store: Store, people: Actor) -> None:
    due_mailing(store, people)

    assert seen(store) == [
        (1, "03", "a", None),
        (1, "03", "b", "bad address: 550 5.1.1 gone"),
        (1, "03", "c", None),
        (1, "01", "", "missed: too late to be sent"),
        (1, "02", "", "missed: too late to be sent"),
    ]


def test_an_audience_is_read_in_batches(store: Store, people: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "OPENING_BATCH", 1)
    due_mailing(store, people)

    assert [row[2] for row in seen(store, NOW - timedelta(days=2))] == ["a", "b", "c"]


def test_looking_changes_nothing(store: Store, people: Actor) -> None:
    due_mailing(store, people)

    assert seen(store) == seen(store)


def test_one_mailing_only_and_nothing_before_its_time(store: Store, people: Actor, bob: Actor) -> None:
    due_mailing(store, people, Audience(tags=["vip"]))
    due_mailing(store, people, Audience(client_ids=[1]))
    due_mailing(store, bob)

    first_day = NOW - timedelta(days=2)
    assert seen(store, first_day) == [(1, "01", "c", None), (2, "01", "a", None)]
    assert seen(store, first_day, mailing_id=2) == [(2, "01", "a", None)]
    assert seen(store, first_day - timedelta(hours=2)) == []


def test_a_mailing_that_is_stopped_says_why(store: Store, people: Actor, bob: Actor) -> None:
    mailings.disable(store, people, due_mailing(store, people), "a pause")
    due_mailing(store, bob)
    with store.write() as db:
        db.get_one(User, bob.user_id).blocked_at = NOW

    assert seen(store, NOW - timedelta(days=2)) == [
        (1, "01", "", "the mailing is disabled: a pause"),
        (2, "01", "", "its owner is blocked"),
    ]


@pytest.mark.parametrize(
    ("state", "wait", "left_out"),
    [
        (DeliveryState.QUEUED, timedelta(), None),
        (DeliveryState.DEFERRED, timedelta(), None),
        (DeliveryState.DEFERRED, timedelta(minutes=5), "deferred: the next try is at 2030-01-03T10:05:00+00:00"),
        (DeliveryState.UNKNOWN, timedelta(), None),
        (DeliveryState.UNKNOWN, None, "unknown: a person decides"),
        (DeliveryState.SENT, None, "sent already"),
        (DeliveryState.FAILED, None, "failed"),
        (DeliveryState.CANCELLED, None, "cancelled"),
    ],
)
def test_what_is_open_already_is_looked_at_one_by_one(
    store: Store, people: Actor, state: DeliveryState, wait: timedelta | None, left_out: str | None
) -> None:
    occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, people), NOW, NOW + timedelta(days=1))
    ledger_rows.delivery(store, occurrence, "a@example.org", state, None if wait is None else NOW + wait)

    assert seen(store) == [(1, "03", "a", left_out)]


def test_an_open_one_that_is_stopped_late_or_still_being_opened(store: Store, people: Actor) -> None:
    mailing_id = ledger_rows.mailing(store, people)
    occurrence = ledger_rows.occurrence(store, mailing_id, NOW, NOW + timedelta(hours=1))
    ledger_rows.delivery(store, occurrence, "a@example.org", DeliveryState.QUEUED)
    with store.write() as db:
        db.get_one(Mailing, mailing_id).all_clients = True
        opening = db.get_one(Occurrence, occurrence)
        opening.state, opening.cursor = OccurrenceState.OPENING, 2
        db.get_one(Delivery, 1).client_id = 1

    assert seen(store) == [(1, "03", "a", None), (1, "03", "c", None)]
    late = "its deadline has passed"
    assert seen(store, NOW + timedelta(hours=1)) == [(1, "03", "a", late), (1, "03", "c", late)]
    mailings.disable(store, people, mailing_id, "a pause")
    assert {row[3] for row in seen(store)} == {"the mailing is disabled: a pause"}

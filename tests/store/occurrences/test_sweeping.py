"""Sweeping: an occurrence ends when nothing is pending, and what is past its end expires in batches."""

from collections import Counter
from datetime import datetime

import pytest
from sqlalchemy import insert
from support.queue_steps import (
    DAY,
    END,
    MINUTE,
    NOW,
    claim,
    create_deliveries,
    delivery_states,
    due_occurrences,
    get_row,
    occurrence_state,
    open_due,
    open_mailing,
    record_intents,
    rows,
    send,
    status,
    sweep,
    update_row,
    write,
)
from support.saved_rows import restore_rows, save_rows

from skychimp.models import (
    CatchUp,
    Delivery,
    DeliveryState,
    Every,
    Mailing,
    MailingClient,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
)
from skychimp.permissions import Actor
from skychimp.services.operations import integrity
from skychimp.store.database import Store
from skychimp.store.occurrences import sweeping

S = DeliveryState


@pytest.mark.parametrize("last", [Outcome.SENT, Outcome.FAILED])
def test_occurrence_ends_with_its_last_delivery(store: Store, ada: Actor, last: Outcome) -> None:
    open_mailing(store, ada, "ann", "bob")
    first, second = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, Outcome.DEFERRED, second)
    sweep(store)
    assert occurrence_state(store) == OccurrenceState.OPEN

    (again,) = claim(store, now=NOW + 5 * MINUTE)
    send(store, 1, last, again)
    sweep(store, NOW + 6 * MINUTE)

    assert occurrence_state(store) == OccurrenceState.FINISHED
    assert get_row(store, Occurrence, 1).finished_at == NOW + 6 * MINUTE
    sweep(store, NOW + DAY)
    assert get_row(store, Occurrence, 1).finished_at == NOW + 6 * MINUTE


def test_mailing_with_further_due_times_is_not_completed(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", every=Every.DAY)
    send(store, 1, Outcome.SENT, *claim(store))
    sweep(store)

    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.RUNNING)


def test_mailing_is_completed_with_its_last_occurrence(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", every=Every.DAY, end_at=NOW + DAY + MINUTE, catch_up=CatchUp.ALL)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY, occurrence_id=2))
    sweep(store, NOW + DAY)

    assert (occurrence_state(store), occurrence_state(store, 2)) == (OccurrenceState.OPEN, OccurrenceState.FINISHED)
    assert status(store) == MailingStatus.RUNNING
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY))
    sweep(store, NOW + DAY)
    assert status(store) == MailingStatus.COMPLETED


# Batches


def sweep_in_batches(store: Store, now: datetime, batch: int) -> list[sweeping.Swept]:
    """Sweep until nothing is left, and return what each sweep has done."""
    done: list[sweeping.Swept] = []
    while not done or not done[-1].is_complete:
        done.append(write(store, lambda db: sweeping.sweep(db, now, batch)))
        assert len(done) < 50
    return done


@pytest.mark.parametrize("is_deleted", [False, True])
def test_sweep_in_batches_has_the_same_result(store: Store, ada: Actor, is_deleted: bool) -> None:
    """Deliveries are queued, deferred, claimed, being sent, unknown and sent when their mailing ends."""
    open_mailing(store, ada, *(f"c{number:02}" for number in range(24)), end_at=NOW + END)
    claims = claim(store, limit=16)
    record_intents(store, 1, *claims[12:14])
    for outcome, first in zip((Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.SENT), (0, 4, 8), strict=True):
        send(store, 1, outcome, *claims[first : first + 4])
    if is_deleted:
        update_row(store, Mailing, 1, deleted_at=NOW, message_id=None, next_at=None)
    saved = save_rows(store)
    (whole,) = sweep_in_batches(store, NOW + END, 100)
    expected = [rows(store, table) for table in (Mailing, Occurrence, Delivery)]

    for batch in (1, 3, 14, 15):
        restore_rows(store, saved)
        done = sweep_in_batches(store, NOW + END, batch)

        assert [rows(store, table) for table in (Mailing, Occurrence, Delivery)] == expected
        assert sum(each.expired for each in done) == whole.expired == (0 if is_deleted else 14)
        assert max(each.expired for each in done) <= batch


def test_occurrence_is_finished_only_when_all_batches_are_done(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *"abcde", end_at=NOW + END)

    done = sweep_in_batches(store, NOW + END, 2)

    assert [(each.expired, each.finished) for each in done] == [(2, []), (2, []), (1, [1])]
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_what_a_sweep_has_left_cannot_be_sent(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *"abcd", end_at=NOW + END)
    claims = claim(store, limit=2)
    write(store, lambda db: sweeping.sweep(db, NOW + END, 1))

    assert claim(store, now=NOW + END) == []
    assert record_intents(store, 1, *claims, now=NOW + END) == set()
    assert due_occurrences(store, NOW + END) == []


def test_unknown_delivery_stays_unknown_while_an_end_is_swept(store: Store, ada: Actor) -> None:
    """It would be queued again, as its wait is over, and then expire."""
    open_mailing(store, ada, *"abcd", end_at=NOW + END)
    send(store, 1, Outcome.UNKNOWN, *claim(store))

    sweep_in_batches(store, NOW + END, 1)

    assert set(delivery_states(store).values()) == {S.UNKNOWN}


def test_occurrence_is_replaced_in_batches(store: Store, ada: Actor) -> None:
    """It ends at once, so that the rest of its deliveries cannot be sent. `store check` finds no fault in it."""
    open_mailing(store, ada, *"abcde", every=Every.DAY)
    claims = claim(store, limit=1)

    assert write(store, lambda db: sweeping.replace_unsent(db, [1], NOW + DAY, 2)) == 2

    assert occurrence_state(store) == OccurrenceState.MISSED
    assert claim(store, now=NOW + DAY) == []
    assert record_intents(store, 1, *claims, now=NOW + DAY) == set()
    assert list(integrity.find_faults(store)) == []
    assert [each.replaced for each in sweep_in_batches(store, NOW + DAY, 2)] == [2, 1]
    assert set(delivery_states(store).values()) == {S.REPLACED}
    assert list(integrity.find_faults(store)) == []


def test_deferred_deliveries_are_replaced_in_batches(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *"abcdef", every=Every.DAY)
    first, *others = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, Outcome.DEFERRED, *others)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)

    assert [each.replaced for each in sweep_in_batches(store, NOW + DAY, 2)] == [2, 2, 1]
    assert occurrence_state(store) == OccurrenceState.FINISHED


# What was looked at before


def open_with_deferred(store: Store, ada: Actor) -> None:
    """Open two occurrences: five deliveries of the first one are deferred, and only two of their clients get both."""
    open_mailing(store, ada, *"abcdef", every=Every.DAY)
    first, *others = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, Outcome.DEFERRED, *others)
    update_row(store, Mailing, 1, all_clients=False)
    write(
        store,
        lambda db: db.execute(
            insert(MailingClient), [{"mailing_id": 1, "client_id": client_id} for client_id in (2, 3)]
        ),
    )
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)


def test_deferred_deliveries_are_looked_at_once(store: Store, ada: Actor) -> None:
    """Those whose clients get no newer email are not read again by each sweep, but they are once deferred again."""
    open_with_deferred(store, ada)
    assert sweeping.look_ahead(store, {}) == {}, "two are to be replaced"
    first, second = (write(store, lambda db: sweeping.sweep(db, NOW + DAY)) for _ in range(2))
    assert (first.replaced, first.looked, second.replaced, second.looked) == (2, {}, 0, {(1, 2): 6})
    assert sweeping.look_ahead(store, {}) == second.looked
    assert sweeping.look_ahead(store, {(1, 2): 3}) == {(1, 2): 3}
    update_row(store, Delivery, 8, address_key="d@example.org")  # as if it were the newer email of another client
    third = write(store, lambda db: sweeping.sweep(db, NOW + DAY, looked=second.looked))
    assert (third.replaced, third.looked) == (0, {(1, 2): 6})

    (again,) = (claimed for claimed in claim(store, now=NOW + DAY) if claimed.address == "d@example.org")
    record_intents(store, 1, again, now=NOW + DAY)
    send(store, 1, Outcome.DEFERRED, again, now=NOW + DAY)
    fourth = write(store, lambda db: sweeping.sweep(db, NOW + DAY, looked=third.looked))

    assert (fourth.replaced, fourth.looked) == (1, {(1, 2): 6})
    assert delivery_states(store)["d"] == S.REPLACED
    assert write(store, lambda db: sweeping.sweep(db, NOW + DAY, looked=fourth.looked)).looked == {(1, 2): 7}


def test_sweep_in_batches_replaces_what_is_left(store: Store, ada: Actor) -> None:
    open_with_deferred(store, ada)

    sweeping.sweep_in_batches(store, NOW + DAY)

    assert Counter(each.state for each in rows(store, Delivery) if each.occurrence_id == 1) == {
        S.SENT: 1, S.REPLACED: 2, S.DEFERRED: 3
    }  # fmt: skip

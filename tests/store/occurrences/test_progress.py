"""How far an occurrence is can be read before the transaction that needs it, and is still right there."""

from collections.abc import Callable, Mapping
from datetime import datetime

import pytest
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    claim,
    close_leases,
    create_deliveries,
    make_attempt,
    occurrence_state,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rescue,
    send,
    sweep,
    update_row,
    write,
)

from skychimp.delivery.scheduling import planner
from skychimp.models import Delivery, DeliveryState, Every, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.store import holds
from skychimp.store.database import Store
from skychimp.store.occurrences import progress
from skychimp.store.occurrences.progress import Progress, UnfinishedOccurrence


def read(store: Store, before: Progress = progress.NOTHING_READ) -> Progress:
    with store.read() as db:
        return progress.read_progress(db.connection(), [1], before)


def unfinished(store: Store, known: Progress = progress.NOTHING_READ) -> list[UnfinishedOccurrence]:
    with store.read() as db:
        return progress.unfinished_occurrences(db.connection(), 1, known)


def try_one(store: Store, outcome: Outcome) -> None:
    send(store, 1, outcome, *claim(store, limit=1))
    close_leases(store)


def leave_sent_under_lease(store: Store) -> None:
    """Send one. Its own row still says that it waits."""
    (claimed,) = claim(store, limit=1)
    record_intents(store, 1, claimed)
    record_attempts(store, 1, make_attempt(claimed, Outcome.SENT), folds=False)


def leave_intent(store: Store) -> None:
    record_intents(store, 1, *claim(store, limit=1))


def die_while_sending(store: Store) -> None:
    leave_intent(store)
    rescue(store, 1)
    sweep(store, NOW + DAY / 2)  # it is queued again


CHANGES: dict[str, tuple[Callable[[Store], object], bool]] = {
    "nothing": (lambda store: None, False),
    "leased": (lambda store: claim(store), False),
    "being sent": (leave_intent, True),
    "sent under an open lease": (leave_sent_under_lease, True),
    "sent": (lambda store: try_one(store, Outcome.SENT), True),
    "unknown": (lambda store: try_one(store, Outcome.UNKNOWN), True),
    "the run died": (die_while_sending, True),
    "deferred": (lambda store: try_one(store, Outcome.DEFERRED), False),
    "failed": (lambda store: try_one(store, Outcome.FAILED), False),
    "given back": (lambda store: try_one(store, Outcome.GIVEN_BACK), False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_sent_since_the_reading_counts(store: Store, ada: Actor, change: str) -> None:
    open_mailing(store, ada, "ann", "bob", "cid")
    try_one(store, Outcome.FAILED)
    known = read(store)
    assert unfinished(store, known) == unfinished(store) == [UnfinishedOccurrence(1, NOW, False, True)]
    step, has_begun = CHANGES[change]

    step(store)

    assert unfinished(store, known) == unfinished(store) == [UnfinishedOccurrence(1, NOW, has_begun, True)]


def test_emails_of_other_occurrences_do_not_count(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", every=Every.DAY)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)
    update_row(store, Delivery, 1, state=DeliveryState.QUEUED, next_try_at=NOW)
    update_row(store, Occurrence, 1, state=OccurrenceState.OPEN, finished_at=None)
    known = read(store)

    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY, occurrence_id=2, limit=1))

    assert [each.has_begun for each in unfinished(store, known)] == [False, True]


def test_deliveries_are_not_read_again(store: Store, ada: Actor) -> None:
    """A row that was changed without an attempt shows it."""
    open_mailing(store, ada, "ann", "bob")
    known = read(store)
    update_row(store, Delivery, 1, state=DeliveryState.SENT, next_try_at=None)

    assert [each.has_begun for each in unfinished(store, known)] == [False]
    assert [each.has_begun for each in unfinished(store)] == [True]


def test_what_has_begun_is_not_looked_at_again(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob")
    try_one(store, Outcome.SENT)
    begun = read(store)
    update_row(store, Delivery, 1, state=DeliveryState.CANCELLED)

    assert [each.has_begun for each in read(store, begun).occurrences.values()] == [True]
    assert [each.has_begun for each in read(store).occurrences.values()] == [False]


def test_occurrence_that_was_opened_since_is_read(store: Store, ada: Actor) -> None:
    known = read(store)
    open_mailing(store, ada, "ann")
    try_one(store, Outcome.DEFERRED)

    assert unfinished(store, known) == unfinished(store) == [UnfinishedOccurrence(1, NOW, False, False)]


@pytest.mark.parametrize("is_sent", [False, True])
def test_occurrence_is_replaced_only_if_nothing_was_sent_since(store: Store, ada: Actor, is_sent: bool) -> None:
    open_mailing(store, ada, "ann", "bob", every=Every.DAY)
    with store.read() as db:
        known = planner.read_progress(db.connection(), NOW + DAY)
    assert known.occurrences == {1: UnfinishedOccurrence(1, NOW, False, True)}
    if is_sent:
        try_one(store, Outcome.SENT)

    sender = "ada@skychimp.test"
    opened = write(store, lambda db: planner.open_due(db, NOW + DAY, sender=sender, return_path=sender, known=known))

    assert opened.occurrences == (0 if is_sent else 1)
    assert occurrence_state(store) == (OccurrenceState.OPEN if is_sent else OccurrenceState.MISSED)


def test_nothing_is_read_of_mailings_that_are_not_due(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", every=Every.DAY)

    def read_at(now: datetime) -> Mapping[int, UnfinishedOccurrence]:
        with store.read() as db:
            return planner.read_progress(db.connection(), now).occurrences

    assert read_at(NOW + DAY - MINUTE) == {}
    write(store, lambda db: holds.disable_mailing(db, 1, "why", NOW))
    assert read_at(NOW + DAY) == {}

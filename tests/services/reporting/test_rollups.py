"""Test that each attempt is counted once, and that stored sums equal a new count."""

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update
from support import ledger_rows
from support.queue_steps import create_client, update_row, write

from skychimp.models import (
    AttemptRollup,
    Delivery,
    DeliveryRollup,
    DeliveryState,
    Occurrence,
    OccurrenceState,
    Outcome,
    ReplyKind,
)
from skychimp.permissions import Actor
from skychimp.services.operations import unknown_deliveries
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.reporting import rollups
from skychimp.store import ledger
from skychimp.store.database import Store
from skychimp.store.schema import open_store

NINE = ledger_rows.NINE
SENT, FAILED, UNKNOWN, QUEUED = (
    DeliveryState.SENT,
    DeliveryState.FAILED,
    DeliveryState.UNKNOWN,
    DeliveryState.QUEUED,
)
GONE, FINE = "550 5.1.1 no such user", "250 2.0.0 queued as 4X7"
_ATTEMPTS = AttemptRollup.__table__
_REPLY = ReplyKind.__table__


def occurrence(store: Store, owner: Actor, *, finished: bool = True) -> int:
    """Create an occurrence with a sent, a failed and an unknown delivery."""
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner))
    for name, state, outcome, reply in (
        ("a@one.example", SENT, Outcome.SENT, FINE),
        ("b@two.example", FAILED, Outcome.FAILED, GONE),
        ("c@two.example", UNKNOWN, Outcome.UNKNOWN, "timed out after 9 s"),
    ):
        delivery = ledger_rows.delivery(store, occurrence_id, name, state, None)
        ledger_rows.attempt(store, delivery, outcome, reply)
    if finished:
        finish(store, occurrence_id)
    return occurrence_id


def finish(store: Store, occurrence_id: int) -> None:
    update_row(store, Occurrence, occurrence_id, state=OccurrenceState.FINISHED, finished_at=NINE + timedelta(hours=1))


def attempt_sums(store: Store) -> Counter[tuple[int, str]]:
    """Return the stored numbers of attempts, by occurrence and outcome."""
    query = select(_ATTEMPTS.c.occurrence_id, _REPLY.c.outcome, func.sum(_ATTEMPTS.c.attempts))
    query = query.join(_REPLY, _REPLY.c.id == _ATTEMPTS.c.cause_id).group_by(
        _ATTEMPTS.c.occurrence_id, _REPLY.c.outcome
    )
    with store.read() as db:
        return Counter({(occurrence_id, str(outcome)): number for occurrence_id, outcome, number in db.execute(query)})


def deliveries_of(store: Store, occurrence_id: int) -> Counter[tuple[str, str]]:
    """Return the number of deliveries of an occurrence, by domain and state."""
    counts: Counter[tuple[str, str]] = Counter()
    for outcome in rollups.delivery_outcomes(store, [occurrence_id])[occurrence_id]:
        counts[outcome.domain, outcome.state] += outcome.deliveries
    return counts


def stored_rows(store: Store) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(DeliveryRollup.__table__)) or 0


# Attempts


def test_each_attempt_is_counted_once(store: Store, ada: Actor) -> None:
    first = occurrence(store, ada)
    assert rollups.uncounted_attempts(store) == 3
    for _ in range(2):
        rollups.count_new_attempts(store)
    assert rollups.uncounted_attempts(store) == 0
    second = occurrence(store, ada)
    rollups.count_new_attempts(store)

    each = {"sent": 1, "failed": 1, "unknown": 1}
    assert attempt_sums(store) == {
        (occurrence_id, outcome): number for occurrence_id in (first, second) for outcome, number in each.items()
    }


def test_concurrent_counts_count_nothing_twice(
    store: Store, store_url: str, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pairs = {name: query.replace(str(rollups.BATCH), "2") for name, query in rollups._NEXT_ATTEMPTS.items()}
    monkeypatch.setattr(rollups, "_NEXT_ATTEMPTS", in_pairs)
    occurrence_ids = [occurrence(store, ada) for _ in range(6)]
    barrier = threading.Barrier(3)

    def count() -> None:
        other = open_store(store_url)
        barrier.wait()
        rollups.count_new_attempts(other)
        other.close()

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(attempt_sums(store)) == {
        (occurrence_id, outcome) for occurrence_id in occurrence_ids for outcome in ("sent", "failed", "unknown")
    }
    assert set(attempt_sums(store).values()) == {1}


def test_batch_that_was_counted_meanwhile_is_not_added(store: Store, ada: Actor) -> None:
    occurrence(store, ada)
    with store.read() as db:
        last_id, attempts = rollups._count_attempts(db.connection(), 0, 100)
    rollups.count_new_attempts(store)
    before = attempt_sums(store)

    write(store, lambda connection: rollups._add_attempts(connection, None, last_id, attempts))

    assert attempt_sums(store) == before


def test_sums_remain_when_attempts_are_removed(store: Store, ada: Actor) -> None:
    first = occurrence(store, ada)
    rollups.count_new_attempts(store)
    write(store, lambda db: ledger.delete_old_attempts(db, NINE + timedelta(days=1)))
    second = occurrence(store, ada)  # its attempts must not reuse the ids of counted ones
    rollups.count_new_attempts(store)

    assert attempt_sums(store)[first, "failed"] == attempt_sums(store)[second, "failed"] == 1


def test_number_of_stored_reply_kinds_is_limited(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MAX_REPLY_KINDS", 2)
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for word in ("red", "green", "blue", "white", "black"):
        delivery = ledger_rows.delivery(store, occurrence_id, f"to.{word}@example.org", FAILED, None)
        ledger_rows.attempt(store, delivery, Outcome.FAILED, f"550 the {word} rule")
    rollups.count_new_attempts(store)

    with store.read() as db:
        words = db.execute(select(_REPLY.c.words).order_by(_REPLY.c.id)).scalars().all()
    assert words == ["the red rule", "the green rule", ""]
    assert attempt_sums(store) == {(occurrence_id, "failed"): 5}


def test_attempts_are_counted_by_finish_time(store: Store, ada: Actor) -> None:
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for seconds in (0, 4.999999, 5, 11):
        delivery = ledger_rows.delivery(store, occurrence_id, f"a{seconds}@example.org", SENT, None)
        ledger_rows.attempt(store, delivery, Outcome.SENT, FINE, NINE + timedelta(seconds=seconds))
    rollups.count_new_attempts(store)

    with store.read() as db:
        slots = db.execute(select(_ATTEMPTS.c.slot, _ATTEMPTS.c.attempts).order_by(_ATTEMPTS.c.slot)).all()
    first = rollups.slot_of(NINE)
    assert rollups.slot_start(first) == NINE
    assert [tuple(row) for row in slots] == [(first, 2), (first + 1, 1), (first + 2, 1)]


# Deliveries


def test_sums_of_a_finished_occurrence_are_stored(store: Store, ada: Actor) -> None:
    occurrence_id = occurrence(store, ada)
    expected = {("one.example", SENT): 1, ("two.example", FAILED): 1, ("two.example", UNKNOWN): 1}

    assert deliveries_of(store, occurrence_id) == expected
    assert stored_rows(store) == 3
    update_row(store, Delivery, 1, address_key="elsewhere")  # the ledger is not read again
    assert deliveries_of(store, occurrence_id) == expected


def test_open_occurrence_is_counted_each_time(store: Store, ada: Actor) -> None:
    occurrence_id = occurrence(store, ada, finished=False)
    deliveries_of(store, occurrence_id)
    update_row(store, Delivery, 3, state=SENT)

    assert deliveries_of(store, occurrence_id)["two.example", SENT] == 1
    assert stored_rows(store) == 0


@pytest.mark.parametrize(("resolution", "state"), [(Resolution.SENT, SENT), (Resolution.FAILED, FAILED)])
def test_resolved_delivery_changes_the_sums(
    store: Store, ada: Actor, resolution: Resolution, state: DeliveryState
) -> None:
    occurrence_id = occurrence(store, ada)
    before = deliveries_of(store, occurrence_id)
    unknown_deliveries.resolve(store, ada, resolution)

    after = deliveries_of(store, occurrence_id)
    assert after["two.example", UNKNOWN] == 0
    assert after["two.example", state] == before["two.example", state] + 1
    assert deliveries_of(store, occurrence_id) == after


def test_reopened_occurrence_is_counted_again(store: Store, ada: Actor) -> None:
    create_client(store, ada, "anybody")
    occurrence_id = occurrence(store, ada)
    deliveries_of(store, occurrence_id)
    unknown_deliveries.resolve(store, ada, Resolution.RESEND)
    assert deliveries_of(store, occurrence_id)["two.example", QUEUED] == 1
    update_row(store, Delivery, 3, state=UNKNOWN, next_try_at=None, attempts=2)  # unknown again
    update_row(store, Occurrence, occurrence_id, state=OccurrenceState.FINISHED, finished_at=NINE + timedelta(hours=5))

    tries = Counter(
        {row.attempts: row.deliveries for row in rollups.delivery_outcomes(store, [occurrence_id])[occurrence_id]}
    )
    assert tries[2] == 1


def test_outdated_count_is_not_stored(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    occurrence_id = occurrence(store, ada)
    count = rollups._count_deliveries

    def count_then_resolve(*arguments: Any) -> Counter[tuple[str, str, int]]:
        counts = count(*arguments)
        unknown_deliveries.resolve(store, ada, Resolution.SENT)
        return counts

    monkeypatch.setattr(rollups, "_count_deliveries", count_then_resolve)
    deliveries_of(store, occurrence_id)
    monkeypatch.undo()

    assert deliveries_of(store, occurrence_id)["two.example", SENT] == 1


def test_smaller_domains_are_counted_together(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MAX_DOMAINS", 1)
    occurrence_id = occurrence(store, ada)
    erased = ledger_rows.delivery(store, occurrence_id, "x", SENT, None)
    write(store, lambda c: c.execute(update(Delivery).where(Delivery.__table__.c.id == erased).values(attempts=1)))

    assert deliveries_of(store, occurrence_id) == {
        ("two.example", FAILED): 1,
        ("two.example", UNKNOWN): 1,
        ("", SENT): 2,
    }


@pytest.mark.sqlite
def test_deliveries_are_counted_in_steps_that_show_progress(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (occurrence(store, ada, finished=False) for _ in range(2))
    at_once = rollups.delivery_outcomes(store, [first, second])
    monkeypatch.setattr(rollups, "IDS_AT_ONCE", 1)
    counted: list[int] = []

    assert rollups.delivery_outcomes(store, [first, second], counted.append) == at_once
    assert counted == [1, 2, 3, 4, 5, 6]


def test_several_occurrences_are_counted_together(store: Store, ada: Actor) -> None:
    finished, unfinished = occurrence(store, ada), occurrence(store, ada, finished=False)
    empty = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))

    for _ in range(2):
        outcomes = rollups.delivery_outcomes(store, [finished, unfinished, empty])
        assert {occurrence_id: sum(row.deliveries for row in rows) for occurrence_id, rows in outcomes.items()} == {
            finished: 3,
            unfinished: 3,
            empty: 0,
        }

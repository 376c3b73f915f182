"""Figures: each attempt is counted once, whoever counts and however often; what is kept is what a count would say."""

import threading
from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from support import ledger_rows
from support.queue_steps import change, client, write

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

NINE = ledger_rows.NINE
SENT, FAILED, UNKNOWN, QUEUED = (
    DeliveryState.SENT,
    DeliveryState.FAILED,
    DeliveryState.UNKNOWN,
    DeliveryState.QUEUED,
)
GONE, FINE = "550 5.1.1 no such user", "250 2.0.0 queued as 4X7"
_P = AttemptRollup.__table__
_CAUSE = ReplyKind.__table__


def occurrence(store: Store, owner: Actor, *, finished: bool = True) -> int:
    """An occurrence with a letter that was sent, one that failed, and an unknown one."""
    made = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner))
    for name, state, outcome, reply in (
        ("a@one.example", SENT, Outcome.SENT, FINE),
        ("b@two.example", FAILED, Outcome.FAILED, GONE),
        ("c@two.example", UNKNOWN, Outcome.UNKNOWN, "timed out after 9 s"),
    ):
        delivery = ledger_rows.delivery(store, made, name, state, None)
        ledger_rows.attempt(store, delivery, outcome, reply)
    if finished:
        finish(store, made)
    return made


def finish(store: Store, occurrence_id: int) -> None:
    change(store, Occurrence, occurrence_id, state=OccurrenceState.FINISHED, finished_at=NINE + timedelta(hours=1))


def counted(store: Store) -> Counter[tuple[int, str]]:
    """How many attempts are counted, by occurrence and outcome."""
    query = select(_P.c.occurrence_id, _CAUSE.c.outcome, func.sum(_P.c.attempts))
    query = query.join(_CAUSE, _CAUSE.c.id == _P.c.cause_id).group_by(_P.c.occurrence_id, _CAUSE.c.outcome)
    with store.read() as db:
        return Counter({(one, str(outcome)): number for one, outcome, number in db.execute(query)})


def of(store: Store, occurrence_id: int) -> Counter[tuple[str, str]]:
    """The deliveries of an occurrence, by domain and state."""
    found: Counter[tuple[str, str]] = Counter()
    for one in rollups.results(store, [occurrence_id])[occurrence_id]:
        found[one.domain, one.state] += one.deliveries
    return found


def kept(store: Store) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(DeliveryRollup.__table__)) or 0


# Attempts


def test_each_attempt_is_counted_once(store: Store, ada: Actor) -> None:
    first = occurrence(store, ada)
    assert rollups.left(store) == 3
    for _ in range(2):
        rollups.add_up(store)
    assert rollups.left(store) == 0
    second = occurrence(store, ada)
    rollups.add_up(store)

    each = {"sent": 1, "failed": 1, "unknown": 1}
    assert counted(store) == {(one, outcome): number for one in (first, second) for outcome, number in each.items()}


def test_several_that_count_at_once_count_nothing_twice(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "_ATTEMPTS", rollups._ATTEMPTS.replace(str(rollups.BATCH), "2"))
    made = [occurrence(store, ada) for _ in range(6)]
    together = threading.Barrier(3)

    def count() -> None:
        other = Store(store.path)
        together.wait()
        rollups.add_up(other)
        other.close()

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(counted(store)) == {(one, outcome) for one in made for outcome in ("sent", "failed", "unknown")}
    assert set(counted(store).values()) == {1}


def test_one_that_comes_late_with_what_is_counted_adds_nothing(store: Store, ada: Actor) -> None:
    occurrence(store, ada)
    with store.read() as db:
        until, attempts = rollups._counted(db.connection(), 0)
    rollups.add_up(store)
    before = counted(store)

    write(store, lambda connection: rollups._keep(connection, None, until, attempts))

    assert counted(store) == before


def test_figures_outlive_the_attempts(store: Store, ada: Actor) -> None:
    first = occurrence(store, ada)
    rollups.add_up(store)
    write(store, lambda db: ledger.forget_attempts(db, NINE + timedelta(days=1)))
    second = occurrence(store, ada)  # whose attempts must not come with the ids of those that were counted
    rollups.add_up(store)

    assert counted(store)[first, "failed"] == counted(store)[second, "failed"] == 1


def test_a_server_that_says_something_new_each_time_does_not_fill_the_store(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "MOST_CAUSES", 2)
    made = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for word in ("red", "green", "blue", "white", "black"):
        delivery = ledger_rows.delivery(store, made, f"to.{word}@example.org", FAILED, None)
        ledger_rows.attempt(store, delivery, Outcome.FAILED, f"550 the {word} rule")
    rollups.add_up(store)

    with store.read() as db:
        words = db.execute(select(_CAUSE.c.words).order_by(_CAUSE.c.id)).scalars().all()
    assert words == ["the red rule", "the green rule", ""]
    assert counted(store) == {(made, "failed"): 5}


def test_attempts_are_counted_by_when_they_ended(store: Store, ada: Actor) -> None:
    made = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    for seconds in (0, 4.999999, 5, 11):
        delivery = ledger_rows.delivery(store, made, f"a{seconds}@example.org", SENT, None)
        ledger_rows.attempt(store, delivery, Outcome.SENT, FINE, NINE + timedelta(seconds=seconds))
    rollups.add_up(store)

    with store.read() as db:
        slots = db.execute(select(_P.c.slot, _P.c.attempts).order_by(_P.c.slot)).all()
    first = rollups.slot_of(NINE)
    assert rollups.slot_time(first) == NINE
    assert [tuple(row) for row in slots] == [(first, 2), (first + 1, 1), (first + 2, 1)]


# Deliveries


def test_what_a_finished_occurrence_came_to_is_kept(store: Store, ada: Actor) -> None:
    made = occurrence(store, ada)
    expected = {("one.example", SENT): 1, ("two.example", FAILED): 1, ("two.example", UNKNOWN): 1}

    assert of(store, made) == expected
    assert kept(store) == 3
    change(store, Delivery, 1, address_key="elsewhere")  # nobody looks there again
    assert of(store, made) == expected


def test_what_an_open_one_comes_to_is_counted_each_time(store: Store, ada: Actor) -> None:
    made = occurrence(store, ada, finished=False)
    of(store, made)
    change(store, Delivery, 3, state=SENT)

    assert of(store, made)["two.example", SENT] == 1
    assert kept(store) == 0


@pytest.mark.parametrize(("resolution", "state"), [(Resolution.SENT, SENT), (Resolution.FAILED, FAILED)])
def test_a_persons_word_about_an_unknown_one_counts(
    store: Store, ada: Actor, resolution: Resolution, state: DeliveryState
) -> None:
    made = occurrence(store, ada)
    before = of(store, made)
    unknown_deliveries.resolve(store, ada, resolution, give_up_after=timedelta(days=1))

    now = of(store, made)
    assert now["two.example", UNKNOWN] == 0
    assert now["two.example", state] == before["two.example", state] + 1
    assert of(store, made) == now


def test_an_occurrence_that_opens_again_is_counted_again(store: Store, ada: Actor) -> None:
    client(store, ada, "whoever")
    made = occurrence(store, ada)
    of(store, made)
    unknown_deliveries.resolve(store, ada, Resolution.RESEND, give_up_after=timedelta(days=1))
    assert of(store, made)["two.example", QUEUED] == 1
    change(store, Delivery, 3, state=UNKNOWN, next_try_at=None, attempts=2)  # unknown once more
    change(store, Occurrence, made, state=OccurrenceState.FINISHED, finished_at=NINE + timedelta(hours=5))

    tries = Counter({one.attempts: one.deliveries for one in rollups.results(store, [made])[made]})
    assert tries[2] == 1


def test_a_count_that_was_overtaken_is_not_kept(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    made = occurrence(store, ada)
    count = rollups._deliveries

    def overtaken(connection: object, occurrence_id: int) -> Counter[tuple[str, str, int]]:
        found = count(connection, occurrence_id)  # type: ignore[arg-type]
        unknown_deliveries.resolve(store, ada, Resolution.SENT, give_up_after=timedelta(days=1))
        return found

    monkeypatch.setattr(rollups, "_deliveries", overtaken)
    of(store, made)
    monkeypatch.undo()

    assert of(store, made)["two.example", SENT] == 1


def test_smaller_domains_are_counted_together(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "MOST_DOMAINS", 1)
    made = occurrence(store, ada)
    erased = ledger_rows.delivery(store, made, "x", SENT, None)
    write(store, lambda c: c.execute(update(Delivery).where(Delivery.__table__.c.id == erased).values(attempts=1)))

    assert of(store, made) == {("two.example", FAILED): 1, ("two.example", UNKNOWN): 1, ("", SENT): 2}


def test_several_occurrences_at_once(store: Store, ada: Actor) -> None:
    finished, unfinished = occurrence(store, ada), occurrence(store, ada, finished=False)
    empty = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))

    for _ in range(2):
        found = rollups.results(store, [finished, unfinished, empty])
        assert {one: sum(row.deliveries for row in rows) for one, rows in found.items()} == {
            finished: 3,
            unfinished: 3,
            empty: 0,
        }

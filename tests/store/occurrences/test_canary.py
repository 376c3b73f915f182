"""A sample of an occurrence's clients gets it first. The others get it only once the sample's results are known."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import insert, select
from support.queue_steps import (
    DAY,
    END,
    MINUTE,
    NOW,
    claim,
    close_leases,
    create_deliveries,
    create_mailing,
    delivery_states,
    due_occurrences,
    get_row,
    occurrence_state,
    open_due,
    record_attempts,
    record_intents,
    rescue,
    rows,
    send,
    sweep,
    update_row,
    write,
)
from support.queue_steps import make_attempt as attempt

from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import due_work
from skychimp.models import Client, Delivery, DeliveryState, Every, Mailing, Occurrence, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store import holds, queue
from skychimp.store.clients import audience
from skychimp.store.database import Store
from skychimp.store.occurrences import canary, opening
from skychimp.store.occurrences.canary import Judged, Results

UNTIL = NOW + 30 * MINUTE
RATE = 0.1


@pytest.mark.parametrize(
    ("size", "number", "first"),
    [
        ("50", 5_000, 50), ("50", 50, 50), ("50", 7, 7), ("1", 1, 1), ("1", 0, 0),
        ("1%", 5_000, 50), ("1%", 2_001, 20), ("1%", 99, 1), ("1%", 1, 1), ("1%", 0, 0), ("0.5%", 1_000, 5),
        ("99%", 10, 9), ("29%", 100, 29), ("", 10, 10),
    ],
)  # fmt: skip
def test_sample_has_the_given_size_and_at_least_one_client(size: str, number: int, first: int) -> None:
    assert canary.sample_size(size, number) == first


@given(st.integers(1, 10**7), st.decimals("0.0001", "99.9999", places=4))
@example(3, 50)
def test_percentage_is_never_more_than_its_share_unless_that_is_less_than_one(number: int, percent: object) -> None:
    first = canary.sample_size(f"{percent}%", number)
    assert 1 <= first <= max(1, number * float(str(percent)) / 100 + 1e-6)


@pytest.mark.parametrize(
    ("failed", "tried", "rate", "reason"),
    [
        (0, 50, RATE, None), (5, 50, RATE, None), (6, 50, RATE, "6 of 50 canary emails failed"),
        (1, 1, RATE, "1 of 1 canary email failed"), (1, 10, RATE, None), (2, 10, RATE, "2 of 10 canary emails failed"),
        (29, 100, 0.29, None), (1, 50, 0.0, "1 of 50 canary emails failed"), (50, 50, 1.0, None),
        (1_200, 5_000, RATE, "1,200 of 5,000 canary emails failed"), (0, 0, RATE, "no canary email was sent"),
    ],
)  # fmt: skip
def test_mailing_is_held_if_more_than_the_limit_failed(failed: int, tried: int, rate: float, reason: str) -> None:
    assert Results(failed, tried).why_bad(rate) == reason


# Choosing


def create_clients(store: Store, owner: Actor, number: int) -> None:
    emails = [f"c{n}@example.org" for n in range(number)]
    common = {"owner_id": owner.user_id, "comment": "", "created_at": NOW}
    values = [{"email": email, "address_key": email, "name": "", **common} for email in emails]
    write(store, lambda db: db.execute(insert(Client), values))


def open_canary(store: Store, owner: Actor, number: int = 20, size: str = "5", wait_s: int = 1800, **more: Any) -> None:
    """Open mailing 1 to a number of clients with a canary, and create its deliveries."""
    create_clients(store, owner, number)
    create_mailing(store, owner, canary=size, canary_wait_s=wait_s, **more)
    open_due(store)
    create_deliveries(store)


def chosen(store: Store, occurrence_id: int = 1) -> list[int]:
    """Return the clients of the canary."""
    until = get_row(store, Occurrence, occurrence_id).canary_until
    return [
        each.client_id
        for each in rows(store, Delivery)
        if each.occurrence_id == occurrence_id and each.next_try_at != until
    ]


def test_sample_is_spread_over_all_clients_and_is_another_for_the_next_due_time(store: Store, ada: Actor) -> None:
    open_canary(store, ada, 1_000, "10%", every=Every.DAY)
    first = chosen(store)
    write(store, lambda db: canary.end_wait(db, Occurrence.__table__.c.id == 1))
    while claims := claim(store, now=UNTIL):
        send(store, 1, Outcome.SENT, *claims)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)
    second = chosen(store, 2)

    assert len(first) == len(second) == 100
    for sample in (first, second):
        tenths = [sum(low < client_id <= low + 100 for client_id in sample) for low in range(0, 1_000, 100)]
        assert min(tenths) >= 5, tenths
    assert len(set(first) & set(second)) < 50


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_sample_is_the_same_however_the_opening_is_interrupted(store: Store, ada: Actor, batch: int) -> None:
    create_clients(store, ada, 12)
    create_mailing(store, ada, canary="4", canary_wait_s=1800)
    open_due(store)
    with store.read() as session:
        db = session.connection()
        expected = canary.sample(db, audience.selection(db, 1, NOW), "4", NOW)

    def is_killed_after_a_batch() -> bool:
        with store.write() as db:
            opening.create_deliveries(db.connection(), 1, batch)
            db.rollback()
        return write(store, lambda db: opening.create_deliveries(db, 1, batch))

    while not is_killed_after_a_batch():
        assert claim(store, now=UNTIL) == []  # nobody gets it before the sample is known
        assert count_and_judge(store) == []

    assert set(chosen(store)) == expected
    assert len(expected) == 4
    assert opening.OPENING_BATCH > 100


@pytest.mark.parametrize("size", ["20", "21", "1000"])
def test_nobody_waits_if_the_sample_is_everybody(store: Store, ada: Actor, size: str) -> None:
    open_canary(store, ada, 20, size)

    assert get_row(store, Occurrence, 1).canary_until is None
    assert len(claim(store)) == 20


# Waiting and judging


def count_and_judge(store: Store, at: timedelta = 30 * MINUTE, rate: float = RATE) -> list[Judged]:
    with store.read() as db:
        results = canary.count_results(db.connection(), NOW + at)
    return write(store, lambda db: canary.judge(db, NOW + at, results, rate))


def finish(store: Store, *outcomes: Outcome, now: timedelta = timedelta()) -> None:
    """Try the canary emails, with these outcomes."""
    claims = claim(store, now=NOW + now)
    for claimed, outcome in zip(claims, outcomes, strict=True):
        send(store, 1, outcome, claimed, now=NOW + now)
    close_leases(store)


SENT, FAILED, DEFERRED, UNKNOWN = Outcome.SENT, Outcome.FAILED, Outcome.DEFERRED, Outcome.UNKNOWN


def test_others_wait_until_the_time_is_over_and_the_results_are_known(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    assert due_occurrences(store) == [1]
    finish(store, *[SENT] * 4, DEFERRED)

    assert claim(store) == []
    assert due_occurrences(store) == []
    assert count_and_judge(store, 29 * MINUTE) == []

    assert count_and_judge(store) == [Judged(1, 1, None)]
    assert due_occurrences(store, UNTIL) == [1]
    assert len(claim(store, now=UNTIL)) == 16  # and the deferred one
    assert count_and_judge(store) == []


def test_others_wait_while_a_canary_email_is_untried_although_the_time_is_over(store: Store, ada: Actor) -> None:
    open_canary(store, ada)

    assert len(claim(store, now=UNTIL + DAY)) == 5
    assert count_and_judge(store, DAY) == []
    assert due_occurrences(store, NOW + DAY) == []
    assert claim(store, now=NOW + DAY) == []


def test_email_that_was_given_back_after_the_wait_is_untried_and_due(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    first, *more = claim(store)
    send(store, 1, SENT, *more)
    later = UNTIL + MINUTE
    record_attempts(store, 1, attempt(first, Outcome.GIVEN_BACK, now=later), folds=False)
    close_leases(store)

    assert count_and_judge(store, DAY) == []
    assert due_occurrences(store, later) == [1]
    assert [claimed.id for claimed in claim(store, now=later)] == [first.id]


def test_email_in_flight_is_not_known_and_one_that_was_sent_is(store: Store, ada: Actor) -> None:
    open_canary(store, ada, size="1")
    [claimed] = claim(store)
    record_intents(store, 1, claimed)
    assert count_and_judge(store) == []

    record_attempts(store, 1, attempt(claimed, SENT), folds=False)  # its lease is still open
    assert count_and_judge(store) == [Judged(1, 1, None)]


def test_unknown_email_is_waited_for_if_it_is_sent_again_and_counts_as_failed_otherwise(
    store: Store, ada: Actor
) -> None:
    open_canary(store, ada)
    finish(store, *[SENT] * 4, UNKNOWN)
    assert count_and_judge(store) == []
    sweep(store, UNTIL)  # it is queued again
    assert count_and_judge(store) == []

    update_row(store, Delivery, unknown_id(store), state=DeliveryState.UNKNOWN, next_try_at=None)
    assert count_and_judge(store) == [Judged(1, 1, "1 of 5 canary emails failed")]


def unknown_id(store: Store) -> int:
    return next(each.id or 0 for each in rows(store, Delivery) if each.dated_at is not None)


def test_mailing_is_held_and_enabling_it_lets_the_others_go(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    finish(store, *[SENT] * 3, FAILED, FAILED)

    assert count_and_judge(store) == [Judged(1, 1, "2 of 5 canary emails failed")]
    held = get_row(store, Mailing, 1)
    assert (held.held_reason, held.held_settings) == ("2 of 5 canary emails failed", None)
    assert claim(store, now=UNTIL) == []

    assert mailings.show(store, ada, 1).held == "2 of 5 canary emails failed"
    mailings.enable(store, ada, 1)
    assert len(claim(store, now=UNTIL)) == 15
    assert count_and_judge(store, DAY) == []


def test_other_settings_do_not_end_the_hold_of_a_canary(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    finish(store, *[FAILED] * 5)
    count_and_judge(store)

    write(store, lambda db: holds.release_mailings(db, "other settings", UNTIL))

    assert get_row(store, Mailing, 1).held_at is not None


def test_canary_of_a_mailing_that_is_stopped_is_not_judged(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    finish(store, *[FAILED] * 5)
    mailings.disable(store, ada, 1)
    assert count_and_judge(store) == []

    mailings.enable(store, ada, 1)
    assert count_and_judge(store) == [Judged(1, 1, "5 of 5 canary emails failed")]


def test_canary_is_judged_by_what_is_true_when_it_is_judged(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    finish(store, *[SENT] * 3, FAILED, FAILED)
    with store.read() as db:
        results = canary.count_results(db.connection(), UNTIL)
    failed = [each.id or 0 for each in rows(store, Delivery) if each.state == DeliveryState.FAILED]
    later = UNTIL + MINUTE
    write(store, lambda db: queue.retry(db, failed, later))

    assert write(store, lambda db: canary.judge(db, later, results, RATE)) == []
    assert len(claim(store, now=later)) == 2


def test_those_who_wait_expire_with_the_mailing_and_end_the_wait(store: Store, ada: Actor) -> None:
    open_canary(store, ada, end_at=NOW + END)
    finish(store, *[SENT] * 5)

    sweep(store, NOW + END)

    states = list(delivery_states(store).values())
    assert (states.count(DeliveryState.EXPIRED), states.count(DeliveryState.SENT)) == (15, 5)
    assert occurrence_state(store) == OccurrenceState.FINISHED
    assert get_row(store, Occurrence, 1).canary_until is None


def test_next_occurrence_waits_for_the_clients_who_wait_for_the_canary(store: Store, ada: Actor) -> None:
    open_canary(store, ada, every=Every.DAY)
    finish(store, *[SENT] * 5)

    assert open_due(store, NOW + DAY) == 0
    with store.read() as db:
        assert list(planner.due_mailings(db.connection(), NOW + DAY)) == []


def test_newer_occurrence_replaces_one_whose_canary_was_not_sent(store: Store, ada: Actor) -> None:
    open_canary(store, ada, every=Every.DAY)

    assert open_due(store, NOW + DAY) == 1
    create_deliveries(store, 2)

    older = [each.state for each in rows(store, Delivery) if each.occurrence_id == 1]
    assert older == [DeliveryState.REPLACED] * 20
    assert len(claim(store, now=NOW + DAY, occurrence_id=2)) == 5
    assert claim(store, now=NOW + DAY) == []


def test_dead_run_leaves_the_canary_to_the_next(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    claims = claim(store, run_id=2)
    record_intents(store, 2, claims[0])
    rescue(store, 2, NOW)

    assert count_and_judge(store) == []
    assert len(claim(store)) == 4


def test_daemon_looks_again_when_the_wait_is_over(store: Store, ada: Actor) -> None:
    open_canary(store, ada, wait_s=20)
    finish(store, *[SENT] * 5)
    with store.read() as db:
        assert due_work.next_due_at(db.connection(), NOW) == NOW + timedelta(seconds=20)


def test_those_who_wait_are_counted_by_mailing(store: Store, ada: Actor) -> None:
    open_canary(store, ada)
    with store.read() as db:
        assert canary.list_waiting(db.connection()) == [(1, UNTIL, 15)]
        assert canary.list_waiting(db.connection(), 2) == []
        assert db.scalar(select(Occurrence.__table__.c.canary_until)) == UNTIL


def test_restored_store_waits_for_a_person_not_for_a_canary(store: Store, ada: Actor) -> None:
    open_canary(store, ada)

    write(store, lambda db: queue.mark_unknown(db, NOW))

    assert get_row(store, Occurrence, 1).canary_until is None
    assert set(delivery_states(store).values()) == {DeliveryState.UNKNOWN}

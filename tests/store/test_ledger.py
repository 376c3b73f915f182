"""The ledger: no email is sent without an intent, every attempt is recorded word for word, and sent stays sent."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from conftest import create_user
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from support.queue_steps import (
    MINUTE,
    NOW,
    RELAY,
    attempt_outcomes,
    claim,
    close_leases,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    delivery_states,
    get_row,
    give_back,
    intended_claims,
    make_attempt,
    occurrence_state,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rescue,
    rows,
    send,
    sweep,
    update_row,
    write,
)

from skychimp.models import Attempt, Client, Delivery, DeliveryState, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.store import ledger, queue, sqlite
from skychimp.store.database import Store
from skychimp.store.schema import create_store

S = DeliveryState


# Intents


def test_hash_of_own_files_outlives_a_dead_run(store: Store, ada: Actor) -> None:
    """Only what may have arrived has one: who is tried again later may get other files."""
    open_mailing(store, ada, "ann", "bob", "cid", "dan")
    ann, bob, cid, dan = (claimed._replace(files_hash=claimed.address[:1]) for claimed in claim(store))
    foreign = dan._replace(lease_id=99, files_hash="other")
    assert record_intents(store, 1, ann, bob, cid._replace(files_hash=None), foreign) == {ann.id, bob.id, cid.id}
    record_attempts(store, 1, make_attempt(ann, Outcome.UNKNOWN), folds=False)
    assert rescue(store, 1) == 2
    assert [each.files_hash for each in rows(store, Delivery)] == ["a", "b", None, None]


@pytest.mark.parametrize(("state", "files_hash"), [(S.SENT, "a"), (S.FAILED, None)])
def test_email_that_has_not_arrived_may_get_other_files(
    store: Store, ada: Actor, state: DeliveryState, files_hash: str | None
) -> None:
    open_mailing(store, ada, "ann")
    (ann,) = claim(store)
    send(store, 1, Outcome.UNKNOWN, ann._replace(files_hash="a"))
    write(store, lambda db: queue.resolve_as(db, [ann.id], state))
    assert [each.files_hash for each in rows(store, Delivery)] == [files_hash]


def test_intent_needs_a_lease_of_this_run(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", "cid", "dan")
    done, own, *others = claim(store)
    give_back(store, *others)
    (foreign,) = claim(store, 2, limit=1)
    send(store, 1, Outcome.SENT, done)

    assert record_intents(store, 1, own, foreign, done) == {own.id}
    assert record_intents(store, 2, own) == set()
    assert record_intents(store, 1, own._replace(lease_id=own.lease_id + 9)) == set()
    assert delivery_states(store) == {"ann": S.SENT, "bob": S.SENDING, "cid": S.CLAIMED, "dan": S.QUEUED}
    assert record_intents(store, 1, own) == {own.id}, "it can be renewed"


def test_intents_of_several_leases_in_one_call(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", "cid")
    first, second, third = *claim(store, limit=1), *claim(store, limit=1), *claim(store, limit=1)
    write(store, lambda db: queue.close_leases(db, 1, [second.lease_id]))

    assert record_intents(store, 1, third, second, first) == {first.id, third.id}


# Outcomes

ON_TIME = {
    Outcome.SENT: (S.SENT, None, 0),
    Outcome.OUTBOX: (S.OUTBOX, None, 0),
    Outcome.DEFERRED: (S.DEFERRED, NOW + 5 * MINUTE, 0),
    Outcome.FAILED: (S.FAILED, None, 0),
    Outcome.UNKNOWN: (S.UNKNOWN, NOW + 15 * MINUTE, 0),
    Outcome.GIVEN_BACK: (S.QUEUED, NOW, 1),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_attempt_changes_its_delivery_and_is_recorded(store: Store, ada: Actor, outcome: Outcome) -> None:
    open_mailing(store, ada, "bob", "eve")
    first, _ = claim(store)
    began, ended = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2, microseconds=3)
    record_intents(store, 1, first)

    record_attempts(store, 1, make_attempt(first, outcome, phase="rcpt", started_at=began, finished_at=ended))

    delivery = get_row(store, Delivery, first.id)
    assert (delivery.state, delivery.next_try_at, delivery.given_back) == ON_TIME[outcome]
    assert (delivery.attempts, get_row(store, Delivery, 2).attempts) == (1, 0)
    (attempt,) = rows(store, Attempt)
    expected = make_attempt(first, outcome)
    assert (attempt.delivery_id, attempt.number) == (first.id, 1)
    assert (attempt.started_at, attempt.finished_at) == (began, ended)
    assert (attempt.outcome, attempt.phase) == (outcome, "rcpt")
    assert (attempt.code, attempt.enhanced) == (expected.code, expected.enhanced)
    assert (attempt.reply, attempt.relay) == (expected.reply, RELAY)


def test_many_attempts_are_recorded_at_once(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *(f"client{number}" for number in range(50)))
    claims = claim(store)
    record_intents(store, 1, *claims)
    outcomes = [list(Outcome)[claimed.id % len(Outcome)] for claimed in claims]

    record_attempts(store, 1, *map(make_attempt, claims, outcomes))

    assert list(delivery_states(store).values()) == [ON_TIME[outcome][0] for outcome in outcomes]
    in_order = sorted(rows(store, Attempt), key=lambda attempt: attempt.delivery_id)
    assert [attempt.outcome for attempt in in_order] == outcomes


def test_attempts_are_numbered_over_all_tries(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    for outcome in (Outcome.GIVEN_BACK, Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.SENT):
        sweep(store, NOW + 20 * MINUTE)
        (claimed,) = claim(store, now=NOW + 20 * MINUTE)
        number = len(attempt_outcomes(store))
        assert (claimed.attempts, claimed.given_back) == (number, min(1, number))
        send(store, 1, outcome, claimed)

    assert [number for number, _ in attempt_outcomes(store)] == [1, 2, 3, 4]


def for_any_reply(test: Callable[..., None]) -> Callable[..., None]:
    """Give a test any text as a reply."""
    for reply in ("12", "null", "550 5.7.1 \0 NUL, \x1b[2J, \r\n, \x7f, \u2028, ‮, \ufffe, \U0010ffff, ' \" \\ \\u0000"):
        test = example(reply=reply)(test)
    health = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=30, suppress_health_check=health)(
        given(reply=st.text(st.characters(codec="utf-8")))(test)
    )


@for_any_reply
def test_reply_is_recorded_word_for_word(store: Store, reply: str) -> None:
    check_recorded_reply(store, reply)


@for_any_reply
def test_reply_is_recorded_word_for_word_by_the_standard_driver(standard_store: Store, reply: str) -> None:
    check_recorded_reply(standard_store, reply)


def check_recorded_reply(store: Store, reply: str) -> None:
    owner = create_user(store, f"p{count_rows(store, Delivery)}")
    (claimed,) = claim(store, occurrence_id=open_for_one_client(store, owner))

    send(store, 1, Outcome.FAILED, claimed, reply=reply)

    assert rows(store, Attempt)[-1].reply == reply.replace("\0", "\\x00")


def test_invalid_unicode_in_a_reply_is_escaped(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    send(store, 1, Outcome.FAILED, *claim(store), reply="a file \udcff", bad_address=True)

    assert rows(store, Attempt)[0].reply == get_row(store, Client, 1).bad_reason == r"a file \udcff"


@pytest.fixture
def standard_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store opened by the standard library's SQLite, which may be old."""
    driver: ModuleType = sqlite3
    monkeypatch.setattr(sqlite, "driver", lambda: driver)
    created = create_store(f"sqlite:///{tmp_path / 'standard.db'}")
    yield created
    created.close()


def open_for_one_client(store: Store, owner: Actor) -> int:
    """Open another mailing to one client, and return the id of its occurrence."""
    create_client(store, owner, "bob")
    create_mailing(store, owner)
    open_due(store)
    number = count_rows(store, Delivery) + 1
    create_deliveries(store, number)
    return number


# Late attempts


LATE_CHANGES = {
    Outcome.SENT: ("unknown", "queued", "claimed", "deferred", "failed", "sent", "cancelled"),
    # It has not left the machine, so whatever else became of the delivery is nearer to the truth.
    Outcome.OUTBOX: ("unknown", "queued", "claimed", "deferred"),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_late_attempt_is_recorded_and_only_a_success_changes_the_state(
    store: Store, ada: Actor, outcome: Outcome
) -> None:
    """Its run seemed dead, and the delivery may be in any state since."""
    names = ["unknown", "queued", "claimed", "sending", "deferred", "failed", "sent", "cancelled"]
    ids = open_mailing(store, ada, *names)
    claims = claim(store)
    record_intents(store, 1, *claims)
    rescue(store, 1)
    for claimed in claims[1:]:
        update_row(store, Delivery, claimed.id, state=S.QUEUED)
    again = sorted(claim(store, 2, now=NOW + 15 * MINUTE, limit=20))
    give_back(store, *(claimed for claimed in again if claimed.id == 2))
    record_intents(store, 2, *(claimed for claimed in again if claimed.id in (4, 5, 6, 7)))
    for claimed, result in zip(again[3:], (Outcome.DEFERRED, Outcome.FAILED, Outcome.SENT), strict=False):
        record_attempts(store, 2, make_attempt(claimed, result))
    delete_client(store, ids[7])
    before = delivery_states(store)
    assert list(before) == [str(state) for state in before.values()]

    record_attempts(store, 1, *(make_attempt(claimed, outcome) for claimed in claims))

    changed = {name: S(outcome) for name in LATE_CHANGES.get(outcome, ())}
    assert delivery_states(store) == before | changed
    for delivery in rows(store, Delivery):
        log = attempt_outcomes(store, delivery.id or 0)
        assert log[-1] == (delivery.attempts, outcome)
        assert [number for number, _ in log] == list(range(1, delivery.attempts + 1))


def test_late_attempt_does_not_prevent_the_next_one(store: Store, ada: Actor) -> None:
    """It takes the number that the other run's attempt would have had."""
    open_mailing(store, ada, "bob")
    (slow,) = claim(store)
    rescue(store, 1)
    (quick,) = claim(store, 2)
    record_attempts(store, 1, make_attempt(slow, Outcome.DEFERRED, phase="rcpt"))

    send(store, 2, Outcome.SENT, quick)

    assert attempt_outcomes(store) == [(1, Outcome.DEFERRED), (2, Outcome.SENT)]
    assert delivery_states(store) == {"bob": S.SENT}


def test_only_the_newest_of_two_claims_of_a_delivery_is_intended(store: Store, ada: Actor) -> None:
    """The run seemed to be dead, and goes on."""
    open_mailing(store, ada, "bob")
    (old,) = claim(store)
    rescue(store, 1)
    (new,) = claim(store)
    assert intended_claims(store, 1, old, new) == {new.key}


@pytest.mark.parametrize("outcome", Outcome)
def test_late_attempt_comes_after_a_success_of_an_open_lease(store: Store, ada: Actor, outcome: Outcome) -> None:
    """That success is in the log, but not yet in the delivery's row."""
    open_mailing(store, ada, "bob")
    (slow,) = claim(store)
    rescue(store, 1)
    (quick,) = claim(store, 2)
    record_intents(store, 2, quick)
    record_attempts(store, 2, make_attempt(quick, Outcome.SENT), folds=False)

    record_attempts(store, 1, make_attempt(slow, outcome), folds=False)
    rescue(store, 2)

    assert attempt_outcomes(store) == [(1, Outcome.SENT), (2, outcome)]
    assert delivery_states(store) == {"bob": S.SENT}


def test_late_and_timely_attempts_at_a_delivery_in_one_call(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", "eve")
    (old,) = claim(store, limit=1)
    close_leases(store)
    new, other = *claim(store, limit=1), *claim(store, limit=1)
    record_intents(store, 1, new, other)

    outcomes = (Outcome.FAILED, Outcome.SENT, Outcome.DEFERRED)
    record_attempts(store, 1, *map(make_attempt, (old, other, new), outcomes))

    assert delivery_states(store) == {"bob": S.DEFERRED, "eve": S.SENT}
    assert sorted(attempt_outcomes(store, old.id)) == [(1, Outcome.DEFERRED), (2, Outcome.FAILED)]
    assert attempt_outcomes(store, other.id) == [(1, Outcome.SENT)]


@pytest.mark.parametrize("end", [Outcome.DEFERRED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.GIVEN_BACK, "dead"])
def test_late_success_counts_whatever_happens_to_the_present_attempt(
    store: Store, ada: Actor, end: Outcome | str
) -> None:
    """Otherwise the client would get the same email again."""
    open_mailing(store, ada, "bob")
    (slow,) = claim(store)
    record_intents(store, 1, slow)
    rescue(store, 1)
    sweep(store, NOW + 15 * MINUTE)
    (quick,) = claim(store, 2, now=NOW + 15 * MINUTE)
    record_intents(store, 2, quick)
    record_attempts(store, 1, make_attempt(slow, Outcome.SENT))
    assert delivery_states(store) == {"bob": S.SENDING}

    if end == "dead":
        rescue(store, 2, NOW + 16 * MINUTE)
    else:
        record_attempts(store, 2, make_attempt(quick, Outcome(end)))

    assert delivery_states(store) == {"bob": S.SENT}
    assert [outcome for _, outcome in attempt_outcomes(store)][:2] == [Outcome.UNKNOWN, Outcome.SENT]
    sweep(store, NOW + 20 * MINUTE)
    assert occurrence_state(store) == OccurrenceState.FINISHED


def test_attempt_at_a_deleted_delivery_is_not_recorded(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", "eve")
    deleted, other = claim(store)
    record_intents(store, 1, deleted, other)
    write(store, lambda connection: connection.execute(delete(Delivery).where(Delivery.__table__.c.id == deleted.id)))

    record_attempts(store, 1, make_attempt(deleted, Outcome.SENT), make_attempt(other, Outcome.SENT))

    assert [attempt.delivery_id for attempt in rows(store, Attempt)] == [other.id]
    assert delivery_states(store) == {"eve": S.SENT}


# Bad addresses


def test_bad_address_is_marked_and_its_pending_deliveries_are_cancelled(store: Store, ada: Actor, bob: Actor) -> None:
    """In all mailings of its owner, and of no other. Later occurrences leave it out."""
    create_client(store, ada, "eve")
    create_client(store, bob, "eve")
    for owner in (ada, ada, bob):
        create_mailing(store, owner)
    open_due(store)
    for which in (1, 2, 3):
        create_deliveries(store, which)
    (claimed,) = claim(store)
    claim(store, 2, occurrence_id=2)

    send(store, 1, Outcome.FAILED, claimed, reply="550 5.1.1 unknown user", bad_address=True)

    assert [delivery.state for delivery in rows(store, Delivery)] == [S.FAILED, S.CANCELLED, S.QUEUED]
    marked, foreign = rows(store, Client)
    assert (marked.bad_at, marked.bad_reason) == (NOW, "550 5.1.1 unknown user")
    assert foreign.bad_at is None
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 4)
    assert len(rows(store, Delivery)) == 3


@pytest.mark.parametrize("changes", [{"email": "new@example.org"}, {"bad_at": NOW - MINUTE, "bad_reason": "before"}])
def test_client_is_not_marked_for_a_reply_about_another_address(
    store: Store, ada: Actor, changes: dict[str, object]
) -> None:
    (bob,) = open_mailing(store, ada, "bob")
    (claimed,) = claim(store)
    update_row(store, Client, bob, **changes)

    send(store, 1, Outcome.FAILED, claimed, bad_address=True)

    client = get_row(store, Client, bob)
    assert (client.bad_at, client.bad_reason) == (changes.get("bad_at"), changes.get("bad_reason"))


def test_bad_address_of_a_deleted_client(store: Store, ada: Actor) -> None:
    (bob,) = open_mailing(store, ada, "bob")
    (claimed,) = claim(store)
    record_intents(store, 1, claimed)
    delete_client(store, bob)

    record_attempts(store, 1, make_attempt(claimed, Outcome.FAILED, bad_address=True))

    assert delivery_states(store) == {"bob": S.FAILED}


# Counts


def test_counts_of_an_occurrence_and_of_pending_deliveries(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *(f"client{number}" for number in range(9)))
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 2)
    claims = claim(store)
    record_intents(store, 1, *claims[:5])
    outcomes = (Outcome.SENT, Outcome.SENT, Outcome.DEFERRED, Outcome.UNKNOWN)
    record_attempts(store, 1, *map(make_attempt, claims, outcomes))
    give_back(store, claims[8])

    with store.read() as transaction:
        db = transaction.connection()
        counts = {S.SENT: 2, S.DEFERRED: 1, S.UNKNOWN: 1, S.SENDING: 1, S.CLAIMED: 3, S.QUEUED: 1}
        assert ledger.count_by_state(db, 1) == counts
        pending = {S.DEFERRED: 1, S.SENDING: 1, S.CLAIMED: 3, S.QUEUED: 1}
        assert ledger.count_pending_by_state(db, 1) == pending
        assert ledger.count_pending_by_state(db) == pending | {S.QUEUED: 10}
        assert ledger.count_pending_by_state(db, 7) == {}
        for mailing_id in (None, 1, 7):
            assert ledger.count_pending(db, mailing_id) == sum(ledger.count_pending_by_state(db, mailing_id).values())

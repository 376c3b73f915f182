"""The ledger: no letter is sent without an intent, every attempt is kept as it was said, and sent stays sent."""

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from conftest import enrol
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from support.queue_steps import (
    MINUTE,
    NOW,
    RELAY,
    change,
    claim,
    client,
    delete_client,
    entry,
    fill,
    intend,
    mailing,
    number_of,
    occurrence_state,
    one,
    open_due,
    opened,
    record,
    release,
    rescue,
    rows,
    send,
    states,
    sweep,
    tried,
    write,
    write_at_once,
)

from skychimp.models import Attempt, Client, Delivery, DeliveryState, OccurrenceState, Outcome
from skychimp.permissions import Actor
from skychimp.store import database, ledger, queue
from skychimp.store.database import Store
from skychimp.store.schema import create_store

S = DeliveryState


# Intents


def test_an_intent_is_for_what_this_run_holds_by_this_claim(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob", "cid", "dan")
    mine, released, other, done = claim(store)
    release(store, 1, released, other)
    claim(store, 2, limit=1)
    send(store, 1, Outcome.SENT, done)

    assert intend(store, 1, mine, released, other, done) == {mine.id}
    assert intend(store, 2, mine) == set()
    assert intend(store, 1, mine._replace(token=mine.token + 1)) == set()
    assert states(store) == {"ann": S.SENDING, "bob": S.CLAIMED, "cid": S.QUEUED, "dan": S.SENT}
    assert intend(store, 1, mine) == {mine.id}, "said again, it is renewed"


def test_what_a_newer_claim_is_sending_is_not_given_back_with_an_older_one(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob")
    sending, claimed = claim(store)
    intend(store, 1, sending)
    ids = [sending.id, claimed.id]
    write(store, lambda db: queue.release(db, 1, ids, only_claimed=True))
    assert states(store) == {"ann": S.SENDING, "bob": S.QUEUED}


def test_of_two_claims_of_one_delivery_by_one_run_only_the_newer_may_be_sent(store: Store, ada: Actor) -> None:
    """As after a mailing was disabled and enabled again, while the run still had its letters in hand."""
    opened(store, ada, "bob")
    (old,) = claim(store)
    write(store, lambda db: queue.disable(db, 1, "why", NOW))
    write(store, lambda connection: connection.exec_driver_sql("UPDATE mailing SET disabled_at = NULL"))
    (new,) = claim(store)

    assert intend(store, 1, new) == {new.id}
    assert intend(store, 1, old) == set()
    assert states(store) == {"bob": S.SENDING}


def test_two_claims_of_one_delivery_in_one_breath_are_both_refused(store: Store, ada: Actor) -> None:
    """The answer names deliveries, and must never let two letters go; nothing was sent, so that it is queued again."""
    opened(store, ada, "bob", "eve")
    old, other = claim(store)
    release(store, 1, old)
    (new,) = claim(store)

    assert intend(store, 1, old, other, new) == {other.id}
    assert states(store) == {"bob": S.QUEUED, "eve": S.SENDING}
    assert len(claim(store)) == 1


# Outcomes

ON_TIME = {
    Outcome.SENT: (S.SENT, None, 0),
    Outcome.DEFERRED: (S.DEFERRED, NOW + 5 * MINUTE, 0),
    Outcome.FAILED: (S.FAILED, None, 0),
    Outcome.UNKNOWN: (S.UNKNOWN, NOW + 15 * MINUTE, 0),
    Outcome.GIVEN_BACK: (S.QUEUED, NOW, 1),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_changes_its_delivery_and_is_kept(store: Store, ada: Actor, outcome: Outcome) -> None:
    opened(store, ada, "bob", "eve")
    first, _ = claim(store)
    began, ended = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2, microseconds=3)
    intend(store, 1, first)

    record(store, 1, entry(first, outcome, phase="rcpt", started_at=began, finished_at=ended))

    found = one(store, Delivery, first.id)
    assert (found.state, found.next_try_at, found.given_back) == ON_TIME[outcome]
    assert (found.attempts, one(store, Delivery, 2).attempts) == (1, 0)
    (kept,) = rows(store, Attempt)
    expected = entry(first, outcome)
    assert (kept.delivery_id, kept.number, kept.started_at, kept.finished_at) == (first.id, 1, began, ended)
    assert (kept.outcome, kept.phase, kept.code, kept.enhanced) == (outcome, "rcpt", expected.code, expected.enhanced)
    assert (kept.reply, kept.relay) == (expected.reply, RELAY)


def test_many_outcomes_at_once_each_go_to_their_own(store: Store, ada: Actor) -> None:
    opened(store, ada, *(f"client{number}" for number in range(50)))
    claims = claim(store)
    intend(store, 1, *claims)
    outcomes = [list(Outcome)[claimed.id % 5] for claimed in claims]

    record(store, 1, *(entry(claimed, outcome) for claimed, outcome in zip(claims, outcomes, strict=True)))

    assert list(states(store).values()) == [ON_TIME[outcome][0] for outcome in outcomes]
    assert [found.outcome for found in rows(store, Attempt)] == outcomes


def test_attempts_are_numbered_over_all_tries(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob")
    for outcome in (Outcome.GIVEN_BACK, Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.SENT):
        sweep(store, NOW + 20 * MINUTE)
        (claimed,) = claim(store, now=NOW + 20 * MINUTE)
        assert (claimed.attempts, claimed.given_back) == (len(tried(store)), min(1, len(tried(store))))
        send(store, 1, outcome, claimed)

    assert [number for number, _ in tried(store)] == [1, 2, 3, 4]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(reply=st.text(st.characters(codec="utf-8")), driver=st.sampled_from(["newest", "standard"]))
@example(
    reply="550 5.7.1 \0 NUL, \x1b[2J, \r\n, \x7f, \u2028, ‮, \ufffe, \U0010ffff, ' \" \\ \\u0000", driver="standard"
)
@example(reply="12", driver="newest")
@example(reply="null", driver="newest")
def test_a_reply_comes_back_as_it_was_said(
    store: Store, ada: Actor, standard_store: Store, reply: str, driver: str
) -> None:
    chosen = store if driver == "newest" else standard_store
    owner = enrol(chosen, f"p{number_of(chosen, Delivery)}")
    opened_one = mailing_of_one(chosen, owner)
    (claimed,) = claim(chosen, occurrence_id=opened_one)

    send(chosen, 1, Outcome.FAILED, claimed, reply=reply)

    assert rows(chosen, Attempt)[-1].reply == reply.replace("\0", "\\x00")


def test_what_is_not_unicode_is_written_out(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob")
    send(store, 1, Outcome.FAILED, *claim(store), reply="a file \udcff", bad_address=True)

    assert rows(store, Attempt)[0].reply == one(store, Client, 1).bad_reason == r"a file \udcff"


@pytest.fixture
def standard_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store by the standard library's SQLite, which may be an old one."""
    driver: ModuleType = sqlite3
    monkeypatch.setattr(database, "_driver", lambda: driver)
    made = create_store(f"sqlite:///{tmp_path / 'standard.db'}")
    yield made
    made.close()


def mailing_of_one(store: Store, owner: Actor) -> int:
    """Another mailing, to one client; its occurrence."""
    client(store, owner, "bob")
    mailing(store, owner)
    open_due(store)
    number = number_of(store, Delivery) + 1
    fill(store, number)
    return number


# The usual group, at once


def test_letters_that_were_sent_and_intents_are_written_at_once(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob", "cid", "dan")
    first, second, third, _ = claim(store)
    intend(store, 1, first, second)
    began, ended = NOW + timedelta(seconds=1), NOW + timedelta(seconds=2, microseconds=3)
    said = entry(first, Outcome.SENT, started_at=began, finished_at=ended, reply="250 2.0.0 caf\xe9 \0 '\"\n")

    assert write_at_once(store, 1, [said, entry(second, Outcome.SENT)], [third]) == {third.id}

    assert states(store) == {"ann": S.SENT, "bob": S.SENT, "cid": S.SENDING, "dan": S.CLAIMED}
    sent = one(store, Delivery, first.id)
    assert (sent.attempts, sent.given_back, sent.next_try_at) == (1, 0, None)
    kept, other = rows(store, Attempt)
    assert (kept.delivery_id, kept.number, kept.started_at, kept.finished_at) == (first.id, 1, began, ended)
    assert (kept.outcome, kept.phase, kept.code, kept.enhanced) == (Outcome.SENT, "dot", 250, "2.0.0")
    assert (kept.reply, kept.relay) == ("250 2.0.0 caf\xe9 \\x00 '\"\n", RELAY)
    assert (other.delivery_id, other.number) == (second.id, 1)


@pytest.mark.parametrize("times", [1, 2])
def test_what_is_not_this_runs_any_more_is_left_at_once_and_said_afterwards(
    store: Store, ada: Actor, times: int
) -> None:
    """The others are written all the same; done again, as after a lock in between, it changes nothing more."""
    opened(store, ada, "ann", "bob", "cid", "dan", "eve")
    sent, taken, ours, gone, stale = claim(store)
    intend(store, 1, sent, taken)
    rescue(store, 1)
    change_all(store, f"UPDATE delivery SET state = 'sending', run_id = 1, token = {sent.token} WHERE id IN (1, 3, 5)")
    release(store, 1, stale)
    (again,) = [claimed for claimed in claim(store) if claimed.id == stale.id]

    for _ in range(times):
        granted = write_at_once(
            store, 1, [entry(sent, Outcome.SENT), entry(taken, Outcome.SENT)], [ours, gone, stale._replace(token=1)]
        )
        assert granted == {ours.id}

    assert states(store) == {"ann": S.SENT, "bob": S.SENT, "cid": S.SENDING, "dan": S.CLAIMED, "eve": S.CLAIMED}
    assert one(store, Delivery, stale.id).token == again.token
    for delivery_id in (sent.id, taken.id):
        log = tried(store, delivery_id)
        assert [outcome for _, outcome in log][:2] == [Outcome.UNKNOWN, Outcome.SENT]
        assert [number for number, _ in log] == list(range(1, one(store, Delivery, delivery_id).attempts + 1))


# Late ones


@pytest.mark.parametrize("outcome", Outcome)
def test_a_late_outcome_is_kept_and_changes_nothing_but_a_late_yes(store: Store, ada: Actor, outcome: Outcome) -> None:
    """Its run was taken for dead; for each state that the delivery may have got into meanwhile."""
    names = ["unknown", "queued", "claimed", "sending", "deferred", "failed", "sent", "cancelled"]
    ids = opened(store, ada, *names)
    claims = claim(store)
    intend(store, 1, *claims)
    rescue(store, 1)
    change_all(store, "UPDATE delivery SET state = 'queued' WHERE id > 1")
    again = claim(store, 2, now=NOW + 15 * MINUTE, limit=20)
    release(store, 2, *(claimed for claimed in again if claimed.id == 2))
    intend(store, 2, *(claimed for claimed in again if claimed.id in (4, 5, 6, 7)))
    for claimed, came_of_it in zip(again[3:], (Outcome.DEFERRED, Outcome.FAILED, Outcome.SENT), strict=False):
        record(store, 2, entry(claimed, came_of_it))
    delete_client(store, ids[7])
    before = states(store)
    assert list(before) == [str(state) for state in before.values()]

    record(store, 1, *(entry(claimed, outcome) for claimed in claims))

    expected = before | {name: S.SENT for name in names if outcome == Outcome.SENT and name != "sending"}
    assert states(store) == expected
    for found in rows(store, Delivery):
        log = tried(store, found.id or 0)
        assert log[-1] == (found.attempts, outcome)
        assert [number for number, _ in log] == list(range(1, found.attempts + 1))


def test_a_late_outcome_does_not_stand_in_the_way_of_the_one_after_it(store: Store, ada: Actor) -> None:
    """It takes a number that the other run, which claimed meanwhile, had thought to be its own."""
    opened(store, ada, "bob")
    (slow,) = claim(store)
    release(store, 1, slow)
    (quick,) = claim(store, 2)
    record(store, 1, entry(slow, Outcome.DEFERRED, phase="rcpt"))

    send(store, 2, Outcome.SENT, quick)

    assert tried(store) == [(1, Outcome.DEFERRED), (2, Outcome.SENT)]
    assert states(store) == {"bob": S.SENT}


def test_a_late_and_a_timely_outcome_of_one_delivery_in_one_breath(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob", "eve")
    old, other = claim(store)
    release(store, 1, old)
    (new,) = claim(store)
    intend(store, 1, new)
    intend(store, 1, other)

    record(store, 1, entry(old, Outcome.FAILED), entry(other, Outcome.SENT), entry(new, Outcome.DEFERRED))

    assert states(store) == {"bob": S.DEFERRED, "eve": S.SENT}
    assert sorted(tried(store, old.id)) == [(1, Outcome.DEFERRED), (2, Outcome.FAILED)]
    assert tried(store, other.id) == [(1, Outcome.SENT)]


@pytest.mark.parametrize("then", [Outcome.DEFERRED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.GIVEN_BACK, "dead"])
def test_a_late_yes_counts_whatever_comes_of_the_try_that_was_under_way(
    store: Store, ada: Actor, then: Outcome | str
) -> None:
    """Otherwise a client whose letter was taken would get another one."""
    opened(store, ada, "bob")
    (slow,) = claim(store)
    intend(store, 1, slow)
    rescue(store, 1)
    sweep(store, NOW + 15 * MINUTE)
    (quick,) = claim(store, 2, now=NOW + 15 * MINUTE)
    intend(store, 2, quick)
    record(store, 1, entry(slow, Outcome.SENT))
    assert states(store) == {"bob": S.SENDING}

    if then == "dead":
        rescue(store, 2, NOW + 16 * MINUTE)
    else:
        record(store, 2, entry(quick, Outcome(then)))

    assert states(store) == {"bob": S.SENT}
    assert [outcome for _, outcome in tried(store)][:2] == [Outcome.UNKNOWN, Outcome.SENT]
    sweep(store, NOW + 20 * MINUTE)
    assert occurrence_state(store) == OccurrenceState.FINISHED


def test_the_same_outcome_twice_is_late_the_second_time(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob")
    (claimed,) = claim(store)
    send(store, 1, Outcome.SENT, claimed)

    record(store, 1, entry(claimed, Outcome.DEFERRED))

    assert states(store) == {"bob": S.SENT}
    assert tried(store) == [(1, Outcome.SENT), (2, Outcome.DEFERRED)]


def test_what_came_of_an_erased_delivery_leaves_nothing(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob", "eve")
    gone, other = claim(store)
    intend(store, 1, gone, other)
    write(store, lambda connection: connection.execute(delete(Delivery).where(Delivery.__table__.c.id == gone.id)))

    record(store, 1, entry(gone, Outcome.SENT), entry(other, Outcome.SENT))

    assert [kept.delivery_id for kept in rows(store, Attempt)] == [other.id]
    assert states(store) == {"eve": S.SENT}


# Bad addresses


def test_a_bad_address_is_marked_and_what_waits_for_it_is_cancelled(store: Store, ada: Actor, bob: Actor) -> None:
    """In every mailing of its owner, and of nobody else; later openings leave it out."""
    client(store, ada, "eve")
    client(store, bob, "eve")
    for owner in (ada, ada, bob):
        mailing(store, owner)
    open_due(store)
    for which in (1, 2, 3):
        fill(store, which)
    (claimed,) = claim(store)
    claim(store, 2, occurrence_id=2)

    send(store, 1, Outcome.FAILED, claimed, reply="550 5.1.1 nobody here", bad_address=True)

    assert [found.state for found in rows(store, Delivery)] == [S.FAILED, S.CANCELLED, S.QUEUED]
    marked, foreign = rows(store, Client)
    assert (marked.bad_at, marked.bad_reason) == (NOW, "550 5.1.1 nobody here")
    assert foreign.bad_at is None
    mailing(store, ada)
    open_due(store)
    fill(store, 4)
    assert len(rows(store, Delivery)) == 3


@pytest.mark.parametrize("since", [{"email": "new@example.org"}, {"bad_at": NOW - MINUTE, "bad_reason": "before"}])
def test_a_client_is_not_marked_for_what_was_said_of_another_address(
    store: Store, ada: Actor, since: dict[str, object]
) -> None:
    (bob,) = opened(store, ada, "bob")
    (claimed,) = claim(store)
    change(store, Client, bob, **since)

    send(store, 1, Outcome.FAILED, claimed, bad_address=True)

    found = one(store, Client, bob)
    assert (found.bad_at, found.bad_reason) == (since.get("bad_at"), since.get("bad_reason"))


def test_a_bad_address_of_a_client_who_is_gone(store: Store, ada: Actor) -> None:
    (bob,) = opened(store, ada, "bob")
    (claimed,) = claim(store)
    intend(store, 1, claimed)
    delete_client(store, bob)

    record(store, 1, entry(claimed, Outcome.FAILED, bad_address=True))

    assert states(store) == {"bob": S.FAILED}


# What they add up to


def test_counts_of_an_occurrence_and_what_is_left_of_all(store: Store, ada: Actor) -> None:
    opened(store, ada, *(f"client{number}" for number in range(9)))
    mailing(store, ada)
    open_due(store)
    fill(store, 2)
    claims = claim(store)
    intend(store, 1, *claims[:5])
    outcomes = (Outcome.SENT, Outcome.SENT, Outcome.DEFERRED, Outcome.UNKNOWN)
    record(store, 1, *(entry(claimed, outcome) for claimed, outcome in zip(claims, outcomes, strict=False)))
    release(store, 1, claims[8])

    with store.read() as transaction:
        db = transaction.connection()
        counted = {S.SENT: 2, S.DEFERRED: 1, S.UNKNOWN: 1, S.SENDING: 1, S.CLAIMED: 3, S.QUEUED: 1}
        assert ledger.counts(db, 1) == counted
        waits = {S.DEFERRED: 1, S.SENDING: 1, S.CLAIMED: 3, S.QUEUED: 1}
        assert ledger.left(db, 1) == waits
        assert ledger.left(db) == waits | {S.QUEUED: 10}
        assert ledger.left(db, 7) == {}
        for mailing_id in (None, 1, 7):
            assert ledger.waiting(db, mailing_id) == sum(ledger.left(db, mailing_id).values())


def change_all(store: Store, statement: str) -> None:
    write(store, lambda connection: connection.exec_driver_sql(statement))

"""The queue: one delivery for each client, claimed by one run at a time; an occurrence ends when nothing is pending."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from conftest import create_user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.queue_steps import (
    DAY,
    GIVE_UP_AFTER,
    MINUTE,
    NOW,
    attempt_outcomes,
    claim,
    close_leases,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    create_run,
    delete_client,
    delete_mailing,
    delivery_state,
    delivery_states,
    due_occurrences,
    get_row,
    give_back,
    make_attempt,
    occurrence_state,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rescue,
    rows,
    send,
    status,
    sweep,
    update_row,
    write,
)
from support.saved_rows import restore_rows, save_rows

from skychimp.models import (
    Client,
    Delivery,
    DeliveryState,
    Every,
    Intent,
    Lease,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
    User,
)
from skychimp.permissions import Actor
from skychimp.store import audience, queue
from skychimp.store.database import Store

T = TypeVar("T")

S = DeliveryState


def run_in_threads(number: int, work: Callable[[int], None]) -> None:
    """Call `work` with each thread's index in threads that begin together, each with its own connection."""
    start = threading.Barrier(number)

    def begin(index: int) -> None:
        start.wait()
        work(index)

    threads = [threading.Thread(target=begin, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def client_ids(store: Store, occurrence_id: int = 1) -> list[int]:
    """Return the clients with a delivery in an occurrence. The order in which these are created is not promised."""
    return sorted(row.client_id for row in rows(store, Delivery) if row.occurrence_id == occurrence_id)


# Opening


def test_occurrence_is_opened_once_by_many_runs(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")
    for _ in range(5):
        create_mailing(store, ada)
    counts: list[int] = []

    run_in_threads(8, lambda _: counts.append(open_due(store)))

    assert sum(counts) == 5
    assert Counter(row.mailing_id for row in rows(store, Occurrence)) == dict.fromkeys(range(1, 6), 1)


def test_several_runs_create_the_deliveries_of_one_occurrence(store: Store, ada: Actor) -> None:
    ids = [create_client(store, ada, f"client{number}") for number in range(57)]
    create_mailing(store, ada)
    open_due(store)

    run_in_threads(4, lambda _: create_deliveries(store, batch=5))

    assert client_ids(store) == ids
    assert occurrence_state(store) == OccurrenceState.OPEN


def test_batch_moves_the_cursor_and_can_be_sent_before_the_next_batch(store: Store, ada: Actor) -> None:
    ids = [create_client(store, ada, f"client{number}") for number in range(5)]
    create_mailing(store, ada)
    open_due(store)

    assert not write(store, lambda db: queue.create_deliveries(db, 1, 2))

    assert (occurrence_state(store), get_row(store, Occurrence, 1).cursor) == (OccurrenceState.OPENING, ids[1])
    assert sorted(claimed.client_id for claimed in claim(store)) == ids[:2]
    sweep(store)
    assert occurrence_state(store) == OccurrenceState.OPENING
    create_deliveries(store, batch=2)
    assert sorted(claimed.client_id for claimed in claim(store)) == ids[2:]


def test_delivery_keeps_the_client_as_it_was_at_opening(store: Store, ada: Actor) -> None:
    client_id = create_client(store, ada, "zoë", tags=["b", "a"], comment="a\nb", name="Zoë 🦉")
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store)

    update_row(store, Client, client_id, name="X", email="x@example.org", address_key="x@example.org", comment="")

    (claimed,) = claim(store)
    assert json.loads(claimed.tags) == ["a", "b"]
    expected = (client_id, "zoë@example.org", "Zoë 🦉", "a\nb", claimed.tags, 0, 0)
    assert claimed[2:-1] == expected


def test_address_gets_one_delivery(store: Store, ada: Actor) -> None:
    """If it is in the audience in two ways, or if clients change their addresses while the occurrence opens."""
    first, second = (
        create_client(store, ada, "bob", tags=["red", "blue"]),
        create_client(store, ada, "eve", tags=["red"]),
    )
    create_mailing(store, ada, client_ids=[first, second], tags=["red", "blue"])
    open_due(store)
    write(store, lambda db: queue.create_deliveries(db, 1, 1))
    update_row(store, Client, first, address_key="moved@example.org")
    update_row(store, Client, second, address_key="bob@example.org")

    create_deliveries(store, batch=1)

    assert [(row.client_id, row.address_key) for row in rows(store, Delivery)] == [(first, "bob@example.org")]


def test_deliveries_are_created_for_named_and_tagged_clients(store: Store, ada: Actor, bob: Actor) -> None:
    """Each gets one. Other users' clients and bad addresses get none."""
    named = create_client(store, ada, "named")
    create_client(store, ada, "neither", tags=["other"])
    both = create_client(store, ada, "both", tags=["red"])
    tagged = create_client(store, ada, "tagged", tags=["blue"])
    create_client(store, bob, "foreign", tags=["red"])
    bad = create_client(store, ada, "bad", tags=["red"], bad_at=NOW, bad_reason="550 5.1.1")
    create_mailing(store, ada, client_ids=[named, both], tags=["red", "blue"])
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 1)
    create_deliveries(store, 2)

    in_audience = audience.client_ids(1, all_clients=False)
    assert write(store, lambda db: sorted(db.scalars(in_audience))) == [named, both, tagged, bad]
    assert client_ids(store, 1) == [named, both, tagged]
    assert client_ids(store, 2) == [named, named + 1, both, tagged]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), max_size=12),
    batch=st.integers(1, 5),
)
def test_batches_of_any_size_cover_the_audience(store: Store, kinds: list[tuple[bool, bool, bool]], batch: int) -> None:
    owner, other = create_user(store, f"o{count_rows(store, User)}"), create_user(store, f"x{count_rows(store, User)}")
    named, expected = [], []
    for number, (is_named, is_tagged, is_foreign) in enumerate(kinds):
        tags = ["red"] if is_tagged else []
        client_id = create_client(store, other if is_foreign else owner, f"c{number}", tags=tags)
        if is_named and not is_foreign:
            named.append(client_id)
        if (is_named or is_tagged) and not is_foreign:
            expected.append(client_id)
    create_mailing(store, owner, client_ids=named, tags=["red"])
    open_due(store)
    latest = rows(store, Occurrence)[-1].id or 0

    create_deliveries(store, latest, batch)

    assert client_ids(store, latest) == expected


def test_clients_change_while_an_occurrence_opens(store: Store, ada: Actor) -> None:
    """Up to the cursor deliveries exist already. After it, the audience is the present one."""
    ids = [create_client(store, ada, name) for name in ("ann", "bob", "cid", "dan", "eve")]
    create_mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.create_deliveries(db, 1, 2))

    delete_client(store, ids[0])
    delete_client(store, ids[2])
    update_row(store, Client, ids[3], bad_at=NOW)
    create_client(store, ada, "new")
    create_deliveries(store, batch=2)

    queued, cancelled = S.QUEUED, S.CANCELLED
    assert delivery_states(store) == {"ann": cancelled, "bob": queued, "eve": queued, "new": queued}


def test_occurrence_with_an_empty_audience_finishes_at_once(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, tags=["unused"])
    open_due(store)
    assert due_occurrences(store) == [1]

    create_deliveries(store)
    sweep(store)

    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)
    assert due_occurrences(store) == []


@pytest.mark.parametrize("stopped", [{}, {"disabled_at": NOW}])
def test_interrupted_opening_is_completed_after_its_deadline(
    store: Store, ada: Actor, stopped: dict[str, object]
) -> None:
    """Each client has a delivery, even if it expires at once, and the mailing is completed."""
    for name in ("ann", "bob", "cid"):
        create_client(store, ada, name)
    create_mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.create_deliveries(db, 1, 2))
    if stopped:
        update_row(store, Mailing, 1, **stopped)
    late = NOW + GIVE_UP_AFTER

    sweep(store, late)
    assert occurrence_state(store) == OccurrenceState.OPENING
    assert due_occurrences(store, late) == [1]
    create_deliveries(store)
    assert claim(store, now=late) == []
    sweep(store, late)

    assert delivery_states(store) == dict.fromkeys(("ann", "bob", "cid"), S.EXPIRED)
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_deleted_mailing_gets_no_more_deliveries(store: Store, ada: Actor) -> None:
    for name in ("ann", "bob", "cid"):
        create_client(store, ada, name)
    create_mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.create_deliveries(db, 1, 1))
    (claimed,) = claim(store)
    record_intents(store, 1, claimed)

    delete_mailing(store, 1)
    create_deliveries(store, batch=1)

    assert delivery_states(store) == {"ann": S.SENDING}
    assert occurrence_state(store) == OccurrenceState.OPENING
    record_attempts(store, 1, make_attempt(claimed, Outcome.DEFERRED))
    sweep(store)
    assert delivery_states(store) == {"ann": S.CANCELLED}
    assert occurrence_state(store) == OccurrenceState.CANCELLED


# Claiming


def test_delivery_is_claimed_by_one_of_many_runs(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *(f"client{number}" for number in range(40)))
    claimed_ids: list[int] = []

    def work(index: int) -> None:
        while claims := claim(store, index + 1, limit=3):
            claimed_ids.extend(claimed.id for claimed in claims)

    run_in_threads(4, work)

    assert sorted(claimed_ids) == list(range(1, 41))


def test_claim_takes_due_deliveries_in_order(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", "cid", "dan")
    update_row(store, Delivery, 1, next_try_at=NOW + MINUTE)
    update_row(store, Delivery, 2, state=S.DEFERRED, next_try_at=NOW - MINUTE)
    update_row(store, Delivery, 3, state=S.UNKNOWN, next_try_at=NOW - DAY)

    assert [claimed.id for claimed in claim(store, limit=1)] == [2]
    assert [claimed.id for claimed in claim(store)] == [4]
    assert [claimed.id for claimed in claim(store, due_by=NOW + MINUTE)] == [1]
    assert delivery_states(store) == dict.fromkeys(("ann", "bob", "dan"), S.CLAIMED) | {"cid": S.UNKNOWN}


STOPS: list[tuple[type[Any], dict[str, object]]] = [
    (Mailing, {"disabled_at": NOW}),
    (Mailing, {"deleted_at": NOW}),
    (User, {"blocked_at": NOW}),
    (StoreInfo, {"held_at": NOW}),
    (Occurrence, {"deadline": NOW}),
]
"""After each of these changes, a mailing sends nothing more."""


@pytest.mark.parametrize(
    ("table", "values"),
    [
        *STOPS,
        (Occurrence, {"state": OccurrenceState.FINISHED}),
        (Occurrence, {"state": OccurrenceState.CANCELLED}),
    ],
)
def test_stopped_occurrence_is_neither_due_nor_claimed(
    store: Store, ada: Actor, table: type[Mailing], values: dict[str, object]
) -> None:
    open_mailing(store, ada, "bob")
    update_row(store, table, 1, **values)

    assert claim(store) == []
    assert due_occurrences(store) == []


def test_due_occurrences(store: Store, ada: Actor) -> None:
    """They are in order of their due times, of all mailings or one, and have something to send now."""
    create_client(store, ada, "bob")
    for start in (NOW, NOW - MINUTE, NOW - 2 * MINUTE):
        create_mailing(store, ada, start=start)
    open_due(store)
    for which in (1, 2, 3):
        create_deliveries(store, which)
    by_mailing = {row.mailing_id: row.id for row in rows(store, Occurrence)}
    update_row(store, Delivery, by_mailing[3] or 0, next_try_at=NOW + MINUTE)

    assert due_occurrences(store) == [by_mailing[2], by_mailing[1]]
    assert due_occurrences(store, mailing_id=1) == [by_mailing[1]]
    assert due_occurrences(store, NOW + MINUTE) == [by_mailing[3], by_mailing[2], by_mailing[1]]


# What each event does in each state of a delivery

STATES: dict[str, Callable[[Store], object]] = {
    "queued": lambda store: None,
    "deferred": lambda store: send(store, 1, Outcome.DEFERRED, *claim(store)),
    "claimed": lambda store: claim(store),
    "sending": lambda store: record_intents(store, 1, *claim(store)),
    "resend": lambda store: send(store, 1, Outcome.UNKNOWN, *claim(store)),
    "hold": lambda store: send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None),
    "sent": lambda store: send(store, 1, Outcome.SENT, *claim(store)),
    "failed": lambda store: send(store, 1, Outcome.FAILED, *claim(store)),
}
EVENTS: dict[str, Callable[[Store], object]] = {
    "deadline": lambda store: sweep(store, NOW + GIVE_UP_AFTER),
    "mailing deleted": lambda store: delete_mailing(store, 1),
    "client deleted": lambda store: delete_client(store, 1),
    "disabled": lambda store: write(store, lambda db: queue.disable_mailing(db, 1, "why", NOW)),
    "run ended": lambda store: close_leases(store),
    "run dead": lambda store: rescue(store, 1),
    "wait over": lambda store: sweep(store, NOW + 15 * MINUTE),
}
RESULTS = {
    ("queued", "deadline"): "expired",
    ("deferred", "deadline"): "expired",
    ("claimed", "deadline"): "expired",
    ("resend", "deadline"): "hold",
    ("queued", "mailing deleted"): "cancelled",
    ("deferred", "mailing deleted"): "cancelled",
    ("claimed", "mailing deleted"): "cancelled",
    ("resend", "mailing deleted"): "cancelled",
    ("queued", "client deleted"): "cancelled",
    ("deferred", "client deleted"): "cancelled",
    ("claimed", "client deleted"): "cancelled",
    ("resend", "client deleted"): "cancelled",
    ("claimed", "run ended"): "queued",
    ("claimed", "run dead"): "queued",
    ("sending", "run dead"): "resend",
    ("resend", "wait over"): "queued",
}


def repeatedly(store: Store, cases: Iterable[T]) -> Iterator[T]:
    """Yield each case with the store's rows as they are now. An engine compiles its statements once, so it stays."""
    saved = save_rows(store)
    for case in cases:
        restore_rows(store, saved)
        yield case


@pytest.mark.parametrize("state", STATES)
def test_event_changes_the_state_of_a_delivery(store: Store, ada: Actor, state: str) -> None:
    open_mailing(store, ada, "bob")
    STATES[state](store)

    for event in repeatedly(store, EVENTS):
        EVENTS[event](store)

        now_in = delivery_state(store)
        name: str = now_in
        if now_in == S.UNKNOWN:
            name = "hold" if get_row(store, Delivery, 1).next_try_at is None else "resend"
        assert name == RESULTS.get((state, event), state), event
        is_pending = now_in in (S.QUEUED, S.CLAIMED, S.SENDING, S.DEFERRED) or name == "resend"
        ended = OccurrenceState.CANCELLED if event == "mailing deleted" else OccurrenceState.FINISHED
        sweep(store)
        assert occurrence_state(store) == (OccurrenceState.OPEN if is_pending else ended), event
        assert status(store) == (MailingStatus.RUNNING if is_pending else MailingStatus.COMPLETED), event


def test_deliveries_of_a_dead_run_are_queued_or_unknown(store: Store, ada: Actor) -> None:
    """What it was sending is unknown, with an attempt that gives the reason. Other runs keep their deliveries."""
    open_mailing(store, ada, "ann", "bob", "cid", "dan")
    dead, alive = create_run(store), create_run(store)
    first, _ = claim(store, dead, limit=2)
    record_intents(store, dead, first)
    own, _ = claim(store, alive)
    record_intents(store, alive, own)

    assert rescue(store, dead, NOW + MINUTE) == 1

    assert delivery_states(store) == {"ann": S.UNKNOWN, "bob": S.QUEUED, "cid": S.SENDING, "dan": S.CLAIMED}
    assert attempt_outcomes(store, first.id) == [(1, Outcome.UNKNOWN)]
    assert get_row(store, Delivery, first.id).next_try_at == NOW + 16 * MINUTE
    assert rescue(store, dead, NOW + MINUTE) == 0
    assert attempt_outcomes(store, first.id) == [(1, Outcome.UNKNOWN)]


def test_unknown_delivery_has_no_next_try_if_a_person_decides(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    record_intents(store, 1, *claim(store))

    rescue(store, 1, resend_after=None)

    assert get_row(store, Delivery, 1).next_try_at is None
    sweep(store, NOW + DAY)
    assert delivery_states(store) == {"bob": S.UNKNOWN}
    assert status(store) == MailingStatus.COMPLETED


def test_delivery_that_is_given_back_is_queued_even_if_its_intent_is_recorded(store: Store, ada: Actor) -> None:
    """The run knows that it wrote no final dot. Its other deliveries stay, and those of other runs too."""
    open_mailing(store, ada, "ann", "bob", "cid")
    first, second = claim(store, limit=2)
    record_intents(store, 1, first, second)
    claim(store, 2)

    give_back(store, first)

    assert delivery_states(store) == {"ann": S.QUEUED, "bob": S.SENDING, "cid": S.CLAIMED}
    assert [again.id for again in claim(store, 2)] == [first.id]


def test_lease_is_closed_with_its_last_intent(store: Store, ada: Actor) -> None:
    """What was sent is recorded in the deliveries' rows. A delivery without a result keeps the lease open."""
    open_mailing(store, ada, "ann", "bob", "cid")
    claims = claim(store)
    record_intents(store, 1, *claims[:2])
    record_attempts(store, 1, make_attempt(claims[0], Outcome.SENT), folds=False)
    assert [row.state for row in rows(store, Delivery)] == [S.QUEUED] * 3
    assert delivery_states(store) == {"ann": S.SENT, "bob": S.SENDING, "cid": S.CLAIMED}

    close_leases(store)
    assert [(row.state, row.attempts) for row in rows(store, Delivery)] == [(S.SENT, 1), (S.QUEUED, 0), (S.QUEUED, 0)]
    assert delivery_states(store) == {"ann": S.SENT, "bob": S.SENDING, "cid": S.CLAIMED}

    record_attempts(store, 1, make_attempt(claims[1], Outcome.SENT), folds=False)
    close_leases(store)
    assert delivery_states(store) == {"ann": S.SENT, "bob": S.SENT, "cid": S.QUEUED}
    assert (rows(store, Lease), rows(store, Intent)) == ([], [])


@pytest.mark.parametrize("end", ["closed", "rescued"])
def test_ended_lease_permits_no_intent(store: Store, ada: Actor, end: str) -> None:
    open_mailing(store, ada, "ann", "bob")
    claims = claim(store)
    if end == "closed":
        close_leases(store)
    else:
        rescue(store, 1)
    claim(store, 2)

    assert record_intents(store, 1, *claims) == set()
    assert delivery_states(store) == {"ann": S.CLAIMED, "bob": S.CLAIMED}


@pytest.mark.parametrize("change", ["deleted", "bad"])
@pytest.mark.parametrize("end", [Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.GIVEN_BACK, "given back", "run dead"])
def test_nothing_is_pending_for_a_client_deleted_or_bad_during_an_attempt(
    store: Store, ada: Actor, change: str, end: Outcome | str
) -> None:
    bob, _ = open_mailing(store, ada, "bob", "eve")
    claims = claim(store)
    record_intents(store, 1, *claims)
    if change == "deleted":
        delete_client(store, bob)
    else:
        update_row(store, Client, bob, bad_at=NOW, bad_reason="550 5.1.1")
    assert delivery_states(store) == {"bob": S.SENDING, "eve": S.SENDING}

    if end == "given back":
        give_back(store, *claims)
    elif end == "run dead":
        rescue(store, 1)
    else:
        record_attempts(store, 1, *(make_attempt(claimed, Outcome(end)) for claimed in claims))

    assert delivery_states(store)["bob"] == S.CANCELLED
    assert delivery_states(store)["eve"] != S.CANCELLED


def test_delivery_to_an_old_address_is_retried_if_the_new_address_is_bad(store: Store, ada: Actor) -> None:
    (bob,) = open_mailing(store, ada, "bob")
    (claimed,) = claim(store)
    update_row(store, Client, bob, email="b@x.org", address_key="b@x.org", bad_at=NOW, bad_reason="550 5.1.1")

    send(store, 1, Outcome.DEFERRED, claimed)

    assert delivery_states(store) == {"bob": S.DEFERRED}


def test_cancelled_or_expired_delivery_cannot_be_sent(store: Store, ada: Actor) -> None:
    bob, _ = open_mailing(store, ada, "bob", "eve")
    claims = claim(store)
    delete_client(store, bob)
    sweep(store, NOW + GIVE_UP_AFTER)

    assert record_intents(store, 1, *claims) == set()
    assert delivery_states(store) == {"bob": S.CANCELLED, "eve": S.EXPIRED}


def test_cancelling_an_address_affects_one_owner(store: Store, ada: Actor, bob: Actor) -> None:
    open_mailing(store, ada, "eve")
    create_client(store, bob, "eve")
    create_mailing(store, bob)
    open_due(store)
    create_deliveries(store, 2)

    occurrences = select(Occurrence.__table__.c.id).where(Occurrence.__table__.c.mailing_id == 1)
    write(store, lambda db: queue.cancel_for_address(db, occurrences, "eve@example.org"))

    assert [row.state for row in rows(store, Delivery)] == [S.CANCELLED, S.QUEUED]


# Disabling and enabling


def test_disabled_mailing_keeps_its_first_reason_and_continues_when_enabled(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob")
    claimed, sending = claim(store)
    record_intents(store, 1, sending)
    for reason, by in (("too many failures", None), ("by hand", ada.user_id)):
        write(store, lambda db: queue.disable_mailing(db, 1, reason, NOW, by))  # noqa: B023

    mailing = get_row(store, Mailing, 1)
    assert (mailing.disabled_reason, mailing.disabled_by_id) == ("too many failures", None)
    assert record_intents(store, 1, claimed) == set()
    record_attempts(store, 1, make_attempt(sending, Outcome.SENT))
    give_back(store, claimed)
    assert delivery_states(store) == {"ann": S.QUEUED, "bob": S.SENT}
    assert claim(store) == []

    update_row(store, Mailing, 1, disabled_at=None)
    assert [again.id for again in claim(store)] == [claimed.id]


def test_disabling_one_mailing_affects_no_other(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")
    for _ in range(2):
        create_mailing(store, ada)
    open_due(store)
    claims = []
    for which in (1, 2):
        create_deliveries(store, which)
        claims += claim(store, occurrence_id=which)

    write(store, lambda db: queue.disable_mailing(db, 1, "why", NOW))

    assert record_intents(store, 1, *claims) == {claims[1].id}


@pytest.mark.parametrize(
    ("table", "values"),
    [
        *STOPS,
        (Delivery, {"state": S.CANCELLED}),
    ],
)
def test_nothing_is_sent_once_it_is_stopped(
    store: Store, ada: Actor, table: type[Mailing], values: dict[str, object]
) -> None:
    """An intent is recorded in the same transaction in which it is checked."""
    open_mailing(store, ada, "bob")
    claims = claim(store)
    update_row(store, table, 1, **values)

    assert record_intents(store, 1, *claims) == set()


# The end of occurrences and mailings


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
    open_mailing(store, ada, "bob", every=Every.DAY, end_at=NOW + DAY + MINUTE)
    update_row(store, Occurrence, 1, deadline=NOW + 9 * DAY)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY, occurrence_id=2))
    sweep(store, NOW + DAY)

    assert (occurrence_state(store), occurrence_state(store, 2)) == (OccurrenceState.OPEN, OccurrenceState.FINISHED)
    assert status(store) == MailingStatus.RUNNING
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY))
    sweep(store, NOW + DAY)
    assert status(store) == MailingStatus.COMPLETED


# A store on hold

HELD_STATES: dict[str, Callable[[Store], object]] = STATES | {"opening": lambda store: reset_to_opening(store)}


def reset_to_opening(store: Store) -> None:
    update_row(store, Occurrence, 1, state=OccurrenceState.OPENING)


@pytest.mark.parametrize("state", HELD_STATES)
def test_sweep_changes_nothing_in_a_store_on_hold(store: Store, ada: Actor, state: str) -> None:
    """Whatever is past its deadline, due to be sent again, cancelled or finished: it stays until a person decides."""
    open_mailing(store, ada, "bob")
    HELD_STATES[state](store)
    update_row(store, StoreInfo, 1, held_at=NOW)
    for is_mailing_deleted in repeatedly(store, [False, True]):
        if is_mailing_deleted:
            update_row(store, Mailing, 1, deleted_at=NOW, message_id=None, next_at=None)
        before = [rows(store, table) for table in (Mailing, Occurrence, Delivery)]

        for now in (NOW, NOW + 15 * MINUTE, NOW + GIVE_UP_AFTER):
            assert write(store, lambda db: queue.sweep(db, now)) == []  # noqa: B023
            assert due_occurrences(store, now) == ([1] if expects_completion(state, is_mailing_deleted, now) else [])
            assert claim(store, now=now) == []

        assert [rows(store, table) for table in (Mailing, Occurrence, Delivery)] == before


def expects_completion(state: str, is_mailing_deleted: bool, now: datetime) -> bool:
    """Return whether an opening was interrupted until after its deadline. Its deliveries are created, not sent."""
    return state == "opening" and not is_mailing_deleted and now >= NOW + GIVE_UP_AFTER


def test_sweep_continues_when_the_hold_is_released(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    update_row(store, StoreInfo, 1, held_at=NOW)
    sweep(store, NOW + GIVE_UP_AFTER)
    assert delivery_states(store) == {"bob": S.QUEUED}

    update_row(store, StoreInfo, 1, held_at=None)
    sweep(store, NOW + GIVE_UP_AFTER)

    assert delivery_states(store) == {"bob": S.EXPIRED}
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


# A person's decisions


@pytest.mark.parametrize("state", [S.SENT, S.FAILED])
def test_person_resolves_an_unknown_delivery(store: Store, ada: Actor, state: DeliveryState) -> None:
    open_mailing(store, ada, "ann", "bob")
    send(store, 1, Outcome.UNKNOWN, *claim(store))

    write(store, lambda db: queue.resolve_as(db, [1], state))

    assert delivery_states(store) == {"ann": state, "bob": S.UNKNOWN}
    assert get_row(store, Delivery, 1).next_try_at is None


def test_resend_reopens_the_occurrence_with_a_new_deadline(store: Store, ada: Actor) -> None:
    bob, _ = open_mailing(store, ada, "bob", "eve")
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    later = NOW + GIVE_UP_AFTER + DAY
    sweep(store, later)
    assert status(store) == MailingStatus.COMPLETED
    delete_client(store, bob)

    write(store, lambda db: queue.resend(db, [1, 2], later, later + DAY))
    sweep(store, later)

    assert delivery_states(store) == {"bob": S.CANCELLED, "eve": S.QUEUED}
    assert (occurrence_state(store), status(store)) == (OccurrenceState.OPEN, MailingStatus.RUNNING)
    (again,) = claim(store, now=later)
    send(store, 1, Outcome.SENT, again)
    sweep(store, later)
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_resend_expires_at_its_deadline(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob")
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    sweep(store)

    write(store, lambda db: queue.resend(db, [1], NOW, NOW + MINUTE))
    sweep(store, NOW + timedelta(seconds=59))
    assert delivery_states(store) == {"bob": S.QUEUED}
    sweep(store, NOW + MINUTE)

    assert delivery_states(store) == {"bob": S.EXPIRED}
    assert status(store) == MailingStatus.COMPLETED

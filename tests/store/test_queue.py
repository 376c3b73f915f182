"""The queue: one delivery for each client, claimed by one run at a time, and the state that each event leaves."""

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any, TypeVar

import pytest
from sqlalchemy import select, true
from support.queue_steps import (
    DAY,
    END,
    MINUTE,
    NOW,
    attempt_outcomes,
    claim,
    close_leases,
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
from support.threads import run_in_threads

from skychimp.models import (
    Client,
    Content,
    Delivery,
    DeliveryState,
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
from skychimp.store import holds, queue
from skychimp.store.database import Store
from skychimp.store.occurrences import opening, sweeping

T = TypeVar("T")

S = DeliveryState
HOUR = timedelta(hours=1)


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
    (Mailing, {"held_at": NOW}),
    (Mailing, {"start_at": NOW - DAY, "end_at": NOW}),
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
    "the end": lambda store: sweep(store, NOW + END),
    "mailing deleted": lambda store: delete_mailing(store, 1),
    "client deleted": lambda store: delete_client(store, 1),
    "disabled": lambda store: write(store, lambda db: holds.disable_mailing(db, 1, "why", NOW)),
    "run ended": lambda store: close_leases(store),
    "run dead": lambda store: rescue(store, 1),
    "wait over": lambda store: sweep(store, NOW + 15 * MINUTE),
}
RESULTS = {
    ("queued", "the end"): "expired",
    ("deferred", "the end"): "expired",
    ("claimed", "the end"): "expired",
    ("resend", "the end"): "hold",
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
    open_mailing(store, ada, "bob", end_at=NOW + END)
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


def test_old_claim_of_a_run_taken_for_dead_does_not_touch_its_new_one(store: Store, ada: Actor) -> None:
    """The run has both: it gives back the old one together with others of the new lease."""
    open_mailing(store, ada, "ann", "bob")
    old, _ = claim(store)
    rescue(store, 1)
    new, other = claim(store)
    record_intents(store, 1, new)

    give_back(store, old, other)

    assert (old.id, old.lease_id) != (new.id, new.lease_id)
    assert delivery_states(store) == {"ann": S.SENDING, "bob": S.QUEUED}
    assert [again.id for again in claim(store, 2)] == [other.id]


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
    bob, _ = open_mailing(store, ada, "bob", "eve", end_at=NOW + END)
    claims = claim(store)
    delete_client(store, bob)
    sweep(store, NOW + END)

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
        write(store, lambda db: holds.disable_mailing(db, 1, reason, NOW, by))  # noqa: B023

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

    write(store, lambda db: holds.disable_mailing(db, 1, "why", NOW))

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


# A store on hold

HELD_STATES: dict[str, Callable[[Store], object]] = STATES | {"opening": lambda store: reset_to_opening(store)}


def reset_to_opening(store: Store) -> None:
    update_row(store, Occurrence, 1, state=OccurrenceState.OPENING)


@pytest.mark.parametrize("state", HELD_STATES)
def test_sweep_changes_nothing_in_a_store_on_hold(store: Store, ada: Actor, state: str) -> None:
    """Whatever is past its deadline, due to be sent again, cancelled or finished: it stays until a person decides."""
    open_mailing(store, ada, "bob", end_at=NOW + END)
    HELD_STATES[state](store)
    update_row(store, StoreInfo, 1, held_at=NOW)
    for is_mailing_deleted in repeatedly(store, [False, True]):
        if is_mailing_deleted:
            update_row(store, Mailing, 1, deleted_at=NOW, message_id=None, next_at=None)
        before = [rows(store, table) for table in (Mailing, Occurrence, Delivery)]

        for now in (NOW, NOW + 15 * MINUTE, NOW + END):
            assert write(store, lambda db: sweeping.sweep(db, now)) == sweeping.Swept()  # noqa: B023
            assert due_occurrences(store, now) == ([1] if expects_completion(state, is_mailing_deleted, now) else [])
            assert claim(store, now=now) == []

        assert [rows(store, table) for table in (Mailing, Occurrence, Delivery)] == before


def expects_completion(state: str, is_mailing_deleted: bool, now: datetime) -> bool:
    """Return whether an opening was interrupted until after its deadline. Its deliveries are created, not sent."""
    return state == "opening" and not is_mailing_deleted and now >= NOW + END


def test_sweep_continues_when_the_hold_is_released(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", end_at=NOW + END)
    update_row(store, StoreInfo, 1, held_at=NOW)
    sweep(store, NOW + END)
    assert delivery_states(store) == {"bob": S.QUEUED}

    update_row(store, StoreInfo, 1, held_at=None)
    sweep(store, NOW + END)

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


def test_resend_reopens_the_occurrence(store: Store, ada: Actor) -> None:
    bob, _ = open_mailing(store, ada, "bob", "eve")
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    later = NOW + 4 * DAY
    sweep(store, later)
    assert status(store) == MailingStatus.COMPLETED
    delete_client(store, bob)

    write(store, lambda db: queue.resend(db, [1, 2], later))
    sweep(store, later)

    assert delivery_states(store) == {"bob": S.CANCELLED, "eve": S.QUEUED}
    assert (occurrence_state(store), status(store)) == (OccurrenceState.OPEN, MailingStatus.RUNNING)
    (again,) = claim(store, now=later)
    send(store, 1, Outcome.SENT, again)
    sweep(store, later)
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_resend_expires_at_the_end_of_its_mailing(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "bob", end_at=NOW + MINUTE)
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    sweep(store)

    write(store, lambda db: queue.resend(db, [1], NOW))
    sweep(store, NOW + timedelta(seconds=59))
    assert delivery_states(store) == {"bob": S.QUEUED}
    sweep(store, NOW + MINUTE)

    assert delivery_states(store) == {"bob": S.EXPIRED}
    assert status(store) == MailingStatus.COMPLETED


# Holding, and what is held up


def test_held_mailing_goes_on_with_other_settings(store: Store, ada: Actor) -> None:
    """Those that were refused are queued again, and the time on hold does not count for their deadlines."""
    open_mailing(store, ada, "ann", "bob")
    ann, bob = claim(store)
    send(store, 1, Outcome.FAILED, ann)
    send(store, 1, Outcome.SENT, bob)
    close_leases(store)
    write(store, lambda db: holds.hold_mailing(db, 1, "553 no", "old settings", NOW))
    write(store, lambda db: queue.queue_refused(db, [1, 2], NOW))
    assert claim(store) == []
    assert delivery_states(store) == {"ann": S.QUEUED, "bob": S.SENT}
    write(store, lambda db: holds.hold_mailing(db, 1, "554 later", "old settings", NOW + DAY))
    assert get_row(store, Mailing, 1).held_reason == "553 no"

    write(store, lambda db: holds.release_mailings(db, "old settings", NOW + DAY))
    assert claim(store) == []
    write(store, lambda db: holds.release_mailings(db, "new settings", NOW + DAY))

    assert [claimed.given_back for claimed in claim(store)] == [1]
    assert get_row(store, Occurrence, 1).held_up_s == DAY.total_seconds()


def test_deferred_delivery_expires_after_a_try(store: Store, ada: Actor) -> None:
    """It does so at the first deferral that comes later than the time to give up, which stands still while held up."""
    open_mailing(store, ada, "bob")

    def defer(at: datetime) -> DeliveryState:
        send(store, 1, Outcome.DEFERRED, *claim(store, now=at), now=at, give_up_after=DAY)
        return delivery_state(store)

    assert defer(NOW) == S.DEFERRED
    assert defer(NOW + DAY - MINUTE) == S.DEFERRED
    write(store, lambda db: holds.add_time_held_up(db, Occurrence.__table__.c.id == 1, NOW, NOW + 2 * DAY))
    assert defer(NOW + 3 * DAY - MINUTE) == S.DEFERRED
    assert defer(NOW + 3 * DAY + 4 * MINUTE) == S.EXPIRED
    assert len(attempt_outcomes(store)) == 4


@pytest.mark.parametrize("state", [S.FAILED, S.EXPIRED, S.CANCELLED])
def test_retry_queues_again_with_a_new_deadline(store: Store, ada: Actor, state: DeliveryState) -> None:
    open_mailing(store, ada, "ann", "bob")
    send(store, 1, Outcome.SENT, *claim(store))
    close_leases(store)
    update_row(store, Delivery, 1, state=state, next_try_at=None, give_up_at=NOW)
    sweep(store)
    assert status(store) == MailingStatus.COMPLETED

    write(store, lambda db: queue.retry(db, [1, 2], NOW + DAY))

    assert delivery_states(store) == {"ann": S.QUEUED, "bob": S.SENT}
    assert get_row(store, Delivery, 1).give_up_at is None
    assert (occurrence_state(store), status(store)) == (OccurrenceState.OPEN, MailingStatus.RUNNING)


# What a resend repeats


def test_resend_has_the_date_and_the_content_of_the_email_it_repeats(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob")
    (ann,) = claim(store, limit=1)
    send(store, 1, Outcome.UNKNOWN, ann)
    close_leases(store)

    assert write(store, lambda db: opening.change_content(db, 1, subject="Corrected"))
    sweep(store, NOW + HOUR)

    later = claim(store, now=NOW + HOUR)
    assert [(claimed.date, claimed.content_id) for claimed in later] == [(NOW + HOUR, None), (NOW, 1)]
    assert get_row(store, Content, 1).subject == "Hello"
    assert get_row(store, Occurrence, 1).subject == "Corrected"


def test_run_that_died_leaves_the_date_of_its_lease(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann")
    record_intents(store, 1, *claim(store))
    rescue(store, 1, NOW + HOUR)
    assert get_row(store, Delivery, 1).dated_at == NOW


def test_waiting_delivery_goes_to_a_new_address(store: Store, ada: Actor) -> None:
    """Not one that may have arrived, nor one whose new address gets another email."""
    open_mailing(store, ada, "ann", "bob", "cid", "dan")
    _, bob, _, _ = claim(store)
    send(store, 1, Outcome.UNKNOWN, bob)
    close_leases(store)
    for client_id, name in ((1, "new"), (2, "newer"), (3, "eve")):
        update_row(store, Client, client_id, email=f"{name}@x.org", address_key=f"{name}@x.org")
    update_row(store, Delivery, 4, address="eve@x.org", address_key="eve@x.org")

    write(store, lambda db: queue.use_new_addresses(db, true()))

    assert delivery_states(store) == {"new": S.QUEUED, "bob": S.UNKNOWN, "cid": S.CANCELLED, "dan": S.QUEUED}

"""The queue: every client has one delivery, one run at a time holds it, and an occurrence ends when nothing waits."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import pytest
from conftest import enrol
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from support.queue_steps import (
    DAY,
    GIVE_UP_AFTER,
    MINUTE,
    NOW,
    change,
    claim,
    client,
    delete_client,
    delete_mailing,
    due,
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
    run,
    send,
    states,
    status,
    sweep,
    tried,
    write,
)

from skychimp.models import (
    Client,
    Delivery,
    DeliveryState,
    Every,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    StoreInfo,
    User,
)
from skychimp.permissions import Actor
from skychimp.store import queue
from skychimp.store.database import Store

S = DeliveryState


def at_once(number: int, work: Callable[[int], None]) -> None:
    """Do it in so many threads, each with a connection of its own, that begin together."""
    start = threading.Barrier(number)

    def begin(which: int) -> None:
        start.wait()
        work(which)

    threads = [threading.Thread(target=begin, args=(which,)) for which in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Opening


def test_an_occurrence_opens_once_however_many_runs_look_at_once(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")
    for _ in range(5):
        mailing(store, ada)
    opened_by: list[int] = []

    at_once(8, lambda _: opened_by.append(open_due(store)))

    assert sum(opened_by) == 5
    assert Counter(found.mailing_id for found in rows(store, Occurrence)) == dict.fromkeys(range(1, 6), 1)


def test_several_runs_fill_one_occurrence_together(store: Store, ada: Actor) -> None:
    ids = [client(store, ada, f"client{number}") for number in range(57)]
    mailing(store, ada)
    open_due(store)

    at_once(4, lambda _: fill(store, batch=5))

    assert [found.client_id for found in rows(store, Delivery)] == ids
    assert occurrence_state(store) == OccurrenceState.OPEN


def test_a_batch_moves_the_cursor_and_can_be_sent_before_the_next(store: Store, ada: Actor) -> None:
    ids = [client(store, ada, f"client{number}") for number in range(5)]
    mailing(store, ada)
    open_due(store)

    assert not write(store, lambda db: queue.fill(db, 1, 2))

    assert (occurrence_state(store), one(store, Occurrence, 1).cursor) == (OccurrenceState.OPENING, ids[1])
    assert [claimed.client_id for claimed in claim(store)] == ids[:2]
    sweep(store)
    assert occurrence_state(store) == OccurrenceState.OPENING
    fill(store, batch=2)
    assert [claimed.client_id for claimed in claim(store)] == ids[2:]


def test_a_delivery_keeps_its_client_as_it_was(store: Store, ada: Actor) -> None:
    client_id = client(store, ada, "zoë", tags=["b", "a"], comment="a\nb", name="Zoë 🦉")
    mailing(store, ada)
    open_due(store)
    fill(store)

    change(store, Client, client_id, name="X", email="x@example.org", address_key="x@example.org", comment="")

    (claimed,) = claim(store)
    assert claimed[2:] == (client_id, "zoë@example.org", "Zoë 🦉", "a\nb", '["a","b"]', 0, 0, claimed.token)


def test_one_address_is_one_delivery(store: Store, ada: Actor) -> None:
    """Twice in an audience by two ways, or by a client who takes another's address while the occurrence opens."""
    first, second = client(store, ada, "bob", tags=["red", "blue"]), client(store, ada, "eve", tags=["red"])
    mailing(store, ada, client_ids=[first, second], tags=["red", "blue"])
    open_due(store)
    write(store, lambda db: queue.fill(db, 1, 1))
    change(store, Client, first, address_key="moved@example.org")
    change(store, Client, second, address_key="bob@example.org")

    fill(store, batch=1)

    assert [(found.client_id, found.address_key) for found in rows(store, Delivery)] == [(first, "bob@example.org")]


def test_whom_a_mailing_goes_to(store: Store, ada: Actor, bob: Actor) -> None:
    """Named clients and those with a tag, each once; nobody else's, and none whose address is bad."""
    named = client(store, ada, "named")
    client(store, ada, "neither", tags=["other"])
    both = client(store, ada, "both", tags=["red"])
    tagged = client(store, ada, "tagged", tags=["blue"])
    client(store, bob, "foreign", tags=["red"])
    bad = client(store, ada, "bad", tags=["red"], bad_at=NOW, bad_reason="550 5.1.1")
    mailing(store, ada, client_ids=[named, both], tags=["red", "blue"])
    mailing(store, ada)
    open_due(store)
    fill(store, 1)
    fill(store, 2)

    audience = queue.audience(1, ada.user_id, all_clients=False)
    everybody = [row.id for row in write(store, lambda connection: connection.execute(audience).all())]
    assert everybody == [named, both, tagged, bad]
    of_each = {which: [d.client_id for d in rows(store, Delivery) if d.occurrence_id == which] for which in (1, 2)}
    assert of_each == {1: [named, both, tagged], 2: [named, named + 1, both, tagged]}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    who=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), max_size=12),
    batch=st.integers(1, 5),
)
def test_batches_of_any_size_make_the_whole_audience(
    store: Store, who: list[tuple[bool, bool, bool, bool]], batch: int
) -> None:
    owner, other = enrol(store, f"o{number_of(store, User)}"), enrol(store, f"x{number_of(store, User)}")
    people = [
        (client(store, other if foreign else owner, f"c{number}", tags=["red"] if red else []), named, red, foreign)
        for number, (named, red, bad, foreign) in enumerate(who)
    ]
    wanted = [which for which, named, red, foreign in people if not foreign and (named or red)]
    named_ones = [which for which, named, _, foreign in people if named and not foreign]
    mailing(store, owner, client_ids=named_ones, tags=["red"])
    open_due(store)
    latest = rows(store, Occurrence)[-1].id or 0

    fill(store, latest, batch)

    assert [found.client_id for found in rows(store, Delivery) if found.occurrence_id == latest] == wanted


def test_who_comes_or_goes_while_it_opens(store: Store, ada: Actor) -> None:
    """Behind the cursor everything stays as it was; before it, the audience is that of the moment."""
    ids = [client(store, ada, name) for name in ("ann", "bob", "cid", "dan", "eve")]
    mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.fill(db, 1, 2))

    delete_client(store, ids[0])
    delete_client(store, ids[2])
    change(store, Client, ids[3], bad_at=NOW)
    client(store, ada, "new")
    fill(store, batch=2)

    queued, cancelled = S.QUEUED, S.CANCELLED
    assert states(store) == {"ann": cancelled, "bob": queued, "eve": queued, "new": queued}


def test_an_empty_audience_finishes_at_once(store: Store, ada: Actor) -> None:
    mailing(store, ada, tags=["nobody"])
    open_due(store)
    assert due(store) == [1]

    fill(store)
    sweep(store)

    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)
    assert due(store) == []


@pytest.mark.parametrize("stopped", [{}, {"disabled_at": NOW}])
def test_an_opening_that_was_cut_off_is_made_whole_after_its_deadline(
    store: Store, ada: Actor, stopped: dict[str, object]
) -> None:
    """Each client has a delivery, if only one that has expired; and the mailing comes to its end."""
    for name in ("ann", "bob", "cid"):
        client(store, ada, name)
    mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.fill(db, 1, 2))
    if stopped:
        change(store, Mailing, 1, **stopped)
    late = NOW + GIVE_UP_AFTER

    sweep(store, late)
    assert occurrence_state(store) == OccurrenceState.OPENING
    assert due(store, late) == [1]
    fill(store)
    assert claim(store, now=late) == []
    sweep(store, late)

    assert states(store) == dict.fromkeys(("ann", "bob", "cid"), S.EXPIRED)
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_a_deleted_mailing_opens_no_further(store: Store, ada: Actor) -> None:
    for name in ("ann", "bob", "cid"):
        client(store, ada, name)
    mailing(store, ada)
    open_due(store)
    write(store, lambda db: queue.fill(db, 1, 1))
    (claimed,) = claim(store)
    intend(store, 1, claimed)

    delete_mailing(store, 1)
    fill(store, batch=1)

    assert states(store) == {"ann": S.SENDING}
    assert occurrence_state(store) == OccurrenceState.OPENING
    record(store, 1, entry(claimed, Outcome.DEFERRED))
    sweep(store)
    assert states(store) == {"ann": S.CANCELLED}
    assert occurrence_state(store) == OccurrenceState.CANCELLED


# Claiming


def test_many_runs_never_hold_the_same_delivery(store: Store, ada: Actor) -> None:
    opened(store, ada, *(f"client{number}" for number in range(100)))
    taken: list[int] = []

    def work(which: int) -> None:
        while claims := claim(store, which + 1, limit=3):
            taken.extend(claimed.id for claimed in claims)

    at_once(4, work)

    assert sorted(taken) == list(range(1, 101))


def test_a_claim_takes_what_is_due_the_oldest_first(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob", "cid", "dan")
    change(store, Delivery, 1, next_try_at=NOW + MINUTE)
    change(store, Delivery, 2, state=S.DEFERRED, next_try_at=NOW - MINUTE)
    change(store, Delivery, 3, state=S.UNKNOWN, next_try_at=NOW - DAY)

    assert [claimed.id for claimed in claim(store, limit=1)] == [2]
    assert [claimed.id for claimed in claim(store)] == [4]
    assert [claimed.id for claimed in claim(store, due_by=NOW + MINUTE)] == [1]
    assert states(store) == dict.fromkeys(("ann", "bob", "dan"), S.CLAIMED) | {"cid": S.UNKNOWN}


@pytest.mark.parametrize(
    ("table", "values"),
    [
        (Mailing, {"disabled_at": NOW}),
        (Mailing, {"deleted_at": NOW}),
        (User, {"blocked_at": NOW}),
        (StoreInfo, {"held_at": NOW}),
        (Occurrence, {"deadline": NOW}),
        (Occurrence, {"state": OccurrenceState.FINISHED}),
        (Occurrence, {"state": OccurrenceState.CANCELLED}),
    ],
)
def test_what_keeps_an_occurrence_from_being_sent(
    store: Store, ada: Actor, table: type[Mailing], values: dict[str, object]
) -> None:
    opened(store, ada, "bob")
    change(store, table, 1, **values)

    assert claim(store) == []
    assert due(store) == []


def test_what_is_due(store: Store, ada: Actor) -> None:
    """The oldest due time first, only one mailing's if that is asked for, and none that has only later tries."""
    client(store, ada, "bob")
    for start in (NOW, NOW - MINUTE, NOW - 2 * MINUTE):
        mailing(store, ada, start=start)
    open_due(store)
    for which in (1, 2, 3):
        fill(store, which)
    by_mailing = {found.mailing_id: found.id for found in rows(store, Occurrence)}
    change(store, Delivery, by_mailing[3] or 0, next_try_at=NOW + MINUTE)

    assert due(store) == [by_mailing[2], by_mailing[1]]
    assert due(store, mailing_id=1) == [by_mailing[1]]
    assert due(store, NOW + MINUTE) == [by_mailing[3], by_mailing[2], by_mailing[1]]


# A delivery's life: what each event does in each state

STATES: dict[str, Callable[[Store], object]] = {
    "queued": lambda store: None,
    "deferred": lambda store: send(store, 1, Outcome.DEFERRED, *claim(store)),
    "claimed": lambda store: claim(store),
    "sending": lambda store: intend(store, 1, *claim(store)),
    "resend": lambda store: send(store, 1, Outcome.UNKNOWN, *claim(store)),
    "hold": lambda store: send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None),
    "sent": lambda store: send(store, 1, Outcome.SENT, *claim(store)),
    "failed": lambda store: send(store, 1, Outcome.FAILED, *claim(store)),
}
EVENTS: dict[str, Callable[[Store], object]] = {
    "deadline": lambda store: sweep(store, NOW + GIVE_UP_AFTER),
    "mailing deleted": lambda store: delete_mailing(store, 1),
    "client deleted": lambda store: delete_client(store, 1),
    "disabled": lambda store: write(store, lambda db: queue.disable(db, 1, "why", NOW)),
    "released": lambda store: release(store, 1),
    "run dead": lambda store: rescue(store, 1),
    "wait over": lambda store: sweep(store, NOW + 15 * MINUTE),
}
BECOMES = {
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
    ("claimed", "disabled"): "queued",
    ("claimed", "released"): "queued",
    ("claimed", "run dead"): "queued",
    ("sending", "run dead"): "resend",
    ("resend", "wait over"): "queued",
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_what_an_event_does_to_a_delivery(store: Store, ada: Actor, state: str, event: str) -> None:
    opened(store, ada, "bob")
    STATES[state](store)

    EVENTS[event](store)

    found = one(store, Delivery, 1)
    name: str = found.state
    if found.state == S.UNKNOWN:
        name = "hold" if found.next_try_at is None else "resend"
    assert name == BECOMES.get((state, event), state)
    waits = found.state in (S.QUEUED, S.CLAIMED, S.SENDING, S.DEFERRED) or name == "resend"
    over = OccurrenceState.CANCELLED if event == "mailing deleted" else OccurrenceState.FINISHED
    sweep(store)
    assert occurrence_state(store) == (OccurrenceState.OPEN if waits else over)
    assert status(store) == (MailingStatus.RUNNING if waits else MailingStatus.COMPLETED)


def test_a_dead_run_in_the_middle_of_everything(store: Store, ada: Actor) -> None:
    """What was being sent is unknown, with an attempt that says so; the rest is queued; other runs keep theirs."""
    opened(store, ada, "ann", "bob", "cid", "dan")
    dead, alive = run(store), run(store)
    first, _ = claim(store, dead, limit=2)
    intend(store, dead, first)
    mine, _ = claim(store, alive)
    intend(store, alive, mine)

    assert rescue(store, dead, NOW + MINUTE) == 1

    assert states(store) == {"ann": S.UNKNOWN, "bob": S.QUEUED, "cid": S.SENDING, "dan": S.CLAIMED}
    assert tried(store, first.id) == [(1, Outcome.UNKNOWN)]
    assert one(store, Delivery, first.id).next_try_at == NOW + 16 * MINUTE
    assert rescue(store, dead, NOW + MINUTE) == 0
    assert tried(store, first.id) == [(1, Outcome.UNKNOWN)]


def test_where_a_person_decides_an_unknown_one_has_no_next_try(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob")
    intend(store, 1, *claim(store))

    rescue(store, 1, resend_after=None)

    assert one(store, Delivery, 1).next_try_at is None
    sweep(store, NOW + DAY)
    assert states(store) == {"bob": S.UNKNOWN}
    assert status(store) == MailingStatus.COMPLETED


def test_one_that_is_given_back_by_name_was_never_sent(store: Store, ada: Actor) -> None:
    """Its final dot was not written: even an intended one is queued again. Others stay, and other runs' too."""
    opened(store, ada, "ann", "bob", "cid")
    first, second = claim(store, limit=2)
    intend(store, 1, first, second)
    (foreign,) = claim(store, 2)

    assert release(store, 1, first, foreign) == 1

    assert states(store) == {"ann": S.QUEUED, "bob": S.SENDING, "cid": S.CLAIMED}


@pytest.mark.parametrize("gone", ["deleted", "bad"])
@pytest.mark.parametrize("how", [Outcome.DEFERRED, Outcome.UNKNOWN, Outcome.GIVEN_BACK, "released", "run dead"])
def test_nothing_waits_for_a_client_who_went_while_it_was_sent_to(
    store: Store, ada: Actor, gone: str, how: Outcome | str
) -> None:
    bob, _ = opened(store, ada, "bob", "eve")
    claims = claim(store)
    intend(store, 1, *claims)
    if gone == "deleted":
        delete_client(store, bob)
    else:
        change(store, Client, bob, bad_at=NOW, bad_reason="550 5.1.1")
    assert states(store) == {"bob": S.SENDING, "eve": S.SENDING}

    if how == "released":
        release(store, 1, *claims)
    elif how == "run dead":
        rescue(store, 1)
    else:
        record(store, 1, *(entry(claimed, Outcome(how)) for claimed in claims))

    assert states(store)["bob"] == S.CANCELLED
    assert states(store)["eve"] != S.CANCELLED


def test_a_letter_to_an_old_address_still_goes_when_the_new_one_is_bad(store: Store, ada: Actor) -> None:
    (bob,) = opened(store, ada, "bob")
    (claimed,) = claim(store)
    change(store, Client, bob, email="b@x.org", address_key="b@x.org", bad_at=NOW, bad_reason="550 5.1.1")

    send(store, 1, Outcome.DEFERRED, claimed)

    assert states(store) == {"bob": S.DEFERRED}


def test_a_cancelled_or_expired_one_is_not_this_runs_any_more(store: Store, ada: Actor) -> None:
    bob, _ = opened(store, ada, "bob", "eve")
    claims = claim(store)
    delete_client(store, bob)
    sweep(store, NOW + GIVE_UP_AFTER)

    assert intend(store, 1, *claims) == set()
    assert states(store) == {"bob": S.CANCELLED, "eve": S.EXPIRED}


def test_a_client_who_is_gone_for_one_owner_stays_for_another(store: Store, ada: Actor, bob: Actor) -> None:
    opened(store, ada, "eve")
    client(store, bob, "eve")
    mailing(store, bob)
    open_due(store)
    fill(store, 2)

    mine = select(Occurrence.__table__.c.id).where(Occurrence.__table__.c.mailing_id == 1)
    write(store, lambda db: queue.cancel(db, mine, "eve@example.org"))

    assert [found.state for found in rows(store, Delivery)] == [S.CANCELLED, S.QUEUED]


# Stopping and going on


def test_a_disabled_mailing_keeps_its_first_reason_and_goes_on_when_enabled(store: Store, ada: Actor) -> None:
    opened(store, ada, "ann", "bob")
    held, sending = claim(store)
    intend(store, 1, sending)
    for reason, by in (("too many failures", None), ("by hand", ada.user_id)):
        write(store, lambda db: queue.disable(db, 1, reason, NOW, by))  # noqa: B023

    found = one(store, Mailing, 1)
    assert (found.disabled_reason, found.disabled_by_id) == ("too many failures", None)
    assert intend(store, 1, held) == set()
    record(store, 1, entry(sending, Outcome.SENT))
    assert states(store) == {"ann": S.QUEUED, "bob": S.SENT}

    change(store, Mailing, 1, disabled_at=None)
    assert [claimed.id for claimed in claim(store)] == [held.id]


def test_disabling_one_mailing_leaves_the_others(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")
    for _ in range(2):
        mailing(store, ada)
    open_due(store)
    for which in (1, 2):
        fill(store, which)
        claim(store, occurrence_id=which)

    write(store, lambda db: queue.disable(db, 1, "why", NOW))

    assert [found.state for found in rows(store, Delivery)] == [S.QUEUED, S.CLAIMED]


# The end


@pytest.mark.parametrize("last", [Outcome.SENT, Outcome.FAILED])
def test_an_occurrence_ends_with_its_last_delivery(store: Store, ada: Actor, last: Outcome) -> None:
    opened(store, ada, "ann", "bob")
    first, second = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, Outcome.DEFERRED, second)
    sweep(store)
    assert occurrence_state(store) == OccurrenceState.OPEN

    (again,) = claim(store, now=NOW + 5 * MINUTE)
    send(store, 1, last, again)
    sweep(store, NOW + 6 * MINUTE)

    assert occurrence_state(store) == OccurrenceState.FINISHED
    assert one(store, Occurrence, 1).finished_at == NOW + 6 * MINUTE
    sweep(store, NOW + DAY)
    assert one(store, Occurrence, 1).finished_at == NOW + 6 * MINUTE


def test_a_mailing_that_has_more_to_come_is_not_completed(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob", every=Every.DAY)
    send(store, 1, Outcome.SENT, *claim(store))
    sweep(store)

    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.RUNNING)


def test_a_mailing_is_completed_only_with_the_last_of_its_occurrences(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob", every=Every.DAY, end_at=NOW + DAY + MINUTE)
    change(store, Occurrence, 1, deadline=NOW + 9 * DAY)
    open_due(store, NOW + DAY)
    fill(store, 2)
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY, occurrence_id=2))
    sweep(store, NOW + DAY)

    assert (occurrence_state(store), occurrence_state(store, 2)) == (OccurrenceState.OPEN, OccurrenceState.FINISHED)
    assert status(store) == MailingStatus.RUNNING
    send(store, 1, Outcome.SENT, *claim(store, now=NOW + DAY))
    sweep(store, NOW + DAY)
    assert status(store) == MailingStatus.COMPLETED


# A person decides


@pytest.mark.parametrize("known", [S.SENT, S.FAILED])
def test_a_person_knows_what_became_of_it(store: Store, ada: Actor, known: DeliveryState) -> None:
    opened(store, ada, "ann", "bob")
    send(store, 1, Outcome.UNKNOWN, *claim(store))

    write(store, lambda db: queue.resolve_as(db, [1], known))

    assert states(store) == {"ann": known, "bob": S.UNKNOWN}
    assert one(store, Delivery, 1).next_try_at is None


def test_a_resend_opens_the_occurrence_again_with_a_new_deadline(store: Store, ada: Actor) -> None:
    bob, _ = opened(store, ada, "bob", "eve")
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    later = NOW + GIVE_UP_AFTER + DAY
    sweep(store, later)
    assert status(store) == MailingStatus.COMPLETED
    delete_client(store, bob)

    write(store, lambda db: queue.resend(db, [1, 2], later, later + DAY))
    sweep(store, later)

    assert states(store) == {"bob": S.CANCELLED, "eve": S.QUEUED}
    assert (occurrence_state(store), status(store)) == (OccurrenceState.OPEN, MailingStatus.RUNNING)
    (again,) = claim(store, now=later)
    send(store, 1, Outcome.SENT, again)
    sweep(store, later)
    assert (occurrence_state(store), status(store)) == (OccurrenceState.FINISHED, MailingStatus.COMPLETED)


def test_a_resend_that_is_not_sent_expires_in_its_turn(store: Store, ada: Actor) -> None:
    opened(store, ada, "bob")
    send(store, 1, Outcome.UNKNOWN, *claim(store), next_try_at=None)
    sweep(store)

    write(store, lambda db: queue.resend(db, [1], NOW, NOW + MINUTE))
    sweep(store, NOW + timedelta(seconds=59))
    assert states(store) == {"bob": S.QUEUED}
    sweep(store, NOW + MINUTE)

    assert states(store) == {"bob": S.EXPIRED}
    assert status(store) == MailingStatus.COMPLETED

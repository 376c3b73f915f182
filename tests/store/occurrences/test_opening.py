"""Opening: each client of the audience gets one delivery, however often and by whomever it is opened."""

import json
from collections import Counter

import pytest
from conftest import create_user
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.batches import stopped_after_batches
from support.queue_steps import (
    END,
    NOW,
    claim,
    close_leases,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    delete_mailing,
    delivery_states,
    due_occurrences,
    get_row,
    make_attempt,
    occurrence_state,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rows,
    send,
    status,
    sweep,
    update_row,
    write,
)
from support.threads import run_in_threads

from skychimp.models import (
    Client,
    Content,
    Delivery,
    DeliveryState,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    User,
)
from skychimp.permissions import Actor
from skychimp.store.clients import audience
from skychimp.store.database import Store
from skychimp.store.occurrences import opening

S = DeliveryState


def client_ids(store: Store, occurrence_id: int = 1) -> list[int]:
    """Return the clients with a delivery in an occurrence. The order in which these are created is not promised."""
    return sorted(row.client_id for row in rows(store, Delivery) if row.occurrence_id == occurrence_id)


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

    assert not write(store, lambda db: opening.create_deliveries(db, 1, 2))

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
    expected = (client_id, "zoë@example.org", "Zoë 🦉", "a\nb", claimed.tags, 0, 0, None, None, None, None)
    assert claimed[2:-2] == expected


def test_address_gets_one_delivery(store: Store, ada: Actor) -> None:
    """If it is in the audience in two ways, or if clients change their addresses while the occurrence opens."""
    first, second = (
        create_client(store, ada, "bob", tags=["red", "blue"]),
        create_client(store, ada, "eve", tags=["red"]),
    )
    create_mailing(store, ada, client_ids=[first, second], tags=["red", "blue"])
    open_due(store)
    write(store, lambda db: opening.create_deliveries(db, 1, 1))
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

    in_audience = write(store, lambda db: list(db.scalars(audience.client_ids(audience.selection(db, 1, NOW)))))
    assert in_audience == [named, both, tagged, bad]
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
    write(store, lambda db: opening.create_deliveries(db, 1, 2))

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
def test_interrupted_opening_is_completed_after_the_end(store: Store, ada: Actor, stopped: dict[str, object]) -> None:
    """Each client has a delivery, even if it expires at once, and the mailing is completed."""
    for name in ("ann", "bob", "cid"):
        create_client(store, ada, name)
    create_mailing(store, ada, end_at=NOW + END)
    open_due(store)
    write(store, lambda db: opening.create_deliveries(db, 1, 2))
    if stopped:
        update_row(store, Mailing, 1, **stopped)
    late = NOW + END

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
    write(store, lambda db: opening.create_deliveries(db, 1, 1))
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


def test_content_does_not_change_while_it_is_being_sent(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann")
    claim(store)
    assert not write(store, lambda db: opening.change_content(db, 1, subject="Corrected"))
    assert write(store, lambda db: opening.change_content(db, 1, subject="Hello"))
    close_leases(store)
    assert write(store, lambda db: opening.change_content(db, 1, subject="Corrected"))
    assert rows(store, Content) == [], "nothing may have been sent with the old one"


# Changing the content in batches


def contents(store: Store) -> list[str]:
    """Return the subject that each delivery is sent with."""
    kept = {row.id: row.subject for row in rows(store, Content)}
    subject = get_row(store, Occurrence, 1).subject
    return [subject if row.content_id is None else kept[row.content_id] for row in rows(store, Delivery)]


def open_with_unknown(store: Store, ada: Actor) -> None:
    """Open a mailing with three unknown deliveries, one that is queued again after it was unknown, and two others."""
    open_mailing(store, ada, *"abcdef")
    send(store, 1, Outcome.UNKNOWN, *claim(store, limit=4))
    send(store, 1, Outcome.DEFERRED, *claim(store, limit=1))
    close_leases(store)
    update_row(store, Delivery, 1, next_try_at=NOW)
    sweep(store)
    assert list(delivery_states(store).values()) == [S.QUEUED, *[S.UNKNOWN] * 3, S.DEFERRED, S.QUEUED]


KEPT = ["Hello"] * 4 + ["Corrected"] * 2


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_emails_that_may_have_been_sent_keep_their_content_in_batches(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    open_with_unknown(store, ada)
    monkeypatch.setattr(opening, "KEEP_BATCH", batch)

    looked_to = opening.keep_sent_content(store, 1)

    assert contents(store) == ["Hello"] * 6
    assert write(store, lambda db: opening.change_content(db, 1, looked_to, subject="Corrected"))
    assert contents(store) == KEPT
    assert count_rows(store, Content) == 1
    assert write(store, lambda db: opening.change_content(db, 1, opening.keep_sent_content(store, 1), subject="Third"))
    assert contents(store) == ["Hello"] * 4 + ["Third"] * 2


def test_content_can_be_changed_after_a_kill_between_two_batches(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_with_unknown(store, ada)
    monkeypatch.setattr(opening, "KEEP_BATCH", 1)
    with stopped_after_batches(monkeypatch, 2), pytest.raises(KeyboardInterrupt):
        opening.keep_sent_content(store, 1)
    assert [row.content_id for row in rows(store, Delivery)] == [1, 1, *[None] * 4]
    assert contents(store) == ["Hello"] * 6

    looked_to = opening.keep_sent_content(store, 1)
    assert write(store, lambda db: opening.change_content(db, 1, looked_to, subject="Corrected"))

    assert contents(store) == KEPT
    assert count_rows(store, Content) == 1


def test_email_that_may_have_been_sent_since_the_last_look_keeps_its_content(store: Store, ada: Actor) -> None:
    open_with_unknown(store, ada)
    looked_to = opening.keep_sent_content(store, 1)
    send(store, 1, Outcome.UNKNOWN, *claim(store))
    close_leases(store)

    assert write(store, lambda db: opening.change_content(db, 1, looked_to, subject="Corrected"))

    assert contents(store) == [*["Hello"] * 4, "Corrected", "Hello"]


def test_nothing_is_kept_of_an_occurrence_that_is_being_sent(store: Store, ada: Actor) -> None:
    """The run has read the contents, and would not find a new one."""
    open_with_unknown(store, ada)
    claim(store, limit=1)

    looked_to = opening.keep_sent_content(store, 1)

    assert rows(store, Content) == []
    assert not write(store, lambda db: opening.change_content(db, 1, looked_to, subject="Corrected"))
    assert contents(store) == ["Hello"] * 6
    close_leases(store)
    assert write(store, lambda db: opening.change_content(db, 1, looked_to, subject="Corrected"))
    assert contents(store) == KEPT

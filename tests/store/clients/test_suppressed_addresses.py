"""Suppressed addresses get nothing: not when an occurrence opens, not later. Suppressions survive erasing."""

from collections.abc import Callable, Sequence

import pytest
from sqlalchemy import Connection
from support.queue_steps import (
    DAY,
    NOW,
    claim,
    close_leases,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    delivery_states,
    make_attempt,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rows,
    send,
    sweep,
    update_row,
    write,
)

from skychimp.models import (
    EVERYBODY,
    Client,
    Delivery,
    DeliveryState,
    Mailing,
    Outcome,
    Suppression,
    SuppressionSource,
)
from skychimp.permissions import Actor
from skychimp.store import queue
from skychimp.store.clients import audience, suppressions
from skychimp.store.clients.suppressions import BOUNCE, Holds, NewSuppression
from skychimp.store.database import Store

S = DeliveryState
ANN = "ann@example.org"


def suppress(
    store: Store, *keys: str, owner_id: int = EVERYBODY, topic: str = "", reason: str = "unsubscribed", note: str = ""
) -> int:
    new = [NewSuppression(key.upper(), key, reason, note) for key in keys]
    holds = Holds(owner_id, topic)
    return write(store, lambda db: suppressions.add(db, new, holds, SuppressionSource.COMMAND, NOW))


# The scope: (key, owner, topic of the suppression) and whether Ada's mailings without and with the topic "news" stop.
SCOPES = [
    (ANN, EVERYBODY, "", (True, True)),
    (ANN, 1, "", (True, True)),
    (ANN, 2, "", (False, False)),
    (ANN, 1, "news", (False, True)),
    (ANN, 1, "offers", (False, False)),
    (ANN, EVERYBODY, "news", (False, True)),
    ("@example.org", EVERYBODY, "", (True, True)),
    ("@example.org", 1, "news", (False, True)),
    ("@ample.org", EVERYBODY, "", (False, False)),
    ("@org", EVERYBODY, "", (False, False)),
    ("bob@example.org", EVERYBODY, "", (False, False)),
]


@pytest.mark.parametrize(("key", "owner_id", "topic", "stopped"), SCOPES)
@pytest.mark.parametrize("when", ["before it opens", "while it waits"])
def test_scope_is_the_same_when_an_occurrence_opens_and_while_it_waits(
    store: Store, ada: Actor, key: str, owner_id: int, topic: str, stopped: tuple[bool, bool], when: str
) -> None:
    create_client(store, ada, "ann")
    plain_id = create_mailing(store, ada)
    with_topic_id = create_mailing(store, ada, topic="news")
    if when == "before it opens":
        suppress(store, key, owner_id=owner_id, topic=topic)
    expected = [int(not each) for each in stopped]
    open_due(store)
    for occurrence_id in (1, 2):
        create_deliveries(store, occurrence_id)
    if when == "while it waits":
        assert len(rows(store, Delivery)) == 2
        suppress(store, key, owner_id=owner_id, topic=topic)

    queued = [row.occurrence_id for row in rows(store, Delivery) if row.state == S.QUEUED]
    assert [queued.count(occurrence_id) for occurrence_id in (1, 2)] == expected
    counts = [
        write(store, lambda db: audience.count(db, audience.selection(db, mailing_id, NOW))).recipients  # noqa: B023
        for mailing_id in (plain_id, with_topic_id)
    ]
    assert counts == expected
    members = [
        write(
            store,
            lambda db: audience.members(db, audience.selection(db, mailing_id, NOW), after=0, limit=9),  # noqa: B023
        )
        for mailing_id in (plain_id, with_topic_id)
    ]
    reasons = [audience.why_left_out(member) or "" for (member,) in members]
    assert [each.endswith(": unsubscribed") for each in reasons] == list(stopped)


def test_email_that_is_being_sent_is_recorded_and_not_tried_again(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob", "eve")
    ann, bob, eve = claim(store)
    assert len(record_intents(store, 1, ann, bob)) == 2

    suppress(store, *(claimed.address for claimed in (ann, bob, eve)))

    assert delivery_states(store) == {"ann": S.SENDING, "bob": S.SENDING, "eve": S.CANCELLED}
    assert record_intents(store, 1, eve) == set()
    record_attempts(store, 1, make_attempt(ann, Outcome.SENT), make_attempt(bob, Outcome.DEFERRED))
    assert delivery_states(store) == {"ann": S.SENT, "bob": S.CANCELLED, "eve": S.CANCELLED}


def test_unknown_email_is_not_sent_again(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob")
    send(store, 1, Outcome.UNKNOWN, *claim(store))
    suppress(store, ANN)
    write(store, lambda db: queue.resend(db, [row.id or 0 for row in rows(store, Delivery)], NOW))

    assert delivery_states(store) == {"ann": S.CANCELLED, "bob": S.QUEUED}


def test_failed_email_is_not_tried_again(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, "ann", "bob")
    send(store, 1, Outcome.FAILED, *claim(store))
    suppress(store, ANN)
    write(store, lambda db: queue.retry(db, [row.id or 0 for row in rows(store, Delivery)], NOW))

    assert delivery_states(store) == {"ann": S.CANCELLED, "bob": S.QUEUED}


def test_refused_email_of_a_suppressed_or_deleted_client_is_not_queued_again(store: Store, ada: Actor) -> None:
    """The mail server refused all alike, so that they are queued again. Two clients have left in the meantime."""
    ids = open_mailing(store, ada, "ann", "ben", "cid")
    claims = claim(store)
    send(store, 1, Outcome.FAILED, *claims)
    suppress(store, ANN, owner_id=ada.user_id)
    delete_client(store, ids[1])

    write(store, lambda db: queue.queue_refused(db, [claimed.id for claimed in claims], NOW))
    close_leases(store)

    assert delivery_states(store) == {"ann": S.CANCELLED, "ben": S.CANCELLED, "cid": S.QUEUED}
    assert [claimed.address for claimed in claim(store)] == ["cid@example.org"]


def test_new_address_that_is_suppressed_gets_nothing(store: Store, ada: Actor) -> None:
    ann_id, *_ = open_mailing(store, ada, "ann", "bob")
    suppress(store, "new@example.org")
    update_row(store, Client, ann_id, email="new@example.org", address_key="new@example.org")
    write(store, lambda db: queue.use_new_addresses(db, Delivery.__table__.c.client_id == ann_id))

    assert {row.address: row.state for row in rows(store, Delivery)} == {
        "new@example.org": S.CANCELLED,
        "bob@example.org": S.QUEUED,
    }


def test_bad_address_is_remembered_when_its_client_comes_back(store: Store, ada: Actor) -> None:
    (ann_id,) = open_mailing(store, ada, "ann")
    (claimed,) = claim(store)
    record_intents(store, 1, claimed)
    record_attempts(store, 1, make_attempt(claimed, Outcome.FAILED)._replace(bad_address=True, reply="550 5.1.1 no"))

    (suppression,) = rows(store, Suppression)
    assert (suppression.owner_id, suppression.reason, suppression.note) == (ada.user_id, BOUNCE, "550 5.1.1 no")
    sweep(store)
    write(store, lambda db: db.exec_driver_sql(f"DELETE FROM client WHERE id = {ann_id}"))
    create_client(store, ada, "ann")
    create_mailing(store, ada, start=NOW + DAY)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)
    assert [row.occurrence_id for row in rows(store, Delivery)] == [1]


@pytest.mark.parametrize(("first", "second", "kept"), [("x", "y", "x"), (BOUNCE, "x", "x"), ("x", BOUNCE, "x")])
def test_second_suppression_changes_nothing_but_a_bounce(store: Store, first: str, second: str, kept: str) -> None:
    suppress(store, ANN, "bob@example.org", reason=first)
    suppress(store, ANN, reason=second, note="later")
    assert [row.reason for row in rows(store, Suppression)] == [kept, first]


def test_suppression_is_removed_only_in_its_own_scope(store: Store) -> None:
    scopes = [Holds(EVERYBODY), Holds(1), Holds(2), Holds(1, "news")]
    for holds in scopes:
        suppress(store, ANN, owner_id=holds.owner_id, topic=holds.topic)

    assert not write(store, lambda db: suppressions.remove(db, ANN, Holds(1), BOUNCE))
    assert not write(store, lambda db: suppressions.remove(db, "bob@example.org", Holds(1)))
    assert write(store, lambda db: suppressions.remove(db, ANN, Holds(1)))
    assert not write(store, lambda db: suppressions.remove(db, ANN, Holds(1)))
    assert [(row.owner_id, row.topic) for row in rows(store, Suppression)] == [(0, ""), (2, ""), (1, "news")]


def erase(owner_id: int | None) -> Callable[[Connection], int]:
    return lambda db: suppressions.erase(db, ANN, owner_id)


@pytest.mark.parametrize(
    ("owner_id", "has_client", "erased"),
    [(1, False, [0, 1]), (1, True, [1]), (2, False, [0, 2]), (None, False, [0, 1, 2]), (None, True, [1, 2])],
)
def test_erased_address_is_known_again_with_a_client(
    store: Store, ada: Actor, owner_id: int | None, has_client: bool, erased: Sequence[int]
) -> None:
    if has_client:
        create_client(store, ada, "ann")
    for each in (EVERYBODY, 1, 2):
        suppress(store, ANN, owner_id=each, note="said so")
    before = {row.owner_id: row.address_hash for row in rows(store, Suppression)}

    assert write(store, erase(owner_id)) == len(erased)

    after = rows(store, Suppression)
    assert [row.owner_id for row in after if row.address_key is None] == list(erased)
    assert {row.address for row in after if row.owner_id in erased} == {None}
    assert {row.note for row in after if row.owner_id in erased} == {""}
    assert {row.owner_id: row.address_hash for row in after} == before
    write(store, lambda db: suppressions.recall(db, {ANN: "Ann@example.org", "bob@example.org": "bob@example.org"}))
    assert {row.address_key for row in rows(store, Suppression)} == {ANN}


def test_suppressed_again_after_it_was_erased(store: Store) -> None:
    suppress(store, ANN)
    write(store, erase(None))
    suppress(store, ANN)
    assert [row.address_key for row in rows(store, Suppression)] == [ANN]


def test_cancelled_emails_of_a_domain_are_counted(store: Store, ada: Actor) -> None:
    open_mailing(store, ada, *"abcde")
    update_row(store, Mailing, 1, topic="news")

    assert suppress(store, "@example.org", owner_id=2) == 0
    assert suppress(store, "@example.org", owner_id=1, topic="offers") == 0
    assert suppress(store, "a@example.org", owner_id=1) == 1
    assert suppress(store, "@example.org", owner_id=1, topic="news") == 4
    assert set(delivery_states(store).values()) == {S.CANCELLED}

"""An address history shows deliveries, reasons for being left out, and next due times, to those who may see them."""

from datetime import datetime
from email import message_from_bytes
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import create_user
from support.queue_steps import (
    DAY,
    NOW,
    claim,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    delete_mailing,
    open_due,
    send,
    sweep,
    update_row,
    write,
)
from support.sending import create_mailing as create_sendable_mailing
from support.sending import make_settings
from support.sending import send as run_once
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.errors import InvalidValue, NotFound, NotLoggedIn
from skychimp.models import (
    EVERYBODY,
    Client,
    ClientTag,
    Every,
    Mailing,
    OccurrenceState,
    Outcome,
    SuppressionSource,
    User,
)
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.reporting.address_history import AddressHistory, address_history, why_left_out
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store

BOB = "bob@example.org"


def open_all(store: Store) -> None:
    """Open everything that is due, and create the deliveries."""
    for number in range(open_due(store)):
        create_deliveries(store, number + 1)


def reasons(history: AddressHistory) -> dict[int, str]:
    """Return the reasons for being left out, by mailing."""
    return {row.mailing_id: row.reason for row in history.left_out}


def test_every_attempt_is_shown_with_the_servers_reply(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob", tags=["vip"])
    mailing_id = create_mailing(store, ada)
    open_all(store)
    send(store, 1, Outcome.DEFERRED, *claim(store))
    send(store, 1, Outcome.SENT, *claim(store, due_by=NOW + DAY), reply="250 2.0.0 Ok: queued as 4XyzAB1")

    history = address_history(store, ada, "Bob@Example.org")

    assert (history.email, history.left_out, history.coming) == ("Bob@example.org", [], [])
    ((known,), (delivery,)) = (history.clients, history.chosen)
    assert (known.owner, known.tags, known.bad_at) == ("ada@skychimp.test", ["vip"], None)
    assert (delivery.mailing_id, delivery.due_at) == (mailing_id, NOW)
    assert (delivery.state, delivery.next_try_at) == ("sent", None)
    assert [(attempt.attempt, attempt.status, attempt.queue_id) for attempt in delivery.attempts] == [
        (1, "deferred", ""),
        (2, "sent", "4XyzAB1"),
    ]
    assert delivery.attempts[0].reply == "450 4.2.0 later"
    assert "greylisting" in delivery.attempts[0].meaning


def test_message_id_is_that_of_the_sent_email(store: Store, ada: Actor) -> None:
    with ScriptedServer([GREETING, accept_mail(lambda command, recipient: None)]) as server:
        create_sendable_mailing(store, ada, [BOB])
        run_once(store, make_settings(server.port))
        (email,) = server.emails

    (delivery,) = address_history(store, ada, BOB).chosen
    assert delivery.message_id == message_from_bytes(email)["Message-ID"]


def test_reasons_for_being_left_out(store: Store, ada: Actor) -> None:
    bob = create_client(store, ada, "bob", tags=["vip"], created_at=NOW - DAY)
    eve = create_client(store, ada, "eve")
    tagged = create_mailing(store, ada, tags=["gold", "silver"])
    named = create_mailing(store, ada, client_ids=[eve])
    everybody = create_mailing(store, ada, every=Every.DAY)
    open_all(store)
    assert reasons(address_history(store, ada, BOB)) == {
        tagged: "the client has none of the mailing's tags: gold, silver",
        named: "the mailing does not include the client",
    }
    update_row(store, Client, bob, bad_at=NOW, bad_reason="550 5.1.1 gone")
    open_due(store, NOW + DAY)
    create_deliveries(store, 4)
    update_row(store, Mailing, tagged, deleted_at=NOW)  # its occurrences stay in the history

    history = address_history(store, ada, BOB)
    assert reasons(history)[everybody] == "bad address since 2026-03-02 09:00:00+00:00: 550 5.1.1 gone"
    assert tagged in reasons(history)
    assert [delivery.mailing_id for delivery in history.chosen] == [everybody]
    (coming,) = history.coming
    assert (coming.mailing_id, coming.next_at) == (everybody, NOW + 2 * DAY)
    assert "bad address" in (coming.reason or "")


def test_reason_for_a_client_or_tag_added_after_opening(store: Store, ada: Actor) -> None:
    early = create_client(store, ada, "early", created_at=NOW - DAY)
    tagged = create_mailing(store, ada, tags=["vip"])
    open_all(store)
    create_client(store, ada, "late", tags=["vip"], created_at=NOW + DAY)
    with store.write() as db:
        db.add(ClientTag(client_id=early, tag="vip"))

    late_reason = reasons(address_history(store, ada, "late@example.org"))[tagged]
    assert "became a client at 2026-03-03 09:00:00+00:00" in late_reason
    assert "joined the audience" in reasons(address_history(store, ada, "early@example.org"))[tagged]


def test_occurrences_with_the_same_reason_are_one_row(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")
    create_mailing(store, ada, tags=["vip"], every=Every.DAY)
    for day in range(3):
        open_due(store, NOW + day * DAY)
        create_deliveries(store, day + 1)
        sweep(store, NOW + day * DAY)

    (left_out,) = address_history(store, ada, BOB).left_out
    assert (left_out.times, left_out.first_due_at, left_out.last_due_at) == (3, NOW, NOW + 2 * DAY)


def test_next_due_times(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")
    later = NOW + 1000 * DAY
    included = create_mailing(store, ada, start=later)
    disabled = create_mailing(store, ada, start=later, disabled_at=NOW, disabled_reason="for now")
    tagged = create_mailing(store, ada, start=later, tags=["vip"])
    deleted = create_mailing(store, ada, start=later)
    delete_mailing(store, deleted)

    assert {row.mailing_id: row.reason for row in address_history(store, ada, BOB).coming} == {
        included: None,
        disabled: "the mailing is disabled: for now",
        tagged: "the client has none of the mailing's tags: vip",
    }
    update_row(store, User, ada.user_id, blocked_at=NOW)
    assert address_history(store, ada, BOB).coming[0].reason == "the mailing's owner is blocked"


def test_deleted_client(store: Store, ada: Actor) -> None:
    bob = create_client(store, ada, "bob")
    everybody = create_mailing(store, ada, every=Every.DAY)
    open_all(store)
    delete_client(store, bob)
    open_due(store, NOW + DAY)
    create_deliveries(store, 2)

    history = address_history(store, ada, BOB)
    assert history.clients == []
    assert [delivery.state for delivery in history.chosen] == ["cancelled"]
    assert reasons(history) == {everybody: "not a client of ada@skychimp.test"}


def test_users_see_their_own_mailings_and_managers_see_all(
    store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor
) -> None:
    create_client(store, ada, "bob", tags=["vip"], comment="owes us money")
    create_client(store, bob, "bob", comment="a friend")
    mailing_by_ada, mailing_by_bob = create_mailing(store, ada), create_mailing(store, bob)
    create_mailing(store, create_user(store, "eve"))  # she does not have the address as a client
    open_all(store)

    assert [delivery.mailing_id for delivery in address_history(store, ada, BOB).chosen] == [mailing_by_ada]
    for actor in (manager, admin):
        history = address_history(store, actor, BOB)
        assert [delivery.mailing_id for delivery in history.chosen] == [mailing_by_ada, mailing_by_bob]
        assert (history.left_out, len(history.clients)) == ([], 2)
        assert {(known.name, known.comment, known.tags) for known in history.clients} == {(None, None, None)}
    with pytest.raises(NotFound):
        address_history(store, create_user(store, "carol"), BOB)
    with pytest.raises(NotLoggedIn):
        address_history(store, ANONYMOUS, BOB)


def test_unknown_address_is_an_error_with_similar_addresses(store: Store, ada: Actor, bob: Actor) -> None:
    create_client(store, ada, "grace.hopper")
    with pytest.raises(NotFound, match=r"no record of grace\.hoper@example\.org") as refused:
        address_history(store, ada, "grace.hoper@example.org")
    assert refused.value.hint == "did you mean grace.hopper@example.org?"
    with pytest.raises(NotFound) as refused:
        address_history(store, bob, "grace.hoper@example.org")  # a hint must not reveal other users' clients
    assert refused.value.hint == 'run "skychimp clients list"'
    with pytest.raises(InvalidValue):
        address_history(store, ada, "nobody")


EARLY = SimpleNamespace(id=7, created_at=NOW - DAY)


@pytest.mark.parametrize(
    ("state", "cursor", "client", "outside", "reason"),
    [
        (OccurrenceState.MISSED, 0, EARLY, None, "missed"),
        (OccurrenceState.SKIPPED, 0, EARLY, None, "no new post"),
        (OccurrenceState.CANCELLED, 0, EARLY, None, "deleted"),
        (OccurrenceState.OPEN, 9, None, None, "not a client of ada"),
        (OccurrenceState.OPENING, 6, EARLY, None, "has not reached this client yet"),
        (OccurrenceState.OPENING, 7, EARLY, None, "suppressed"),
        (OccurrenceState.OPENING, 6, EARLY, "no such tag", "no such tag"),
        (OccurrenceState.FINISHED, 9, EARLY, "no such tag", "no such tag"),
    ],
)
def test_first_reason_that_applies_is_given(
    state: OccurrenceState, cursor: int, client: Any | None, outside: str | None, reason: str
) -> None:
    occurrence: Any = SimpleNamespace(state=state, cursor=cursor, opened_at=NOW, owner="ada")

    assert reason in why_left_out(occurrence, client, outside, "suppressed since 2026-03-02: unsubscribed")


def test_address_that_became_bad_or_suppressed_after_opening_is_not_the_reason(store: Store, ada: Actor) -> None:
    bob = create_client(store, ada, "bob", tags=["vip"], created_at=NOW - DAY)
    mailing_id = create_mailing(store, ada, tags=["gold"])
    open_all(store)
    with store.write() as db:
        db.add(ClientTag(client_id=bob, tag="gold"))
    update_row(store, Client, bob, bad_at=NOW + DAY, bad_reason="550")
    suppress(store, ada, BOB, at=NOW + DAY)

    assert "joined the audience" in reasons(address_history(store, ada, BOB))[mailing_id]


SUPPRESSIONS = {
    "all mail of a user": ({}, "suppressed since 2026-03-02: unsubscribed"),
    "a topic": ({"topic": "News"}, "suppressed for topic News since 2026-03-02: unsubscribed"),
    "all users": ({"owner_id": EVERYBODY}, "suppressed everywhere since 2026-03-02: unsubscribed"),
    "a domain": ({"address": "@example.org"}, "suppressed with @example.org since 2026-03-02: unsubscribed"),
    "a bad address": (
        {"reason": suppressions.BOUNCE, "note": "550 no"},
        "bad address since 2026-03-02 09:00:00+00:00: 550 no",
    ),
}


def suppress(
    store: Store,
    owner: Actor,
    address: str = BOB,
    *,
    owner_id: int | None = None,
    topic: str = "",
    reason: str = "unsubscribed",
    note: str = "",
    at: datetime = NOW,
) -> None:
    """Suppress an address, for all mail of a user unless another scope is given."""
    holds = Holds(owner.user_id if owner_id is None else owner_id, topic)
    new = [NewSuppression(address, address, reason, note)]
    write(store, lambda db: suppressions.add(db, new, holds, SuppressionSource.COMMAND, at))


@pytest.mark.parametrize(("suppression", "reason"), SUPPRESSIONS.values(), ids=SUPPRESSIONS)
def test_suppressed_client_is_told_why_nothing_is_sent(
    store: Store, ada: Actor, suppression: dict[str, Any], reason: str
) -> None:
    create_client(store, ada, "bob", created_at=NOW - DAY)
    cancelled = create_mailing(store, ada, topic="News")
    open_all(store)
    suppress(store, ada, **suppression)
    daily = create_mailing(store, ada, every=Every.DAY, topic="News")
    open_due(store)
    create_deliveries(store, 2)

    history = address_history(store, ada, BOB)

    assert [(row.mailing_id, row.state, row.reason) for row in history.chosen] == [(cancelled, "cancelled", reason)]
    assert reasons(history) == {daily: reason}
    assert [(row.mailing_id, row.reason) for row in history.coming] == [(daily, reason)]
    (shown,) = history.suppressions
    owner = None if suppression.get("owner_id") == EVERYBODY else ada.email
    assert (shown.owner, shown.topic, shown.source, shown.at) == (owner, suppression.get("topic"), "command", NOW)


def test_suppression_of_other_mail_is_no_reason(store: Store, ada: Actor, bob: Actor, manager: Actor) -> None:
    create_client(store, ada, "bob")
    create_mailing(store, ada, topic="News")
    suppress(store, ada, topic="Offers")
    suppress(store, bob)
    open_all(store)

    history = address_history(store, ada, BOB)
    assert [(row.state, row.reason) for row in history.chosen] == [("queued", None)]
    assert [row.topic for row in history.suppressions] == ["Offers"]
    assert [row.owner for row in address_history(store, manager, BOB).suppressions] == [ada.email, bob.email]


def test_suppressed_address_that_is_no_client_has_a_history(store: Store, ada: Actor, bob: Actor) -> None:
    suppress(store, ada)

    history = address_history(store, ada, BOB)
    assert (history.clients, history.chosen, len(history.suppressions)) == ([], [], 1)
    with pytest.raises(NotFound):
        address_history(store, bob, BOB)

"""Why: who chose an address, who left it out, what was tried; for whom it is to know."""

from datetime import timedelta
from email import message_from_bytes
from types import SimpleNamespace

import pytest
from conftest import enrol
from support.queue_steps import (
    DAY,
    NOW,
    change,
    claim,
    client,
    delete_client,
    delete_mailing,
    fill,
    mailing,
    open_due,
    send,
)
from support.sending import mailing as due_mailing
from support.sending import send as run
from support.sending import settings
from support.servers import GREETING, ScriptedServer, obey

from skychimp.errors import InvalidValue, NotFound, NotLoggedIn
from skychimp.models import Client, ClientTag, Every, Mailing, OccurrenceState, Outcome
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.services.reporting.address_history import AddressHistory, address_history, why_not
from skychimp.store.database import Store

BOB = "bob@example.org"


def opened(store: Store) -> None:
    """All that is due is opened, and filled."""
    for number in range(open_due(store)):
        fill(store, number + 1)


def reasons(found: AddressHistory) -> dict[int, str]:
    return {one.mailing_id: one.reason for one in found.left_out}


def test_every_attempt_is_there_with_the_servers_words(store: Store, ada: Actor) -> None:
    client(store, ada, "bob", tags=["vip"])
    first = mailing(store, ada)
    opened(store)
    send(store, 1, Outcome.DEFERRED, *claim(store))
    send(store, 1, Outcome.SENT, *claim(store, due_by=NOW + DAY), reply="250 2.0.0 Ok: queued as 4XyzAB1")

    found = address_history(store, ada, "Bob@Example.org")

    assert (found.email, found.left_out, found.coming) == ("Bob@example.org", [], [])
    ((mine,), (chosen,)) = (found.clients, found.chosen)
    assert (mine.owner, mine.tags, mine.bad_at) == ("ada@skychimp.test", ["vip"], None)
    assert (chosen.mailing_id, chosen.due_at, chosen.state, chosen.next_try_at) == (first, NOW, "sent", None)
    assert [(one.attempt, one.status, one.queue_id) for one in chosen.attempts] == [
        (1, "deferred", ""),
        (2, "sent", "4XyzAB1"),
    ]
    assert chosen.attempts[0].reply == "450 4.2.0 later"
    assert "greylists" in chosen.attempts[0].meaning


def test_its_message_id_is_the_letters_own(store: Store, ada: Actor) -> None:
    with ScriptedServer([GREETING, obey(lambda command, recipient: None)]) as server:
        due_mailing(store, ada, [BOB])
        run(store, settings(server.port))
        (letter,) = server.letters

    (chosen,) = address_history(store, ada, BOB).chosen
    assert chosen.message_id == message_from_bytes(letter)["Message-ID"]


def test_why_it_was_left_out(store: Store, ada: Actor) -> None:
    bob, eve = client(store, ada, "bob", tags=["vip"], created_at=NOW - DAY), client(store, ada, "eve")
    tagged, named = mailing(store, ada, tags=["gold", "silver"]), mailing(store, ada, client_ids=[eve])
    everybody = mailing(store, ada, every=Every.DAY)
    opened(store)
    assert reasons(address_history(store, ada, BOB)) == {
        tagged: "it has no tag of: gold, silver",
        named: "it is not among the clients that the mailing names",
    }
    change(store, Client, bob, bad_at=NOW, bad_reason="550 5.1.1 gone")
    open_due(store, NOW + DAY)
    fill(store, 4)
    change(store, Mailing, tagged, deleted_at=NOW)  # what it did stays known

    found = address_history(store, ada, BOB)
    assert reasons(found)[everybody] == "a bad address since 2026-03-02 09:00:00+00:00: 550 5.1.1 gone"
    assert tagged in reasons(found)
    assert [one.mailing_id for one in found.chosen] == [everybody]
    (coming,) = found.coming
    assert (coming.mailing_id, coming.next_at) == (everybody, NOW + 2 * DAY)
    assert "bad address" in (coming.reason or "")


def test_who_came_late_and_who_was_given_a_tag_later(store: Store, ada: Actor) -> None:
    early = client(store, ada, "early", created_at=NOW - DAY)
    tagged = mailing(store, ada, tags=["vip"])
    opened(store)
    client(store, ada, "late", tags=["vip"], created_at=NOW + DAY)
    with store.write() as db:
        db.add(ClientTag(client_id=early, tag="vip"))

    assert (
        "became a client at 2026-03-03 09:00:00+00:00"
        in reasons(address_history(store, ada, "late@example.org"))[tagged]
    )
    assert "came into the audience" in reasons(address_history(store, ada, "early@example.org"))[tagged]


def test_the_same_reason_is_said_once(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")
    mailing(store, ada, tags=["vip"], every=Every.DAY)
    for day in range(3):
        open_due(store, NOW + day * DAY)

    (left_out,) = address_history(store, ada, BOB).left_out
    assert (left_out.times, left_out.first_due_at, left_out.last_due_at) == (3, NOW, NOW + 2 * DAY)


def test_what_comes_next(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")
    later = NOW + 1000 * DAY
    will, disabled, never = (
        mailing(store, ada, start=later),
        mailing(store, ada, start=later, disabled_at=NOW, disabled_reason="for now"),
        mailing(store, ada, start=later, tags=["vip"]),
    )
    deleted = mailing(store, ada, start=later)
    delete_mailing(store, deleted)

    assert {one.mailing_id: one.reason for one in address_history(store, ada, BOB).coming} == {
        will: None,
        disabled: "the mailing is disabled: for now",
        never: "it has no tag of: vip",
    }


def test_a_client_that_is_gone(store: Store, ada: Actor) -> None:
    bob = client(store, ada, "bob")
    everybody = mailing(store, ada, every=Every.DAY)
    opened(store)
    delete_client(store, bob)
    open_due(store, NOW + DAY)
    fill(store, 2)

    found = address_history(store, ada, BOB)
    assert found.clients == []
    assert [one.state for one in found.chosen] == ["cancelled"]
    assert reasons(found) == {everybody: "it is no client of ada@skychimp.test"}


def test_it_is_for_the_owner_and_for_managers(
    store: Store, ada: Actor, bob: Actor, manager: Actor, admin: Actor
) -> None:
    client(store, ada, "bob", tags=["vip"], comment="owes us money")
    client(store, bob, "bob", comment="a friend")
    adas, bobs = mailing(store, ada), mailing(store, bob)
    mailing(store, enrol(store, "eve"))  # of somebody who has no such client
    opened(store)

    assert [one.mailing_id for one in address_history(store, ada, BOB).chosen] == [adas]
    for actor in (manager, admin):
        found = address_history(store, actor, BOB)
        assert [one.mailing_id for one in found.chosen] == [adas, bobs]
        assert (found.left_out, len(found.clients)) == ([], 2)
        assert {(one.name, one.comment, one.tags) for one in found.clients} == {(None, None, None)}
    with pytest.raises(NotFound):
        address_history(store, enrol(store, "carol"), BOB)
    with pytest.raises(NotLoggedIn):
        address_history(store, ANONYMOUS, BOB)


def test_nobody_knows_it(store: Store, ada: Actor, bob: Actor) -> None:
    client(store, ada, "grace.hopper")
    with pytest.raises(NotFound) as refused:
        address_history(store, ada, "grace.hoper@example.org")
    assert refused.value.hint == "did you mean grace.hopper@example.org?"
    with pytest.raises(NotFound) as refused:
        address_history(store, bob, "grace.hoper@example.org")  # another's clients are not told of
    assert "grace.hopper" not in (refused.value.hint or "")
    with pytest.raises(InvalidValue):
        address_history(store, ada, "nobody")


EARLY = SimpleNamespace(id=7, created_at=NOW - DAY, bad_at=None, bad_reason=None)


@pytest.mark.parametrize(
    ("state", "cursor", "someone", "outside", "said"),
    [
        (OccurrenceState.MISSED, 0, EARLY, None, "missed"),
        (OccurrenceState.SKIPPED, 0, EARLY, None, "no new post"),
        (OccurrenceState.CANCELLED, 0, EARLY, None, "deleted"),
        (OccurrenceState.OPEN, 9, None, None, "no client of ada"),
        (OccurrenceState.OPENING, 6, EARLY, None, "its turn is to come"),
        (OccurrenceState.OPENING, 7, EARLY, None, "came into the audience"),
        (OccurrenceState.OPENING, 6, EARLY, "it has no tag", "it has no tag"),
        (OccurrenceState.FINISHED, 9, EARLY, "it has no tag", "it has no tag"),
    ],
)
def test_the_reason_that_counts(
    state: OccurrenceState, cursor: int, someone: SimpleNamespace | None, outside: str | None, said: str
) -> None:
    occurrence = SimpleNamespace(state=state, cursor=cursor, opened_at=NOW, owner="ada")

    assert said in why_not(occurrence, someone, outside)


def test_one_that_turned_bad_after_its_letter_was_due() -> None:
    bad = SimpleNamespace(id=7, created_at=NOW - DAY, bad_at=NOW + timedelta(1), bad_reason="550")
    occurrence = SimpleNamespace(state=OccurrenceState.FINISHED, cursor=9, opened_at=NOW, owner="ada")

    assert "came into the audience" in why_not(occurrence, bad, None)

"""Each of a user's topics has one spelling, whether a mailing or a suppression gave it first."""

import pytest
from support.queue_steps import (
    NOW,
    create_client,
    create_deliveries,
    create_mailing,
    delivery_states,
    open_due,
    update_row,
    write,
)

from skychimp.models import Mailing, SuppressionSource
from skychimp.permissions import Actor
from skychimp.store.clients import suppressions, topics
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.database import Store


def suppress(store: Store, owner: Actor, address: str, topic: str) -> None:
    """Suppress an address for a topic of a user."""
    new = [NewSuppression(address, address, "unsubscribed")]
    holds = Holds(owner.user_id, topic)
    write(store, lambda db: suppressions.add(db, new, holds, SuppressionSource.COMMAND, NOW))


def spell(store: Store, owner: Actor, topic: str) -> str:
    return write(store, lambda db: topics.spell(db, owner.user_id, topic))


@pytest.mark.parametrize(
    ("first", "given"),
    [("News", "news"), ("news", "NEWS"), ("Straße", "STRASSE"), ("Caf\u00e9", "Cafe\u0301"), ("ΟΔΟΣ", "οδος")],
)
def test_topic_keeps_the_spelling_that_its_user_gave_first(
    store: Store, ada: Actor, bob: Actor, first: str, given: str
) -> None:
    create_mailing(store, bob, topic=given)
    suppress(store, bob, "eve@example.org", given)
    assert spell(store, ada, first) == first

    create_mailing(store, ada, topic=first)
    assert spell(store, ada, given) == first


def test_topic_is_spelled_as_in_a_suppression(store: Store, ada: Actor) -> None:
    suppress(store, ada, "eve@example.org", "News")

    assert spell(store, ada, "news") == "News"
    assert spell(store, ada, "newsletter") == "newsletter"
    assert spell(store, ada, "") == ""


def test_new_topic_cancels_what_waits_for_those_who_left_it(
    store: Store, ada: Actor, bob: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "BATCH", 1)
    for name in ("amy", "ben", "eve", "fay"):
        create_client(store, ada, name)
    suppress(store, ada, "amy@example.org", "News")
    suppress(store, ada, "eve@example.org", "News")
    suppress(store, ada, "ben@example.org", "Offers")
    suppress(store, bob, "fay@example.org", "News")
    mailing_id = create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 1)

    update_row(store, Mailing, mailing_id, topic="News")
    write(store, lambda db: topics.cancel_suppressed(db, ada.user_id, "News"))

    states = {"amy": "cancelled", "ben": "queued", "eve": "cancelled", "fay": "queued"}
    assert delivery_states(store) == states

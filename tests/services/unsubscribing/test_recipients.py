"""A token unsubscribes one recipient, from a topic or from all mail, also after the person was forgotten."""

import pytest
from sqlalchemy import select
from support.queue_steps import create_client, create_deliveries, create_mailing, get_row, open_due, rows
from support.returned import send_mailing, token_for

from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import Delivery, DeliveryState, Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.unsubscribing import recipients
from skychimp.services.users import privacy
from skychimp.store import token_keys
from skychimp.store.clients import audience
from skychimp.store.database import Store

WEB = SuppressionSource.WEB


@pytest.mark.parametrize(
    ("topic", "all_mail", "held_topic"), [("", False, ""), ("News", False, "News"), ("News", True, "")]
)
def test_token_suppresses_the_recipient(store: Store, ada: Actor, topic: str, all_mail: bool, held_topic: str) -> None:
    (delivery_id,) = send_mailing(store, ada, "grace", topic=topic)
    token = token_for(store, Purpose.UNSUBSCRIBE, delivery_id)

    for _ in range(2):
        recipient = recipients.unsubscribe(store, token, WEB, all_mail=all_mail)
        assert recipient is not None
        assert (recipient.address, recipient.topic, recipient.owner_id) == ("grace@example.org", topic, ada.user_id)

    (suppression,) = rows(store, Suppression)
    assert (suppression.address, suppression.topic, suppression.owner_id) == (
        "grace@example.org",
        held_topic,
        ada.user_id,
    )
    assert (suppression.reason, suppression.source) == ("unsubscribed", WEB)


def test_waiting_emails_are_cancelled(store: Store, ada: Actor) -> None:
    (delivery_id,) = send_mailing(store, ada, "grace")
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 2)

    recipients.unsubscribe(store, token_for(store, Purpose.UNSUBSCRIBE, delivery_id), WEB)

    assert [delivery.state for delivery in rows(store, Delivery)] == [DeliveryState.SENT, DeliveryState.CANCELLED]


def test_other_tokens_change_nothing(store: Store, ada: Actor) -> None:
    (delivery_id,) = send_mailing(store, ada, "grace")
    valid = token_for(store, Purpose.UNSUBSCRIBE, delivery_id)
    missing = token_for(store, Purpose.UNSUBSCRIBE, 10**6)

    for token in ("", "x" * 5_000, valid[:-1], token_for(store, Purpose.BOUNCE, delivery_id), missing, "ü"):
        assert recipients.unsubscribe(store, token, WEB) is None
    assert rows(store, Suppression) == []


def test_finding_changes_nothing(store: Store, ada: Actor) -> None:
    (delivery_id,) = send_mailing(store, ada, "grace")

    token = token_for(store, Purpose.UNSUBSCRIBE, delivery_id).upper()
    with store.read() as db:
        assert recipients.find(db.connection(), token_keys.read(db.connection(), store.now()), token) is not None
    assert rows(store, Suppression) == []


def test_token_works_after_the_key_was_replaced(store: Store, ada: Actor) -> None:
    (delivery_id,) = send_mailing(store, ada, "grace")
    token = token_for(store, Purpose.UNSUBSCRIBE, delivery_id)
    with store.write() as db:
        token_keys.replace(db.connection(), store.now())

    assert recipients.unsubscribe(store, token, WEB) is not None


@pytest.mark.parametrize("comes_back", ["before", "after", "never"])
def test_forgotten_person_can_unsubscribe(store: Store, ada: Actor, comes_back: str) -> None:
    """The suppression has only a hash, and is known again as soon as a client has the address."""
    (delivery_id,) = send_mailing(store, ada, "grace")
    token = token_for(store, Purpose.UNSUBSCRIBE, delivery_id)
    privacy.forget(store, ada, "grace@example.org")
    if comes_back == "before":
        create_client(store, ada, "grace")

    recipient = recipients.unsubscribe(store, token, WEB)

    assert recipient is not None
    assert recipient.address is None
    assert get_row(store, Delivery, delivery_id).address == "erased"
    (suppression,) = rows(store, Suppression)
    assert suppression.address == ("grace@example.org" if comes_back == "before" else None)
    if comes_back == "after":
        from skychimp.services.clients import clients

        clients.create(store, ada, email="grace@example.org")
    if comes_back != "never":
        with store.read() as db:
            assert audience.find_suppression(db.connection(), "grace@example.org", ada.user_id, "") is not None
            assert db.scalars(select(Suppression.__table__.c.address)).all() == ["grace@example.org"]

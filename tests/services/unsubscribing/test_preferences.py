"""Who was forgotten can still stop, pause and resume mail, and what has ended counts nowhere."""

from datetime import timedelta

import pytest
from support.queue_steps import create_client, rows
from support.returned import send_mailing

from skychimp.models import Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.unsubscribing import preferences, recipients
from skychimp.services.unsubscribing.recipients import Recipient
from skychimp.services.users import privacy
from skychimp.store.clients import audience, suppressions
from skychimp.store.clients.suppressions import Holds
from skychimp.store.database import Store


@pytest.fixture
def forgotten(store: Store, ada: Actor) -> Recipient:
    """Return who got an email about news and was forgotten."""
    (delivery_id,) = send_mailing(store, ada, "grace", topic="news")
    privacy.forget(store, ada, "grace@example.org")
    with store.read() as db:
        return recipients.recipients_of(db.connection(), [delivery_id])[delivery_id]


def test_forgotten_person_chooses_topics(store: Store, forgotten: Recipient) -> None:
    with store.write() as transaction:
        db = transaction.connection()
        assert preferences.read(db, forgotten) == ({"news": True}, False, None, False)
        preferences.choose_topics(db, forgotten, [], store.now())
        assert preferences.read(db, forgotten) == ({"news": False}, False, None, False)
        preferences.choose_topics(db, forgotten, ["news"], store.now())
    assert rows(store, Suppression) == []


def test_forgotten_person_pauses_stops_and_resumes(store: Store, forgotten: Recipient) -> None:
    now = store.now()
    with store.write() as transaction:
        db = transaction.connection()
        preferences.pause(db, forgotten, now)
        paused = preferences.read(db, forgotten)
        assert paused.paused_until is not None
        assert paused.can_resume
        preferences.stop(db, forgotten, now)
        preferences.pause(db, forgotten, now)  # does not replace what holds for good
        assert preferences.read(db, forgotten) == ({"news": True}, True, None, True)
    (row,) = rows(store, Suppression)
    assert (row.address, row.reason, row.until) == (None, "unsubscribed", None)
    with store.write() as transaction:
        preferences.resume(transaction.connection(), forgotten)
    assert rows(store, Suppression) == []


def test_ended_pause_of_a_forgotten_person_counts_nowhere(store: Store, ada: Actor, forgotten: Recipient) -> None:
    ended = store.now() - timedelta(seconds=5)
    create_client(store, ada, "grace")
    assert forgotten.address_hash is not None
    with store.write() as transaction:
        db, holds = transaction.connection(), Holds(ada.user_id)
        web = SuppressionSource.WEB
        suppressions.add_erased(db, forgotten.address_hash, preferences.PAUSED, holds, web, ended, ended)
        assert not preferences.read(db, forgotten).is_stopped
        assert audience.find_suppression(db, "grace@example.org", ada.user_id, "") is None

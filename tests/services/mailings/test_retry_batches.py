"""Test that emails are queued again in batches."""

import pytest
from support.queue_steps import claim, close_leases, delivery_states, open_mailing, send, update_row

from skychimp.models import Client, DeliveryState, Outcome
from skychimp.permissions import Actor
from skychimp.services.mailings import retries
from skychimp.services.mailings.retries import Retry
from skychimp.store.database import Store


def test_failed_emails_are_queued_in_batches(store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of bad clients, and those with another reply, stay as they are."""
    monkeypatch.setattr(retries, "BATCH", 2)
    ids = open_mailing(store, ada, *"abcdefg")
    first, other, *rest = claim(store)
    send(store, 1, Outcome.SENT, first)
    send(store, 1, Outcome.FAILED, other, enhanced="5.1.1", reply="550 5.1.1 unknown")
    send(store, 1, Outcome.FAILED, *rest)
    close_leases(store)
    update_row(store, Client, ids[-1], bad_at=first.leased_at, bad_reason="no")

    assert retries.count(store, ada, 1, reply="5.7.1") == Retry(1, queued=4, left_out=1)
    assert retries.retry(store, ada, 1, reply="5.7.1") == Retry(1, queued=4, left_out=1)

    queued = dict.fromkeys("cdef", DeliveryState.QUEUED)
    assert delivery_states(store) == {"a": "sent", "b": "failed", **queued, "g": "failed"}

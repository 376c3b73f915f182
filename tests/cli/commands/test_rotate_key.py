"""Test `skychimp store rotate-key`: old links work for 60 days, and only administrators may replace the key."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from support.command import Home
from support.queue_steps import rows
from support.returned import send_mailing, token_for

from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import AuditEntry, SuppressionSource, TokenKey
from skychimp.permissions import Actor
from skychimp.services.unsubscribing import recipients
from skychimp.store.database import Store

HomeOf = Callable[[Actor], Home]


def test_old_links_work_after_a_new_key(store: Store, ada: Actor, admin: Actor, home_of: HomeOf) -> None:
    (sent,) = send_mailing(store, ada, "grace")
    old = token_for(store, Purpose.UNSUBSCRIBE, sent)

    done = home_of(admin).call("store", "rotate-key", "--yes", "--json")

    assert done.status == 0, done.err
    until = datetime.fromisoformat(done.json["old_links_until"])
    assert done.json["key"] == 2
    assert timedelta(days=59) < until - datetime.now(UTC) < timedelta(days=61)
    assert token_for(store, Purpose.UNSUBSCRIBE, sent) != old
    unsubscribed = recipients.unsubscribe(store, old, SuppressionSource.MAIL)
    assert unsubscribed is not None
    assert unsubscribed.delivery_id == sent
    (entry,) = [each for each in rows(store, AuditEntry) if each.action == "rotate token key"]
    assert (entry.actor_id, entry.object_id) == (admin.user_id, 2)


def test_key_is_replaced_only_if_confirmed_and_allowed(store: Store, ada: Actor, admin: Actor, home_of: HomeOf) -> None:
    unconfirmed, adas = home_of(admin).call("store", "rotate-key"), home_of(ada)
    denied = adas.call("store", "rotate-key", "--yes")

    assert (unconfirmed.status, denied.status) == (2, 5)
    assert "refusing to replace the key of unsubscribe links without confirmation" in unconfirmed.err
    assert len(rows(store, TokenKey)) == 1
    operator = adas.call("store", "rotate-key", "--yes", "--operator")
    assert operator.status == 0
    assert operator.out.startswith("key\t2\nold_links_until\t")

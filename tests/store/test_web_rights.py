"""The web server's connections do what it needs, and refuse everything else."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from support.queue_steps import open_mailing, rows
from support.returned import token_for

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.errors import StoreFailed
from skychimp.models import Suppression, SuppressionSource
from skychimp.permissions import Actor
from skychimp.services.monitoring.metrics import read_metrics
from skychimp.services.unsubscribing import preferences, recipients
from skychimp.store import ledger, token_keys, web_rights
from skychimp.store.database import POSTGRESQL, Store
from skychimp.store.schema import open_store

ROLE = "skychimp_web"

REFUSED = [
    "SELECT name FROM client",
    "SELECT id FROM client",
    "SELECT comment FROM client",
    "DELETE FROM client",
    'SELECT email FROM "user"',
    "SELECT subject FROM occurrence",
    "SELECT comment FROM delivery",
    "SELECT reply FROM attempt",
    "SELECT token_hash FROM login",
    "UPDATE client SET name = ''",
    "UPDATE delivery SET address = 'eve@example.org'",
    "UPDATE store_info SET secret = ''",
    "UPDATE token_key SET key = ''",
    "INSERT INTO token_key (number, key, created_at) VALUES (9, '', '2026-01-01')",
    "DELETE FROM delivery",
    "DELETE FROM attempt",
    "DROP TABLE suppression",
    "CREATE TABLE x (y INTEGER)",
    "ALTER TABLE suppression ADD COLUMN x INTEGER",
    "CREATE TRIGGER t AFTER INSERT ON suppression BEGIN DELETE FROM client; END",
    "PRAGMA writable_schema = ON",
    "ATTACH DATABASE '/tmp/x' AS x",
    "SELECT sql FROM sqlite_master",
]


@pytest.fixture
def restricted(store: Store, ada: Actor) -> Iterator[Store]:
    """Return a store with two queued emails, with the rights of the web server. Ann's email does not name her."""
    open_mailing(store, ada, "ann", "bob", topic="news")
    with store.write() as transaction:
        ledger.erase_recipients(transaction.connection(), [1])
    if store.dialect != POSTGRESQL:
        assert web_rights.restrict(store)
        yield store
        return
    assert not web_rights.restrict(store)
    with store.connect() as db, db.begin():
        if not db.exec_driver_sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'").scalar():
            db.exec_driver_sql(f"CREATE ROLE {ROLE} LOGIN")
        for grant in web_rights.grants(ROLE):
            db.exec_driver_sql(grant)
    opened = open_store(store.engine.url.set(username=ROLE).render_as_string(hide_password=False))
    yield opened
    opened.close()


def test_other_statements_are_refused(restricted: Store) -> None:
    for statement in REFUSED:
        try:
            with restricted.write() as db:
                db.execute(text(statement))
        except StoreFailed:
            continue
        pytest.fail(f"not refused: {statement}")


def test_web_server_can_do_its_work(restricted: Store, store: Store) -> None:
    assert web_rights.restrict(restricted)
    now = restricted.now()
    with restricted.read() as transaction:
        db = transaction.connection()
        keys = token_keys.read(db, now)
        token = tokens.make(TokenKey(1, keys[1]), Purpose.UNSUBSCRIBE, 2)
        recipient = recipients.find(db, keys, token)
        assert recipient
        assert preferences.read(db, recipient).topics == {"news": True}
    assert 'skychimp_queue{state="queued"} 2' in read_metrics(restricted)
    with restricted.write() as transaction:
        db = transaction.connection()
        preferences.choose_topics(db, recipient, [], now)
        preferences.choose_topics(db, recipient, ["news"], now)
        preferences.pause(db, recipient, now)
        preferences.stop(db, recipient, now)
        preferences.resume(db, recipient)
    assert recipients.unsubscribe(restricted, token, SuppressionSource.WEB) == recipient
    assert 'skychimp_suppressions{reason="unsubscribed"} 1' in read_metrics(restricted)
    assert 'skychimp_queue{state="queued"} 1' in read_metrics(restricted)


def test_web_server_can_suppress_who_was_forgotten(restricted: Store) -> None:
    token = token_for(restricted, Purpose.UNSUBSCRIBE, 1)
    assert recipients.unsubscribe(restricted, token, SuppressionSource.WEB) is not None
    assert [row.address for row in rows(restricted, Suppression)] == ["ann@example.org"]

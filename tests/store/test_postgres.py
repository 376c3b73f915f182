"""Test what only a store on a PostgreSQL server has: its lock, its connections and its fail-overs."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import create_user
from sqlalchemy import select, text
from support.queue_steps import NOW, claim, create_run, make_attempt, open_mailing, record_intents, write

from skychimp.errors import Conflict, StoreFailed, StoreNotReady
from skychimp.models import Outcome, StoreInfo
from skychimp.services.reporting import rollups
from skychimp.store import ledger, queue
from skychimp.store.postgres import failover
from skychimp.store.postgres.failover import Database
from skychimp.store.postgres.schema import create_store, open_store
from skychimp.store.postgres.server import PostgresStore
from skychimp.store.postgres.url import connect_arguments

pytestmark = pytest.mark.postgres

ADDRESSES = [f"client{number}" for number in range(200)]


@pytest.fixture
def server_store(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresStore]:
    """Return an empty store on a server."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    store = open_store(postgres_url, None)
    yield store
    store.close()


@pytest.fixture
def due_store(server_store: PostgresStore) -> PostgresStore:
    """Return a store with a mailing that is due."""
    create_run(server_store)
    open_mailing(server_store, create_user(server_store, "ada"), *ADDRESSES)
    return server_store


# Connecting


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("postgresql+psycopg://u@db.example.org/x", {}, ("verify-full", "system")),
        ("postgresql+psycopg://u@192.0.2.1/x", {}, ("verify-full", "system")),
        ("postgresql+psycopg://u@127.0.0.1,db.example.org/x", {}, ("verify-full", "system")),
        ("postgresql+psycopg:///x?host=db.example.org", {}, ("verify-full", "system")),
        ("postgresql+psycopg://u@localhost/x?host=db.example.org", {}, ("verify-full", "system")),
        ("postgresql+psycopg://u@localhost/x?hostaddr=203.0.113.5", {}, ("verify-full", "system")),
        ("postgresql+psycopg:///x?host=db.example.org&host=localhost", {}, ("verify-full", "system")),
        ("postgresql+psycopg://u@localhost/x?service=far", {}, ("verify-full", "system")),
        ("postgresql+psycopg:///x", {"PGHOSTADDR": "203.0.113.5"}, ("verify-full", "system")),
        ("postgresql+psycopg:///x", {"PGSERVICE": "far"}, ("verify-full", "system")),
        ("postgresql+psycopg:///x", {"PGHOST": "db.example.org"}, ("verify-full", "system")),
        ("postgresql+psycopg://u@db.example.org/x?sslrootcert=/my.crt", {}, ("verify-full", None)),
        ("postgresql+psycopg://u@db.example.org/x?sslmode=require", {}, (None, None)),
        ("postgresql+psycopg://u@db.example.org/x", {"PGSSLMODE": "require"}, (None, None)),
        ("postgresql+psycopg://u@127.0.0.1:5433/x", {}, (None, None)),
        ("postgresql+psycopg://u@[::1]/x", {}, (None, None)),
        ("postgresql+psycopg://u@localhost/x", {}, (None, None)),
        ("postgresql+psycopg:///x?host=/run/postgresql", {}, (None, None)),
        ("postgresql+psycopg:///x", {}, (None, None)),
    ],
)
def test_certificate_is_checked_unless_the_server_is_local(
    url: str,
    environ: dict[str, str],
    expected: tuple[str | None, str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE", "PGSSLROOTCERT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    arguments = connect_arguments(url)
    assert (arguments.get("sslmode"), arguments.get("sslrootcert")) == expected


def test_server_that_offers_no_tls_is_refused_unless_local(server_store: PostgresStore, postgres_url: str) -> None:
    url = f"{postgres_url}?sslmode=verify-full"
    with pytest.raises(StoreFailed, match="SSL"):
        open_store(url, None)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda url: url.rpartition("/")[0] + "/nowhere", StoreFailed, 'database "nowhere" does not exist'),
        (lambda url: url.replace("skychimp@", "nobody@"), StoreFailed, 'role "nobody" does not exist'),
        (lambda url: url.replace("127.0.0.1", "127.0.0.9"), StoreFailed, "Connection refused"),
        (lambda url: url.rpartition("/")[0] + "/template1", StoreNotReady, "no store at postgresql://"),
    ],
    ids=["no database", "no role", "no server", "no store"],
)
def test_error_of_connecting_is_one_line_with_a_hint(
    postgres_url: str, change: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        open_store(change(postgres_url), None)
    assert "\n" not in str(raised.value)
    assert getattr(raised.value, "hint", "")


def test_store_is_created_once(postgres_url: str) -> None:
    with pytest.raises(Conflict, match="already has a store"):
        create_store(postgres_url, None, lambda db: None)


def test_store_that_fails_half_way_leaves_nothing(postgres_server: Any) -> None:
    postgres_server.create_database("half")
    with pytest.raises(ZeroDivisionError):
        create_store(postgres_server.url("half"), None, lambda db: 1 / 0)
    create_store(postgres_server.url("half"), None, lambda db: None).close()
    postgres_server.drop_database("half")


# The lock


def test_runs_that_lease_at_once_get_different_deliveries(due_store: PostgresStore) -> None:
    def lease(run_id: int) -> list[int]:
        found: list[int] = []
        with due_store.connect_for_writes() as db:
            for _ in range(5):
                with due_store.transaction(db, shared=True, pipelined=False):
                    found += [each.id for each in queue.lease(db, 1, run_id, NOW, NOW, 10)]
        return found

    with ThreadPoolExecutor(4) as threads:
        leased = [delivery_id for ids in threads.map(lease, range(1, 5)) for delivery_id in ids]
    assert len(leased) == 200
    assert len(set(leased)) == 200


def test_intent_that_waits_for_a_mailing_to_be_disabled_is_refused(due_store: PostgresStore) -> None:
    """Its transaction begins before that one commits, and must see what it did."""
    claimed = claim(due_store, limit=1)
    granted: list[object] = []

    def record() -> None:
        with due_store.connect_for_writes() as db, due_store.transaction(db, shared=True, pipelined=False):
            granted.extend(ledger.record_intents(db, 1, claimed, NOW))

    with due_store.write() as transaction:
        queue.disable_mailing(transaction.connection(), 1, "stop", NOW)
        thread = threading.Thread(target=record)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "it waits for the lock"
    thread.join()
    assert granted == []


def test_runs_write_at_once(due_store: PostgresStore) -> None:
    """What one run has not committed yet keeps no other one from recording intents."""
    first, second = claim(due_store, 1, limit=5), claim(due_store, create_run(due_store), limit=5)
    with due_store.connect_for_writes() as db, due_store.transaction(db, shared=True, pipelined=False):
        assert len(ledger.record_intents(db, 1, first, NOW)) == 5
        with due_store.connect_for_writes() as other, due_store.transaction(other, shared=True, pipelined=False):
            assert len(ledger.record_intents(other, 2, second, NOW)) == 5


def test_isolation_level_of_the_server_does_not_count(due_store: PostgresStore, postgres_url: str) -> None:
    """In a stricter one, a statement would not see what was committed while it waited for the lock."""
    statement = f"ALTER DATABASE {postgres_url.rpartition('/')[2]} SET default_transaction_isolation = 'serializable'"
    write(due_store, lambda db: db.execute(text(statement)))
    due_store.engine.dispose()
    test_intent_that_waits_for_a_mailing_to_be_disabled_is_refused(due_store)


def test_commit_is_flushed_whatever_the_default(due_store: PostgresStore, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    write(due_store, lambda db: db.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off")))
    due_store.engine.dispose()
    with due_store.connect_for_writes() as db, due_store.transaction(db, shared=True, pipelined=False):
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    assert write(due_store, lambda db: db.execute(text("SHOW synchronous_commit")).scalar()) == "on"


def test_attempt_committed_late_is_counted(due_store: PostgresStore) -> None:
    """Its id is lower than that of an attempt that another run has committed already."""
    first, second = claim(due_store, 1, limit=1), claim(due_store, create_run(due_store), limit=1)
    record_intents(due_store, 1, *first)
    record_intents(due_store, 2, *second)
    with due_store.connect_for_writes() as db, due_store.transaction(db, shared=True, pipelined=False):
        ledger.record_sent(db, 1, [make_attempt(first[0], Outcome.SENT)])
        with due_store.connect_for_writes() as other, due_store.transaction(other, shared=True, pipelined=False):
            ledger.record_sent(other, 2, [make_attempt(second[0], Outcome.SENT)])
        counting = threading.Thread(target=rollups.count_new_attempts, args=[due_store])
        counting.start()
        counting.join(0.5)
    counting.join()
    rollups.count_new_attempts(due_store)
    assert write(due_store, lambda db: db.execute(text("SELECT sum(attempts) FROM pace")).scalar()) == 2


# A connection that is lost


class LosingConnection:
    """A driver's connection that is lost at a COMMIT, before it reaches the server or after."""

    def __init__(self, driver: Any, *, arrives: bool) -> None:
        self._driver = driver
        self._arrives = arrives

    def execute(self, statement: str, *parameters: Any) -> Any:
        if statement == "COMMIT":
            if self._arrives:
                self._driver.execute(statement)
            self._driver.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return self._driver.execute(statement, *parameters)


@pytest.mark.parametrize("arrives", [True, False], ids=["committed", "not committed"])
def test_lost_commit_is_looked_up(server_store: PostgresStore, arrives: bool) -> None:
    """A transaction that was committed is not an error, so that nobody does it again."""
    with server_store.connect_for_writes() as db:
        driver: Any = db.connection.dbapi_connection
        xid = driver.execute("BEGIN").execute("SELECT pg_current_xact_id()::text").fetchone()[0]
        driver.execute("UPDATE store_info SET zone_rules = 'changed'")
        losing = LosingConnection(driver, arrives=arrives)
        if arrives:
            server_store._commit(losing, xid)
        else:
            with pytest.raises(psycopg.OperationalError):
                server_store._commit(losing, xid)
        db.invalidate()
    rules = write(server_store, lambda db: db.scalar(select(StoreInfo.__table__.c.zone_rules)))
    assert rules == ("changed" if arrives else None)


# Another database


@pytest.mark.parametrize(
    ("before", "current", "reason"),
    [
        (Database(None, None), Database("1:5:A", False), None),
        (Database("1:5:A", False), Database("1:5:A", True), None),
        (Database("1:5:A", True), Database("1:5:B", True), None),
        (Database("1:5:A", True), Database("1:5:B", False), None),
        (Database("1:5:A", False), Database("1:5:B", True), queue.AFTER_FAILOVER),
        (Database("1:5:A", None), Database("1:5:B", None), queue.AFTER_FAILOVER),
        (Database("1:5:A", True), Database("1:6:A", True), queue.AFTER_RESTORE),
        (Database("1:5:A", True), Database("2:5:A", True), queue.AFTER_RESTORE),
    ],
)
def test_store_is_held_if_commits_may_be_missing(before: Database, current: Database, reason: str | None) -> None:
    assert failover.why_commits_may_be_missing(before, current, has_own_last_commit=True) == reason
    without = failover.why_commits_may_be_missing(before, current, has_own_last_commit=False)
    assert without == (reason if before.database_id in (None, current.database_id) else reason or queue.AFTER_FAILOVER)


def test_store_in_another_database_is_held_once(due_store: PostgresStore) -> None:
    """After a person has released it, it stays released."""
    failover.check_store(due_store)
    assert write(due_store, queue.why_held) is None
    write(due_store, lambda db: db.execute(text("UPDATE store_info SET database_id = '1:2:3'")))
    failover.check_store(due_store)
    assert write(due_store, queue.why_held) == queue.AFTER_RESTORE
    assert record_intents(due_store, 1, *claim(due_store, limit=1)) == set()
    write(due_store, queue.release)
    failover.check_store(due_store)
    assert write(due_store, queue.why_held) is None

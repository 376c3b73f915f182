"""Test what only a store on a PostgreSQL server has: its lock, its connections and its fail-overs."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import create_user
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import DBAPIError
from support.queue_steps import NOW, claim, create_run, make_attempt, open_mailing, record_intents, rescue, write
from support.sending import rows

from skychimp import files
from skychimp.errors import Conflict, StoreFailed, StoreNotReady
from skychimp.models import Attempt, Outcome, StoreInfo
from skychimp.services.reporting import rollups
from skychimp.store import holds, ledger, queue
from skychimp.store.database import Driver
from skychimp.store.ledger import AttemptRecord
from skychimp.store.postgres import failover, last_commit, server
from skychimp.store.postgres.failover import Database
from skychimp.store.postgres.schema import create_store, open_store
from skychimp.store.postgres.server import PostgresStore
from skychimp.store.postgres.url import connect_arguments
from skychimp.store.queue import ClaimedDelivery

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


@contextmanager
def begun(store: PostgresStore, *, pipelined: bool = False) -> Iterator[Driver]:
    """Open a transaction of a run on a connection of its own."""
    with store.connect_for_writes() as db, store.transaction(db, [], shared=True, pipelined=pipelined) as driver:
        yield driver


# The lock


def test_runs_that_lease_at_once_get_different_deliveries(due_store: PostgresStore) -> None:
    def lease(run_id: int) -> list[int]:
        found: list[int] = []
        with due_store.connect_for_writes() as db:
            for _ in range(5):
                with due_store.transaction(db, [], shared=True, pipelined=False):
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
        with begun(due_store, pipelined=True) as driver:
            granted.extend(ledger.record_intents(driver, 1, claimed, NOW))

    with due_store.write() as transaction:
        holds.disable_mailing(transaction.connection(), 1, "stop", NOW)
        thread = threading.Thread(target=record)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive(), "it waits for the lock"
    thread.join()
    assert granted == []


def test_runs_write_at_once(due_store: PostgresStore) -> None:
    """What one run has not committed yet keeps no other one from recording intents."""
    first, second = claim(due_store, 1, limit=5), claim(due_store, create_run(due_store), limit=5)
    with begun(due_store, pipelined=True) as driver:
        assert len(ledger.record_intents(driver, 1, first, NOW)) == 5
        with begun(due_store, pipelined=True) as other:
            assert len(ledger.record_intents(other, 2, second, NOW)) == 5


def test_closing_a_lease_reads_no_other_attempts(due_store: PostgresStore) -> None:
    """Although the server does not know yet how many there are."""
    plans: list[str] = []
    claimed = claim(due_store, limit=5)
    record_intents(due_store, 1, *claimed)

    def explain(db: Connection, _: object, statement: str, parameters: Any, *__: object) -> None:
        if statement.startswith("UPDATE delivery"):
            plans.extend(db.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())

    with due_store.connect() as db:
        event.listen(db, "before_cursor_execute", explain)
        queue.close_leases(db, 1)
    assert any("Index Scan" in line and "attempt" in line for line in plans), plans
    assert not any("Seq Scan on attempt" in line for line in plans), plans


def test_no_statement_is_sent_before_the_last_one(due_store: PostgresStore) -> None:
    """A process that is stopped in between would keep the lock for as long."""
    claimed = claim(due_store, limit=1)
    in_progress = text("SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND pid != pg_backend_pid()")
    with begun(due_store, pipelined=True) as driver:
        ledger.record_sent(driver, 1, [make_attempt(claimed[0], Outcome.SENT)])
        assert write(due_store, lambda db: db.execute(in_progress).scalar()) == 0
        assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 1
    assert len(rows(due_store, Attempt)) == 1


def test_error_of_a_pipeline_is_that_of_its_first_statement(due_store: PostgresStore) -> None:
    """Afterwards the connection can be used again."""
    claimed = claim(due_store, limit=2)
    late = make_attempt(claimed[0]._replace(lease_id=9), Outcome.SENT)
    with due_store.connect_for_writes() as db:

        def record(attempt: AttemptRecord) -> None:
            with due_store.transaction(db, [], shared=True, pipelined=True) as driver:
                ledger.record_sent(driver, 1, [attempt])
                ledger.record_intents(driver, 1, claimed, NOW)

        for _ in range(2):
            with pytest.raises(psycopg.errors.NotNullViolation) as raised:
                record(late)
            assert ledger.is_late(raised.value)
        with due_store.transaction(db, [], shared=True, pipelined=True) as driver:
            assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 2
    assert rows(due_store, Attempt) == []


def test_pipeline_that_our_own_error_ends_leaves_a_usable_connection(due_store: PostgresStore) -> None:
    claimed = claim(due_store, limit=1)
    with due_store.connect_for_writes() as db:
        with suppress(ZeroDivisionError), due_store.transaction(db, [], shared=True, pipelined=True) as driver:
            ledger.record_sent(driver, 1, [make_attempt(claimed[0], Outcome.SENT)])
            raise ZeroDivisionError
        with due_store.transaction(db, [], shared=True, pipelined=True) as driver:
            assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 1
    assert rows(due_store, Attempt) == []


@pytest.mark.parametrize("pipelined", [False, True])
def test_transaction_that_waits_too_long_for_us_can_be_done_again(
    due_store: PostgresStore, monkeypatch: pytest.MonkeyPatch, pipelined: bool
) -> None:
    """This process was stopped, and its lock would stop all others."""
    monkeypatch.setattr(server, "_IDLE_TIMEOUT_OF_RUN_MS", 50)
    claimed = claim(due_store, limit=1)

    def record_slowly(wait_s: float) -> None:
        with begun(due_store, pipelined=pipelined) as driver:
            assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 1
            time.sleep(wait_s)

    with pytest.raises((psycopg.Error, DBAPIError)) as raised:
        record_slowly(0.5)
    assert due_store.reconnect(raised.value)
    record_slowly(0)


def test_statements_that_a_pooler_has_lost_are_prepared_again(due_store: PostgresStore) -> None:
    claimed = claim(due_store, limit=1)
    with due_store.connect_for_writes() as db:
        for is_lost in (False, True):
            if is_lost:
                db.exec_driver_sql("DEALLOCATE ALL")
            expected = pytest.raises(psycopg.errors.InvalidSqlStatementName) if is_lost else nullcontext()
            with expected as raised, due_store.transaction(db, [], shared=True, pipelined=True) as driver:
                assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 1
    assert raised is not None
    assert due_store.reconnect(raised.value)
    with begun(due_store, pipelined=True) as driver:
        assert len(ledger.record_intents(driver, 1, claimed, NOW)) == 1


def test_pipeline_with_large_values_both_ways(due_store: PostgresStore) -> None:
    large = "ä" * 8_000_000
    with begun(due_store, pipelined=True) as driver:
        results = [driver.execute("SELECT CAST(%s AS text), NULL", (large,)) for _ in range(3)]
        assert [result.fetchone() for result in results] == [(large, None)] * 3


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
    with due_store.connect_for_writes() as db, due_store.transaction(db, [], shared=True, pipelined=False):
        assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
    assert write(due_store, lambda db: db.execute(text("SHOW synchronous_commit")).scalar()) == "on"


def test_attempt_committed_late_is_counted(due_store: PostgresStore) -> None:
    """Its id is lower than that of an attempt that another run has committed already."""
    first, second = claim(due_store, 1, limit=1), claim(due_store, create_run(due_store), limit=1)
    record_intents(due_store, 1, *first)
    record_intents(due_store, 2, *second)
    with begun(due_store) as driver:
        ledger.record_sent(driver, 1, [make_attempt(first[0], Outcome.SENT)])
        with begun(due_store) as other:
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
            server_store._commit(losing, xid, [])
        else:
            with pytest.raises(psycopg.OperationalError):
                server_store._commit(losing, xid, [])
        db.invalidate()
    rules = write(server_store, lambda db: db.scalar(select(StoreInfo.__table__.c.zone_rules)))
    assert rules == ("changed" if arrives else None)


def test_server_that_has_lost_a_transaction_in_a_crash(due_store: PostgresStore) -> None:
    """It does not know the transaction's id, until it gives that to another transaction."""
    first, second = claim(due_store, 1, limit=2)
    with due_store.connect_autocommit() as db:
        newest = int(db.exec_driver_sql("SELECT CAST(pg_current_xact_id() AS text)").scalar_one())
    assert not due_store._was_committed(str(newest + 1000), [first.id])
    with begun(due_store) as driver:
        xid = driver.execute("SELECT CAST(pg_current_xact_id() AS text)").fetchone()[0]
        ledger.record_intents(driver, 1, [first], NOW)
    assert due_store._was_committed(xid, [])
    assert due_store._was_committed(xid, [second.id, first.id])
    assert not due_store._was_committed(xid, [second.id]), "another transaction has this id"


# Another database


@pytest.mark.parametrize(
    ("before", "current", "reason"),
    [
        (Database(None, None), Database("1:5:A", False), None),
        (Database("1:5:A", False), Database("1:5:A", True), None),
        (Database("1:5:A", True), Database("1:5:B", True), None),
        (Database("1:5:A", True), Database("1:5:B", False), None),
        (Database("1:5:A", False), Database("1:5:B", True), holds.AFTER_FAILOVER),
        (Database("1:5:A", None), Database("1:5:B", None), holds.AFTER_FAILOVER),
        (Database("1:5:A", True), Database("1:6:A", True), holds.AFTER_RESTORE),
        (Database("1:5:A", True), Database("2:5:A", True), holds.AFTER_RESTORE),
    ],
)
def test_store_is_held_if_commits_may_be_missing(before: Database, current: Database, reason: str | None) -> None:
    assert failover.why_commits_may_be_missing(before, current, has_own_last_commit=True) == reason
    without = failover.why_commits_may_be_missing(before, current, has_own_last_commit=False)
    assert without == (reason if before.database_id in (None, current.database_id) else reason or holds.AFTER_FAILOVER)


def test_store_in_another_database_is_held_once(due_store: PostgresStore) -> None:
    """After a person has released it, it stays released."""
    failover.check_store(due_store)
    assert write(due_store, holds.why_held) is None
    write(due_store, lambda db: db.execute(text("UPDATE store_info SET database_id = '1:2:3'")))
    failover.check_store(due_store)
    assert write(due_store, holds.why_held) == holds.AFTER_RESTORE
    assert record_intents(due_store, 1, *claim(due_store, limit=1)) == set()
    write(due_store, lambda db: holds.release(db, NOW))
    failover.check_store(due_store)
    assert write(due_store, holds.why_held) is None


def test_last_commit_with_results_is_noted(server_store: PostgresStore) -> None:
    path = server_store.path
    files.make_folder(path.parent)
    assert last_commit.read(path) is None
    last_commit.write(path, "700", [])
    last_commit.write(path, "800", [])
    assert last_commit.read(path) == (800, [])
    last_commit.write(path, str(2**63), list(range(2**62, 2**62 + 500)))
    last_commit.write(path, "900", [])
    noted = last_commit.read(path)
    assert noted is not None
    assert (noted.xid, noted.delivery_ids[:2]) == (2**63, [2**62, 2**62 + 1])
    last_commit.write(path, "901", [5])
    assert last_commit.read(path) == (901, [5])


def lose_nothing(_store: PostgresStore, _claims: list[ClaimedDelivery]) -> None:
    """Have the last commit in the database."""


def rescue_and_forget(store: PostgresStore, claims: list[ClaimedDelivery]) -> None:
    """Replace the intent that was committed last by an attempt, which is then changed."""
    rescue(store, 1, NOW)
    write(store, lambda db: ledger.erase_recipients(db, [claimed.id for claimed in claims]))


def give_id_to_another(store: PostgresStore, claims: list[ClaimedDelivery]) -> None:
    """Let the last transaction be one that the database has lost, and whose id another transaction has got."""
    last = last_commit.read(store.path)
    assert last is not None
    last_commit.write(store.path, str(last.xid), [claims[1].id])


def lose_last_commit(store: PostgresStore, claims: list[ClaimedDelivery]) -> None:
    """Let the last transaction be one that the database has lost, and whose id is not in use yet."""
    last = last_commit.read(store.path)
    assert last is not None
    last_commit.write(store.path, str(last.xid + 1000), [claims[0].id])


@pytest.mark.parametrize(
    ("happens", "reason"),
    [
        (lose_nothing, None),
        (rescue_and_forget, None),
        (give_id_to_another, holds.AFTER_FAILOVER),
        (lose_last_commit, holds.AFTER_FAILOVER),
    ],
)
def test_last_commit_is_looked_for_after_a_failover(
    due_store: PostgresStore, happens: Callable[[PostgresStore, list[ClaimedDelivery]], None], reason: str | None
) -> None:
    files.make_folder(due_store.path.parent)
    first, second = claim(due_store, 1, limit=2)
    with (
        due_store.connect_for_writes() as db,
        due_store.transaction(db, [first.id], shared=True, pipelined=False) as driver,
    ):
        ledger.record_intents(driver, 1, [first], NOW)
    happens(due_store, [first, second])
    failover.check_store(due_store)
    timeline = "UPDATE store_info SET waits_for_standby = true, database_id = regexp_replace(database_id, '.$', 'X')"
    write(due_store, lambda db: db.execute(text(timeline)))
    failover.check_store(due_store)
    assert write(due_store, holds.why_held) == reason

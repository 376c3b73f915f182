"""Test what the hourly housekeeping removes, and what it keeps."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import ledger_rows
from support.command import Home
from support.sending import attempts, create_mailing, deliveries, make_addresses, make_settings, rows, send
from support.servers import CountingReceiver
from support.stores import store_environ

from skychimp.models import (
    Attempt,
    Code,
    CodePurpose,
    DeliveryState,
    Login,
    LoginFailure,
    Occurrence,
    OccurrenceState,
    Outcome,
    Run,
)
from skychimp.permissions import Actor
from skychimp.services.operations import housekeeping
from skychimp.services.reporting import rollups
from skychimp.store import ledger
from skychimp.store.database import Store

NOW = datetime.now(UTC)


def test_expired_sessions_are_removed(store: Store, ada: Actor) -> None:
    with store.write() as db:
        for name, at in (("old", NOW - timedelta(seconds=1)), ("new", NOW + timedelta(days=1))):
            db.add(Login(user_id=ada.user_id, token_hash=name, created_at=NOW, seen_at=NOW, expires_at=at))
    housekeeping.tidy(store)
    assert [login.token_hash for login in rows(store, Login)] == ["new"]


def test_old_codes_and_login_failures_are_removed(store: Store, ada: Actor) -> None:
    with store.write() as db:
        for days in (0, 2):
            at = NOW - timedelta(days=days)
            db.add(LoginFailure(address_key=f"{days} days ago", failures=1, failed_at=at))
            code = Code(
                user_id=ada.user_id,
                purpose=CodePurpose.RESET,
                code_hash=f"{days}",
                created_at=at,
                expires_at=at + timedelta(hours=1),
            )
            db.add(code)
    housekeeping.tidy(store)
    assert [code.code_hash for code in rows(store, Code)] == ["0"]
    assert [failure.address_key for failure in rows(store, LoginFailure)] == ["0 days ago"]


def test_old_runs_are_removed(store: Store) -> None:
    with store.write() as db:
        for days, ended in ((100, True), (100, False), (1, True)):
            at = NOW - timedelta(days=days)
            db.add(Run(host="here", pid=days, started_at=at, heartbeat_at=at, ended_at=at if ended else None))
    housekeeping.tidy(store)
    assert [(run.pid, run.ended_at is not None) for run in rows(store, Run)] == [(100, False), (1, True)]


def test_attempts_are_kept_unless_a_limit_is_set(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, make_addresses(25))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port))
    with store.write() as db:
        for number in range(1, 21):
            db.get_one(Attempt, number).finished_at = NOW - timedelta(days=400)
    housekeeping.tidy(store)
    assert len(attempts(store)) == 25
    housekeeping.tidy(store, keep_attempts=timedelta(days=365))
    assert len(attempts(store)) == 5
    assert len(deliveries(store)) == 25
    with store.write() as db:  # in batches, so that other writers need not wait long
        soon = NOW + timedelta(days=1)
        assert [ledger.delete_old_attempts(db.connection(), soon, batch=2) for _ in range(3)] == [True, True, False]


def test_attempt_that_is_not_counted_yet_is_kept(store: Store, ada: Actor) -> None:
    delivery_id = _delivery(store, ada)
    for _ in range(3):
        ledger_rows.attempt(store, delivery_id, Outcome.DEFERRED, "451 later", NOW - timedelta(days=400))
    with store.write() as db:
        assert not ledger.has_old_attempts(db.connection(), NOW)
        assert not ledger.delete_old_attempts(db.connection(), NOW)
    assert len(attempts(store)) == 3
    rollups.count_new_attempts(store)
    with store.write() as db:
        assert ledger.has_old_attempts(db.connection(), NOW)
        ledger.delete_old_attempts(db.connection(), NOW)
    assert [attempt.number for attempt in attempts(store)] == [3]


def test_housekeeping_stops_between_two_steps_and_continues_later(store: Store, ada: Actor) -> None:
    delivery_id = _delivery(store, ada)
    for _ in range(3):
        ledger_rows.attempt(store, delivery_id, Outcome.DEFERRED, "451 later", NOW - timedelta(days=400))
    steps = iter([True, True, False])  # expired rows, the sums, the first batch of attempts
    housekeeping.tidy(store, keep_attempts=timedelta(days=1), may_continue=lambda: next(steps))
    assert not list(steps)
    housekeeping.tidy(store, keep_attempts=timedelta(days=1), may_continue=lambda: False)
    assert len(attempts(store)) == 1


@pytest.mark.parametrize(
    ("ended", "is_done"),
    [
        ([timedelta()], True),
        ([timedelta(), timedelta(hours=1)], True),  # the one before ended in another hour
        ([timedelta(), timedelta()], False),
    ],
)
def test_run_does_the_housekeeping_once_an_hour(store: Store, ended: list[timedelta], is_done: bool) -> None:
    old = NOW - timedelta(days=100)
    with store.write() as db:
        for ago in (*ended, timedelta(days=100)):
            at = store.now() - ago
            db.add(Run(host="here", pid=ago.days, started_at=old, heartbeat_at=at, ended_at=at))
    housekeeping.tidy_after_run(store)
    assert (len(rows(store, Run)) == len(ended)) is is_done


def test_run_removes_old_attempts_at_any_time(store: Store, ada: Actor) -> None:
    delivery_id = _delivery(store, ada)
    for _ in range(3):
        ledger_rows.attempt(store, delivery_id, Outcome.DEFERRED, "451 later", NOW - timedelta(days=400))
    rollups.count_new_attempts(store)
    with store.write() as db:
        for number in range(3):
            at = store.now()
            db.add(Run(host="here", pid=number, started_at=at, heartbeat_at=at, ended_at=at))
    housekeeping.tidy_after_run(store)
    assert len(attempts(store)) == 3
    housekeeping.tidy_after_run(store, keep_attempts=timedelta(days=365))
    assert len(attempts(store)) == 1


def test_command_run_removes_old_attempts(store: Store, ada: Actor, tmp_path: Path) -> None:
    delivery_id = _delivery(store, ada)
    for _ in range(3):
        ledger_rows.attempt(store, delivery_id, Outcome.DEFERRED, "451 later", NOW - timedelta(days=400))
    home = Home(tmp_path, **store_environ(store), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    assert home.call("run").status == 0
    assert len(attempts(store)) == 3
    assert home.call("run", environ={"SKYCHIMP_DELIVERY__KEEP_ATTEMPTS": "365d"}).status == 0
    assert len(attempts(store)) == 1


def _delivery(store: Store, owner: Actor) -> int:
    """Create a delivery of a finished occurrence, and return its id."""
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner))
    delivery_id = ledger_rows.delivery(store, occurrence_id, "bob@example.org", DeliveryState.FAILED, None)
    with store.write() as db:
        db.get_one(Occurrence, occurrence_id).state = OccurrenceState.FINISHED
    return delivery_id


@pytest.mark.sqlite
def test_write_ahead_log_is_truncated(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(100))
    log = store.path.with_name(store.path.name + "-wal")
    assert log.stat().st_size > 0
    housekeeping.tidy(store)
    assert log.stat().st_size == 0

"""Test what the hourly housekeeping removes, and what it keeps."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.sending import attempts, create_mailing, deliveries, make_addresses, make_settings, rows, send
from support.servers import CountingReceiver

from skychimp.models import Attempt, Code, CodePurpose, Login, LoginFailure, Run
from skychimp.permissions import Actor
from skychimp.services.operations import housekeeping
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


@pytest.mark.sqlite
def test_write_ahead_log_is_truncated(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(100))
    log = store.path.with_name(store.path.name + "-wal")
    assert log.stat().st_size > 0
    housekeeping.tidy(store)
    assert log.stat().st_size == 0

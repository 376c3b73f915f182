"""Test `skychimp status`, also as monitoring uses it."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.command import Home
from support.sending import create_mailing
from support.stores import store_environ

from skychimp.models import Run
from skychimp.permissions import Actor
from skychimp.store.database import Store


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Home:
    return Home(tmp_path, **store_environ(store), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")


def create_run(store: Store, ago: timedelta, *, ended: bool = True) -> None:
    at = datetime.now(UTC) - ago
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=at, heartbeat_at=at, ended_at=at if ended else None, sent=7))


def test_status_of_an_unused_store(home: Home) -> None:
    status = home.call("status", "--json").json
    assert status["sending"] == 0
    assert status["last_heartbeat_at"] is status["last_run"] is status["oldest_due_at"] is status["relay"] is None
    assert status["queue"] == {}
    assert status["ok"] is True
    assert home.call("status").status == 0


@pytest.mark.parametrize(
    ("ago", "max_age", "exit_status"),
    [(timedelta(hours=1), "2h", 0), (timedelta(hours=3), "2h", 1), (timedelta(hours=3), "1d", 0)],
)
def test_old_heartbeat_exits_with_status_1(
    home: Home, store: Store, ago: timedelta, max_age: str, exit_status: int
) -> None:
    create_run(store, ago)
    done = home.call("status", "--max-age", max_age)
    assert done.status == exit_status
    assert ("nothing was sending" in done.err) == bool(exit_status)
    assert home.call("status", "--max-age", max_age, "--json").json["ok"] == (exit_status == 0)


def test_store_without_any_run_exits_with_status_1(home: Home) -> None:
    assert home.call("status", "--max-age", "1h").status == 1


def test_unsent_due_mailing_is_shown(home: Home, store: Store, ada: Actor) -> None:
    create_mailing(store, ada)
    create_run(store, timedelta())
    status = home.call("status", "--json").json
    assert status["oldest_due_at"] is not None
    assert home.call("status", "--max-age", "1h").status == 0  # it has been due for only a moment


def test_dead_run_does_not_count_as_sending(home: Home, store: Store) -> None:
    create_run(store, timedelta(minutes=2), ended=False)
    status = home.call("status", "--json").json
    assert status["sending"] == 0
    assert status["last_run"]["sent"] == 7


def test_invalid_duration_is_refused(home: Home) -> None:
    done = home.call("status", "--max-age", "soon")
    assert (done.status, done.err.splitlines()[0]) == (2, 'error: invalid duration "soon"')

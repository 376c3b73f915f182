"""`skychimp status`: for a person to read, and for monitoring to act on."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.command import Home
from support.sending import mailing

from skychimp.models import Run
from skychimp.permissions import Actor
from skychimp.store.database import Store


@pytest.fixture
def home(store: Store, tmp_path: Path) -> Home:
    return Home(tmp_path, SKYCHIMP_STORE=str(store.path), SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")


def ran(store: Store, ago: timedelta, *, ended: bool = True) -> None:
    at = datetime.now(UTC) - ago
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=at, heartbeat_at=at, ended_at=at if ended else None, sent=7))


def test_a_store_that_nobody_uses(home: Home) -> None:
    found = home.call("status", "--json").json
    assert found["sending"] == 0
    assert found["last_heartbeat_at"] is found["last_run"] is found["oldest_due_at"] is found["relay"] is None
    assert found["queue"] == {}
    assert found["ok"] is True
    assert home.call("status").status == 0


@pytest.mark.parametrize(
    ("ago", "max_age", "status"),
    [(timedelta(hours=1), "2h", 0), (timedelta(hours=3), "2h", 1), (timedelta(hours=3), "1d", 0)],
)
def test_monitoring_hears_of_a_heartbeat_that_is_too_old(
    home: Home, store: Store, ago: timedelta, max_age: str, status: int
) -> None:
    ran(store, ago)
    done = home.call("status", "--max-age", max_age)
    assert done.status == status
    assert ("nothing has been sending" in done.err) == bool(status)
    assert home.call("status", "--max-age", max_age, "--json").json["ok"] == (status == 0)


def test_monitoring_hears_of_a_store_that_was_never_sent_from(home: Home) -> None:
    assert home.call("status", "--max-age", "1h").status == 1


def test_a_mailing_that_nobody_sends_is_seen(home: Home, store: Store, ada: Actor) -> None:
    mailing(store, ada)
    ran(store, timedelta())
    found = home.call("status", "--json").json
    assert found["oldest_due_at"] is not None
    assert home.call("status", "--max-age", "1h").status == 0  # it has been due for a moment only


def test_a_dead_run_is_not_sending(home: Home, store: Store) -> None:
    ran(store, timedelta(), ended=False)
    found = home.call("status", "--json").json
    assert found["sending"] == 0
    assert found["last_run"]["sent"] == 7


def test_a_duration_that_is_none_is_refused(home: Home) -> None:
    done = home.call("status", "--max-age", "soon")
    assert (done.status, done.err.splitlines()[0]) == (2, "error: 'soon' is not a duration")

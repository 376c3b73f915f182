"""Test `skychimp status`, also as monitoring uses it."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import ledger_rows
from support.command import Home
from support.sending import create_mailing
from support.servers import CountingReceiver
from support.stores import store_environ

from skychimp.models import Delivery, DeliveryState, Mailing, Outcome, Run, Table
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


def test_mail_that_nobody_sends_is_said(home: Home, store: Store, ada: Actor) -> None:
    mailing = create_mailing(store, ada)
    assert "nothing is sending" not in home.call("status").err  # a run each minute may come
    with store.write() as db:
        db.get_one(Mailing, mailing).next_at = datetime.now(UTC) - timedelta(minutes=4, seconds=10)
    assert home.call("status").err == 'nothing is sending, although mail was due 4 min ago; run "skychimp run"\n'
    assert "4 min ago (" in home.on_terminal("status").out


@pytest.mark.sqlite  # a run counts as alive in the first minute of a server
def test_dead_run_does_not_count_as_sending(home: Home, store: Store) -> None:
    create_run(store, timedelta(minutes=2), ended=False)
    status = home.call("status", "--json").json
    assert status["sending"] == 0
    assert status["last_run"]["sent"] == 7


@pytest.fixture
def waiting(store: Store, ada: Actor) -> int:
    """Create a delivery that has been due for three hours, and return its id."""
    create_run(store, timedelta())
    due_at = datetime.now(UTC) - timedelta(hours=3)
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada), due_at)
    return ledger_rows.delivery(store, occurrence_id, "bob@example.org", DeliveryState.QUEUED, due_at)


def test_due_email_that_waits_for_too_long_exits_with_status_1(home: Home, waiting: int) -> None:
    status = home.call("status", "--json").json
    assert datetime.fromisoformat(status["oldest_waiting_at"]) < datetime.now(UTC) - timedelta(hours=2)
    assert home.call("status", "--max-age", "1d").status == 0
    done = home.call("status", "--max-age", "2h")
    assert done.status == 1
    assert "due mail has been waiting for more than 2h" in done.err


@pytest.mark.parametrize(("outcome", "exit_status"), [(Outcome.SENT, 0), (Outcome.GIVEN_BACK, 1)])
def test_email_that_waits_while_others_are_sent_is_no_problem(
    home: Home, store: Store, waiting: int, outcome: Outcome, exit_status: int
) -> None:
    """A large mailing at a low rate takes hours."""
    with store.read() as db:
        occurrence_id = db.get_one(Delivery, waiting).occurrence_id
    other = ledger_rows.delivery(store, occurrence_id, "eve@example.org", DeliveryState.SENT, None)
    ledger_rows.attempt(store, other, outcome, "250 ok", datetime.now(UTC) - timedelta(minutes=1))
    assert home.call("status", "--max-age", "2h").status == exit_status


@pytest.mark.parametrize(
    "changes",
    [
        {"mailing": {"disabled_at": datetime.now(UTC)}},
        {"mailing": {"end_at": datetime.now(UTC) - timedelta(minutes=1)}},
        {"delivery": {"state": DeliveryState.DEFERRED, "next_try_at": datetime.now(UTC) + timedelta(hours=1)}},
    ],
    ids=["disabled", "past its end", "not due"],
)
def test_email_that_need_not_be_sent_now_is_not_waiting(
    home: Home, store: Store, waiting: int, changes: dict[str, dict[str, object]]
) -> None:
    tables: dict[str, type[Table]] = {"mailing": Mailing, "delivery": Delivery}
    for name, values in changes.items():
        with store.write() as db:
            row = db.get_one(tables[name], 1)
            for column, value in values.items():
                setattr(row, column, value)
    assert home.call("status", "--json").json["oldest_waiting_at"] is None
    assert home.call("status", "--max-age", "2h").status == 0


def test_unavailable_mail_server_is_shown_until_it_is_available(
    home: Home, store: Store, ada: Actor, tmp_path: Path
) -> None:
    create_mailing(store, ada)
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    settings = {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "SKYCHIMP_RUN__PATIENCE": "0s",
    }
    assert home.call("run", environ=settings).status == 75
    unavailable = home.call("status", "--json").json["unavailable_relay"]
    assert (unavailable["relay"], "refused" in unavailable["reason"].lower()) == (f"127.0.0.1:{port}", True)
    assert "unavailable since 20" in home.call("status").out
    done = home.call("status", "--max-age", "0s")
    assert done.status == 1
    with CountingReceiver(tmp_path / "arrived", port):
        assert home.call("run", environ=settings).status == 0
    assert home.call("status", "--json").json["unavailable_relay"] is None


def test_invalid_duration_is_refused(home: Home) -> None:
    done = home.call("status", "--max-age", "soon")
    assert (done.status, done.err.splitlines()[0]) == (2, 'error: invalid duration "soon"')

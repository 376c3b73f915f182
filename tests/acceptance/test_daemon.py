"""Test `skychimp daemon` as a process: sending, stopping, reloading its config, and notifying systemd."""

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select
from support import daemons, ledger_rows
from support.daemons import TIMEOUT_S, Daemon
from support.sending import attempts, create_mailing, rows, sent_addresses, state_counts
from support.servers import SENT, CountingReceiver, ScriptedServer, accept_mail, hang, read_line

from skychimp.models import Attempt, DeliveryState, Mailing, MailingStatus, RelayState, Run
from skychimp.permissions import Actor
from skychimp.store import holds
from skychimp.store.database import Store

Start = Callable[..., Daemon]


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Start]:
    """Start daemons that send to a local port. `smtp` is added to that section of the config."""
    started: list[Daemon] = []

    def start(port: int, smtp: str = "", **environ: str) -> Daemon:
        started.append(Daemon(store, daemons.write_config(tmp_path, port, smtp), daemons.clean_environ(**environ)))
        return started[-1]

    yield start
    for daemon in started:
        daemon.process.kill()
        daemon.process.wait()


@contextmanager
def run_receiver(folder: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(folder / "arrived") as receiver:
        yield receiver


def test_mailing_that_becomes_due_is_sent(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with run_receiver(tmp_path) as receiver:
        daemon = start(receiver.port)
        mailing_id = create_mailing(store, ada, ["bob@example.org", "eve@example.org"])
        daemon.wait_for(lambda: receiver.accepted_count == 2 and state_counts(store)["sent"] == 2)
        due_at = rows(store, Mailing)[0].start_at
        assert min(tried.started_at for tried in attempts(store)) - due_at < timedelta(seconds=10)
        daemon.wait_for(lambda: rows(store, Mailing)[0].status == MailingStatus.COMPLETED)
        daemon.wait_for(lambda: "occurrence finished" in daemon.event_names)
        assert daemon.stop() == 0
    assert mailing_id == 1
    assert [str(event).partition(";")[0] for event in daemon.event_names] == [
        "started", "mailings due", "occurrence finished", "finishing emails in progress", "stopped",
    ]  # fmt: skip
    assert daemon.events[2]["sent"] == 2
    run = rows(store, Run)[0]
    assert run.ended_at is not None
    assert run.sent == 2
    assert daemon.events[-1] | {"at": ""} == {
        "at": "", "level": "info", "event": "stopped", "sent": 2, "queued": 0, "deferred": 0,
    }  # fmt: skip


def test_deferred_email_is_retried_when_it_is_due(store: Store, ada: Actor, start: Start) -> None:
    first = [True]

    def busy_once(command: str, _address: str) -> bytes | None:
        if command == "." and first:
            first.clear()
            return b"451 4.7.1 greylisted\r\n"
        return None

    with ScriptedServer([b"220 x\r\n", accept_mail(busy_once)]) as server:
        daemon = start(server.port, "", SKYCHIMP_DELIVERY__RETRY_AFTER='["1s"]')
        create_mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: state_counts(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert [tried.outcome.value for tried in attempts(store)] == ["deferred", "sent"]


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)]
)
def test_emails_in_progress_are_finished_before_it_stops(
    store: Store, ada: Actor, start: Start, number: signal.Signals, status: int
) -> None:
    is_receiving = [False]

    def slow(command: str, _address: str) -> bytes | None:
        if command == ".":
            is_receiving[0] = True
            time.sleep(1)
        return None

    with ScriptedServer([b"220 x\r\n", accept_mail(slow)]) as server:
        daemon = start(server.port)
        create_mailing(store, ada, [f"client{number}@example.org" for number in range(50)])
        daemon.wait_for(lambda: is_receiving[0])
        assert daemon.stop(number) == status
    counts = state_counts(store)
    assert counts["sent"] == len(attempts(store)) > 0
    assert counts["sent"] + counts["queued"] == 50


@pytest.mark.slow
def test_two_daemons_share_the_emails(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with run_receiver(tmp_path) as receiver:
        started = [start(receiver.port), start(receiver.port)]
        create_mailing(store, ada, [f"client{number}@example.org" for number in range(400)])
        started[0].wait_for(lambda: state_counts(store)["sent"] == 400)
        assert [daemon.stop() for daemon in started] == [0, 0]
        assert set(receiver.email_counts().values()) == {1}
    assert sum(run.sent for run in rows(store, Run)) == 400


def test_daemon_waits_for_an_unavailable_mail_server(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    daemon = start(port)
    create_mailing(store, ada, ["bob@example.org"])
    daemon.wait_for(lambda: "mail server unavailable" in daemon.event_names)
    with CountingReceiver(tmp_path / "arrived", port) as receiver:
        daemon.wait_for(lambda: receiver.accepted_count == 1 and "mail server available" in daemon.event_names)
        daemon.wait_for(lambda: state_counts(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert daemon.event_names.count("mail server unavailable") == daemon.event_names.count("mail server available") == 1
    assert len(attempts(store)) == 1  # none was counted while the server was unavailable


def test_paused_mail_server_is_resumed_when_the_password_is_corrected(
    store: Store, ada: Actor, tmp_path: Path, start: Start
) -> None:
    secret = tmp_path / "password"
    secret.write_text("wrong")

    def log_in(command: str, _address: str) -> bytes | None:
        if command == "EHLO":
            return b"250-x\r\n250 AUTH PLAIN\r\n"
        if command == "AUTH":
            return b"235 2.7.0 ok\r\n" if secret.read_text() == "right" else b"535 5.7.8 bad password\r\n"
        return SENT if command == "." else None

    with ScriptedServer([b"220 x\r\n", accept_mail(log_in)]) as server:
        daemon = start(server.port, f'username = "ada"\npassword_file = "{secret}"')
        create_mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: bool(rows(store, RelayState)))
        daemon.wait_for(lambda: state_counts(store) == {DeliveryState.QUEUED: 1})
        connections = len(server.conversations)
        time.sleep(2.5)  # two intervals
        assert len(server.conversations) == connections  # it does not try the same password again
        secret.write_text("right")
        daemon.wait_for(lambda: state_counts(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert not rows(store, RelayState)
    assert sum("bad password" in str(event["event"]) for event in daemon.events) == 1
    assert all("right" not in line and "wrong" not in line for line in daemon.log.read_text().splitlines())


def test_sighup_reloads_the_config(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with ScriptedServer([b"220 x\r\n", read_line, hang]) as elsewhere, run_receiver(tmp_path) as receiver:
        daemon = start(elsewhere.port)
        config = tmp_path / "daemon.toml"
        text = config.read_text()
        config.write_text("this is no TOML")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config not reloaded" in daemon.event_names)
        config.write_text(text.replace(str(elsewhere.port), str(receiver.port)))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config reloaded" in daemon.event_names)
        create_mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: receiver.accepted_count == 1)
        daemon.wait_for(lambda: sent_addresses(store) == {"bob@example.org"})
        assert daemon.stop() == 0


@pytest.mark.sqlite
def test_housekeeping_goes_on_beside_the_sending(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    occurrence_id = ledger_rows.occurrence(store, ledger_rows.mailing(store, ada))
    delivery_id = ledger_rows.delivery(store, occurrence_id, "eve@example.org", DeliveryState.FAILED, None)
    with store.write() as db:
        db.connection().exec_driver_sql(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 60000)"
            " INSERT INTO attempt"
            " (delivery_id, number, started_at, finished_at, outcome, phase, enhanced, reply, relay)"
            " SELECT ?, n, '2026-01-01', '2026-01-01', 'deferred', '', '', '451 later', '' FROM numbers",
            (delivery_id,),
        )
    with run_receiver(tmp_path) as receiver:
        daemon = start(receiver.port, SKYCHIMP_DELIVERY__KEEP_ATTEMPTS="1d")
        create_mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: sent_addresses(store) == {"bob@example.org"})
        daemon.wait_for(lambda: _count_attempts(store) < 60_000)
        asked_at = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - asked_at < 5
    assert _count_attempts(store) > 1  # it did not finish the housekeeping first


@pytest.mark.sqlite
@pytest.mark.parametrize("is_held", [False, True], ids=["sending", "on hold"])
@pytest.mark.parametrize("change", ["deleted", "replaced by another file"])
def test_daemon_ends_when_its_store_is_deleted_or_replaced(
    store: Store, ada: Actor, tmp_path: Path, start: Start, change: str, is_held: bool
) -> None:
    if is_held:
        with store.write() as db:
            holds.hold(db.connection(), holds.AFTER_RESTORE, store.now(), blind=True)
    with run_receiver(tmp_path) as receiver:
        daemon = start(receiver.port)
        kept = tmp_path / "kept"
        kept.mkdir()
        if change == "deleted":
            store.path.rename(kept / "old.db")
        else:
            shutil.copy(store.path, kept / "copy.db")
            (kept / "copy.db").rename(store.path)
        assert daemon.process.wait(TIMEOUT_S) == 1
    assert f"the store {store.path} was {change}" in daemon.log.read_text()


@pytest.mark.slow
@pytest.mark.sqlite
def test_idle_daemon_writes_nothing(store: Store, start: Start) -> None:
    """A commit wakes up a disk. A busy one commits a heartbeat every 5 seconds."""
    daemon = start_idle(store, start)
    time.sleep(7)
    assert write_ahead_log(store).stat().st_size == 0
    assert daemon.stop() == 0


@pytest.mark.slow
@pytest.mark.sqlite
def test_idle_daemon_hardly_wakes_up(store: Store, start: Start) -> None:
    """It wakes up for each look at the store, and more often only for a heartbeat."""
    daemon = start_idle(store, start)
    before = count_wake_ups(daemon.process.pid)
    time.sleep(10)
    assert count_wake_ups(daemon.process.pid) - before < 40
    assert daemon.stop() == 0


def start_idle(store: Store, start: Start) -> Daemon:
    """Start a daemon, and wait until the housekeeping at its start is over: the write-ahead log is empty then."""
    daemon = start(1)
    daemon.wait_for(lambda: bool(rows(store, Run)))
    log = write_ahead_log(store)
    daemon.wait_for(lambda: log.exists() and log.stat().st_size == 0)
    return daemon


def write_ahead_log(store: Store) -> Path:
    return store.path.with_name(store.path.name + "-wal")


def count_wake_ups(pid: int) -> int:
    """Return how often the threads of a process have waited for something. A busy machine makes it no more often."""
    states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(state.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for state in states)


def _count_attempts(store: Store) -> int:
    with store.read() as db:
        return db.scalar(select(func.count()).select_from(Attempt)) or 0


def test_systemd_is_notified(store: Store, tmp_path: Path, start: Start) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT_S)
        daemon = start(1, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        daemon.process.send_signal(signal.SIGTERM)
        notifications = set()
        while b"STOPPING=1" not in notifications:
            notifications.add(manager.recv(100))
        assert daemon.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_systemd_watchdog_is_notified_while_emails_are_finished(
    store: Store, ada: Actor, tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    """A server may take long to answer the final dot. The watchdog must not kill the daemon then."""
    receiving_dot, may_answer = threading.Event(), threading.Event()

    def slow(command: str, _address: str) -> bytes | None:
        if command == ".":
            receiving_dot.set()
            may_answer.wait(TIMEOUT_S)
        return None

    with (
        ScriptedServer([b"220 x\r\n", accept_mail(slow)]) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(TIMEOUT_S)
        daemon = start(server.port, NOTIFY_SOCKET=str(tmp_path / "notify"))
        create_mailing(store, ada, ["bob@example.org"])
        assert receiving_dot.wait(TIMEOUT_S)
        daemon.process.send_signal(number)
        time.sleep(0.5)  # let notifications from before the signal arrive
        manager.setblocking(False)
        with suppress(BlockingIOError):
            while manager.recv(100):
                pass
        manager.settimeout(TIMEOUT_S)
        assert manager.recv(100) == b"WATCHDOG=1"
        may_answer.set()
        if number == signal.SIGHUP:  # it continues after reloading
            daemon.wait_for(lambda: "config reloaded" in daemon.event_names)
            daemon.process.terminate()
        assert daemon.process.wait(TIMEOUT_S) == 0
    assert state_counts(store) == {"sent": 1}

"""`skychimp daemon` as a process: it sends what falls due, drains when told to stop, and says how its relay is."""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from support import daemons
from support.daemons import WAIT, Daemon
from support.sending import attempts, mailing, rows, sent_to, states
from support.servers import SENT, CountingReceiver, ScriptedServer, hang, hear, obey

from skychimp.models import DeliveryState, Mailing, MailingStatus, RelayState, Run
from skychimp.permissions import Actor
from skychimp.store.database import Store

Start = Callable[..., Daemon]


@pytest.fixture
def start(store: Store, tmp_path: Path) -> Iterator[Start]:
    """Starts daemons that send to a port on this machine; `smtp` adds to that section of the config."""
    started: list[Daemon] = []

    def start(port: int, smtp: str = "", **environ: str) -> Daemon:
        started.append(Daemon(store, daemons.config(tmp_path, port, smtp), daemons.environ(**environ)))
        return started[-1]

    yield start
    for daemon in started:
        daemon.process.kill()
        daemon.process.wait()


@contextmanager
def receiving(folder: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(folder / "arrived") as receiver:
        yield receiver


def test_it_sends_what_falls_due_while_it_runs(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with receiving(tmp_path) as receiver:
        daemon = start(receiver.port)
        mailing_id = mailing(store, ada, ["bob@example.org", "eve@example.org"])
        daemon.wait_for(lambda: receiver.taken == 2 and states(store)["sent"] == 2)
        due_at = rows(store, Mailing)[0].start_at
        assert min(tried.started_at for tried in attempts(store)) - due_at < timedelta(seconds=10)
        daemon.wait_for(lambda: rows(store, Mailing)[0].status == MailingStatus.COMPLETED)
        daemon.wait_for(lambda: "finished" in daemon.said)
        assert daemon.stop() == 0
    assert mailing_id == 1
    assert [str(event).partition(";")[0] for event in daemon.said] == [
        "started", "mail is due", "finished", "finishing what is in flight", "stopped",
    ]  # fmt: skip
    assert daemon.events[2]["sent"] == 2
    run = rows(store, Run)[0]
    assert run.ended_at is not None
    assert run.sent == 2
    assert daemon.events[-1] | {"at": ""} == {
        "at": "", "level": "info", "event": "stopped", "sent": 2, "queued": 0, "deferred": 0,
    }  # fmt: skip


def test_a_retry_that_falls_due_is_made(store: Store, ada: Actor, start: Start) -> None:
    first = [True]

    def busy_once(command: str, _address: str) -> bytes | None:
        if command == "." and first:
            first.clear()
            return b"451 4.7.1 greylisted\r\n"
        return None

    with ScriptedServer([b"220 x\r\n", obey(busy_once)]) as server:
        daemon = start(server.port, "", SKYCHIMP_DELIVERY__RETRY_AFTER='["1s"]')
        mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: states(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert [tried.outcome.value for tried in attempts(store)] == ["deferred", "sent"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_is_in_flight_ends_before_it_stops(
    store: Store, ada: Actor, start: Start, number: signal.Signals, status: int
) -> None:
    at_the_dot = [False]

    def slow(command: str, _address: str) -> bytes | None:
        if command == ".":
            at_the_dot[0] = True
            time.sleep(1)
        return None

    with ScriptedServer([b"220 x\r\n", obey(slow)]) as server:
        daemon = start(server.port)
        mailing(store, ada, [f"client{number}@example.org" for number in range(50)])
        daemon.wait_for(lambda: at_the_dot[0])
        assert daemon.stop(number) == status
    found = states(store)
    assert found["sent"] == len(attempts(store)) > 0
    assert found["sent"] + found["queued"] == 50


def test_two_daemons_share_the_work(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with receiving(tmp_path) as receiver:
        daemons = [start(receiver.port), start(receiver.port)]
        mailing(store, ada, [f"client{number}@example.org" for number in range(400)])
        daemons[0].wait_for(lambda: states(store)["sent"] == 400)
        assert [daemon.stop() for daemon in daemons] == [0, 0]
        assert set(receiver.arrived().values()) == {1}
    assert sum(run.sent for run in rows(store, Run)) == 400


def test_a_relay_that_is_away_is_waited_for(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    daemon = start(port)
    mailing(store, ada, ["bob@example.org"])
    daemon.wait_for(lambda: "relay away" in daemon.said)
    with CountingReceiver(tmp_path / "arrived", port) as receiver:
        daemon.wait_for(lambda: receiver.taken == 1 and "relay back" in daemon.said)
        daemon.wait_for(lambda: states(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert daemon.said.count("relay away") == daemon.said.count("relay back") == 1
    assert len(attempts(store)) == 1  # none was spent while it was away


def test_a_paused_relay_goes_on_once_its_password_is_right(
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

    with ScriptedServer([b"220 x\r\n", obey(log_in)]) as server:
        daemon = start(server.port, f'username = "ada"\npassword_file = "{secret}"')
        mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: bool(rows(store, RelayState)))
        daemon.wait_for(lambda: states(store) == {DeliveryState.QUEUED: 1})
        connections = len(server.conversations)
        time.sleep(2.5)  # two looks
        assert len(server.conversations) == connections  # it does not knock again with the same password
        secret.write_text("right")
        daemon.wait_for(lambda: states(store)["sent"] == 1)
        assert daemon.stop() == 0
    assert not rows(store, RelayState)
    assert sum("bad password" in str(event["event"]) for event in daemon.events) == 1
    assert all("right" not in line and "wrong" not in line for line in daemon.log.read_text().splitlines())


def test_sighup_reads_the_config_again(store: Store, ada: Actor, tmp_path: Path, start: Start) -> None:
    with ScriptedServer([b"220 x\r\n", hear, hang]) as elsewhere, receiving(tmp_path) as receiver:
        daemon = start(elsewhere.port)
        config = tmp_path / "daemon.toml"
        text = config.read_text()
        config.write_text("this is no TOML")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config kept as it was" in daemon.said)
        config.write_text(text.replace(str(elsewhere.port), str(receiver.port)))
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_for(lambda: "config read again" in daemon.said)
        mailing(store, ada, ["bob@example.org"])
        daemon.wait_for(lambda: receiver.taken == 1)
        daemon.wait_for(lambda: sent_to(store) == {"bob@example.org"})
        assert daemon.stop() == 0


def test_it_tells_systemd_how_it_is(store: Store, tmp_path: Path, start: Start) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT)
        daemon = start(1, NOTIFY_SOCKET=str(tmp_path / "notify"))
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"WATCHDOG=1"
        daemon.process.send_signal(signal.SIGTERM)
        words = set()
        while b"STOPPING=1" not in words:
            words.add(manager.recv(100))
        assert daemon.process.wait(WAIT) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_tells_systemd_that_it_lives_while_it_drains(
    store: Store, ada: Actor, tmp_path: Path, start: Start, number: signal.Signals
) -> None:
    """A server may take long to answer the final dot, and the watchdog must not bite then."""
    at_the_dot, answer = threading.Event(), threading.Event()

    def slow(command: str, _address: str) -> bytes | None:
        if command == ".":
            at_the_dot.set()
            answer.wait(WAIT)
        return None

    with (
        ScriptedServer([b"220 x\r\n", obey(slow)]) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(WAIT)
        daemon = start(server.port, NOTIFY_SOCKET=str(tmp_path / "notify"))
        mailing(store, ada, ["bob@example.org"])
        assert at_the_dot.wait(WAIT)
        daemon.process.send_signal(number)
        time.sleep(0.5)  # what it said before the signal is said
        manager.setblocking(False)
        with suppress(BlockingIOError):
            while manager.recv(100):
                pass
        manager.settimeout(WAIT)
        assert manager.recv(100) == b"WATCHDOG=1"
        answer.set()
        if number == signal.SIGHUP:  # it goes on after that
            daemon.wait_for(lambda: "config read again" in daemon.said)
            daemon.process.terminate()
        assert daemon.process.wait(WAIT) == 0
    assert states(store) == {"sent": 1}

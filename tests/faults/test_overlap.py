"""Several runs on one store: each letter once, whoever stops, dies or is slow meanwhile."""

import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import enrol
from support.scene import due, prepared, scene
from support.sending import addresses, finish, mailing, rows, states, status, wait_until
from support.servers import CountingReceiver

from skychimp.models import MailingStatus, Role, Run
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store.schema import create_store

MAIL_LEFT = 75
ADA = Actor(1, "ada@skychimp.test", Role.USER)


class Gate(CountingReceiver):
    """Says nothing to a final dot before it is opened; the letter is on the disk by then."""

    held = b"."

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        self.opened = threading.Event()
        self.waiting = 0

    def answer(self, command: bytes, recipient: str) -> bytes:
        if command == self.held and not self.opened.is_set():
            with self._lock:
                self.waiting += 1
            self.opened.wait()
        return super().answer(command, recipient)

    def __exit__(self, *error: object) -> None:
        self.opened.set()
        super().__exit__(*error)


class GateBeforeLetters(Gate):
    """Says nothing to DATA before it is opened."""

    held = b"DATA"


def test_many_runs_and_a_daemon(tmp_path: Path) -> None:
    """Each takes a part: all of them have letters on the wire before the first reply comes."""
    with scene(tmp_path / "scene", due(tmp_path, letters=900), Gate) as here:
        runs = [here.start() for _ in range(5)]
        daemon = here.start("daemon", "--interval", "1s")
        wait_until(lambda: here.receiver.waiting == 6 * here.connections, daemon)
        here.receiver.opened.set()
        for ended in map(finish, runs):
            assert ended[0] in (0, MAIL_LEFT), ended
        wait_until(lambda: status(here.store, 1) == MailingStatus.COMPLETED, daemon)
        here.store.close()
        assert finish(daemon, signal.SIGTERM)[0] == 0
        assert here.faults(doubtful=0) == []
        assert here.receiver.taken == 900
        counts = [run.sent for run in rows(here.store, Run)]
        assert sum(counts) == 900
        assert min(counts) >= here.connections


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    """What it had claimed was taken back and sent by another one meanwhile; what it had on the wire is its own."""
    with scene(tmp_path / "scene", due(tmp_path, letters=200), Gate) as here:
        stopped = here.start()
        wait_until(lambda: here.receiver.waiting == here.connections, stopped)
        stopped.send_signal(signal.SIGSTOP)
        mailings.disable(here.store, ADA, 1)
        mailings.enable(here.store, ADA, 1)
        here.store.close()
        here.receiver.opened.set()
        assert here.run()[0] == MAIL_LEFT
        assert here.receiver.taken == 200
        assert finish(stopped, signal.SIGCONT)[0] == 0
        assert here.receiver.taken == 200
        assert here.faults(doubtful=0) == []


def test_a_run_that_seemed_dead_goes_on(tmp_path: Path) -> None:
    """Its intents are too old to write a dot on: it asks again, and hears that they are somebody else's by now."""
    hasty = "from skychimp.delivery import dispatcher; dispatcher.INTENT_AGE = 0.2"
    with scene(tmp_path / "scene", due(tmp_path, letters=100), GateBeforeLetters) as here:
        stopped = here.start(command=prepared(hasty))
        wait_until(lambda: here.receiver.waiting == here.connections, stopped)
        wait_until(lambda: states(here.store)["sending"] == here.connections, stopped)  # it holds no lock of SQLite's
        stopped.send_signal(signal.SIGSTOP)
        here.store.path.with_name(f"{here.store.path.name}.run-1").unlink()  # its lock
        time.sleep(0.3)
        here.receiver.opened.set()
        assert here.run()[0] == 0
        assert finish(stopped, signal.SIGCONT)[0] == 0
        assert here.receiver.taken == 100
        assert here.faults(doubtful=here.connections) == []


@pytest.mark.parametrize("rescuer", ["the next run", "a living daemon"])
def test_a_run_that_is_killed_beside_another(tmp_path: Path, rescuer: str) -> None:
    """The letters whose replies it never saw go again, the same to the byte, and all others once."""
    with scene(tmp_path / "scene", due(tmp_path, letters=200), Gate) as here:
        killed = here.start()
        wait_until(lambda: here.receiver.waiting == here.connections, killed)
        other = here.start() if rescuer == "the next run" else here.start("daemon", "--interval", "1s")
        wait_until(lambda: here.receiver.waiting == 2 * here.connections, other)
        assert finish(killed, signal.SIGKILL)[0] == -signal.SIGKILL
        here.receiver.opened.set()
        if rescuer == "the next run":
            assert finish(other)[0] == MAIL_LEFT
            assert here.run()[0] == 0
        else:
            wait_until(lambda: status(here.store, 1) == MailingStatus.COMPLETED, other)
            here.store.close()
            assert finish(other, signal.SIGTERM)[0] == 0
        assert here.faults(doubtful=here.connections) == []
        assert here.receiver.taken == 200 + here.connections


# Two users' mailings side by side


class Slow(CountingReceiver):
    """Thinks about each client of Ada's until all of Bob's letters are there."""

    bobs_letters = 150

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        self.complete = threading.Event()

    def answer(self, command: bytes, recipient: str) -> bytes:
        if command == b"RCPT" and recipient.startswith("client"):
            self.complete.wait(5)
        if self.taken == self.bobs_letters:
            self.complete.set()
        return super().answer(command, recipient)


class Deferring(CountingReceiver):
    """Takes nothing for Ada's clients now."""

    def answer(self, command: bytes, recipient: str) -> bytes:
        if recipient.startswith("client") and command == b"RCPT":
            return b"451 4.7.1 later\r\n"
        if recipient.startswith("client") and command == b"DATA":
            return b"503 5.5.1 no recipient\r\n"
        return super().answer(command, recipient)


@pytest.fixture
def two_mailings(tmp_path: Path) -> Path:
    """A store in which a mailing of Ada's is due before one of Bob's."""
    path = tmp_path / "two.db"
    with closing(create_store(f"sqlite:///{path}")) as store:
        mailing(store, enrol(store, "ada"), addresses(60))
        mailing(store, enrol(store, "bob"), [f"bobs{address}" for address in addresses(Slow.bobs_letters)])
    return path


def test_a_mailing_to_slow_clients_delays_no_other(tmp_path: Path, two_mailings: Path) -> None:
    with scene(tmp_path / "scene", two_mailings, Slow, connections=4) as here:
        assert here.run()[0] == 0
        assert here.faults(doubtful=0) == []
        order = [letter.recipient.startswith("bobs") for letter in here.receiver.arrivals()]
        assert order[: Slow.bobs_letters] == [True] * Slow.bobs_letters


def test_a_mailing_that_is_deferred_delays_no_other(tmp_path: Path, two_mailings: Path) -> None:
    with scene(tmp_path / "scene", two_mailings, Deferring) as here:
        assert here.run()[0] == MAIL_LEFT
        assert states(here.store) == {"deferred": 60, "sent": Slow.bobs_letters}
        assert [status(here.store, number) for number in (1, 2)] == [MailingStatus.RUNNING, MailingStatus.COMPLETED]
        assert here.receiver.taken == Slow.bobs_letters
        here.store.close()

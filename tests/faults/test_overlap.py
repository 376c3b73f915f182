"""Test several runs on one store: each email is sent once, even if runs are suspended, killed or slow."""

import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from conftest import create_user
from support.harness import make_due_store, overriding, sending_harness, with_preamble
from support.sending import (
    create_mailing,
    mailing_status,
    make_addresses,
    rows,
    state_counts,
    wait_for_exit,
    wait_until,
)
from support.servers import CountingReceiver

from skychimp.delivery.sending.claims import MIN_CLAIM_SIZE
from skychimp.models import MailingStatus, Role, Run
from skychimp.permissions import Actor
from skychimp.services.mailings import mailings
from skychimp.store.schema import create_store

MAIL_LEFT = 75
ADA = Actor(1, "ada@skychimp.test", Role.USER)


class Gate(CountingReceiver):
    """A server that does not reply to a final dot until it is opened. The email is on the disk by then."""

    held_command = b"."

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        self.opened = threading.Event()
        self.waiting = 0

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        if command == self.held_command and not self.opened.is_set():
            with self._lock:
                self.waiting += 1
            self.opened.wait()
        return super().reply_to(command, recipient)

    def __exit__(self, *error: object) -> None:
        self.opened.set()
        super().__exit__(*error)


class GateAtData(Gate):
    """A server that does not reply to DATA until it is opened."""

    held_command = b"DATA"


@pytest.mark.parametrize(("number", "clients"), [(2, 300), pytest.param(5, 900, marks=pytest.mark.slow)])
def test_many_runs_and_a_daemon_share_the_work(tmp_path: Path, number: int, clients: int) -> None:
    """All of them must have sent emails before the first reply comes."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients), Gate) as harness:
        runs = [harness.start_beside() for _ in range(number)]
        daemon = harness.start_beside("daemon", "--interval", "1s")
        wait_until(lambda: harness.receiver.waiting == (number + 1) * harness.connections, daemon)
        harness.receiver.opened.set()
        for result in map(wait_for_exit, runs):
            assert result[0] in (0, MAIL_LEFT), result
        wait_until(lambda: mailing_status(harness.store, 1) == MailingStatus.COMPLETED, daemon)
        harness.store.close()
        assert wait_for_exit(daemon, signal.SIGTERM)[0] == 0
        assert harness.find_faults(max_unknown=0) == []
        assert harness.receiver.accepted_count == clients
        counts = [run.sent for run in rows(harness.store, Run)]
        assert sum(counts) == clients
        assert min(counts) >= harness.connections


def test_suspended_run_continues_without_sending_twice(tmp_path: Path) -> None:
    """As long as it lives, it keeps what it has claimed, also while its mailing is disabled."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=200), Gate) as harness:
        suspended = harness.start()
        wait_until(lambda: harness.receiver.waiting == harness.connections, suspended)
        suspended.send_signal(signal.SIGSTOP)
        mailings.disable(harness.store, ADA, 1)
        mailings.enable(harness.store, ADA, 1)
        harness.store.close()
        harness.receiver.opened.set()
        assert wait_for_exit(harness.start_beside())[0] == MAIL_LEFT
        assert harness.receiver.accepted_count == 200 - MIN_CLAIM_SIZE + harness.connections
        assert wait_for_exit(suspended, signal.SIGCONT)[0] == 0
        assert harness.receiver.accepted_count == 200
        assert harness.find_faults(max_unknown=0) == []


def test_run_declared_dead_continues_without_sending_twice(tmp_path: Path) -> None:
    """It asks for its intents before the final dots, and finds that its leases have ended."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=100), GateAtData) as harness:
        suspended = harness.start()
        wait_until(lambda: harness.receiver.waiting == harness.connections, suspended)
        suspended.send_signal(signal.SIGSTOP)
        harness.store.path.with_name(f"{harness.store.path.name}.run-1").unlink()  # its lock
        harness.receiver.opened.set()
        assert wait_for_exit(harness.start_beside())[0] == 0
        assert wait_for_exit(suspended, signal.SIGCONT)[0] == 0
        assert harness.receiver.accepted_count == 100
        assert harness.find_faults(max_unknown=harness.connections) == []


@pytest.mark.parametrize("rescuer", ["a running daemon", pytest.param("the next run", marks=pytest.mark.slow)])
def test_killed_run_is_rescued_by_another(tmp_path: Path, rescuer: str) -> None:
    """Emails whose replies it did not see are sent again, byte for byte the same. All others are sent once."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=200), Gate) as harness:
        killed = harness.start()
        wait_until(lambda: harness.receiver.waiting == harness.connections, killed)
        other = harness.start_beside(*([] if rescuer == "the next run" else ["daemon", "--interval", "1s"]))
        wait_until(lambda: harness.receiver.waiting == 2 * harness.connections, other)
        assert wait_for_exit(killed, signal.SIGKILL)[0] == -signal.SIGKILL
        harness.receiver.opened.set()
        if rescuer == "the next run":
            assert wait_for_exit(other)[0] == MAIL_LEFT
            assert harness.run()[0] == 0
        else:
            wait_until(lambda: mailing_status(harness.store, 1) == MailingStatus.COMPLETED, other)
            harness.store.close()
            assert wait_for_exit(other, signal.SIGTERM)[0] == 0
        assert harness.find_faults(max_unknown=harness.connections) == []
        assert harness.receiver.accepted_count == 200 + harness.connections


# Mailings of two users at the same time


class SlowForAda(CountingReceiver):
    """A server that delays its replies about Ada's clients until all of Bob's emails have arrived."""

    bobs_emails = 150

    def __init__(self, log: Path) -> None:
        super().__init__(log)
        self.bobs_are_complete = threading.Event()

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        if command == b"RCPT" and recipient.startswith("client"):
            self.bobs_are_complete.wait(5)
        if self.accepted_count == self.bobs_emails:
            self.bobs_are_complete.set()
        return super().reply_to(command, recipient)


class DeferringAda(CountingReceiver):
    """A server that defers all emails to Ada's clients."""

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        if recipient.startswith("client") and command == b"RCPT":
            return b"451 4.7.1 later\r\n"
        if recipient.startswith("client") and command == b"DATA":
            return b"503 5.5.1 no recipient\r\n"
        return super().reply_to(command, recipient)


@pytest.fixture
def two_mailings(tmp_path: Path) -> Path:
    """Return a store with a due mailing of Ada's and a later one of Bob's."""
    path = tmp_path / "two.db"
    with closing(create_store(f"sqlite:///{path}")) as store:
        create_mailing(store, create_user(store, "ada"), make_addresses(60))
        create_mailing(
            store, create_user(store, "bob"), [f"bobs{address}" for address in make_addresses(SlowForAda.bobs_emails)]
        )
    return path


class SlowDomain(CountingReceiver):
    """A server that asks each recipient's own server before it replies. One of these is slow."""

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        if command == b"RCPT" and recipient.endswith("@slow.example"):
            time.sleep(0.5)
        return super().reply_to(command, recipient)


def test_mailing_to_slow_clients_does_not_delay_another(tmp_path: Path, two_mailings: Path) -> None:
    with sending_harness(tmp_path / "harness", two_mailings, SlowForAda, connections=4) as harness:
        assert harness.run()[0] == 0
        assert harness.find_faults(max_unknown=0) == []
        order = [email.recipient.startswith("bobs") for email in harness.receiver.received_emails()]
        assert order[: SlowForAda.bobs_emails] == [True] * SlowForAda.bobs_emails


def test_slow_domain_does_not_delay_the_other_recipients(tmp_path: Path) -> None:
    quick = make_addresses(500)
    slow = [f"client{number}@slow.example" for number in range(40)]
    path = tmp_path / "mixed.db"
    with closing(create_store(f"sqlite:///{path}")) as store:
        mixed = [address for number, address in enumerate(quick) for address in (*slow[number : number + 1], address)]
        create_mailing(store, create_user(store, "ada"), mixed)
    with sending_harness(tmp_path / "harness", path, SlowDomain, connections=4) as harness:
        shorter = overriding("skychimp.delivery.sending.pacing.slow_domains.SLOW_S", 0.4)
        assert wait_for_exit(harness.start(command=with_preamble(shorter)))[0] == 0
        assert harness.find_faults(max_unknown=0) == []
        order = [email.recipient in slow for email in harness.receiver.received_emails()]
    hundredth = [number for number, is_slow in enumerate(order) if not is_slow][99]
    assert sum(order[:hundredth]) < 30, "without a limit for them, all 40 are among the first"


def test_deferred_mailing_does_not_delay_another(tmp_path: Path, two_mailings: Path) -> None:
    with sending_harness(tmp_path / "harness", two_mailings, DeferringAda) as harness:
        assert harness.run()[0] == MAIL_LEFT
        assert state_counts(harness.store) == {"deferred": 60, "sent": SlowForAda.bobs_emails}
        assert [mailing_status(harness.store, number) for number in (1, 2)] == [
            MailingStatus.RUNNING,
            MailingStatus.COMPLETED,
        ]
        assert harness.receiver.accepted_count == SlowForAda.bobs_emails
        harness.store.close()

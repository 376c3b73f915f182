"""Test what a person can do to a run: Ctrl-C once and twice, disabling and deleting mailings, limits.

The ledger is checked after each."""

import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.sending import (
    attempt_log,
    attempts,
    create_mailing,
    deliveries,
    mailing_status,
    make_addresses,
    make_settings,
    paused_relays,
    rows,
    send,
    sent_addresses,
    start_run,
    state_counts,
    wait_for_exit,
    wait_until,
)
from support.servers import GREETING, Conversation, CountingReceiver, ScriptedServer, accept_mail, hang

from skychimp.models import MailingStatus, Run
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.operations import unknown_deliveries
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.store.database import Store

SLOW = pytest.mark.slow
SIGNALS = [signal.SIGINT, signal.SIGTERM]
STATUS_AFTER_ONE = {signal.SIGINT: 130, signal.SIGTERM: 75}
STATUS_AFTER_TWO = {signal.SIGINT: 130, signal.SIGTERM: 143}
FINISHING = "finishing emails in progress"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


def arrived_counts(receiver: CountingReceiver) -> Counter[str]:
    """Return how many emails arrived for each address."""
    return Counter(address for address, _ in receiver.email_counts().elements())


class HeldReplies:
    """Holds the replies to the first `number` final dots until they are released. `held` is how many wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self.held = 0

    def __call__(self, command: str, _address: str) -> None:
        if command != ".":
            return
        with self._lock:
            holds = self.held < self._number
            self.held += holds
        if holds:
            self._go_on.wait(60)

    def release(self) -> None:
        self._go_on.set()


def signal_and_wait(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal, and wait until the process says that it is finishing."""
    process.send_signal(number)
    assert process.stderr is not None
    assert any(FINISHING in line for line in process.stderr)


# One signal


@pytest.mark.parametrize("number", SIGNALS)
def test_one_signal_finishes_emails_in_flight_and_gives_back_the_rest(
    store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals
) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(100))
    held_replies = HeldReplies(3)

    with ScriptedServer([GREETING, accept_mail(held_replies)]) as server:
        process = start_run(store, server.port, smtp__connections=3)
        wait_until(lambda: held_replies.held == 3, process)
        signal_and_wait(process, number)
        held_replies.release()
        exit_status, out, err = wait_for_exit(process)

    assert exit_status == STATUS_AFTER_ONE[number]
    reason = "interrupted" if number == signal.SIGINT else "terminated"
    assert err.splitlines()[-1] == f'{reason}: 3 emails sent, 97 waiting; run "skychimp run" to go on'
    assert '"sent": 3' in out
    assert state_counts(store) == {"sent": 3, "queued": 97}
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 3
    assert {run.ended_at is None for run in rows(store, Run)} == {False}
    sent = sent_addresses(store)
    assert send(store, make_settings(receiver.port)).sent == 97
    assert arrived_counts(receiver) == Counter(set(make_addresses(100)) - sent)
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=SLOW), signal.SIGTERM])
def test_signal_while_many_emails_are_sent(
    store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals
) -> None:
    create_mailing(store, ada, make_addresses(300))

    process = start_run(store, receiver.port, smtp__connections=4, smtp__rate="200/s")
    wait_until(lambda: len(receiver.email_counts()) > 50, process)
    exit_status, _, err = wait_for_exit(process, number)

    assert exit_status == STATUS_AFTER_ONE[number]
    assert "Traceback" not in err
    assert set(state_counts(store)) == {"sent", "queued"}
    assert set(arrived_counts(receiver)) == sent_addresses(store)
    send(store, make_settings(receiver.port, smtp__connections=4))
    assert arrived_counts(receiver) == Counter(make_addresses(300))


WAITS: list[tuple[Callable[[Conversation], object], dict[str, Any]]] = [
    (hang, {"smtp__timeout": "1h"}),  # the run waits for the greeting
    (lambda conversation: conversation.socket.close(), {"run__patience": "1h"}),  # it waits for the server to come back
    (lambda conversation: conversation.socket.sendall(b"421 4.3.2 busy\r\n"), {"run__patience": "1h"}),
]


@pytest.mark.parametrize(
    ("step", "overrides"),
    [*WAITS[:2], pytest.param(*WAITS[2], marks=SLOW)],
    ids=["greeting", "away", "busy"],
)
def test_signal_ends_the_wait_for_the_server(
    store: Store, ada: Actor, step: Callable[[Conversation], object], overrides: dict[str, Any]
) -> None:
    create_mailing(store, ada)

    with ScriptedServer([step]) as server:
        process = start_run(store, server.port, **overrides)
        wait_until(lambda: bool(server.conversations), process)
        exit_status, *_ = wait_for_exit(process, signal.SIGINT)

    assert exit_status == 130
    assert (attempt_log(store), state_counts(store)) == ([], {"queued": 2})


def test_signal_ends_the_wait_for_the_rate_limit(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada)

    process = start_run(store, receiver.port, smtp__rate="1/h", run__patience="2h")
    wait_until(lambda: len(attempts(store)) == 1, process)
    exit_status, *_ = wait_for_exit(process, signal.SIGINT)

    assert exit_status == 130
    assert state_counts(store) == {"sent": 1, "queued": 1}


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGINT, 3),
        pytest.param(signal.SIGINT, 8, marks=SLOW),
        pytest.param(signal.SIGTERM, 8, marks=SLOW),
    ],
)
def test_signal_at_any_moment_loses_nothing(
    store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals, times: int
) -> None:
    create_mailing(store, ada, make_addresses(100))
    chance = random.Random(number)

    for _ in range(times):
        process = start_run(store, receiver.port, smtp__connections=2, smtp__rate="100/s")
        time.sleep(chance.uniform(0.0, 1.0))
        exit_status, _, err = wait_for_exit(process, number)
        is_before_main = exit_status in (1, -number) and "in main" not in err  # Python itself was still starting
        assert is_before_main or exit_status in (0, STATUS_AFTER_ONE[number]), err
        assert is_before_main or "Traceback" not in err
    send(store, make_settings(receiver.port))

    assert arrived_counts(receiver) == Counter(make_addresses(100))
    assert state_counts(store) == {"sent": 100}


# Two signals


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=SLOW), signal.SIGTERM])
def test_second_signal_stops_at_once_and_the_next_run_completes_it(
    store: Store, ada: Actor, number: signal.Signals
) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(50))
    held_replies = HeldReplies(3)

    with ScriptedServer([GREETING, accept_mail(held_replies)]) as server:
        process = start_run(store, server.port, smtp__connections=3, smtp__dot_timeout="1h")
        wait_until(lambda: held_replies.held == 3, process)
        signal_and_wait(process, number)
        exit_status, *_ = wait_for_exit(process, number)
        held_replies.release()

        assert exit_status == STATUS_AFTER_TWO[number]
        in_flight = {row.address for row in deliveries(store) if row.state == "sending"}
        assert len(in_flight) == 3
        send(store, make_settings(server.port))
        unknown = {row.address for row in deliveries(store) if row.state == "unknown"}
        assert unknown == in_flight
        send(store, make_settings(server.port), later=timedelta(minutes=16))

    assert state_counts(store) == {"sent": 50}
    copies = Counter(server.emails)
    assert len(copies) == 50  # a repeated email is byte for byte the same
    assert sum(copies.values()) == 50 + len(unknown)
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


def test_second_signal_stops_at_once_even_if_the_run_was_already_stopping(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(5))
    held_replies = HeldReplies(1)

    with ScriptedServer(
        [GREETING, accept_mail(held_replies)],
        [GREETING, accept_mail(lambda command, _: b"530 log in\r\n" if command == "MAIL" else None)],
    ) as server:
        process = start_run(store, server.port, smtp__connections=2, smtp__dot_timeout="1h")
        wait_until(lambda: held_replies.held == 1 and bool(paused_relays(store)), process)
        signal_and_wait(process, signal.SIGINT)
        exit_status, *_ = wait_for_exit(process, signal.SIGINT)
        held_replies.release()

    assert exit_status == 130


# Changes by another process


def test_disabling_stops_only_that_mailing_within_a_second(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    stopped = create_mailing(store, ada, make_addresses(600))
    other = create_mailing(store, ada, [f"other{number}@example.org" for number in range(100)])

    process = start_run(store, receiver.port, smtp__connections=4, smtp__rate="300/s")
    wait_until(lambda: len(receiver.email_counts()) > 60, process)
    mailings.disable(store, ada, stopped)
    disabled_at = datetime.now(UTC)
    exit_status, *_ = wait_for_exit(process)

    assert exit_status == 75
    by_mailing = Counter(row.occurrence_id for row in deliveries(store) if row.state == "sent")
    assert (by_mailing[other], 0 < by_mailing[stopped] < 600) == (100, True)
    of_stopped = {row.id for row in deliveries(store) if row.occurrence_id == stopped}
    late = [attempt for attempt in attempts(store) if attempt.started_at > disabled_at + timedelta(seconds=1)]
    assert [attempt for attempt in late if attempt.delivery_id in of_stopped] == []
    assert set(state_counts(store)) == {"sent", "queued"}
    assert set(arrived_counts(receiver)) == sent_addresses(store)
    assert len(receiver.conversations) <= 12  # not one for each claimed email
    mailings.enable(store, ada, stopped)
    send(store, make_settings(receiver.port, smtp__connections=4))
    assert set(arrived_counts(receiver).values()) == {1}
    assert state_counts(store) == {"sent": 700}


def test_deleting_stops_a_running_mailing(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    deleted = create_mailing(store, ada, make_addresses(600))

    process = start_run(store, receiver.port, smtp__connections=4, smtp__rate="300/s")
    wait_until(lambda: len(receiver.email_counts()) > 60, process)
    mailings.remove(store, ada, deleted)
    deleted_at = datetime.now(UTC)
    exit_status, *_ = wait_for_exit(process)

    assert exit_status == 0
    assert set(state_counts(store)) == {"sent", "cancelled"}
    assert max(attempt.started_at for attempt in attempts(store)) <= deleted_at + timedelta(seconds=1)
    assert set(arrived_counts(receiver)) == sent_addresses(store)


def test_deleted_client_gets_nothing_more_and_the_others_do(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(150))

    process = start_run(store, receiver.port, smtp__connections=2, smtp__rate="75/s")
    wait_until(lambda: len(receiver.email_counts()) > 10, process)
    deleted = next(row for row in reversed(deliveries(store)) if row.state in ("claimed", "queued"))
    clients.remove(store, ada, deleted.address)
    exit_status, *_ = wait_for_exit(process)

    assert exit_status == 0
    assert state_counts(store) == {"sent": 149, "cancelled": 1}
    assert arrived_counts(receiver) == Counter(set(make_addresses(150)) - {deleted.address})


@pytest.mark.parametrize("resolution", Resolution)
def test_resolving_an_unknown_delivery(store: Store, ada: Actor, resolution: Resolution) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(3))
    swallows = iter([b"", b""])

    with ScriptedServer(
        [GREETING, accept_mail(lambda command, _: next(swallows, None) if command == "." else None)],
        [GREETING, accept_mail()],
    ) as server:
        relay = make_settings(server.port, delivery__unknown="hold")
        send(store, relay)
        send(store, relay, later=timedelta(days=1))
        assert state_counts(store) == {"unknown": 1, "sent": 2}
        (unknown,) = (row for row in deliveries(store) if row.state == "unknown")
        unknown_deliveries.resolve(store, ada, resolution, ids=[unknown.id or 0])
        send(store, relay, later=timedelta(days=2))

    is_resent = resolution == Resolution.RESEND
    assert next(row for row in deliveries(store) if row.id == unknown.id).state == (
        "sent" if is_resent else resolution.value
    )
    copies = [email for email in server.emails if unknown.address.encode() in email]
    assert (len(copies), len(set(copies))) == (1 + is_resent, 1)
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


# Limits


@pytest.mark.parametrize("connections", [pytest.param(1, marks=SLOW), 5])
def test_limit_is_kept_and_the_rest_stays_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, connections: int
) -> None:
    create_mailing(store, ada, make_addresses(10))
    create_mailing(store, ada, [f"other{number}@example.org" for number in range(10)])
    relay = make_settings(receiver.port, smtp__connections=connections)

    for sent in (3, 6, 9):
        stats = send(store, relay, limit=3)
        assert (stats.sent, stats.queued, stats.stopped) == (3, 20 - sent, "")
        assert sum(arrived_counts(receiver).values()) == sent
    assert send(store, relay, limit=100).sent == 11
    assert set(arrived_counts(receiver).values()) == {1}


def test_limit_on_the_command_line(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(10))

    assert wait_for_exit(start_run(store, receiver.port, "--limit", "4"))[0] == 75
    assert state_counts(store) == {"sent": 4, "queued": 6}
    assert wait_for_exit(start_run(store, receiver.port, "--limit", "6"))[0] == 0


def test_limit_does_not_count_emails_that_got_no_connection(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(4))
    slowly = accept_mail(lambda command, _: time.sleep(0.2) if command == "." else None)

    with ScriptedServer([GREETING, slowly], [b"421 4.7.0 too many connections\r\n"]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=4), limit=2)

    assert (stats.sent, stats.queued) == (2, 2)


def keeps_rate(store: Store, per_second: float) -> bool:
    """Return whether each email was started no sooner than the rate allows."""
    started = sorted(attempt.started_at for attempt in attempts(store))
    first = rows(store, Run)[-1].started_at - timedelta(milliseconds=5)  # two clocks
    return all(at >= first + timedelta(seconds=number / per_second) for number, at in enumerate(started))


@pytest.mark.parametrize(
    ("rate", "per_second", "emails"), [pytest.param("60/s", 60, 90, marks=SLOW), ("3000/min", 50, 60)]
)
def test_rate_is_never_exceeded(
    store: Store, ada: Actor, receiver: CountingReceiver, rate: str, per_second: float, emails: int
) -> None:
    create_mailing(store, ada, make_addresses(emails))

    stats = send(store, make_settings(receiver.port, smtp__rate=rate, smtp__connections=4))

    assert stats.sent == emails
    assert keeps_rate(store, per_second)


@pytest.mark.soak
def test_rate_is_kept_within_2_percent_over_a_minute(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(50 * 65))

    send(store, make_settings(receiver.port, smtp__rate="50/s", smtp__connections=4))

    started = sorted(attempt.started_at for attempt in attempts(store))
    for start_after in (0, 2, 4):
        since = started[0] + timedelta(seconds=start_after)
        number = sum(since <= at < since + timedelta(minutes=1) for at in started)
        assert 0.98 * 3000 <= number <= 1.02 * 3000
    assert keeps_rate(store, 50)


# Connections


def email_count(conversation: Conversation) -> int:
    return conversation.received_lines.count(b".\r\n")


def ended_with_quit(conversation: Conversation) -> bool:
    return b"QUIT\r\n" in conversation.received_lines


def test_connection_is_closed_after_its_maximum_number_of_emails(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(50))

    send(store, make_settings(receiver.port, smtp__emails_per_connection=7, smtp__connections=2))

    assert arrived_counts(receiver) == Counter(make_addresses(50))
    assert max(map(email_count, receiver.conversations)) == 7
    assert all(map(ended_with_quit, receiver.conversations))
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 50


def test_connection_is_closed_at_its_maximum_age(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(40))

    send(store, make_settings(receiver.port, smtp__connection_age=timedelta(milliseconds=300), smtp__rate="40/s"))

    assert arrived_counts(receiver) == Counter(make_addresses(40))
    assert len(receiver.conversations) >= 2
    assert all(map(ended_with_quit, receiver.conversations))
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 40


def test_421_lowers_the_number_of_connections(store: Store, ada: Actor) -> None:
    """The server accepts three emails at a time. Each refusal closes one connection, until the rest is accepted."""
    create_mailing(store, ada, make_addresses(200))
    lock, busy, refusals = threading.Lock(), 0, 0

    def answer(command: str, _address: str) -> bytes | None:
        nonlocal busy, refusals
        with lock:
            if command == "MAIL" and busy == 3:
                refusals += 1
                return b"421 4.7.0 too many at once\r\n"
            busy += (command == "MAIL") - (command == ".")
        if command == ".":
            time.sleep(0.005)
        return None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=10))

    assert refusals
    assert len(server.conversations) <= 10 + refusals
    assert refusals < 10
    assert stats.sent + stats.deferred == 200


def test_server_that_accepts_two_connections_gets_two(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(100))
    slowly = accept_mail(lambda command, _: time.sleep(0.005) if command == "." else None)

    with ScriptedServer([GREETING, slowly], [GREETING, slowly], [b"421 4.7.0 too many connections\r\n"]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=10))

    assert (stats.sent, stats.stopped) == (100, "")
    assert len(server.conversations) <= 10  # those that were opening at the first refusal, and none later
    assert min(map(email_count, server.conversations[:2])) > 10
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 100

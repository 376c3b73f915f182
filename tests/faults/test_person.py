"""What a person does to a run while it sends: Ctrl-C, once and twice, disabling, limits; judged by the ledger."""

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
    addresses,
    attempts,
    deliveries,
    finish,
    log,
    mailing,
    paused,
    rows,
    send,
    sent_to,
    settings,
    start,
    states,
    status,
    wait_until,
)
from support.servers import GREETING, Conversation, CountingReceiver, ScriptedServer, hang, obey

from skychimp.models import MailingStatus, Run
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.operations import unknown_deliveries as deliveries_service
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.store.database import Store

BOTH = [signal.SIGINT, signal.SIGTERM]
DRAINED = {signal.SIGINT: 130, signal.SIGTERM: 75}
STOPPED = {signal.SIGINT: 130, signal.SIGTERM: 143}
DRAINING = "finishing what is in flight"


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


def came(receiver: CountingReceiver) -> Counter[str]:
    """How many letters came for each address."""
    return Counter(address for address, _ in receiver.arrived().elements())


class Holding:
    """Answers the first `number` dots only when it is told to; `held` says how many wait."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self.held = 0

    def __call__(self, heard: str, _address: str) -> None:
        if heard != ".":
            return
        with self._lock:
            holds = self.held < self._number
            self.held += holds
        if holds:
            self._go_on.wait(60)

    def let_go(self) -> None:
        self._go_on.set()


def signalled(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    """Send a signal, and wait until the process says that it drains."""
    process.send_signal(number)
    assert process.stderr is not None
    assert any(DRAINING in line for line in process.stderr)


# Once


@pytest.mark.parametrize("number", BOTH)
def test_one_signal_drains_what_is_in_flight_and_gives_back_the_rest(
    store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals
) -> None:
    mailing_id = mailing(store, ada, addresses(100))
    holding = Holding(3)

    with ScriptedServer([GREETING, obey(holding)]) as server:
        process = start(store, server.port, smtp__connections=3)
        wait_until(lambda: holding.held == 3, process)
        signalled(process, number)
        holding.let_go()
        left_with, out, _ = finish(process)

    assert left_with == DRAINED[number]
    assert '"sent": 3' in out
    assert states(store) == {"sent": 3, "queued": 97}
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 3
    assert {run.ended_at is None for run in rows(store, Run)} == {False}
    sent = sent_to(store)
    assert send(store, settings(receiver.port)).sent == 97
    assert came(receiver) == Counter(set(addresses(100)) - sent)
    assert status(store, mailing_id) == MailingStatus.COMPLETED


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_in_full_flight(store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals) -> None:
    mailing(store, ada, addresses(600))

    process = start(store, receiver.port, smtp__connections=4, smtp__rate="200/s")
    wait_until(lambda: len(receiver.arrived()) > 50, process)
    left_with, _, err = finish(process, number)

    assert left_with == DRAINED[number]
    assert "Traceback" not in err
    assert set(states(store)) == {"sent", "queued"}
    assert set(came(receiver)) == sent_to(store)
    send(store, settings(receiver.port, smtp__connections=4))
    assert came(receiver) == Counter(addresses(600))


AWAKE: list[tuple[Callable[[Conversation], object], dict[str, Any]]] = [
    (hang, {"smtp__timeout": "1h"}),  # it waits for a greeting
    (lambda conversation: conversation.socket.close(), {"run__patience": "1h"}),  # ... for the relay to come back
    (lambda conversation: conversation.socket.sendall(b"421 4.3.2 busy\r\n"), {"run__patience": "1h"}),
]


@pytest.mark.parametrize(("step", "more"), AWAKE, ids=["greeting", "away", "busy"])
def test_a_signal_ends_the_wait_for_a_relay(
    store: Store, ada: Actor, step: Callable[[Conversation], object], more: dict[str, Any]
) -> None:
    mailing(store, ada)

    with ScriptedServer([step]) as server:
        process = start(store, server.port, **more)
        wait_until(lambda: bool(server.conversations), process)
        left_with, *_ = finish(process, signal.SIGINT)

    assert left_with == 130
    assert (log(store), states(store)) == ([], {"queued": 2})


def test_a_signal_ends_the_wait_for_the_rate(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada)

    process = start(store, receiver.port, smtp__rate="1/h")
    wait_until(lambda: len(attempts(store)) == 1, process)
    left_with, *_ = finish(process, signal.SIGINT)

    assert left_with == 130
    assert states(store) == {"sent": 1, "queued": 1}


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_at_any_moment_loses_nothing(
    store: Store, ada: Actor, receiver: CountingReceiver, number: signal.Signals
) -> None:
    mailing(store, ada, addresses(100))
    chance = random.Random(number)

    for _ in range(4):
        process = start(store, receiver.port, smtp__connections=2, smtp__rate="100/s")
        time.sleep(chance.uniform(0.0, 1.0))
        left_with, _, err = finish(process, number)
        assert left_with in (0, DRAINED[number], -number)  # all was sent; it drained; or it had not begun yet
        assert "Traceback" not in err
    send(store, settings(receiver.port))

    assert came(receiver) == Counter(addresses(100))
    assert states(store) == {"sent": 100}


# Twice


@pytest.mark.parametrize("number", BOTH)
def test_a_second_signal_stops_at_once_and_the_next_run_rescues(
    store: Store, ada: Actor, number: signal.Signals
) -> None:
    mailing_id = mailing(store, ada, addresses(50))
    holding = Holding(3)

    with ScriptedServer([GREETING, obey(holding)]) as server:
        process = start(store, server.port, smtp__connections=3, smtp__dot_timeout="1h")
        wait_until(lambda: holding.held == 3, process)
        signalled(process, number)
        left_with, *_ = finish(process, number)
        holding.let_go()

        assert left_with == STOPPED[number]
        in_flight = {row.address for row in deliveries(store) if row.state == "sending"}
        assert len(in_flight) == 3
        send(store, settings(server.port))
        unknown = {row.address for row in deliveries(store) if row.state == "unknown"}
        assert unknown == in_flight
        send(store, settings(server.port), later=timedelta(minutes=16))

    assert states(store) == {"sent": 50}
    letters = Counter(server.letters)
    assert len(letters) == 50  # a repeated letter is the same to the byte
    assert sum(letters.values()) == 50 + len(unknown)
    assert status(store, mailing_id) == MailingStatus.COMPLETED


def test_a_second_signal_stops_at_once_whatever_the_run_was_stopping_for(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(5))
    holding = Holding(1)

    with ScriptedServer(
        [GREETING, obey(holding)], [GREETING, obey(lambda heard, _: b"530 log in\r\n" if heard == "MAIL" else None)]
    ) as server:
        process = start(store, server.port, smtp__connections=2, smtp__dot_timeout="1h")
        wait_until(lambda: holding.held == 1 and bool(paused(store)), process)
        signalled(process, signal.SIGINT)
        left_with, *_ = finish(process, signal.SIGINT)
        holding.let_go()

    assert left_with == 130


# Another process


def test_disabling_stops_a_running_mailing_within_a_second_and_no_other(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    stopped = mailing(store, ada, addresses(1500))
    other = mailing(store, ada, [f"other{number}@example.org" for number in range(100)])

    process = start(store, receiver.port, smtp__connections=4, smtp__rate="300/s")
    wait_until(lambda: len(receiver.arrived()) > 60, process)
    mailings.disable(store, ada, stopped)
    disabled_at = datetime.now(UTC)
    left_with, *_ = finish(process)

    assert left_with == 75
    by_mailing = Counter(row.occurrence_id for row in deliveries(store) if row.state == "sent")
    assert (by_mailing[other], 0 < by_mailing[stopped] < 1500) == (100, True)
    of_stopped = {row.id for row in deliveries(store) if row.occurrence_id == stopped}
    late = [tried for tried in attempts(store) if tried.started_at > disabled_at + timedelta(seconds=1)]
    assert [tried for tried in late if tried.delivery_id in of_stopped] == []
    assert set(states(store)) == {"sent", "queued"}
    assert set(came(receiver)) == sent_to(store)
    assert len(receiver.conversations) <= 12  # not one for each letter that was claimed
    mailings.enable(store, ada, stopped)
    send(store, settings(receiver.port, smtp__connections=4))
    assert set(came(receiver).values()) == {1}
    assert states(store) == {"sent": 1600}


def test_deleting_stops_a_running_mailing(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    deleted = mailing(store, ada, addresses(1500))

    process = start(store, receiver.port, smtp__connections=4, smtp__rate="300/s")
    wait_until(lambda: len(receiver.arrived()) > 60, process)
    mailings.remove(store, ada, deleted)
    deleted_at = datetime.now(UTC)
    left_with, *_ = finish(process)

    assert left_with == 0
    assert set(states(store)) == {"sent", "cancelled"}
    assert max(tried.started_at for tried in attempts(store)) <= deleted_at + timedelta(seconds=1)
    assert set(came(receiver)) == sent_to(store)


def test_a_client_who_is_deleted_gets_nothing_more_and_the_others_do(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, addresses(150))

    process = start(store, receiver.port, smtp__connections=2, smtp__rate="75/s")
    wait_until(lambda: len(receiver.arrived()) > 10, process)
    gone = next(row for row in reversed(deliveries(store)) if row.state in ("claimed", "queued"))
    clients.remove(store, ada, gone.address)
    left_with, *_ = finish(process)

    assert left_with == 0
    assert states(store) == {"sent": 149, "cancelled": 1}
    assert came(receiver) == Counter(set(addresses(150)) - {gone.address})


@pytest.mark.parametrize("resolution", Resolution)
def test_a_person_decides_about_what_nobody_knows(store: Store, ada: Actor, resolution: Resolution) -> None:
    mailing_id = mailing(store, ada, addresses(3))
    swallows = iter([b"", b""])

    with ScriptedServer(
        [GREETING, obey(lambda heard, _: next(swallows, None) if heard == "." else None)], [GREETING, obey()]
    ) as server:
        relay = settings(server.port, delivery__unknown="hold")
        send(store, relay)
        send(store, relay, later=timedelta(days=1))
        assert states(store) == {"unknown": 1, "sent": 2}
        (unknown,) = (row for row in deliveries(store) if row.state == "unknown")
        deliveries_service.resolve(store, ada, resolution, give_up_after=timedelta(days=3), ids=[unknown.id or 0])
        send(store, relay, later=timedelta(days=2))

    is_resent = resolution == Resolution.RESEND
    assert next(row for row in deliveries(store) if row.id == unknown.id).state == (
        "sent" if is_resent else resolution.value
    )
    copies = [letter for letter in server.letters if unknown.address.encode() in letter]
    assert (len(copies), len(set(copies))) == (1 + is_resent, 1)
    assert status(store, mailing_id) == MailingStatus.COMPLETED


# Limits


@pytest.mark.parametrize("connections", [1, 5])
def test_a_limit_is_kept_and_the_rest_stays(
    store: Store, ada: Actor, receiver: CountingReceiver, connections: int
) -> None:
    mailing(store, ada, addresses(10))
    mailing(store, ada, [f"other{number}@example.org" for number in range(10)])
    relay = settings(receiver.port, smtp__connections=connections)

    for sent in (3, 6, 9):
        stats = send(store, relay, limit=3)
        assert (stats.sent, stats.queued, stats.stopped) == (3, 20 - sent, "")
        assert sum(came(receiver).values()) == sent
    assert send(store, relay, limit=100).sent == 11
    assert set(came(receiver).values()) == {1}


def test_a_limit_on_the_command_line(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada, addresses(10))

    assert finish(start(store, receiver.port, "--limit", "4"))[0] == 75
    assert states(store) == {"sent": 4, "queued": 6}
    assert finish(start(store, receiver.port, "--limit", "6"))[0] == 0


def test_a_limit_counts_letters_that_found_no_connection_as_not_sent(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(4))
    slowly = obey(lambda heard, _: time.sleep(0.2) if heard == "." else None)

    with ScriptedServer([GREETING, slowly], [b"421 4.7.0 too many connections\r\n"]) as server:
        stats = send(store, settings(server.port, smtp__connections=4), limit=2)

    assert (stats.sent, stats.queued) == (2, 2)


def never_faster(store: Store, per_second: float) -> bool:
    """Whether no letter began before the rate allowed for it."""
    began = sorted(tried.started_at for tried in attempts(store))
    first = rows(store, Run)[-1].started_at - timedelta(milliseconds=5)  # two clocks
    return all(at >= first + timedelta(seconds=number / per_second) for number, at in enumerate(began))


@pytest.mark.parametrize(("rate", "per_second", "letters"), [("60/s", 60, 90), ("3000/min", 50, 60)])
def test_a_rate_is_never_exceeded(
    store: Store, ada: Actor, receiver: CountingReceiver, rate: str, per_second: float, letters: int
) -> None:
    mailing(store, ada, addresses(letters))

    stats = send(store, settings(receiver.port, smtp__rate=rate, smtp__connections=4))

    assert stats.sent == letters
    assert never_faster(store, per_second)


@pytest.mark.soak
def test_a_rate_is_kept_within_2_percent_over_a_minute(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada, addresses(50 * 65))

    send(store, settings(receiver.port, smtp__rate="50/s", smtp__connections=4))

    began = sorted(tried.started_at for tried in attempts(store))
    for start_after in (0, 2, 4):
        since = began[0] + timedelta(seconds=start_after)
        number = sum(since <= at < since + timedelta(minutes=1) for at in began)
        assert 0.98 * 3000 <= number <= 1.02 * 3000
    assert never_faster(store, 50)


# Connections


def letters_of(conversation: Conversation) -> int:
    return conversation.heard.count(b".\r\n")


def said_goodbye(conversation: Conversation) -> bool:
    return b"QUIT\r\n" in conversation.heard


def test_a_connection_is_retired_after_its_count_of_letters(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, addresses(50))

    send(store, settings(receiver.port, smtp__letters_per_connection=7, smtp__connections=2))

    assert came(receiver) == Counter(addresses(50))
    assert max(map(letters_of, receiver.conversations)) == 7
    assert all(map(said_goodbye, receiver.conversations))
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 50


def test_a_connection_is_retired_at_its_age(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada, addresses(40))

    send(store, settings(receiver.port, smtp__connection_age=timedelta(milliseconds=300), smtp__rate="40/s"))

    assert came(receiver) == Counter(addresses(40))
    assert len(receiver.conversations) >= 2
    assert all(map(said_goodbye, receiver.conversations))
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 40


def test_421_lowers_the_number_of_connections(store: Store, ada: Actor) -> None:
    """The server bears three at a time; each refusal costs one connection, until there are no more than it bears."""
    mailing(store, ada, addresses(200))
    lock, busy, refusals = threading.Lock(), 0, 0

    def answer(heard: str, _address: str) -> bytes | None:
        nonlocal busy, refusals
        with lock:
            if heard == "MAIL" and busy == 3:
                refusals += 1
                return b"421 4.7.0 too many at once\r\n"
            busy += (heard == "MAIL") - (heard == ".")
        if heard == ".":
            time.sleep(0.005)
        return None

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port, smtp__connections=10))

    assert refusals
    assert len(server.conversations) <= 10 + refusals
    assert refusals < 10
    assert stats.sent + stats.deferred == 200


def test_a_relay_that_takes_two_connections_gets_two(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(100))
    slowly = obey(lambda heard, _: time.sleep(0.005) if heard == "." else None)

    with ScriptedServer([GREETING, slowly], [GREETING, slowly], [b"421 4.7.0 too many connections\r\n"]) as server:
        stats = send(store, settings(server.port, smtp__connections=10))

    assert (stats.sent, stats.stopped, len(server.conversations)) == (100, "", 3)
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 100

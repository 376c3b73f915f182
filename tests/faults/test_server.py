"""Test whole runs against mail servers that fail in every way, and check the ledger afterwards.

After each fault, a healthy server takes what is left: nothing may be lost, and nothing may arrive twice.
"""

import os
import random
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import update
from support.sending import (
    attempt_log,
    attempts,
    bad_clients,
    create_mailing,
    deliveries,
    disabled_mailings,
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
from support.servers import (
    EHLO,
    ENVELOPE_ACCEPTED,
    GREETING,
    SENT,
    Conversation,
    CountingReceiver,
    ScriptedServer,
    Step,
    accept_mail,
    hang,
    read_body,
    read_envelope,
    read_line,
    send_slowly,
    stop_reading,
    tls,
)

from skychimp.delivery.sending.retry_policy import MAX_GIVEN_BACK
from skychimp.models import (
    Client,
    DeliveryState,
    Every,
    Mailing,
    MailingStatus,
    Message,
    Occurrence,
    OccurrenceState,
)
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.store.database import SQLITE, Store

SLOW = pytest.mark.slow
ONE_ADDRESS = ["bob@example.org"]
SHORT_TIMEOUT = timedelta(seconds=1)
RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (6, 15, 45, 120, 240))
LATER = timedelta(hours=6)  # after every retry delay
UP_TO_EHLO = (GREETING, read_line, EHLO)
HEALTHY = (GREETING, accept_mail())
AUTH = b"250-test\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n"
LOGIN = {"smtp__username": "ada", "smtp__password": "sesame"}
STARTTLS = (GREETING, read_line, b"250-test\r\n250 STARTTLS\r\n", read_line)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    """A healthy server that records what arrived."""
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


def assert_rest_is_sent(store: Store, receiver: CountingReceiver, later: timedelta = LATER) -> None:
    """Send what a fault has left to a healthy server, and check that each email arrives once and the mailing ends."""
    left = [row.address for row in deliveries(store) if row.state in (DeliveryState.QUEUED, DeliveryState.DEFERRED)]
    stats = send(store, make_settings(receiver.port), later=later)
    assert (stats.stopped, stats.sent) == ("", len(left))
    assert Counter(address for address, _ in receiver.email_counts().elements()) == Counter(left)
    assert [row.state for row in rows(store, Occurrence)] == [OccurrenceState.FINISHED]


def is_near(at: datetime | None, since: tuple[datetime, datetime], wait: timedelta) -> bool:
    """Return whether `at` is `wait` after an event between the two times of `since`, or up to 20 % longer after it."""
    return at is not None and since[0] + wait <= at <= since[1] + wait * 1.2


def command_of(phase: str) -> str:
    """Return the command whose reply a phase waits for."""
    return "." if phase == "dot" else phase.upper()


def held_mailings(store: Store) -> dict[int | None, str | None]:
    """Return the mailings that are held, with the reasons."""
    return {mailing.id: mailing.held_reason for mailing in rows(store, Mailing) if mailing.held_at is not None}


def reply_always(command: str, reply: bytes) -> Callable[[str, str], bytes | None]:
    """Give the same reply to every `command`, whatever its address. All other commands are accepted."""
    return lambda received, _: reply if received == command else None


def some_slow(cases: Sequence[tuple[Any, ...]], slow: Container[int]) -> list[Any]:
    """Mark the cases with these indexes as slow. Others of their kind are in every run."""
    return [pytest.param(*case, marks=SLOW) if number in slow else case for number, case in enumerate(cases)]


# Before MAIL: no delivery is touched


def untrusted_tls(conversation: Conversation) -> None:
    """Do a TLS handshake with a certificate of an unknown authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    conversation.start_tls(context)


UNAVAILABLE: list[tuple[Sequence[Step], dict[str, Any], str]] = [
    ([], {}, "connection closed"),
    ([b"421 4.3.2 too busy\r\n"], {}, "421 4.3.2 too busy"),
    ([b"SSH-2.0-OpenSSH_9.2\r\n", hang], {}, "invalid reply"),
    ([b"2200 hi\r\n", hang], {}, "invalid reply"),
    ([b"220-endless\r\n" * 1000, hang], {}, "too long"),
    ([hang], {"smtp__timeout": SHORT_TIMEOUT}, "timed out after 1 s"),
    ([send_slowly(b"220 late ESMTP\r\n", 0.1), hang], {"smtp__timeout": SHORT_TIMEOUT}, "timed out after 1 s"),
    ([GREETING, read_line], {}, "connection closed"),
    ([GREETING, read_line, b"250-a\r\n251 b\r\n", hang], {}, "two codes"),
    ([GREETING, read_line, b"451 4.3.0 later\r\n", hang], {}, "451 4.3.0 later"),
    ([*STARTTLS, b"454 4.7.0 no TLS now\r\n", hang], {"smtp__security": "starttls"}, "454 4.7.0 no TLS now"),
    ([*STARTTLS, b"220 go\r\n250 injected\r\n", hang], {"smtp__security": "starttls"}, "unexpected"),
    ([*STARTTLS, b"220 go\r\n", b"this is no TLS\r\n", hang], {"smtp__security": "starttls"}, "TLS"),
    ([read_line], {"smtp__security": "tls"}, "TLS with"),
    (
        [GREETING, read_line, AUTH, read_line, b"454 4.7.0 the directory is away\r\n"],
        LOGIN,
        "454 4.7.0 the directory is away",
    ),
]

REFUSED: list[tuple[Sequence[Step], dict[str, Any], str]] = [
    ([b"554 5.3.2 no service here\r\n"], {}, "554 5.3.2 no service here"),
    ([GREETING, read_line, b"502 what?\r\n", read_line, b"550 go away\r\n"], {}, "550 go away"),
    ([GREETING, accept_mail()], {"smtp__security": "starttls"}, "does not offer STARTTLS"),
    ([*STARTTLS, b"220 go\r\n", untrusted_tls], {"smtp__security": "starttls"}, "is not trusted"),
    ([untrusted_tls], {"smtp__security": "tls"}, "is not trusted"),
    ([GREETING, read_line, AUTH, read_line, b"535 5.7.8 wrong\r\n", hang], LOGIN, "535 5.7.8 wrong"),
    ([GREETING, read_line, AUTH, read_line, b"534 5.7.9 too weak\r\n", hang], LOGIN, "534 5.7.9 too weak"),
    ([GREETING, accept_mail()], LOGIN, "does not offer login"),
]


@pytest.mark.parametrize(
    ("script", "overrides", "reply"),
    some_slow(UNAVAILABLE, {2, 3, 4, 6, 8, 10, 13}),
    ids=[reply for *_, reply in UNAVAILABLE],
)
def test_unavailable_server_leaves_deliveries_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, script: Sequence[Step], overrides: dict[str, Any], reply: str
) -> None:
    create_mailing(store, ada)

    with ScriptedServer(script) as server:
        stats = send(store, make_settings(server.port, **overrides))

    assert stats.stopped.startswith("the mail server is unavailable: ")
    assert reply in stats.stopped
    assert stats.hint
    assert (attempt_log(store), state_counts(store), stats.queued, paused_relays(store)) == ([], {"queued": 2}, 2, {})
    assert_rest_is_sent(store, receiver)


@pytest.mark.parametrize("host", ["127.0.0.1", "relay.invalid"])
def test_missing_server_leaves_deliveries_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, host: str
) -> None:
    create_mailing(store, ada)

    stats = send(store, make_settings(free_port(), smtp__host=host))

    assert stats.stopped.startswith("the mail server is unavailable: ")
    assert (attempt_log(store), state_counts(store), paused_relays(store)) == ([], {"queued": 2}, {})
    assert_rest_is_sent(store, receiver)


@pytest.mark.parametrize(
    ("script", "overrides", "reply"), some_slow(REFUSED, {1, 4, 6}), ids=[reply for *_, reply in REFUSED]
)
def test_server_that_refuses_us_is_paused_and_leaves_deliveries_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, script: Sequence[Step], overrides: dict[str, Any], reply: str
) -> None:
    create_mailing(store, ada)

    with ScriptedServer(script) as server:
        stats = send(store, make_settings(server.port, **overrides))
        connections = len(server.conversations)
        again = send(store, make_settings(server.port, **overrides))

    assert stats.stopped.startswith("the mail server is paused: ")
    assert reply in stats.stopped
    assert stats.hint
    assert again.stopped == stats.stopped
    assert len(server.conversations) == connections == 1
    assert list(paused_relays(store)) == [f"127.0.0.1:{server.port}"]
    assert (attempt_log(store), state_counts(store), again.queued) == ([], {"queued": 2}, 2)
    assert_rest_is_sent(store, receiver)


FAULTS_OF_THE_RELAY: list[tuple[str, bytes]] = [
    ("mail", b"530 5.7.0 log in\r\n"),
    ("mail", b"534 5.7.9 too weak\r\n"),
    ("mail", b"535 5.7.8 wrong\r\n"),
    ("mail", b"550 5.4.5 daily sending quota exceeded\r\n"),
    ("rcpt", b"550 5.7.1 relaying denied\r\n"),
    ("rcpt", b"550 5.7.1 client host rejected\r\n"),
    ("rcpt", b"452 4.5.3 hourly limit exceeded\r\n"),
    ("data", b"554 5.7.1 your IP address is on a block list\r\n"),
    ("data", b"530 5.7.0 log in\r\n"),
    ("dot", b"550 5.4.5 daily sending quota exceeded\r\n"),
    ("dot", b"550 5.7.57 client not authenticated to send mail\r\n"),
]
"""Replies to one email that concern all emails through this server."""


@pytest.mark.parametrize(("phase", "reply"), some_slow(FAULTS_OF_THE_RELAY, {1, 2, 5, 6, 8, 10}))
def test_fault_of_the_relay_pauses_it_and_leaves_deliveries_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, reply: bytes
) -> None:
    create_mailing(store, ada)
    words = reply.decode().strip()

    with ScriptedServer([GREETING, accept_mail(reply_always(command_of(phase), reply))]) as server:
        stats = send(store, make_settings(server.port))
        again = send(store, make_settings(server.port))

    assert stats.stopped == f"the mail server is paused: {words}"
    assert stats.hint
    assert again.stopped == stats.stopped
    assert paused_relays(store) == {f"127.0.0.1:{server.port}": words}
    assert attempt_log(store) == [("given_back", phase, int(reply[:3]), words)]
    assert len(server.conversations) == 1
    assert (state_counts(store), again.queued, bad_clients(store), held_mailings(store)) == ({"queued": 2}, 2, {}, {})
    assert_rest_is_sent(store, receiver)


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("name", ["127.0.0.1", "relay.example.org"])
def test_certificate_is_valid_for_its_host_name_only(
    store: Store, ada: Actor, tmp_path: Path, security: str, name: str
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert(name).configure_cert(context)
    opened = [*STARTTLS, b"220 go\r\n", tls(context)] if security == "starttls" else [tls(context), GREETING]
    create_mailing(store, ada)

    with ScriptedServer([*opened, accept_mail()]) as server:
        stats = send(store, make_settings(server.port, smtp__security=security, smtp__ca_file=str(tmp_path / "ca.pem")))

    if name == "127.0.0.1":
        assert (stats.stopped, state_counts(store)) == ("", {"sent": 2})
    else:
        assert "is not trusted" in stats.stopped
        assert (attempt_log(store), state_counts(store)) == ([], {"queued": 2})


def test_run_waits_for_server_that_starts_late(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada)
    port = free_port()

    with ExitStack() as stack:
        up = threading.Timer(0.5, lambda: stack.enter_context(CountingReceiver(tmp_path / "arrived", port)))
        up.start()
        stats = send(store, make_settings(port, run__patience="30s"))
        up.join()

    assert (stats.stopped, state_counts(store)) == ("", {"sent": 2})
    assert [outcome for outcome, *_ in attempt_log(store)] == ["sent"] * 2


def test_run_waits_for_server_that_goes_away_while_sending(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(5))
    first: list[Step] = [
        *UP_TO_EHLO,
        read_envelope,
        ENVELOPE_ACCEPTED,
        read_body,
        SENT,
        read_envelope,
        b"421 4.3.2 shutting down\r\n",
    ]

    with ScriptedServer(first, [], [b"421 4.3.2 starting\r\n"], HEALTHY) as server:
        stats = send(store, make_settings(server.port, run__patience="30s"))

    assert (stats.stopped, state_counts(store)) == ("", {"sent": 5})
    assert Counter(outcome for outcome, *_ in attempt_log(store)) == {"sent": 5, "given_back": 1}


def test_run_stops_when_its_patience_ends(store: Store, ada: Actor) -> None:
    create_mailing(store, ada)

    with ScriptedServer([b"421 4.3.2 too busy\r\n"]) as server:
        stats = send(store, make_settings(server.port, run__patience="1s"))

    assert "421 4.3.2 too busy" in stats.stopped
    assert len(server.conversations) == 2  # at the start, and when the wait ended
    assert (attempt_log(store), state_counts(store)) == ([], {"queued": 2})


def test_paused_server_is_probed_at_growing_intervals(store: Store, ada: Actor) -> None:
    create_mailing(store, ada)
    minute, later = timedelta(minutes=1), timedelta()

    with ScriptedServer([GREETING, read_line, AUTH, read_line, b"535 5.7.8 wrong\r\n", hang]) as server:
        relay = make_settings(server.port, **LOGIN)
        send(store, relay)
        for probes, minutes in enumerate((15, 30, 60, 120, 240, 240), start=1):
            too_early = send(store, relay, later=later + (minutes - 1) * minute)
            assert too_early.stopped.startswith("the mail server is paused")
            assert len(server.conversations) == probes
            later += (minutes + 1) * minute
            send(store, relay, later=later)
            assert len(server.conversations) == probes + 1

    assert (attempt_log(store), state_counts(store)) == ([], {"queued": 2})


@pytest.mark.parametrize("command", ["MAIL", "."])
def test_paused_server_is_probed_with_one_email_and_then_used_fully(store: Store, ada: Actor, command: str) -> None:
    create_mailing(store, ada, make_addresses(40))
    is_over_quota, all_busy = threading.Event(), threading.Barrier(4)
    is_over_quota.set()

    def answer(received: str, _: str) -> bytes | None:
        if is_over_quota.is_set():
            return b"550 5.4.5 daily sending quota exceeded\r\n" if received == command else None
        if received == "." and next(accepted) in range(4, 8):
            all_busy.wait(20)
        return None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        relay = make_settings(server.port, smtp__connections=4)
        send(store, relay)
        assert 1 <= len(attempts(store)) <= 4  # they count as one probe: the next one is due after 15 minutes
        for minutes in (16, 47):
            emails, connections = len(attempts(store)), len(server.conversations)
            assert send(store, relay, later=timedelta(minutes=minutes)).stopped.startswith("the mail server is paused")
            assert (len(attempts(store)), len(server.conversations)) == (emails + 1, connections + 1)
        assert {outcome for outcome, *_ in attempt_log(store)} == {"given_back"}
        is_over_quota.clear()
        accepted = iter(range(40))
        stats = send(store, relay, later=timedelta(hours=2))

    assert not all_busy.broken
    assert (stats.sent, paused_relays(store)) == (40, {})


def test_corrected_password_ends_the_pause_at_once(store: Store, ada: Actor) -> None:
    create_mailing(store, ada)

    with ScriptedServer(
        [GREETING, read_line, AUTH, read_line, b"535 5.7.8 wrong\r\n", hang],
        [GREETING, read_line, AUTH, read_line, b"235 2.7.0 welcome\r\n", accept_mail()],
    ) as server:
        send(store, make_settings(server.port, **LOGIN))
        stats = send(store, make_settings(server.port, **LOGIN | {"smtp__password": "open sesame"}))

    assert (stats.stopped, state_counts(store), paused_relays(store)) == ("", {"sent": 2}, {})


# From MAIL to the final dot: the delivery is given back three times, then deferred

REPLIES_BEFORE = {"mail": b"", "rcpt": b"250 2.1.0 ok\r\n", "data": b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n"}


def at(phase: str, *steps: Step) -> list[Step]:
    """Return a script that accepts everything up to a phase and then takes `steps`."""
    if phase == "dot":
        return [*UP_TO_EHLO, read_envelope, ENVELOPE_ACCEPTED, read_body, *steps]
    return [*UP_TO_EHLO, read_envelope, REPLIES_BEFORE[phase], *steps]


def given_back_then_deferred(phase: str, code: int | None, reply: str) -> list[tuple[str, str, int | None, str]]:
    """Return the attempts at an email whose connection is always lost before the dot."""
    return [(outcome, phase, code, reply) for outcome in ("given_back", "given_back", "given_back", "deferred")]


def endless_reply(conversation: Conversation) -> None:
    while True:
        conversation.socket.sendall(b"250-and more\r\n")


CONNECTION_FAILURES: list[tuple[Sequence[Step], int | None, str]] = [
    ([], None, "connection closed"),
    ([b"421 4.3.2 shutting down\r\n"], 421, "421 4.3.2 shutting down"),
    ([b"421-4.3.2 shutting\r\n421 4.3.2 down\r\n"], 421, "421-4.3.2 shutting\n421 4.3.2 down"),
    ([b"what?\r\n", hang], None, r"invalid reply: b'what?\r'"),
    ([b"2500 ok\r\n", hang], None, r"invalid reply: b'2500 ok\r'"),
    ([b"250-ok\r\n251 ok\r\n", hang], None, "reply with two codes: 250 and 251"),
    ([endless_reply], None, "reply too long"),
    ([b"250 " + b"long" * 2000, hang], None, "reply line too long"),
    ([hang], None, "timed out after 1 s"),
    ([send_slowly(b"250 2.0.0 so slow\r\n", 0.1), hang], None, "timed out after 1 s"),
]
FAILURES_BY_PHASE = [(phase, *failure) for failure in CONNECTION_FAILURES for phase in ("mail", "rcpt", "data")]
"""Each failure in each phase. Every run has each failure, in one phase."""


@pytest.mark.parametrize(
    ("phase", "steps", "code", "reply"),
    some_slow(FAILURES_BY_PHASE, {number for number in range(30) if number // 3 % 3 != number % 3}),
    ids=[f"{phase} {reply}" for phase, *_, reply in FAILURES_BY_PHASE],
)
def test_failure_before_the_dot_gives_back_three_times_then_defers(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, steps: list[Step], code: int | None, reply: str
) -> None:
    create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(at(phase, *steps)) as server:
        timeout = {"smtp__timeout": SHORT_TIMEOUT, "run__patience": "1m"} if "timed out" in reply else {}
        stats = send(store, make_settings(server.port, **timeout))

    assert attempt_log(store) == given_back_then_deferred(phase, code, reply)
    assert (stats.deferred, stats.given_back, stats.queued, stats.stopped) == (1, 3, 0, "")
    assert [(row.attempts, row.given_back) for row in deliveries(store)] == [(4, 3)]
    last = attempts(store)[-1]
    assert is_near(deliveries(store)[0].next_try_at, (last.started_at, last.finished_at), RETRY_AFTER[0])
    assert len(server.conversations) >= 4
    assert server.emails == []
    assert_rest_is_sent(store, receiver)


@pytest.mark.parametrize(
    ("raw_reply", "outcome", "code", "reply"),
    [
        (b"550 5.7.1 I have read enough\r\n", "failed", 550, "550 5.7.1 I have read enough"),
        (b"421 4.3.2 shutting down\r\n", "deferred", 421, "421 4.3.2 shutting down"),
        (b"452 4.3.1 disk full\r\n", "deferred", 452, "452 4.3.1 disk full"),
        (
            b"250 2.0.0 thanks already\r\n",
            "deferred",
            None,
            "unexpected reply: '250 2.0.0 thanks already'",
        ),
        (b"...\r\n", "deferred", None, r"invalid reply: b'...\r'"),
    ],
)
@pytest.mark.parametrize("lines", [pytest.param(1, marks=SLOW), 8_000], ids=["short body", "long body"])
def test_reply_while_the_body_is_sent(
    store: Store,
    ada: Actor,
    receiver: CountingReceiver,
    lines: int,
    raw_reply: bytes,
    outcome: str,
    code: int | None,
    reply: str,
) -> None:
    create_mailing(store, ada, ONE_ADDRESS, body="all is well, and so on\n" * lines)

    with ScriptedServer(
        [*UP_TO_EHLO, read_envelope, ENVELOPE_ACCEPTED + raw_reply, stop_reading if outcome == "failed" else hang]
    ) as server:
        send(store, make_settings(server.port))

    is_lost = outcome == "deferred" and code != 452
    one_try = [(outcome, "data", code, reply)]
    assert attempt_log(store) == (given_back_then_deferred("data", code, reply) if is_lost else one_try)
    assert server.emails == []
    assert_rest_is_sent(store, receiver)


@pytest.mark.parametrize("phase", ["mail", pytest.param("rcpt", marks=SLOW), pytest.param("data", marks=SLOW)])
def test_421_without_pipelining(store: Store, ada: Actor, receiver: CountingReceiver, phase: str) -> None:
    create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(
        [GREETING, read_line, b"250 test\r\n", accept_mail(reply_always(phase.upper(), b"421 4.7.0 bye\r\n"))]
    ) as server:
        send(store, make_settings(server.port))

    assert attempt_log(store) == given_back_then_deferred(phase, 421, "421 4.7.0 bye")
    assert_rest_is_sent(store, receiver)


# Replies that decide about a delivery

DECISIVE_REPLIES: list[tuple[str, bytes, str]] = [
    ("mail", b"450 4.7.1 not now\r\n", "deferred"),
    ("rcpt", b"450 4.2.0 greylisted\r\n", "deferred"),
    ("rcpt", b"452 4.2.2 mailbox full\r\n", "deferred"),
    ("rcpt", b"550 no\r\n", "failed"),
    ("rcpt", b"550-5.1.1 nobody\r\n550-5.1.1 lives\r\n550 5.1.1 here\r\n", "bad"),
    ("rcpt", b"550 5.1.2 no such domain\r\n", "bad"),
    ("rcpt", b"553 5.1.3 no such syntax\r\n", "bad"),
    ("rcpt", b"551 5.1.6 moved\r\n", "bad"),
    ("rcpt", b"550 5.2.1 disabled\r\n", "bad"),
    ("rcpt", b"552 5.2.2 mailbox full\r\n", "failed"),
    ("rcpt", b"550 5.7.1 blocked\r\n", "failed"),
    ("rcpt", b"550 4.1.1 which of them?\r\n", "failed"),
    ("data", b"451 4.3.0 not now\r\n", "deferred"),
    ("data", b"554 5.7.1 no\r\n", "failed"),
    ("dot", b"451 4.3.0 not now\r\n", "deferred"),
    ("dot", b"421 4.3.2 shutting down\r\n", "deferred"),
    ("dot", b"554 5.7.1 spam\r\n", "failed"),
    ("dot", b"550 5.1.1 nobody here\r\n", "bad"),
    ("dot", b"550 5.7.1 caf\xc3\xa9 \xff \xe2\x80\xae \x00 end\r\n", "failed"),
    ("dot", b"250-2.0.0 taken\r\n250 2.0.0 as 1\r\n", "sent"),
    ("dot", b"250\r\n", "sent"),
]


@pytest.mark.parametrize(("phase", "raw_reply", "outcome"), some_slow(DECISIVE_REPLIES, {2, 3, 5, 6, 7, 9, 13, 16, 19}))
def test_reply_decides_about_the_delivery(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, raw_reply: bytes, outcome: str
) -> None:
    create_mailing(store, ada)
    command = command_of(phase)

    def answer(received: str, address: str) -> bytes | None:
        return raw_reply if received == command and address in (*ONE_ADDRESS, "ada@skychimp.test") else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port))

    reply = raw_reply.decode("utf-8", "backslashreplace").strip("\r\n").replace("\r\n", "\n").replace("\0", r"\x00")
    attempt = attempts(store)[0]
    assert attempt.outcome == outcome.replace("bad", "failed")
    assert (attempt.phase, attempt.code, attempt.reply) == (phase, int(raw_reply[:3]), reply)
    assert bad_clients(store) == ({"bob@example.org": reply} if outcome == "bad" else {})
    assert (stats.stopped, stats.given_back) == ("", 0)
    first = deliveries(store)[0]
    if outcome == "deferred":
        assert is_near(first.next_try_at, (attempt.started_at, attempt.finished_at), RETRY_AFTER[0])
    else:
        assert first.next_try_at is None
    if phase != "mail":  # the reply to MAIL concerns both emails
        assert sent_addresses(store) >= {"eve@example.org"}
        assert len(server.conversations) == (2 if b"421" in raw_reply else 1)
    assert_rest_is_sent(store, receiver)


def test_slow_reply_that_ends_in_time_counts(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(
        at("dot", send_slowly(b"250-2.0.0 taken\r\n250 2.0.0 at last\r\n", 0.005), accept_mail())
    ) as server:
        send(store, make_settings(server.port))

    assert attempt_log(store) == [("sent", "dot", 250, "250-2.0.0 taken\n250 2.0.0 at last")]


def test_retry_delays_grow_and_vary_until_a_try_after_the_deadline(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(30))
    later, waits = timedelta(), (*RETRY_AFTER, RETRY_AFTER[-1])

    with ScriptedServer([GREETING, accept_mail(reply_always("RCPT", b"450 4.2.0 later\r\n"))]) as server:
        relay = make_settings(server.port, delivery__give_up_after="24h")
        for number, wait in enumerate(waits, start=1):
            assert send(store, relay, later=later).deferred == 30
            last = attempts(store)[-30:]
            assert {attempt.number for attempt in last} == {number}
            since = (min(attempt.started_at for attempt in last), max(attempt.finished_at for attempt in last))
            nexts = sorted(row.next_try_at for row in deliveries(store) if row.next_try_at)
            assert len(nexts) == 30
            assert all(is_near(next_try_at, since, wait) for next_try_at in nexts)
            assert nexts[-1] - nexts[0] > wait * 0.1  # random, to spread the retries
            send(store, relay, later=later + wait * 0.95)
            assert len(attempts(store)) == 30 * number
            later += wait * 1.25
        assert send(store, relay, later=timedelta(hours=23)).deferred == 30
        before = len(server.conversations)
        assert send(store, relay, later=timedelta(hours=25)).deferred == 30
        assert len(server.conversations) == before  # the deadline alone ends nothing
        stats = send(store, relay, later=timedelta(hours=28))

    assert (stats.deferred, state_counts(store)) == (0, {"expired": 30})
    assert len(attempts(store)) == 30 * (len(waits) + 2)
    assert {row.state for row in rows(store, Occurrence)} == {OccurrenceState.FINISHED}


def test_later_occurrences_skip_a_bad_address_until_it_is_cleared(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, ["bob@example.org", "eve@example.org", "zoe@example.org"], every=Every.DAY)
    refusals = {"bob@example.org": b"550 5.1.1 nobody here\r\n", "eve@example.org": b"550 5.7.1 not from you\r\n"}

    with ScriptedServer(
        [GREETING, accept_mail(lambda received, to: refusals.get(to) if received == "RCPT" else None)]
    ) as server:
        send(store, make_settings(server.port))
    send(store, make_settings(receiver.port), later=timedelta(days=1))
    clients.change(store, ada, "bob@example.org", good=True)
    send(store, make_settings(receiver.port), later=timedelta(days=2))

    arrived = Counter(address for address, _ in receiver.email_counts().elements())
    assert arrived == {"bob@example.org": 1, "eve@example.org": 2, "zoe@example.org": 2}
    assert state_counts(store) == {"failed": 2, "sent": 6}


# After the final dot: the outcome is unknown

LOST_REPLIES: list[tuple[Sequence[Step], str]] = [
    ([], "connection closed"),
    ([hang], "timed out after 1 s"),
    ([send_slowly(b"250 2.0.0 so slow\r\n", 0.1), hang], "timed out after 1 s"),
    ([b"what?\r\n", hang], r"invalid reply: b'what?\r'"),
    ([b"2500 ok\r\n", hang], r"invalid reply: b'2500 ok\r'"),
    ([b"250-ok\r\n", hang], "timed out after 1 s"),
    ([b"250-ok\r\n550 no\r\n", hang], "reply with two codes: 250 and 550"),
    ([endless_reply], "reply too long"),
    ([b"354 go ahead\r\n", hang], "invalid reply to the final dot: '354 go ahead'"),
]
HOLD_UNKNOWN = {"delivery__unknown": "hold"}


@pytest.mark.parametrize(
    ("steps", "reply", "overrides"),
    some_slow(
        [
            *((steps, reply, {}) for steps, reply in LOST_REPLIES),
            *((steps, reply, HOLD_UNKNOWN) for steps, reply in LOST_REPLIES[:2]),
        ],
        {2, 4, 5, 7, 10},
    ),
    ids=[*(reply for _, reply in LOST_REPLIES), *(f"hold: {reply}" for _, reply in LOST_REPLIES[:2])],
)
def test_lost_reply_after_the_dot_is_unknown(
    store: Store, ada: Actor, steps: list[Step], reply: str, overrides: dict[str, Any]
) -> None:
    mailing_id = create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(at("dot", *steps), HEALTHY) as server:
        timeout = {"smtp__dot_timeout": SHORT_TIMEOUT} if "timed out" in reply else {}
        stats = send(store, make_settings(server.port, **timeout, **overrides))
        at_once = send(store, make_settings(server.port, **overrides), later=timedelta(minutes=14))
        next_try_at = deliveries(store)[0].next_try_at
        send(store, make_settings(server.port, **overrides), later=timedelta(minutes=16))

    assert (stats.unknown, at_once.sent, stats.stopped) == (1, 0, "")
    (first, *further) = attempt_log(store)
    assert first == ("unknown", "dot", None, reply)
    attempt = attempts(store)[0]
    if overrides == HOLD_UNKNOWN:
        assert (next_try_at, further, state_counts(store), len(server.emails)) == (None, [], {"unknown": 1}, 1)
    else:
        assert next_try_at is not None
        wait = timedelta(minutes=15)
        assert attempt.started_at + wait <= next_try_at <= attempt.finished_at + wait
        assert [outcome for outcome, *_ in further] == ["sent"]
        assert state_counts(store) == {"sent": 1}
        first_email, second_email = server.emails
        assert second_email == first_email
        assert message_from_bytes(first_email)["Message-ID"]
        assert message_from_bytes(first_email)["Date"]
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


def test_unknown_delivery_is_sent_again_however_soon_others_are_given_up(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(at("dot"), HEALTHY) as server:
        relay = make_settings(server.port, delivery__give_up_after="1s")
        send(store, relay)
        send(store, relay, later=timedelta(minutes=20))

    assert state_counts(store) == {"sent": 1}


def test_second_copy_is_identical_after_changes(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE_ADDRESS)

    with ScriptedServer(at("dot"), HEALTHY) as server:
        send(store, make_settings(server.port))
        clients.change(store, ada, "bob@example.org", name="Robert", comment="changed")
        with store.write() as db:
            db.execute(update(Message.__table__).values(subject="Changed", body="changed"))
        new_sender = {"mail__sender": "Eve <eve@skychimp.test>", "mail__return_path": "bounces@skychimp.test"}
        send(store, make_settings(server.port, **new_sender), later=timedelta(hours=1))

    first_email, second_email = server.emails
    assert second_email == first_email
    envelopes = [line for line in server.received.split(b"\r\n") if line.startswith((b"MAIL", b"RCPT"))]
    assert envelopes[:2] == envelopes[2:]


def test_unknown_delivery_stays_unknown_past_its_mailings_end(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada, ONE_ADDRESS)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(end_at=store.now() + timedelta(minutes=10)))

    with ScriptedServer(at("dot"), HEALTHY) as server:
        relay = make_settings(server.port)
        send(store, relay)
        send(store, relay, later=timedelta(minutes=20))

    assert [(row.state, row.next_try_at) for row in deliveries(store)] == [("unknown", None)]
    assert len(server.conversations) == 1
    assert mailing_status(store, mailing_id) == MailingStatus.COMPLETED


@pytest.mark.parametrize(
    ("late_reply", "late_outcome", "state"),
    [
        (SENT, "sent", "sent"),
        (b"554 5.7.1 no\r\n", "failed", "unknown"),
        pytest.param(b"451 4.3.0 no\r\n", "deferred", "unknown", marks=SLOW),
    ],
)
def test_late_reply_of_a_run_declared_dead(
    store: Store, ada: Actor, late_reply: bytes, late_outcome: str, state: str
) -> None:
    """Test that a run that was declared dead but continues still logs its reply, and that a 250 counts."""
    create_mailing(store, ada, ONE_ADDRESS)
    rescued = threading.Event()

    with ScriptedServer(at("dot", lambda _: rescued.wait(), late_reply, accept_mail())) as server:
        running = start_run(store, server.port)
        wait_until(lambda: bool(server.emails), running)
        declare_runs_dead(store)
        send(store, make_settings(server.port))
        assert state_counts(store) == {"unknown": 1}
        rescued.set()
        wait_for_exit(running)

    assert [outcome for outcome, *_ in attempt_log(store)] == ["unknown", late_outcome]
    assert [attempt.number for attempt in attempts(store)] == [1, 2]
    assert state_counts(store) == {state: 1}
    assert (deliveries(store)[0].next_try_at is None) == (state == "sent")


def test_late_reply_while_another_run_sends_the_email_again(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE_ADDRESS)
    sent_again, first_may_go_on, second_may_go_on = threading.Event(), threading.Event(), threading.Event()

    def hold_reply(_: Conversation) -> None:
        sent_again.set()
        second_may_go_on.wait()

    with ScriptedServer(
        at("dot", lambda _: first_may_go_on.wait(), SENT, accept_mail()), at("dot", hold_reply, SENT, accept_mail())
    ) as server:
        first = start_run(store, server.port)
        wait_until(lambda: bool(server.emails), first)
        declare_runs_dead(store)
        second = start_run(store, server.port, "--join", smtp__connections=2, delivery__unknown_after="0s")
        wait_until(sent_again.is_set, second)
        first_may_go_on.set()
        first_status, *_ = wait_for_exit(first)
        second_may_go_on.set()
        second_status, *_ = wait_for_exit(second)

    assert (first_status, second_status) == (75, 0)  # when the first run ended, the second was still sending
    assert [outcome for outcome, *_ in attempt_log(store)] == ["unknown", "sent", "sent"]
    assert [attempt.number for attempt in attempts(store)] == [1, 2, 3]
    assert state_counts(store) == {"sent": 1}
    assert len(set(server.emails)) == 1


def declare_runs_dead(store: Store) -> None:
    """Make all runs look dead by deleting their lock files."""
    for path in store.path.parent.glob(f"{store.path.name}.run-*"):
        path.unlink()


# A bad client, message or mailing never delays the others


def test_failures_of_some_clients_do_not_stop_the_others(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(60))
    replies = {
        ("RCPT", "client3@example.org"): b"550 5.1.1 nobody here\r\n",
        ("RCPT", "client9@example.org"): b"450 4.2.0 greylisted\r\n",
        ("MAIL", "client11@example.org"): None,
        ("RCPT", "client17@example.org"): b"421 4.7.0 not so fast\r\n",
        ("RCPT", "client23@example.org"): b"",
        ("RCPT", "client29@example.org"): b"2500 what?\r\n",
        ("DATA", "client31@example.org"): b"554 5.7.1 no\r\n",
        (".", "client37@example.org"): b"",
        (".", "client41@example.org"): b"354 what?\r\n",
        (".", "client43@example.org"): b"554 5.7.1 spam\r\n",
        (".", "client47@example.org"): b"452 4.3.1 full\r\n",
    }

    with ScriptedServer([GREETING, accept_mail(lambda received, address: replies.get((received, address)))]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=4))

    by_state: dict[str, set[int]] = {}
    for row in deliveries(store):
        by_state.setdefault(row.state, set()).add(int(row.address.partition("@")[0].removeprefix("client")))
    assert by_state.pop("sent") == set(range(60)) - {3, 9, 17, 23, 29, 31, 37, 41, 43, 47}
    assert by_state == {"failed": {3, 31, 43}, "deferred": {9, 17, 23, 29, 47}, "unknown": {37, 41}}
    assert (stats.stopped, stats.given_back) == ("", 3 * MAX_GIVEN_BACK)
    send(store, make_settings(receiver.port), later=LATER)
    assert Counter(address for address, _ in receiver.email_counts().elements()) == Counter(
        f"client{number}@example.org" for number in (9, 17, 23, 29, 37, 41, 47)
    )


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("subject", {"subject": "{{ client.nope }}"}),
        ("body", {"body": "{% if %}"}),
        pytest.param("body", {"body": "{% for tag in client.tags %}"}, marks=SLOW),
        pytest.param("body", {"body": "{{ client.name | first"}, marks=SLOW),
        pytest.param("body", {"format": "markdown", "body": "{{"}, marks=SLOW),
        ("HTML", {"html": "{{ client.__class__ }}"}),
    ],
)
def test_broken_message_fails_with_its_reason_and_others_are_sent(
    store: Store, ada: Actor, receiver: CountingReceiver, field: str, values: dict[str, str]
) -> None:
    broken = create_mailing(store, ada, ["bob@example.org", "eve@example.org"], subject="Broken")
    create_mailing(store, ada, ["bob@example.org", "eve@example.org"], subject="Fine")
    with store.write() as db:
        db.execute(update(Message.__table__).where(Message.__table__.c.subject == "Broken").values(values))

    stats = send(store, make_settings(receiver.port))

    assert (stats.failed, stats.sent, stats.stopped) == (2, 2, "")
    reasons = {reply for outcome, _, _, reply in attempt_log(store) if outcome == "failed"}
    assert all(field in reason for reason in reasons)
    assert mailing_status(store, broken) == MailingStatus.COMPLETED
    assert bad_clients(store) == {}


def test_message_that_fails_for_one_client_is_sent_to_the_others(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(5))
    with store.write() as db:
        db.execute(update(Message.__table__).values(body="{{ client.name | first }}"))
        db.execute(update(Client.__table__).where(Client.__table__.c.email == "client2@example.org").values(name=""))

    stats = send(store, make_settings(receiver.port))

    assert (stats.failed, stats.sent) == (1, 4)
    assert sent_addresses(store) == set(make_addresses(5)) - {"client2@example.org"}
    assert "body" in next(reply for outcome, *_, reply in attempt_log(store) if outcome == "failed")


INVALID_ADDRESSES = [
    "",
    "b ob@example.org",
    "bob@example.org>\r\nRCPT TO:<eve@example.org",
    "bob@example.org\r\nDATA",
    "bob@example.org\x00",
    "bob@" + "b\u00fc" * 200 + ".org",
    "<bob@example.org>",
    "bob@example.org, eve@example.org",
]


def test_invalid_addresses_fail_and_the_others_are_sent(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(12))
    with store.write() as db:
        for number, address in enumerate(INVALID_ADDRESSES, start=2):
            old = f"client{number}@example.org"
            stored = address if store.dialect == SQLITE else address.replace("\0", "\1")  # PostgreSQL has no NUL
            db.execute(update(Client.__table__).where(Client.__table__.c.email == old).values(email=stored))

    with ScriptedServer(HEALTHY) as server:
        stats = send(store, make_settings(server.port))

    valid = [f"client{number}@example.org" for number in (0, 1, 10, 11)]
    assert (stats.failed, stats.sent, stats.stopped) == (8, 4, "")
    assert sent_addresses(store) == set(valid)
    recipients = [line for line in server.received.split(b"\r\n") if line.startswith(b"RCPT")]
    assert recipients == [f"RCPT TO:<{address}>".encode() for address in valid]


def test_slow_mailing_does_not_take_all_connections(store: Store, ada: Actor, bob: Actor) -> None:
    create_mailing(store, ada, [f"slow{number}@example.org" for number in range(50)])
    create_mailing(store, bob, make_addresses(50))
    fast_emails_left, all_fast_sent = iter(range(49, -1, -1)), threading.Event()

    def answer(received: str, address: str) -> bytes | None:
        if received == "." and address.startswith("slow"):
            all_fast_sent.wait(60)
        elif received == "." and next(fast_emails_left) == 0:
            all_fast_sent.set()
        return None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port, smtp__connections=4, smtp__dot_timeout="10s"))

    assert all_fast_sent.is_set()
    assert (stats.sent, state_counts(store)) == (100, {"sent": 100})


class RandomServer:
    """A server that replies at random.

    `accepted_by_address` counts the emails that it has accepted, whether or not its reply was sent.
    """

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.accepted_by_address: Counter[str] = Counter()

    def greet(self, conversation: Conversation) -> None:
        greeting = self._choose([GREETING] * 8 + [b"421 4.7.0 too many connections\r\n", b""])
        conversation.socket.sendall(greeting or b"")
        if greeting != GREETING:
            conversation.socket.shutdown(socket.SHUT_RDWR)

    def __call__(self, received: str, address: str) -> bytes | None:
        deferrals, disconnects = [b"450 4.2.0 later\r\n"], [b"421 4.3.2 bye\r\n", b"", b"2500 what?\r\n"]
        if received in ("MAIL", "RCPT", "DATA"):
            return self._choose(
                [None] * 60 + deferrals + disconnects + ([b"550 5.7.1 no\r\n"] if received == "RCPT" else [])
            )
        if received != ".":
            return None
        reply = self._choose([None] * 20 + [b"451 4.3.0 later\r\n", b"554 5.7.1 no\r\n", b"", b"what?\r\n"])
        with self._lock:
            self.accepted_by_address[address] += reply in (None, b"", b"what?\r\n")
        return reply

    def _choose(self, replies: Sequence[bytes | None]) -> bytes | None:
        with self._lock:
            return self._chance.choice(replies)


def check_ledger_against_random_server(store: Store, ada: Actor, seed: int) -> None:
    """Run against a random server until nothing is left, then compare what the server accepted with the ledger."""
    for number in range(5):
        create_mailing(store, ada, [f"{name}@{number}.example.org" for name in range(25)])
    random_server = RandomServer(seed)

    with ScriptedServer([random_server.greet, accept_mail(random_server)]) as server:
        relay = make_settings(server.port, smtp__connections=6, delivery__give_up_after="30d")
        for day in range(30):
            stats = send(store, relay, later=timedelta(days=day))
            assert stats.stopped or not stats.queued  # a run that was not stopped sends all that is due
            if set(state_counts(store)) <= {"sent", "failed"}:
                break

    outcomes_by_delivery: dict[int, list[str]] = {}
    for attempt in attempts(store):
        outcomes_by_delivery.setdefault(attempt.delivery_id, []).append(attempt.outcome)
        assert attempt.number == len(outcomes_by_delivery[attempt.delivery_id])
    for row in deliveries(store):
        outcomes = outcomes_by_delivery[row.id or 0]
        assert (row.state, row.attempts) == (outcomes[-1], len(outcomes))
        assert outcomes.count("given_back") == row.given_back <= MAX_GIVEN_BACK
        assert random_server.accepted_by_address[row.address] >= (row.state == "sent")
        assert random_server.accepted_by_address[row.address] == outcomes.count("unknown") + (row.state == "sent")
    assert {row.state for row in rows(store, Occurrence)} == {OccurrenceState.FINISHED}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=SLOW)])
def test_ledger_is_right_whatever_the_server_does(store: Store, ada: Actor, seed: int) -> None:
    check_ledger_against_random_server(store, ada, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 202))
def test_ledger_is_right_whatever_the_server_does_many_times(store: Store, ada: Actor, seed: int) -> None:
    check_ledger_against_random_server(store, ada, seed)


# Replies that hold a mailing

FAULTS_OF_THE_SENDER: list[tuple[str, bytes]] = [
    ("mail", b"550 5.7.1 not you\r\n"),
    ("mail", b"550 5.1.1 not you\r\n"),
    ("mail", b"553 5.7.1 sender address rejected: not owned by user\r\n"),
    ("rcpt", b"550 5.1.8 no mail server for your domain\r\n"),
    ("data", b"554 5.7.1 sender address rejected\r\n"),
    ("dot", b"550 5.7.26 SPF and DKIM did not pass\r\n"),
]


@pytest.mark.parametrize(("phase", "reply"), some_slow(FAULTS_OF_THE_SENDER, {1, 4}))
def test_refused_sender_holds_the_mailing_at_once(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, reply: bytes
) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(10))
    words = reply.decode().strip()

    with ScriptedServer([GREETING, accept_mail(reply_always(command_of(phase), reply))]) as server:
        stats = send(store, make_settings(server.port))
        again = send(store, make_settings(server.port))

    assert held_mailings(store) == {mailing_id: words}
    assert attempt_log(store) == [("given_back", phase, int(reply[:3]), words)]
    assert (stats.stopped, again.queued, state_counts(store)) == ("", 10, {"queued": 10})
    assert (bad_clients(store), disabled_mailings(store), paused_relays(store)) == ({}, {}, {})
    assert_rest_is_sent(store, receiver)


def test_held_mailings_go_on_when_enabled_or_with_another_sender(store: Store, ada: Actor) -> None:
    first = create_mailing(store, ada, [f"first{number}@example.org" for number in range(5)])
    second = create_mailing(store, ada, [f"second{number}@example.org" for number in range(5)])
    refused = {"bad@skychimp.test"}

    def answer(received: str, address: str) -> bytes | None:
        return b"553 5.7.1 not your address\r\n" if received == "MAIL" and address in refused else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        relay = make_settings(server.port, mail__return_path="bad@skychimp.test")
        send(store, relay)
        assert held_mailings(store) == dict.fromkeys([first, second], "553 5.7.1 not your address")
        refused.clear()
        assert send(store, relay, later=timedelta(days=1)).sent == 0
        mailings.enable(store, ada, first)
        assert send(store, relay, later=timedelta(days=1)).sent == 5
        assert {address[:5] for address in sent_addresses(store)} == {"first"}
        fixed = make_settings(server.port, mail__return_path="good@skychimp.test")
        assert send(store, fixed, later=timedelta(days=1)).sent == 5

    assert (held_mailings(store), state_counts(store)) == ({}, {"sent": 10})
    senders = Counter(line for line in server.received.split(b"\r\n") if line.startswith(b"MAIL FROM:<good@"))
    assert senders.total() == 5


TWO_DOMAINS = ("example.org", "example.net")


@pytest.mark.parametrize(
    ("accepted_first", "domains", "refused"), [(1, TWO_DOMAINS, 5), (0, TWO_DOMAINS[:1], 3)], ids=["in a row", "all"]
)
def test_refusals_alike_hold_the_mailing_and_are_tried_again(
    store: Store, ada: Actor, receiver: CountingReceiver, accepted_first: int, domains: Sequence[str], refused: int
) -> None:
    mailing_id = create_mailing(store, ada, mixed_addresses(20, domains))
    create_mailing(store, ada, make_addresses(5))
    left_to_accept = iter(range(accepted_first))

    def answer(received: str, address: str) -> bytes | None:
        is_refused = received == "RCPT" and address.startswith("mixed") and next(left_to_accept, None) is None
        return b"554 5.7.1 refused\r\n" if is_refused else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port))

    assert (stats.sent, stats.failed) == (5 + accepted_first, 0)
    assert [str(attempt.outcome) for attempt in attempts(store)].count("failed") == refused
    assert held_mailings(store) == {mailing_id: "554 5.7.1 refused"}
    assert state_counts(store) == {"sent": 5 + accepted_first, "queued": 20 - accepted_first}
    assert (bad_clients(store), disabled_mailings(store)) == ({}, {})
    left = {row.address for row in deliveries(store) if row.state == "queued"}
    send(store, make_settings(receiver.port))
    assert Counter(address for address, _ in receiver.email_counts().elements()) == Counter(left)
    assert state_counts(store) == {"sent": 25}


def test_mailing_that_is_enabled_too_early_is_held_again(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(4))

    with ScriptedServer([GREETING, accept_mail(reply_always("RCPT", b"554 5.7.1 refused\r\n"))]) as server:
        for number in (1, 2, 3):
            assert send(store, make_settings(server.port)).queued == 4
            assert len(attempts(store)) == 3 * number
            assert (list(held_mailings(store)), state_counts(store)) == ([mailing_id], {"queued": 4})
            mailings.enable(store, ada, mailing_id)


@pytest.mark.parametrize(
    ("domains", "replies"),
    [
        (TWO_DOMAINS, [b"554 5.7.1 refused\r\n"] * 4),
        (TWO_DOMAINS, [b"554 5.7.1 refused\r\n", b"550 5.7.1 blocked by policy\r\n"] * 4),
        (TWO_DOMAINS, [b"550 5.1.1 nobody here\r\n"] * 9),
        (TWO_DOMAINS, [b"552 5.2.2 mailbox full\r\n"] * 9),
        (TWO_DOMAINS[:1], [b"554 5.7.1 refused\r\n"] * 9),
    ],
    ids=["too few", "different", "bad addresses", "full mailboxes", "one domain"],
)
def test_refusals_that_may_be_the_clients_do_not_hold_the_mailing(
    store: Store, ada: Actor, domains: Sequence[str], replies: Sequence[bytes]
) -> None:
    rounds = 20 // (len(replies) + 1)
    create_mailing(store, ada, mixed_addresses(rounds * (len(replies) + 1), domains))
    recipients = iter([None, *replies] * rounds)

    with ScriptedServer(
        [GREETING, accept_mail(lambda received, _: next(recipients) if received == "RCPT" else None)]
    ) as server:
        stats = send(store, make_settings(server.port))

    assert (stats.sent, stats.failed, stats.queued) == (rounds, rounds * len(replies), 0)
    assert (held_mailings(store), disabled_mailings(store)) == ({}, {})


def mixed_addresses(count: int, domains: Sequence[str]) -> list[str]:
    """Return addresses at these domains in turn."""
    return [f"mixed{number}@{domains[number % len(domains)]}" for number in range(count)]


# Failures that disable a mailing


def test_too_many_failures_disable_only_that_mailing(store: Store, ada: Actor) -> None:
    disabled = create_mailing(store, ada, [f"full{number}@example.org" for number in range(10)])
    create_mailing(store, ada, make_addresses(10))

    def answer(received: str, address: str) -> bytes | None:
        return b"552 5.2.2 mailbox full\r\n" if received == "RCPT" and address.startswith("full") else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        stats = send(store, make_settings(server.port, delivery__disable_failures=4))

    assert (stats.failed, stats.sent, stats.queued) == (4, 10, 6)
    assert (disabled_mailings(store), held_mailings(store)) == ({disabled: "4 of 4 emails failed"}, {})


def test_low_failure_rate_does_not_disable_the_mailing(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(30))
    recipients = iter(range(100))

    with ScriptedServer(
        [
            GREETING,
            accept_mail(
                lambda received, _: b"550 5.7.1 no\r\n" if received == "RCPT" and next(recipients) % 3 == 2 else None
            ),
        ]
    ) as server:
        stats = send(store, make_settings(server.port, delivery__disable_failures=4))

    assert (stats.failed, stats.sent, disabled_mailings(store)) == (10, 20, {})


# smtp-sink, from Postfix

SINK = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def smtp_sink(*options: str) -> Iterator[int]:
    port = free_port()
    as_root = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([str(SINK), *as_root, *options, f"127.0.0.1:{port}", "100"])
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


GIVEN_BACK = "given back three times, then deferred"
DEFERRED = "deferred"
FAILED = "failed"
UNKNOWN = "unknown"
HELD = "given back, and the mailing is held"
SERVER_AWAY = "the mail server is unavailable"
PAUSED = "the mail server is paused"


@pytest.mark.skipif(SINK is None, reason="needs smtp-sink (part of Postfix)")
@pytest.mark.parametrize(
    ("options", "expected", "phase"),
    [
        (["-f", "CONNECT"], PAUSED, ""),
        pytest.param(["-f", "MAIL"], HELD, "mail", marks=SLOW),
        (["-f", "RCPT"], FAILED, "rcpt"),
        pytest.param(["-f", "DATA"], FAILED, "data", marks=SLOW),
        (["-f", "."], FAILED, "dot"),
        (["-r", "CONNECT"], SERVER_AWAY, ""),
        pytest.param(["-r", "MAIL"], DEFERRED, "mail", marks=SLOW),
        pytest.param(["-r", "RCPT"], DEFERRED, "rcpt", marks=SLOW),
        pytest.param(["-r", "DATA"], DEFERRED, "data", marks=SLOW),
        pytest.param(["-r", "."], DEFERRED, "dot", marks=SLOW),
        pytest.param(["-q", "CONNECT"], SERVER_AWAY, "", marks=SLOW),
        pytest.param(["-q", "EHLO"], SERVER_AWAY, "", marks=SLOW),
        pytest.param(["-q", "MAIL"], GIVEN_BACK, "mail", marks=SLOW),
        (["-q", "RCPT"], GIVEN_BACK, "rcpt"),
        pytest.param(["-q", "DATA"], GIVEN_BACK, "data", marks=SLOW),
        (["-q", "."], UNKNOWN, "dot"),
        pytest.param(["-Q", "CONNECT"], SERVER_AWAY, "", marks=SLOW),
        (["-Q", "MAIL"], GIVEN_BACK, "mail"),
        pytest.param(["-Q", "."], DEFERRED, "dot", marks=SLOW),
        (["-A", "0"], FAILED, "data"),
        (["-W", ".:3"], UNKNOWN, "dot"),
        pytest.param(["-w", "3"], GIVEN_BACK, "mail", marks=SLOW),  # it delays the replies to the whole group
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_smtp_sink(
    store: Store, ada: Actor, receiver: CountingReceiver, options: list[str], expected: str, phase: str
) -> None:
    body = "all is well, and so on\n" * (8_000 if "-A" in options else 1)
    create_mailing(store, ada, ONE_ADDRESS, body=body)

    with smtp_sink(*options) as port:
        short_timeouts = {"smtp__timeout": timedelta(seconds=1), "smtp__dot_timeout": timedelta(seconds=1)}
        stats = send(store, make_settings(port, **short_timeouts if "3" in "".join(options) else {}))

    if expected in (SERVER_AWAY, PAUSED):
        assert stats.stopped.startswith(expected)
        assert attempt_log(store) == []
    else:
        outcomes = {GIVEN_BACK: ["given_back"] * 3 + ["deferred"], HELD: ["given_back"]}.get(expected, [expected])
        assert [(outcome, at) for outcome, at, *_ in attempt_log(store)] == [(outcome, phase) for outcome in outcomes]
        assert (stats.stopped, len(held_mailings(store))) == ("", expected == HELD)
    if expected != UNKNOWN:
        assert_rest_is_sent(store, receiver)


@pytest.mark.skipif(SINK is None, reason="needs smtp-sink (part of Postfix)")
def test_smtp_sink_takes_many_emails(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(200))

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # smtp-sink writes there as user nobody
        with smtp_sink("-D", f"{folder}/sunk") as port:
            stats = send(store, make_settings(port, smtp__connections=8))
        emails = Path(folder, "sunk").read_text()

    assert (stats.sent, state_counts(store)) == (200, {"sent": 200})
    ids = [line for line in emails.splitlines() if line.startswith("Message-ID: ")]
    assert len(ids) == len(set(ids)) == 200


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])

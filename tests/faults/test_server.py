"""Every way a server can fail us (the design's section 5), judged by the ledger after a whole run.

Whatever a fault leaves goes through a healthy server afterwards: nothing is lost, nothing comes twice.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
import trustme
from sqlalchemy import update
from support.sending import (
    addresses,
    attempts,
    bad_clients,
    deliveries,
    disabled,
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
from support.servers import (
    EHLO,
    GREETING,
    GROUP,
    SENT,
    Conversation,
    CountingReceiver,
    ScriptedServer,
    Step,
    deafen,
    dribble,
    hang,
    hear,
    hear_body,
    hear_group,
    obey,
    tls,
)

from skychimp.models import Client, DeliveryState, Every, MailingStatus, Message, Occurrence, OccurrenceState
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.store.database import Store

BOB = ["bob@example.org"]
BRIEFLY = timedelta(milliseconds=500)
RETRY_AFTER = tuple(timedelta(minutes=minutes) for minutes in (5, 15, 45, 120, 240))
LATER = timedelta(hours=6)  # after every wait, before the deadline
OPENED = (GREETING, hear, EHLO)
HEALTHY = (GREETING, obey())
AUTH = b"250-test\r\n250-PIPELINING\r\n250 AUTH PLAIN\r\n"
LOGIN = {"smtp__username": "ada", "smtp__password": "sesame"}
STARTTLS = (GREETING, hear, b"250-test\r\n250 STARTTLS\r\n", hear)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    """A healthy server that knows what arrived."""
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


def the_rest_goes(store: Store, receiver: CountingReceiver, later: timedelta = LATER) -> None:
    """What a fault has left goes through a healthy server: each letter once, and then all is done."""
    left = [row.address for row in deliveries(store) if row.state in (DeliveryState.QUEUED, DeliveryState.DEFERRED)]
    stats = send(store, settings(receiver.port), later=later)
    assert (stats.stopped, stats.sent) == ("", len(left))
    assert Counter(address for address, _ in receiver.arrived().elements()) == Counter(left)
    assert [row.state for row in rows(store, Occurrence)] == [OccurrenceState.FINISHED]


def near(at: datetime | None, since: tuple[datetime, datetime], wait: timedelta) -> bool:
    """Whether `at` is so long after something that happened between these times, within 20 %."""
    return at is not None and since[0] + wait * 0.8 <= at <= since[1] + wait * 1.2


def always(command: str, reply: bytes) -> Callable[[str, str], bytes | None]:
    """Answer a command so, whoever it is about."""
    return lambda heard, _: reply if heard == command else None


# Before MAIL: nothing is spent


def refused_tls(conversation: Conversation) -> None:
    """Take a TLS handshake with a certificate that nobody has reason to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    conversation.start_tls(context)


AWAY: list[tuple[Sequence[Step], dict[str, Any], str]] = [
    ([], {}, "connection closed"),
    ([b"421 4.3.2 too busy\r\n"], {}, "421 4.3.2 too busy"),
    ([b"SSH-2.0-OpenSSH_9.2\r\n", hang], {}, "not a reply"),
    ([b"2200 hi\r\n", hang], {}, "not a reply"),
    ([b"220-endless\r\n" * 1000, hang], {}, "too long"),
    ([hang], {"smtp__timeout": BRIEFLY}, "timed out after 0.5 s"),
    ([dribble(b"220 late ESMTP\r\n", 0.05), hang], {"smtp__timeout": BRIEFLY}, "timed out after 0.5 s"),
    ([GREETING, hear], {}, "connection closed"),
    ([GREETING, hear, b"250-a\r\n251 b\r\n", hang], {}, "two codes"),
    ([GREETING, hear, b"451 4.3.0 later\r\n", hang], {}, "451 4.3.0 later"),
    ([*STARTTLS, b"454 4.7.0 no TLS now\r\n", hang], {"smtp__security": "starttls"}, "454 4.7.0 no TLS now"),
    ([*STARTTLS, b"220 go\r\n250 injected\r\n", hang], {"smtp__security": "starttls"}, "out of turn"),
    ([*STARTTLS, b"220 go\r\n", b"this is no TLS\r\n", hang], {"smtp__security": "starttls"}, "TLS"),
    ([hear], {"smtp__security": "tls"}, "can't be talked to"),
    ([GREETING, hear, AUTH, hear, b"454 4.7.0 the directory is away\r\n"], LOGIN, "454 4.7.0 the directory is away"),
]

REFUSES: list[tuple[Sequence[Step], dict[str, Any], str]] = [
    ([b"554 5.3.2 no service here\r\n"], {}, "554 5.3.2 no service here"),
    ([GREETING, hear, b"502 what?\r\n", hear, b"550 go away\r\n"], {}, "550 go away"),
    ([GREETING, obey()], {"smtp__security": "starttls"}, "offers no STARTTLS"),
    ([*STARTTLS, b"220 go\r\n", refused_tls], {"smtp__security": "starttls"}, "is not trusted"),
    ([refused_tls], {"smtp__security": "tls"}, "is not trusted"),
    ([GREETING, hear, AUTH, hear, b"535 5.7.8 wrong\r\n", hang], LOGIN, "535 5.7.8 wrong"),
    ([GREETING, hear, AUTH, hear, b"534 5.7.9 too weak\r\n", hang], LOGIN, "534 5.7.9 too weak"),
    ([GREETING, obey()], LOGIN, "offers no login"),
    *[
        ([GREETING, obey(always("MAIL", words))], {}, words.decode().strip())
        for words in (b"530 5.7.0 log in\r\n", b"534 5.7.9 too weak\r\n", b"535 5.7.8 wrong\r\n")
    ],
]


@pytest.mark.parametrize(("script", "more", "words"), AWAY, ids=[words for *_, words in AWAY])
def test_a_relay_that_is_away_costs_nothing(
    store: Store, ada: Actor, receiver: CountingReceiver, script: Sequence[Step], more: dict[str, Any], words: str
) -> None:
    mailing(store, ada)

    with ScriptedServer(script) as server:
        stats = send(store, settings(server.port, **more))

    assert stats.stopped.startswith("the relay is away: ")
    assert words in stats.stopped
    assert stats.hint
    assert (log(store), states(store), stats.queued, paused(store)) == ([], {"queued": 2}, 2, {})
    the_rest_goes(store, receiver)


@pytest.mark.parametrize("host", ["127.0.0.1", "relay.invalid"])
def test_a_relay_that_is_not_there_costs_nothing(
    store: Store, ada: Actor, receiver: CountingReceiver, host: str
) -> None:
    mailing(store, ada)

    stats = send(store, settings(free_port(), smtp__host=host))

    assert stats.stopped.startswith("the relay is away: ")
    assert (log(store), states(store), paused(store)) == ([], {"queued": 2}, {})
    the_rest_goes(store, receiver)


@pytest.mark.parametrize(("script", "more", "words"), REFUSES, ids=[words for *_, words in REFUSES])
def test_a_relay_that_wants_a_person_is_paused_and_costs_nothing(
    store: Store, ada: Actor, receiver: CountingReceiver, script: Sequence[Step], more: dict[str, Any], words: str
) -> None:
    mailing(store, ada)

    with ScriptedServer(script) as server:
        stats = send(store, settings(server.port, **more))
        heard = len(server.conversations)
        again = send(store, settings(server.port, **more))

    assert stats.stopped.startswith("the relay is paused: ")
    assert words in stats.stopped
    assert stats.hint
    assert again.stopped == stats.stopped
    assert len(server.conversations) == heard == 1
    assert list(paused(store)) == [f"127.0.0.1:{server.port}"]
    assert (log(store), states(store), again.queued) == ([], {"queued": 2}, 2)
    the_rest_goes(store, receiver)


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("name", ["127.0.0.1", "relay.example.org"])
def test_a_certificate_counts_for_its_name_alone(
    store: Store, ada: Actor, tmp_path: Path, security: str, name: str
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    authority.issue_cert(name).configure_cert(context)
    opened = [*STARTTLS, b"220 go\r\n", tls(context)] if security == "starttls" else [tls(context), GREETING]
    mailing(store, ada)

    with ScriptedServer([*opened, obey()]) as server:
        stats = send(store, settings(server.port, smtp__security=security, smtp__ca_file=str(tmp_path / "ca.pem")))

    if name == "127.0.0.1":
        assert (stats.stopped, states(store)) == ("", {"sent": 2})
    else:
        assert "is not trusted" in stats.stopped
        assert (log(store), states(store)) == ([], {"queued": 2})


def test_a_relay_that_comes_up_late_is_waited_for(store: Store, ada: Actor, tmp_path: Path) -> None:
    mailing(store, ada)
    port = free_port()

    with ExitStack() as stack:
        up = threading.Timer(0.5, lambda: stack.enter_context(CountingReceiver(tmp_path / "arrived", port)))
        up.start()
        stats = send(store, settings(port, run__patience="30s"))
        up.join()

    assert (stats.stopped, states(store)) == ("", {"sent": 2})
    assert [outcome for outcome, *_ in log(store)] == ["sent"] * 2


def test_a_relay_that_goes_away_in_the_middle_is_waited_for(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(5))
    first: list[Step] = [*OPENED, hear_group, GROUP, hear_body, SENT, hear_group, b"421 4.3.2 shutting down\r\n"]

    with ScriptedServer(first, [], [b"421 4.3.2 starting\r\n"], HEALTHY) as server:
        stats = send(store, settings(server.port, run__patience="30s"))

    assert (stats.stopped, states(store)) == ("", {"sent": 5})
    assert Counter(outcome for outcome, *_ in log(store)) == {"sent": 5, "given_back": 1}


def test_the_patience_ends(store: Store, ada: Actor) -> None:
    mailing(store, ada)

    with ScriptedServer([b"421 4.3.2 too busy\r\n"]) as server:
        stats = send(store, settings(server.port, run__patience="1s"))

    assert "421 4.3.2 too busy" in stats.stopped
    assert len(server.conversations) == 2  # at once, and when the patience ended
    assert (log(store), states(store)) == ([], {"queued": 2})


def test_a_paused_relay_is_probed_ever_more_seldom(store: Store, ada: Actor) -> None:
    mailing(store, ada)
    minute, later = timedelta(minutes=1), timedelta()

    with ScriptedServer([GREETING, hear, AUTH, hear, b"535 5.7.8 wrong\r\n", hang]) as server:
        relay = settings(server.port, **LOGIN)
        send(store, relay)
        for probes, minutes in enumerate((15, 30, 60, 120, 240, 240), start=1):
            assert send(store, relay, later=later + (minutes - 1) * minute).stopped.startswith("the relay is paused")
            assert len(server.conversations) == probes
            later += (minutes + 1) * minute
            send(store, relay, later=later)
            assert len(server.conversations) == probes + 1

    assert (log(store), states(store)) == ([], {"queued": 2})


def test_many_connections_that_are_told_the_same_are_one_probe(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(20))

    with ScriptedServer([GREETING, obey(always("MAIL", b"530 5.7.0 log in\r\n"))]) as server:
        relay = settings(server.port, smtp__connections=10)
        send(store, relay)
        before = len(server.conversations)
        send(store, relay, later=timedelta(minutes=16))

    assert len(server.conversations) > before
    assert (log(store), states(store)) == ([], {"queued": 20})


def test_a_mended_password_counts_at_once(store: Store, ada: Actor) -> None:
    mailing(store, ada)

    with ScriptedServer(
        [GREETING, hear, AUTH, hear, b"535 5.7.8 wrong\r\n", hang],
        [GREETING, hear, AUTH, hear, b"235 2.7.0 welcome\r\n", obey()],
    ) as server:
        send(store, settings(server.port, **LOGIN))
        stats = send(store, settings(server.port, **LOGIN | {"smtp__password": "open sesame"}))

    assert (stats.stopped, states(store), paused(store)) == ("", {"sent": 2}, {})


# From MAIL to the dot: the delivery is given back once, and deferred after that

SAID_BEFORE = {"mail": b"", "rcpt": b"250 2.1.0 ok\r\n", "data": b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n"}


def at(phase: str, *steps: Step) -> list[Step]:
    """A conversation that goes well up to a phase, and then as these steps say."""
    if phase == "dot":
        return [*OPENED, hear_group, GROUP, hear_body, *steps]
    return [*OPENED, hear_group, SAID_BEFORE[phase], *steps]


def endless(conversation: Conversation) -> None:
    while True:
        conversation.socket.sendall(b"250-and more\r\n")


BREAKS: list[tuple[Sequence[Step], int | None, str]] = [
    ([], None, "connection closed"),
    ([b"421 4.3.2 shutting down\r\n"], 421, "421 4.3.2 shutting down"),
    ([b"421-4.3.2 shutting\r\n421 4.3.2 down\r\n"], 421, "421-4.3.2 shutting\n421 4.3.2 down"),
    ([b"what?\r\n", hang], None, r"not a reply: b'what?\r'"),
    ([b"2500 ok\r\n", hang], None, r"not a reply: b'2500 ok\r'"),
    ([b"250-ok\r\n251 ok\r\n", hang], None, "a reply with two codes: 250 and 251"),
    ([endless], None, "a reply is too long"),
    ([b"250 " + b"long" * 2000, hang], None, "a line of a reply is too long"),
    ([hang], None, "timed out after 0.5 s"),
    ([dribble(b"250 2.0.0 so slow\r\n", 0.05), hang], None, "timed out after 0.5 s"),
]


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
@pytest.mark.parametrize(("steps", "code", "words"), BREAKS, ids=[words for *_, words in BREAKS])
def test_a_conversation_that_breaks_before_the_dot(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, steps: list[Step], code: int | None, words: str
) -> None:
    mailing(store, ada, BOB)

    with ScriptedServer(at(phase, *steps)) as server:
        timeout = {"smtp__timeout": BRIEFLY, "run__patience": "1m"} if "timed out" in words else {}
        stats = send(store, settings(server.port, **timeout))

    assert log(store) == [("given_back", phase, code, words), ("deferred", phase, code, words)]
    assert (stats.deferred, stats.given_back, stats.queued, stats.stopped) == (1, 1, 0, "")
    assert [(row.attempts, row.given_back) for row in deliveries(store)] == [(2, 1)]
    last = attempts(store)[-1]
    assert near(deliveries(store)[0].next_try_at, (last.started_at, last.finished_at), RETRY_AFTER[0])
    assert len(server.conversations) >= 2
    assert server.letters == []
    the_rest_goes(store, receiver)


@pytest.mark.parametrize(
    ("said", "outcome", "code", "words"),
    [
        (b"550 5.7.1 I have read enough\r\n", "failed", 550, "550 5.7.1 I have read enough"),
        (b"421 4.3.2 shutting down\r\n", "deferred", 421, "421 4.3.2 shutting down"),
        (b"452 4.3.1 disk full\r\n", "deferred", 452, "452 4.3.1 disk full"),
        (
            b"250 2.0.0 thanks already\r\n",
            "deferred",
            None,
            "the server speaks out of turn: '250 2.0.0 thanks already'",
        ),
        (b"...\r\n", "deferred", None, r"not a reply: b'...\r'"),
    ],
)
@pytest.mark.parametrize("size", [100, 2_000_000])
def test_a_word_during_the_body(
    store: Store,
    ada: Actor,
    receiver: CountingReceiver,
    size: int,
    said: bytes,
    outcome: str,
    code: int | None,
    words: str,
) -> None:
    body = "all is well, and so on\n" * 40_000 if size > 100 else "all is well\n"
    mailing(store, ada, BOB, body=body)

    with ScriptedServer([*OPENED, hear_group, GROUP + said, deafen if outcome == "failed" else hang]) as server:
        send(store, settings(server.port))

    expected = [(outcome, "data", code, words)]
    if outcome == "deferred" and code != 452:
        expected.insert(0, ("given_back", "data", code, words))
    assert log(store) == expected
    assert server.letters == []
    the_rest_goes(store, receiver)


@pytest.mark.parametrize("phase", ["mail", "rcpt", "data"])
def test_421_without_pipelining(store: Store, ada: Actor, receiver: CountingReceiver, phase: str) -> None:
    mailing(store, ada, BOB)

    with ScriptedServer([GREETING, hear, b"250 test\r\n", obey(always(phase.upper(), b"421 4.7.0 bye\r\n"))]) as server:
        send(store, settings(server.port))

    words = "421 4.7.0 bye"
    assert log(store) == [("given_back", phase, 421, words), ("deferred", phase, 421, words)]
    the_rest_goes(store, receiver)


# Replies that decide

DECIDES: list[tuple[str, bytes, str]] = [
    ("mail", b"450 4.7.1 not now\r\n", "deferred"),
    ("mail", b"550 5.7.1 not you\r\n", "failed"),
    ("mail", b"550 5.1.1 not you\r\n", "failed"),
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


@pytest.mark.parametrize(("phase", "said", "outcome"), DECIDES)
def test_a_reply_that_decides(
    store: Store, ada: Actor, receiver: CountingReceiver, phase: str, said: bytes, outcome: str
) -> None:
    mailing(store, ada)
    command = "." if phase == "dot" else phase.upper()

    def answer(heard: str, address: str) -> bytes | None:
        return said if heard == command and address in (*BOB, "ada@skychimp.test") else None

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port))

    words = said.decode("utf-8", "backslashreplace").strip("\r\n").replace("\r\n", "\n").replace("\0", r"\x00")
    tried = attempts(store)[0]
    assert tried.outcome == outcome.replace("bad", "failed")
    assert (tried.phase, tried.code, tried.reply) == (phase, int(said[:3]), words)
    assert bad_clients(store) == ({"bob@example.org": words} if outcome == "bad" else {})
    assert (stats.stopped, stats.given_back) == ("", 0)
    first = deliveries(store)[0]
    if outcome == "deferred":
        assert near(first.next_try_at, (tried.started_at, tried.finished_at), RETRY_AFTER[0])
    else:
        assert first.next_try_at is None
    if phase != "mail":  # that is about the sender, and both letters have the same
        assert sent_to(store) >= {"eve@example.org"}
        assert len(server.conversations) == (2 if b"421" in said else 1)
    the_rest_goes(store, receiver)


def test_a_reply_that_dribbles_but_ends_in_time(store: Store, ada: Actor) -> None:
    mailing(store, ada, BOB)

    with ScriptedServer(at("dot", dribble(b"250-2.0.0 taken\r\n250 2.0.0 at last\r\n", 0.005), obey())) as server:
        send(store, settings(server.port))

    assert log(store) == [("sent", "dot", 250, "250-2.0.0 taken\n250 2.0.0 at last")]


def test_the_waits_grow_and_differ_until_the_deadline(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    mailing(store, ada, addresses(30))
    later, waits = timedelta(), (*RETRY_AFTER, RETRY_AFTER[-1])

    with ScriptedServer([GREETING, obey(always("RCPT", b"450 4.2.0 later\r\n"))]) as server:
        relay = settings(server.port, delivery__give_up_after="24h")
        for number, wait in enumerate(waits, start=1):
            assert send(store, relay, later=later).deferred == 30
            last = attempts(store)[-30:]
            assert {tried.number for tried in last} == {number}
            since = (min(tried.started_at for tried in last), max(tried.finished_at for tried in last))
            nexts = sorted(row.next_try_at for row in deliveries(store) if row.next_try_at)
            assert len(nexts) == 30
            assert all(near(next_try_at, since, wait) for next_try_at in nexts)
            assert nexts[-1] - nexts[0] > wait * 0.1  # it is at random, so that they don't come back all at once
            send(store, relay, later=later + wait * 0.75)
            assert len(attempts(store)) == 30 * number
            later += wait * 1.25
        before = len(server.conversations)
        stats = send(store, relay, later=timedelta(hours=24))

    assert (stats.deferred, states(store)) == (0, {"expired": 30})
    assert len(attempts(store)) == 30 * len(waits)
    assert len(server.conversations) == before
    assert {row.state for row in rows(store, Occurrence)} == {OccurrenceState.FINISHED}


def test_later_openings_leave_a_bad_address_out_until_a_person_takes_it_back(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, ["bob@example.org", "eve@example.org", "zoe@example.org"], every=Every.DAY)
    refusals = {"bob@example.org": b"550 5.1.1 nobody here\r\n", "eve@example.org": b"550 5.7.1 not from you\r\n"}

    with ScriptedServer([GREETING, obey(lambda heard, to: refusals.get(to) if heard == "RCPT" else None)]) as server:
        send(store, settings(server.port))
    send(store, settings(receiver.port), later=timedelta(days=1))
    clients.change(store, ada, "bob@example.org", clear_bad=True)
    send(store, settings(receiver.port), later=timedelta(days=2))

    came = Counter(address for address, _ in receiver.arrived().elements())
    assert came == {"bob@example.org": 1, "eve@example.org": 2, "zoe@example.org": 2}
    assert states(store) == {"failed": 2, "sent": 6}


# After the dot: nobody knows

LOST: list[tuple[Sequence[Step], str]] = [
    ([], "connection closed"),
    ([hang], "timed out after 0.5 s"),
    ([dribble(b"250 2.0.0 so slow\r\n", 0.05), hang], "timed out after 0.5 s"),
    ([b"what?\r\n", hang], r"not a reply: b'what?\r'"),
    ([b"2500 ok\r\n", hang], r"not a reply: b'2500 ok\r'"),
    ([b"250-ok\r\n", hang], "timed out after 0.5 s"),
    ([b"250-ok\r\n550 no\r\n", hang], "a reply with two codes: 250 and 550"),
    ([endless], "a reply is too long"),
    ([b"354 go ahead\r\n", hang], "not a reply to the dot: '354 go ahead'"),
]
HOLD = {"delivery__unknown": "hold"}


@pytest.mark.parametrize(
    ("steps", "words", "more"),
    [*((steps, words, {}) for steps, words in LOST), *((steps, words, HOLD) for steps, words in LOST[:2])],
    ids=[*(words for _, words in LOST), *(f"hold: {words}" for _, words in LOST[:2])],
)
def test_no_word_after_the_dot(store: Store, ada: Actor, steps: list[Step], words: str, more: dict[str, Any]) -> None:
    mailing_id = mailing(store, ada, BOB)

    with ScriptedServer(at("dot", *steps), HEALTHY) as server:
        timeout = {"smtp__dot_timeout": BRIEFLY} if "timed out" in words else {}
        stats = send(store, settings(server.port, **timeout, **more))
        at_once = send(store, settings(server.port, **more), later=timedelta(minutes=14))
        waits_for = deliveries(store)[0].next_try_at
        send(store, settings(server.port, **more), later=timedelta(minutes=16))

    assert (stats.unknown, at_once.sent, stats.stopped) == (1, 0, "")
    (first, *further) = log(store)
    assert first == ("unknown", "dot", None, words)
    tried = attempts(store)[0]
    if more == HOLD:
        assert (waits_for, further, states(store), len(server.letters)) == (None, [], {"unknown": 1}, 1)
    else:
        assert waits_for is not None
        wait = timedelta(minutes=15)
        assert tried.started_at + wait <= waits_for <= tried.finished_at + wait
        assert [outcome for outcome, *_ in further] == ["sent"]
        assert states(store) == {"sent": 1}
        letter, copy = server.letters
        assert copy == letter
        assert message_from_bytes(letter)["Message-ID"]
        assert message_from_bytes(letter)["Date"]
    assert status(store, mailing_id) == MailingStatus.COMPLETED


def test_the_copy_is_the_same_whatever_has_changed_meanwhile(store: Store, ada: Actor) -> None:
    mailing(store, ada, BOB)

    with ScriptedServer(at("dot"), HEALTHY) as server:
        send(store, settings(server.port))
        clients.change(store, ada, "bob@example.org", name="Robert", comment="changed")
        with store.write() as db:
            db.execute(update(Message.__table__).values(subject="Changed", body="changed"))
        others = {"mail__sender": "Eve <eve@skychimp.test>", "mail__return_path": "bounces@skychimp.test"}
        send(store, settings(server.port, **others), later=timedelta(hours=1))

    letter, copy = server.letters
    assert copy == letter
    envelopes = [line for line in server.heard.split(b"\r\n") if line.startswith((b"MAIL", b"RCPT"))]
    assert envelopes[:2] == envelopes[2:]


def test_an_unknown_one_stays_unknown_past_its_deadline(store: Store, ada: Actor) -> None:
    mailing_id = mailing(store, ada, BOB)

    with ScriptedServer(at("dot"), HEALTHY) as server:
        relay = settings(server.port, delivery__give_up_after="10m")
        send(store, relay)
        send(store, relay, later=timedelta(minutes=20))

    assert [(row.state, row.next_try_at) for row in deliveries(store)] == [("unknown", None)]
    assert len(server.conversations) == 1
    assert status(store, mailing_id) == MailingStatus.COMPLETED


@pytest.mark.parametrize(
    ("word", "late_outcome", "state"),
    [(SENT, "sent", "sent"), (b"554 5.7.1 no\r\n", "failed", "unknown"), (b"451 4.3.0 no\r\n", "deferred", "unknown")],
)
def test_a_late_outcome(store: Store, ada: Actor, word: bytes, late_outcome: str, state: str) -> None:
    """A run that was taken for dead goes on: what it hears is logged, and a yes counts."""
    mailing(store, ada, BOB)
    rescued = threading.Event()

    with ScriptedServer(at("dot", lambda _: rescued.wait(), word, obey())) as server:
        running = start(store, server.port)
        wait_until(lambda: bool(server.letters), running)
        take_for_dead(store)
        send(store, settings(server.port))
        assert states(store) == {"unknown": 1}
        rescued.set()
        finish(running)

    assert [outcome for outcome, *_ in log(store)] == ["unknown", late_outcome]
    assert [tried.number for tried in attempts(store)] == [1, 2]
    assert states(store) == {state: 1}
    assert (deliveries(store)[0].next_try_at is None) == (state == "sent")


def test_a_late_outcome_while_another_run_sends_it_again(store: Store, ada: Actor) -> None:
    mailing(store, ada, BOB)
    sent_again, first_may_go_on, second_may_go_on = threading.Event(), threading.Event(), threading.Event()

    def hold(_: Conversation) -> None:
        sent_again.set()
        second_may_go_on.wait()

    with ScriptedServer(
        at("dot", lambda _: first_may_go_on.wait(), SENT, obey()), at("dot", hold, SENT, obey())
    ) as server:
        first = start(store, server.port)
        wait_until(lambda: bool(server.letters), first)
        take_for_dead(store)
        second = start(store, server.port, delivery__unknown_after="0s")
        wait_until(sent_again.is_set, second)
        first_may_go_on.set()
        first_status, *_ = finish(first)
        second_may_go_on.set()
        second_status, *_ = finish(second)

    assert (first_status, second_status) == (75, 0)  # when the first ended, it was still under way
    assert [outcome for outcome, *_ in log(store)] == ["unknown", "sent", "sent"]
    assert [tried.number for tried in attempts(store)] == [1, 2, 3]
    assert states(store) == {"sent": 1}
    assert len(set(server.letters)) == 1


def take_for_dead(store: Store) -> None:
    """What a lost lease looks like: the running one's lock is gone."""
    for path in store.path.parent.glob(f"{store.path.name}.run-*"):
        path.unlink()


# One bad client, message or mailing never delays the others


def test_a_server_that_is_moody_about_some_clients_gets_the_others(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, addresses(60))
    moods = {
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

    with ScriptedServer([GREETING, obey(lambda heard, address: moods.get((heard, address)))]) as server:
        stats = send(store, settings(server.port, smtp__connections=4))

    by_state: dict[str, set[int]] = {}
    for row in deliveries(store):
        by_state.setdefault(row.state, set()).add(int(row.address.partition("@")[0].removeprefix("client")))
    assert by_state.pop("sent") == set(range(60)) - {3, 9, 17, 23, 29, 31, 37, 41, 43, 47}
    assert by_state == {"failed": {3, 31, 43}, "deferred": {9, 17, 23, 29, 47}, "unknown": {37, 41}}
    assert (stats.stopped, stats.given_back) == ("", 3)
    send(store, settings(receiver.port), later=LATER)
    assert Counter(address for address, _ in receiver.arrived().elements()) == Counter(
        f"client{number}@example.org" for number in (9, 17, 23, 29, 37, 41, 47)
    )


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("subject", {"subject": "{{ client.nope }}"}),
        ("body", {"body": "{% if %}"}),
        ("body", {"body": "{% for tag in client.tags %}"}),
        ("body", {"body": "{{ client.name | first"}),
        ("body", {"format": "markdown", "body": "{{"}),
        ("HTML", {"html": "{{ client.__class__ }}"}),
    ],
)
def test_a_broken_message_fails_with_its_reason_and_the_others_go(
    store: Store, ada: Actor, receiver: CountingReceiver, field: str, values: dict[str, str]
) -> None:
    broken = mailing(store, ada, ["bob@example.org", "eve@example.org"], subject="Broken")
    mailing(store, ada, ["bob@example.org", "eve@example.org"], subject="Fine")
    with store.write() as db:
        db.execute(update(Message.__table__).where(Message.__table__.c.subject == "Broken").values(values))

    stats = send(store, settings(receiver.port))

    assert (stats.failed, stats.sent, stats.stopped) == (2, 2, "")
    reasons = {reply for outcome, _, _, reply in log(store) if outcome == "failed"}
    assert all(field in reason for reason in reasons)
    assert status(store, broken) == MailingStatus.COMPLETED
    assert bad_clients(store) == {}


def test_a_message_that_one_client_breaks_fails_for_that_client(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    mailing(store, ada, addresses(5))
    with store.write() as db:
        db.execute(update(Message.__table__).values(body="{{ client.name | first }}"))
        db.execute(update(Client.__table__).where(Client.__table__.c.email == "client2@example.org").values(name=""))

    stats = send(store, settings(receiver.port))

    assert (stats.failed, stats.sent) == (1, 4)
    assert sent_to(store) == set(addresses(5)) - {"client2@example.org"}
    assert "body" in next(reply for outcome, *_, reply in log(store) if outcome == "failed")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "b ob@example.org",
        "bob@example.org>\r\nRCPT TO:<eve@example.org",
        "bob@example.org\r\nDATA",
        "bob@example.org\x00",
        "bob@" + "b\u00fc" * 200 + ".org",
        "<bob@example.org>",
        "bob@example.org, eve@example.org",
    ],
)
def test_an_address_that_cant_be_written_fails_and_the_others_go(store: Store, ada: Actor, address: str) -> None:
    mailing(store, ada, addresses(5))
    with store.write() as db:
        db.execute(
            update(Client.__table__).where(Client.__table__.c.email == "client2@example.org").values(email=address)
        )

    with ScriptedServer(HEALTHY) as server:
        stats = send(store, settings(server.port))

    assert (stats.failed, stats.sent, stats.stopped) == (1, 4, "")
    assert sent_to(store) == set(addresses(5)) - {"client2@example.org"}
    recipients = [line for line in server.heard.split(b"\r\n") if line.startswith(b"RCPT")]
    assert recipients == [f"RCPT TO:<client{n}@example.org>".encode() for n in (0, 1, 3, 4)]


def test_a_slow_mailing_leaves_the_connections_to_the_others(store: Store, ada: Actor, bob: Actor) -> None:
    mailing(store, ada, [f"slow{number}@example.org" for number in range(50)])
    mailing(store, bob, addresses(50))
    others, all_others = iter(range(49, -1, -1)), threading.Event()

    def answer(heard: str, address: str) -> bytes | None:
        if heard == "." and address.startswith("slow"):
            all_others.wait(60)
        elif heard == "." and next(others) == 0:
            all_others.set()
        return None

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port, smtp__connections=4, smtp__dot_timeout="10s"))

    assert all_others.is_set()
    assert (stats.sent, states(store)) == (100, {"sent": 100})


class Mood:
    """A server that does anything, at random; it knows which letters it has taken, answered or not."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self.taken: Counter[str] = Counter()

    def greet(self, conversation: Conversation) -> None:
        greeting = self._one_of([GREETING] * 8 + [b"421 4.7.0 too many connections\r\n", b""])
        conversation.socket.sendall(greeting or b"")
        if greeting != GREETING:
            conversation.socket.shutdown(socket.SHUT_RDWR)

    def __call__(self, heard: str, address: str) -> bytes | None:
        later, ends = [b"450 4.2.0 later\r\n"], [b"421 4.3.2 bye\r\n", b"", b"2500 what?\r\n"]
        if heard in ("MAIL", "RCPT", "DATA"):
            return self._one_of([None] * 60 + later + ends + ([b"550 5.7.1 no\r\n"] if heard == "RCPT" else []))
        if heard != ".":
            return None
        reply = self._one_of([None] * 20 + [b"451 4.3.0 later\r\n", b"554 5.7.1 no\r\n", b"", b"what?\r\n"])
        with self._lock:
            self.taken[address] += reply in (None, b"", b"what?\r\n")
        return reply

    def _one_of(self, replies: Sequence[bytes | None]) -> bytes | None:
        with self._lock:
            return self._chance.choice(replies)


def whatever_a_server_does_the_ledger_is_true(store: Store, ada: Actor, seed: int) -> None:
    """Runs over a server that does anything, until nothing is left; what the server has is what the ledger says."""
    for number in range(5):
        mailing(store, ada, [f"{name}@{number}.example.org" for name in range(25)])
    mood = Mood(seed)

    with ScriptedServer([mood.greet, obey(mood)]) as server:
        relay = settings(server.port, smtp__connections=6, delivery__give_up_after="30d")
        for day in range(30):
            stats = send(store, relay, later=timedelta(days=day))
            assert stats.stopped or not stats.queued  # whoever is not stopped leaves nothing that was due
            if set(states(store)) <= {"sent", "failed"}:
                break

    tried: dict[int, list[str]] = {}
    for attempt in attempts(store):
        tried.setdefault(attempt.delivery_id, []).append(attempt.outcome)
        assert attempt.number == len(tried[attempt.delivery_id])
    for row in deliveries(store):
        outcomes = tried[row.id or 0]
        assert (row.state, row.attempts) == (outcomes[-1], len(outcomes))
        assert outcomes.count("given_back") == row.given_back <= 1
        assert mood.taken[row.address] >= (row.state == "sent")
        assert mood.taken[row.address] == outcomes.count("unknown") + (row.state == "sent")
    assert {row.state for row in rows(store, Occurrence)} == {OccurrenceState.FINISHED}


@pytest.mark.parametrize("seed", range(2))
def test_whatever_a_server_does_the_ledger_is_true(store: Store, ada: Actor, seed: int) -> None:
    whatever_a_server_does_the_ledger_is_true(store, ada, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 202))
def test_whatever_a_server_does_the_ledger_is_true_many_times(store: Store, ada: Actor, seed: int) -> None:
    whatever_a_server_does_the_ledger_is_true(store, ada, seed)


# Failures that disable a mailing


def test_a_sender_that_is_refused_three_times_in_a_row_disables_its_mailing(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    refused = mailing(store, ada, addresses(10), subject="Refused")
    send(store, settings(free_port(), mail__return_path="bad@skychimp.test"))  # it opens, and keeps its sender
    mailing(store, ada, addresses(10), subject="Fine")

    def answer(heard: str, address: str) -> bytes | None:
        return b"553 5.7.1 not your address\r\n" if heard == "MAIL" and address == "bad@skychimp.test" else None

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port))

    assert (stats.failed, stats.sent, stats.queued) == (3, 10, 7)
    assert list(disabled(store)) == [refused]
    assert "553 5.7.1 not your address" in str(disabled(store)[refused])
    assert bad_clients(store) == {}
    send(store, settings(receiver.port))
    assert len(receiver.arrived()) == 0
    mailings.enable(store, ada, refused)
    send(store, settings(receiver.port))
    assert len(receiver.arrived()) == 7


def test_two_refusals_of_the_sender_are_not_three(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(9))
    refusals = iter([b"550 5.7.1 no\r\n", b"550 5.7.1 no\r\n", None] * 9)

    with ScriptedServer([GREETING, obey(lambda heard, _: next(refusals) if heard == "MAIL" else None)]) as server:
        stats = send(store, settings(server.port))

    assert (stats.failed, stats.sent) == (6, 3)
    assert disabled(store) == {}


def test_too_many_failures_disable_their_mailing_alone(store: Store, ada: Actor) -> None:
    failing = mailing(store, ada, [f"bad{number}@example.org" for number in range(10)])
    mailing(store, ada, addresses(10))

    def answer(heard: str, address: str) -> bytes | None:
        return b"550 5.7.1 no\r\n" if heard == "RCPT" and address.startswith("bad") else None

    with ScriptedServer([GREETING, obey(answer)]) as server:
        stats = send(store, settings(server.port, delivery__disable_failures=4))

    assert (stats.failed, stats.sent, stats.queued) == (4, 10, 6)
    assert disabled(store) == {failing: "4 of 4 letters failed"}


def test_failures_that_are_many_but_a_small_part_disable_nothing(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(30))
    third = iter(range(100))

    with ScriptedServer(
        [GREETING, obey(lambda heard, _: b"550 5.7.1 no\r\n" if heard == "RCPT" and next(third) % 3 == 2 else None)]
    ) as server:
        stats = send(store, settings(server.port, delivery__disable_failures=4))

    assert (stats.failed, stats.sent, disabled(store)) == (10, 20, {})


# Debian's own

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


GIVEN_BACK = "given back once, then deferred"
DEFER = "deferred"
FAIL = "failed"
UNKNOWN = "unknown"
NOTHING = "the relay is away"
PAUSE = "the relay is paused"


@pytest.mark.skipif(SINK is None, reason="smtp-sink (it comes with Postfix) is not installed")
@pytest.mark.parametrize(
    ("options", "expected", "phase"),
    [
        (["-f", "CONNECT"], PAUSE, ""),
        (["-f", "MAIL"], FAIL, "mail"),
        (["-f", "RCPT"], FAIL, "rcpt"),
        (["-f", "DATA"], FAIL, "data"),
        (["-f", "."], FAIL, "dot"),
        (["-r", "CONNECT"], NOTHING, ""),
        (["-r", "MAIL"], DEFER, "mail"),
        (["-r", "RCPT"], DEFER, "rcpt"),
        (["-r", "DATA"], DEFER, "data"),
        (["-r", "."], DEFER, "dot"),
        (["-q", "CONNECT"], NOTHING, ""),
        (["-q", "EHLO"], NOTHING, ""),
        (["-q", "MAIL"], GIVEN_BACK, "mail"),
        (["-q", "RCPT"], GIVEN_BACK, "rcpt"),
        (["-q", "DATA"], GIVEN_BACK, "data"),
        (["-q", "."], UNKNOWN, "dot"),
        (["-Q", "CONNECT"], NOTHING, ""),
        (["-Q", "MAIL"], GIVEN_BACK, "mail"),
        (["-Q", "."], DEFER, "dot"),
        (["-A", "0"], FAIL, "data"),
        (["-W", ".:3"], UNKNOWN, "dot"),
        (["-w", "3"], GIVEN_BACK, "mail"),  # it keeps its replies to the whole group
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_smtp_sink(
    store: Store, ada: Actor, receiver: CountingReceiver, options: list[str], expected: str, phase: str
) -> None:
    body = "all is well, and so on\n" * (10_000 if "-A" in options else 1)
    mailing(store, ada, BOB, body=body)

    with smtp_sink(*options) as port:
        brief = {"smtp__timeout": timedelta(seconds=1), "smtp__dot_timeout": timedelta(seconds=1)}
        stats = send(store, settings(port, **brief if "3" in "".join(options) else {}))

    if expected in (NOTHING, PAUSE):
        assert stats.stopped.startswith(expected)
        assert log(store) == []
    else:
        outcomes = ["given_back", "deferred"] if expected == GIVEN_BACK else [expected]
        assert [(outcome, at) for outcome, at, *_ in log(store)] == [(outcome, phase) for outcome in outcomes]
        assert stats.stopped == ""
    if expected != UNKNOWN:
        the_rest_goes(store, receiver)


@pytest.mark.skipif(SINK is None, reason="smtp-sink (it comes with Postfix) is not installed")
def test_many_letters_through_smtp_sink(store: Store, ada: Actor) -> None:
    mailing(store, ada, addresses(500))

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)  # it is nobody's
        with smtp_sink("-D", f"{folder}/sunk") as port:
            stats = send(store, settings(port, smtp__connections=8))
        letters = Path(folder, "sunk").read_text()

    assert (stats.sent, states(store)) == (500, {"sent": 500})
    ids = [line for line in letters.splitlines() if line.startswith("Message-ID: ")]
    assert len(ids) == len(set(ids)) == 500


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])

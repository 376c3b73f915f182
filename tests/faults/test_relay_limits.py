"""Run the installed command against a mail server with limits and quotas: they must not fail any client."""

import itertools
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence

import pytest
from support.command import CommandResult, Home
from support.sending import (
    attempts,
    create_mailing,
    make_addresses,
    paused_relays,
    state_counts,
)
from support.servers import EHLO, Limit, LimitingRelay, Request

from skychimp.models import Every, Outcome
from skychimp.permissions import Actor
from skychimp.store.database import Store

SENDER, WRONG_SENDER = "Ada <ada@skychimp.test>", "Ada <wrong@skychimp.test>"
MAIL_LEFT = 75
QUOTA = b"550 5.4.5 Daily user sending limit exceeded\r\n"
NOT_OWNED = b"553 5.7.1 Sender address rejected: not owned by user\r\n"

SLOW = pytest.mark.slow
needs_faketime = pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
own_clock = pytest.mark.sqlite  # PostgreSQL takes the time from its server, whose clock is not moved here


def using(home: Home, relay: LimitingRelay, connections: int = 10, sender: str = SENDER) -> Home:
    """Return a home whose commands send over this server."""
    settings = {
        "SKYCHIMP_MAIL__SENDER": sender,
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(relay.port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "SKYCHIMP_SMTP__CONNECTIONS": str(connections),
    }
    return Home(home.folder, **home.environ | settings)


def run(home: Home, *arguments: str, day: int = 0) -> CommandResult:
    """Execute `run`, on a later day if one is given."""
    within = ("faketime", "-f", f"+{day}d") if day else ()
    return home.run("run", "--json", *arguments, within=within)


def refuse_after(number: int, command: str, reply: bytes) -> Callable[[LimitingRelay], Limit]:
    """Refuse each command of this kind once the server has accepted so many emails."""

    def limit_of(relay: LimitingRelay) -> Limit:
        return lambda request: reply if request.command == command and len(relay.accepted) >= number else None

    return limit_of


def refuse_sender(command: str, reply: bytes) -> Limit:
    """Refuse each command of this kind in an email from the wrong sender."""
    return lambda request: reply if request.command == command and request.sender.startswith("wrong@") else None


def counts(result: CommandResult) -> tuple[int, int, int]:
    """Return how many emails a run sent, and how many failed and wait for a later try."""
    return result.json["sent"], result.json["failed"], result.json["deferred"]


def assert_all_reached(store: Store, relay: LimitingRelay, addresses: Sequence[str]) -> None:
    """Check that each client got one email, and that no try was counted as a failure or a deferral."""
    assert relay.recipients == dict.fromkeys(addresses, 1)
    assert state_counts(store) == {"sent": len(addresses)}
    assert {attempt.outcome for attempt in attempts(store)} <= {Outcome.SENT, Outcome.GIVEN_BACK}


# The quota of the account


@needs_faketime
@own_clock
@pytest.mark.parametrize("command", [*(pytest.param(each, marks=SLOW) for each in ("MAIL", "RCPT", ".")), "DATA"])
def test_quota_pauses_the_relay_once_and_everybody_is_reached_later(
    store: Store, ada: Actor, home: Home, command: str
) -> None:
    addresses = make_addresses(40)
    create_mailing(store, ada, addresses)
    with LimitingRelay() as relay:
        relay.limit = refuse_after(20, command, QUOTA)(relay)
        home = using(home, relay, connections=1)
        first = run(home)
        assert (first.status, counts(first)) == (MAIL_LEFT, (20, 0, 0))
        assert first.err.count("Daily user sending limit exceeded") == 1
        assert list(paused_relays(store).values()) == [QUOTA.decode().strip()]
        again = run(home)
        assert (again.status, counts(again), relay.refusals) == (MAIL_LEFT, (0, 0, 0), 1)
        relay.limit = lambda request: None
        next_day = run(home, day=1)
    assert (next_day.status, counts(next_day)) == (0, (20, 0, 0))
    assert_all_reached(store, relay, addresses)
    assert paused_relays(store) == {}


# A refused sender


@pytest.mark.parametrize(
    ("command", "is_enabled"),
    [
        ("MAIL", False),
        *(
            pytest.param(*case, marks=SLOW)
            for case in [("MAIL", True), *itertools.product(("RCPT", "."), (True, False))]
        ),
    ],
)
def test_refused_sender_holds_the_mailing_until_it_is_fixed(
    store: Store, ada: Actor, home: Home, command: str, is_enabled: bool
) -> None:
    addresses = make_addresses(20)
    mailing_id = create_mailing(store, ada, addresses)
    with LimitingRelay(refuse_sender(command, NOT_OWNED)) as relay:
        wrong = using(home, relay, sender=WRONG_SENDER)
        first = run(wrong)
        assert (first.status, counts(first)) == (MAIL_LEFT, (0, 0, 0))
        assert first.err.count("mailing held") == 1
        assert first.err.count("not owned by user") == 1
        shown = wrong.call("mailings", "show", str(mailing_id), "--json").json
        assert (shown["held"], shown["disabled"]) == (NOT_OWNED.decode().strip(), False)
        refused = relay.refusals
        assert run(wrong).json["sent"] == 0
        assert relay.refusals == refused
        right = using(home, relay)
        if is_enabled:
            assert right.call("mailings", "enable", str(mailing_id)).status == 0
        fixed = run(right)
        assert right.call("mailings", "show", str(mailing_id), "--json").json["held"] is None
    assert (fixed.status, counts(fixed)) == (0, (20, 0, 0))
    assert {sender for sender, _ in relay.accepted} == {"ada@skychimp.test"}
    assert_all_reached(store, relay, addresses)


# Limits that slow down


def per_connection(number: int, reply: bytes) -> Limit:
    """Take so many emails over each connection."""
    return lambda request: reply if request.command == "MAIL" and request.emails >= number else None


@pytest.mark.parametrize(
    "reply",
    [
        b"452 4.4.5 Maximum number of messages per session exceeded\r\n",
        pytest.param(b"421 4.7.0 Too many messages in this connection\r\n", marks=SLOW),
        b"421 4.7.0 closing, try again\r\n",
    ],
)
def test_number_of_emails_per_connection_is_learned(store: Store, ada: Actor, home: Home, reply: bytes) -> None:
    addresses = make_addresses(200)
    create_mailing(store, ada, addresses)
    with LimitingRelay(per_connection(20, reply)) as relay:
        done = run(using(home, relay))
    assert (done.status, counts(done)) == (0, (200, 0, 0))
    assert relay.refusals <= 15
    assert_all_reached(store, relay, addresses)


def test_number_of_emails_that_the_server_announces_is_kept(store: Store, ada: Actor, home: Home) -> None:
    addresses = make_addresses(100)
    create_mailing(store, ada, addresses)
    ehlo = EHLO.replace(b"250-8BITMIME", b"250-LIMITS MAILMAX=20 RCPTMAX=1\r\n250-8BITMIME")
    with LimitingRelay(per_connection(20, b"421 4.7.0 too many\r\n"), ehlo) as relay:
        done = run(using(home, relay))
    assert (done.status, counts(done), relay.refusals) == (0, (100, 0, 0), 0)
    assert_all_reached(store, relay, addresses)


@pytest.mark.parametrize(
    ("command", "reply"),
    [
        ("CONNECT", b"421 4.7.0 too many concurrent connections\r\n"),
        pytest.param("MAIL", b"421 4.7.0 too many concurrent connections\r\n", marks=SLOW),
        ("MAIL", b"451 4.7.0 Too many concurrent SMTP connections; please try again later\r\n"),
        pytest.param("MAIL", b"421 4.3.2 try again later\r\n", marks=SLOW),
        (".", b"432 4.3.2 Concurrent connections limit exceeded\r\n"),
    ],
)
def test_number_of_connections_is_lowered(store: Store, ada: Actor, home: Home, command: str, reply: bytes) -> None:
    addresses = make_addresses(200)
    create_mailing(store, ada, addresses)

    def limit(request: Request) -> bytes | None:
        return reply if request.command == command and request.connections > 3 else None

    with LimitingRelay(limit) as relay:
        done = run(using(home, relay))
    assert (done.status, counts(done)) == (0, (200, 0, 0))
    assert_all_reached(store, relay, addresses)


@pytest.mark.parametrize("connections", [pytest.param(1, marks=SLOW), 10])
def test_rate_is_lowered(store: Store, ada: Actor, home: Home, connections: int) -> None:
    addresses = make_addresses(100)
    create_mailing(store, ada, addresses)
    started: deque[float] = deque()

    def limit(request: Request) -> bytes | None:
        if request.command != "MAIL":
            return None
        now = time.monotonic()
        while started and started[0] < now - 1:
            started.popleft()
        if len(started) >= 50:
            return b"454 4.7.0 Throttling failure: Maximum sending rate exceeded.\r\n"
        started.append(now)
        return None

    with LimitingRelay(limit) as relay:
        done = run(using(home, relay, connections=connections))
    assert (done.status, counts(done)) == (0, (100, 0, 0))
    assert relay.refusals <= 30
    assert_all_reached(store, relay, addresses)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"421 4.7.0 too many concurrent connections\r\n", marks=SLOW),
        b"452 4.4.5 Maximum number of messages per session exceeded\r\n",
        pytest.param(b"454 4.7.0 Throttling failure: Maximum sending rate exceeded.\r\n", marks=SLOW),
    ],
)
def test_relay_that_takes_nothing_is_not_asked_again_at_once(
    store: Store, ada: Actor, home: Home, reply: bytes
) -> None:
    """Others may use up its limit. The run waits for `run.patience`, and the rest stays queued."""
    addresses = make_addresses(10)
    create_mailing(store, ada, addresses)
    with LimitingRelay(lambda request: reply if request.command == "MAIL" else None) as relay:
        settings = using(home, relay, connections=4)
        done = run(Home(home.folder, **settings.environ | {"SKYCHIMP_RUN__PATIENCE": "2s"}))
        assert (done.status, counts(done)) == (75, (0, 0, 0))
        assert relay.refusals <= 20
        relay.limit = lambda request: None
        assert run(settings).status == 0
    assert_all_reached(store, relay, addresses)


# Time that a person or a limit holds up


@needs_faketime
@own_clock
@SLOW
def test_mailing_that_is_paused_for_four_days_loses_nobody(store: Store, ada: Actor, home: Home) -> None:
    addresses = make_addresses(30)
    mailing_id = create_mailing(store, ada, addresses)
    with LimitingRelay() as relay:
        home = using(home, relay, connections=1)
        first = run(home, "--limit", "10")
        assert counts(first) == (10, 0, 0)
        assert home.call("mailings", "disable", str(mailing_id)).status == 0
        later = ("faketime", "-f", "+4d")
        enabled = home.run("mailings", "enable", str(mailing_id), within=later)
        assert (enabled.status, "20 emails waiting" in enabled.err) == (0, True)
        done = run(home, day=4)
    assert (done.status, counts(done)) == (0, (20, 0, 0))
    assert_all_reached(store, relay, addresses)


@needs_faketime
@own_clock
@SLOW
def test_deferred_email_does_not_expire_while_the_mailing_is_disabled(store: Store, ada: Actor, home: Home) -> None:
    mailing_id = create_mailing(store, ada, ["bob@example.org"])
    busy = b"450 4.2.1 the mailbox is busy\r\n"
    with LimitingRelay(lambda request: busy if request.command == "RCPT" else None) as relay:
        home = using(home, relay)
        assert counts(run(home)) == (0, 0, 1)
        assert home.call("mailings", "disable", str(mailing_id)).status == 0
        assert home.run("mailings", "enable", str(mailing_id), within=("faketime", "-f", "+4d")).status == 0
        assert counts(run(home, day=4)) == (0, 0, 1)
        relay.limit = lambda request: None
        assert counts(run(home, day=5)) == (1, 0, 0)
    assert state_counts(store) == {"sent": 1}


@needs_faketime
@own_clock
@pytest.mark.parametrize("every", [pytest.param(Every.ONCE, marks=SLOW), Every.DAY])
def test_so_many_a_day_reach_everybody(store: Store, ada: Actor, home: Home, every: Every) -> None:
    addresses = make_addresses(25)
    create_mailing(store, ada, addresses, every=every)
    with LimitingRelay() as relay:
        home = using(home, relay, connections=1)
        results = [run(home, "--limit", "10", day=day) for day in range(3)]
    assert sum(result.json["sent"] for result in results) in (25, 30)
    assert set(relay.recipients) == set(addresses)
    assert not {"failed", "expired"} & state_counts(store).keys()


# Emails that are too large


def announcing_size(size: int) -> bytes:
    """Return the reply to EHLO of a server that takes emails of so many bytes."""
    return EHLO.replace(b"SIZE 100000000", b"SIZE %d" % size)


def test_mailing_is_held_if_each_email_is_too_large(store: Store, ada: Actor, home: Home) -> None:
    addresses = [f"client{number}@example{number}.org" for number in range(20)]
    mailing_id = create_mailing(store, ada, addresses, body="x" * 70 * 100)
    with LimitingRelay(ehlo=announcing_size(5_000)) as relay:
        done = run(using(home, relay))
    assert done.status == MAIL_LEFT
    assert done.err.count("mailing held") == 1
    assert (
        "the mail server accepts at most 5000" in home.call("mailings", "show", str(mailing_id), "--json").json["held"]
    )
    assert state_counts(store) == {"queued": 20}
    with LimitingRelay() as relay:
        home = using(home, relay)
        assert home.call("mailings", "enable", str(mailing_id)).status == 0
        assert counts(run(home)) == (20, 0, 0)
    assert relay.recipients == dict.fromkeys(addresses, 1)


def test_one_email_that_is_too_large_fails_alone(store: Store, ada: Actor, home: Home) -> None:
    addresses = make_addresses(20)
    body = "{% if client.name == 'Client7' %}" + "x" * 70 * 100 + "{% endif %}"
    create_mailing(store, ada, addresses, body=body)
    with LimitingRelay(ehlo=announcing_size(5_000)) as relay:
        done = run(using(home, relay))
    assert (done.status, counts(done)) == (0, (19, 1, 0))
    assert relay.recipients == dict.fromkeys([each for each in addresses if each != "client7@example.org"], 1)

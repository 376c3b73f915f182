"""Test whole mailings with Debian's Postfix, Exim and OpenSMTPD: their limits, refusals, timeouts and restarts.

Each client gets exactly one email, the log tells what happened, and the report says what to do.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import Home
from support.mail_servers import Exim, MailServer, OpenSmtpd, Postfix
from support.postfix_services import authentication_service, policy_service
from support.sending import (
    attempts,
    create_mailing,
    make_addresses,
    make_settings,
    paused_relays,
    send,
    sent_addresses,
    start_run,
    state_counts,
    wait_for_exit,
    wait_until,
)

from skychimp.permissions import Actor
from skychimp.store.database import Store

if TYPE_CHECKING:
    import trustme

pytestmark = [pytest.mark.mta, pytest.mark.sqlite]

SERVERS: tuple[type[MailServer], ...] = (Postfix, Exim, OpenSmtpd)
ADA = "ada@skychimp.test"
LATER = timedelta(hours=6)
MAIL_LEFT = 75
SESAME_HASH = "$6$skychimp$Gw9J0oXSsmvjHtg8kcLAN3w1aRyt67GhuQlFIqOdqwLoKEZoaqp6GkXli4MeZ613iH50eu.40HajXPl47l0dp."
OTHER_SENDER = "Skychimp <news@skychimp.test>"


Starter = Callable[..., MailServer]


@pytest.fixture
def start() -> Iterator[Starter]:
    """Return a function that starts a server with a case and its values, for the length of the test."""
    with ExitStack() as stack:

        def start(server: type[MailServer], case: str, **values: object) -> MailServer:
            if problem := server.why_missing(case):
                pytest.skip(problem)
            return stack.enter_context(server(case, **values))

        yield start


def servers_with(case: str) -> list[type[MailServer]]:
    """Return the servers that have a case: not each has each limit."""
    return [server for server in SERVERS if case in server.cases]


def assert_each_has_one_email(server: MailServer, addresses: Sequence[str]) -> None:
    """Check the mailboxes."""
    delivered = server.deliver()
    assert set(delivered.values()) <= {1}
    assert sorted(address for address, _ in delivered) == sorted(addresses)


def replies_to(home: Home, mailing_id: int, outcome: str) -> dict[str, tuple[str, str]]:
    """Return what the report says about replies: the meaning and the remedy for each pattern."""
    report = home.call("report", str(mailing_id), "--json").json
    return {
        reply["words"]: (reply["meaning"], reply["remedy"])
        for reply in report["replies"]
        if reply["outcome"] == outcome
    }


def logged(home: Home, mailing_id: int) -> Counter[tuple[str, int | None]]:
    """Return how often each status and code is in the log."""
    log = home.call("mailings", "log", str(mailing_id), "--json").json
    return Counter((attempt["status"], attempt["code"]) for attempt in log)


# Limits


@pytest.mark.parametrize(
    ("server", "emails", "limit", "code"),
    [(Postfix, 200, 20, 421), (Exim, 200, 20, 421), (OpenSmtpd, 1200, 50, 452)],
    ids=lambda value: getattr(value, "name", None),
)
def test_limit_of_emails_per_connection_is_learned(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer], emails: int, limit: int, code: int
) -> None:
    addresses = make_addresses(emails)
    mailing_id = create_mailing(store, ada, addresses)
    with policy_service(emails_per_connection=limit) as policy:
        running = start(server, "emails per connection", limit=limit, policy=policy)
        status, *_ = wait_for_exit(start_run(store, running.port, smtp__connections=4))

    refused = len(attempts(store)) - emails
    assert (status, state_counts(store)) == (0, {"sent": emails})
    assert 0 < refused <= 15
    assert logged(home, mailing_id) == {("sent", 250): emails, ("given_back", code): refused}
    (advice,) = replies_to(home, mailing_id, "given_back").values()
    assert advice == (
        "the server limits the number of emails over one connection",
        "nothing to do: fewer emails are sent over one connection",
    )
    assert_each_has_one_email(running, addresses)


def test_learning_a_limit_costs_at_most_a_fifth_of_the_time(store: Store, ada: Actor, start: Starter) -> None:
    """The ideal time is that of a run which knows the limit of 20 from the start."""
    durations: dict[int, float] = {}
    with policy_service(emails_per_connection=20) as policy:
        running = start(Postfix, "emails per connection", policy=policy)
        for known in (1000, 20) * 3:  # the best one of three: others may use the processor
            before = len(attempts(store))
            create_mailing(store, ada, make_addresses(200))
            assert send(store, make_settings(running.port, smtp__emails_per_connection=known)).sent == 200
            mine = attempts(store)[before:]
            duration_s = (max(one.finished_at for one in mine) - min(one.started_at for one in mine)).total_seconds()
            durations[known] = min(duration_s, durations.get(known, duration_s))
    assert durations[1000] < 1.2 * durations[20]


@pytest.mark.parametrize("server", servers_with("connections"), ids=lambda server: server.name)
def test_limit_of_connections_is_kept(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer]
) -> None:
    addresses = make_addresses(100)
    mailing_id = create_mailing(store, ada, addresses)
    running = start(server, "connections", limit=2)

    status, *_ = wait_for_exit(start_run(store, running.port, smtp__connections=6))

    assert (status, state_counts(store)) == (0, {"sent": 100})
    assert logged(home, mailing_id) == {("sent", 250): 100}
    assert_each_has_one_email(running, addresses)


@pytest.mark.parametrize(
    ("server", "code"), [(Postfix, 450), (Exim, 451)], ids=lambda value: getattr(value, "name", None)
)
def test_limit_of_the_rate_slows_the_mailing(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer], code: int
) -> None:
    addresses = make_addresses(40)
    mailing_id = create_mailing(store, ada, addresses)
    running = start(server, "rate", limit=20, unit="2s")

    status, *_ = wait_for_exit(start_run(store, running.port, smtp__connections=2, run__patience="30s"))

    refused = len(attempts(store)) - 40
    assert (status, state_counts(store)) == (0, {"sent": 40})
    assert refused > 0
    assert logged(home, mailing_id) == {("sent", 250): 40, ("given_back", code): refused}
    assert set(replies_to(home, mailing_id, "given_back").values()) == {
        ("too much email in a short time", "send more slowly: set smtp.rate")
    }
    assert_each_has_one_email(running, addresses)


# Refusals


@pytest.mark.parametrize(
    ("server", "code"), [(Postfix, 450), (Exim, 451), (OpenSmtpd, 451)], ids=lambda value: getattr(value, "name", None)
)
def test_greylisted_clients_get_the_email_later(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer], code: int
) -> None:
    addresses = make_addresses(8)
    mailing_id = create_mailing(store, ada, addresses)
    with policy_service() as policy:
        running = start(server, "greylisting", policy=policy)
        first = send(store, make_settings(running.port))
        assert (first.sent, state_counts(store)) == (0, {"deferred": 8})
        assert send(store, make_settings(running.port), later=LATER).sent == 8

    assert logged(home, mailing_id) == {("deferred", code): 8, ("sent", 250): 8}
    assert set(replies_to(home, mailing_id, "deferred").values()) == {
        ("the server uses greylisting: it takes the email later", "nothing to do: the email is retried automatically")
    }
    assert_each_has_one_email(running, addresses)


@pytest.mark.parametrize("server", servers_with("login"), ids=lambda server: server.name)
def test_wrong_login_pauses_the_server_until_it_is_corrected(
    store: Store,
    ada: Actor,
    home: Home,
    start: Starter,
    server: type[MailServer],
    authority: "trustme.CA",
    ca_file: Path,
    tmp_path: Path,
) -> None:
    addresses = make_addresses(5)
    mailing_id = create_mailing(store, ada, addresses)
    certificate = tmp_path / "server.pem"
    certificate.touch(0o600)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    with authentication_service("ada", "sesame") as authentication:
        running = start(
            server,
            "login",
            authentication=authentication,
            user="ada",
            password="sesame",
            password_hash=SESAME_HASH,
            certificate=certificate,
        )
        login = {
            "smtp__username": "ada",
            "smtp__password": "sesame",
            "smtp__security": server.login_security,
            "smtp__ca_file": ca_file,
        }

        status, _, err = wait_for_exit(start_run(store, running.port, **login | {"smtp__password": "wrong"}))

        assert status == MAIL_LEFT
        assert "refused the login: 535" in err
        assert "hint: check smtp.username and smtp.password\n" in err
        assert (state_counts(store), logged(home, mailing_id)) == ({"queued": 5}, {})
        (reason,) = paused_relays(store).values()
        assert "refused the login" in reason
        assert wait_for_exit(start_run(store, running.port, **login))[0] == 0

    assert logged(home, mailing_id) == {("sent", 250): 5}
    assert_each_has_one_email(running, addresses)


@pytest.mark.parametrize(
    ("server", "code"), [(Postfix, 554), (Exim, 550), (OpenSmtpd, 550)], ids=lambda value: getattr(value, "name", None)
)
def test_wrong_sender_holds_the_mailing_until_it_is_corrected(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer], code: int
) -> None:
    addresses = make_addresses(20)
    mailing_id = create_mailing(store, ada, addresses)
    running = start(server, "sender", sender=ADA)

    status, _, err = wait_for_exit(start_run(store, running.port, smtp__connections=2))

    held = home.call("mailings", "show", str(mailing_id), "--json").json["held"]
    refused = len(attempts(store))
    assert (status, state_counts(store)) == (MAIL_LEFT, {"queued": 20})
    assert str(code) in held
    assert f"reason={held}" in err
    assert 0 < refused <= 4
    assert logged(home, mailing_id) == {("given_back", code): refused}
    assert set(replies_to(home, mailing_id, "given_back").values()) == {
        ("the sender's address is refused", 'check mail.sender and its domain: run "skychimp doctor"')
    }
    assert "given_back\t1\t" in home.call("why", addresses[0]).out
    assert wait_for_exit(start_run(store, running.port, mail__sender=OTHER_SENDER))[0] == 0
    assert_each_has_one_email(running, addresses)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_email_that_is_too_large_holds_the_mailing_if_all_are(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer]
) -> None:
    large = create_mailing(store, ada, make_addresses(8), body="all is well\n" * 400)
    one_large = "{% if client.name == 'Client9' %}" + "all is well\n" * 400 + "{% endif %}all is well"
    personal = create_mailing(store, ada, [f"client{number}@example.org" for number in range(8, 12)], body=one_large)
    running = start(server, "size", limit=3000)

    status, _, err = wait_for_exit(start_run(store, running.port))

    assert status == MAIL_LEFT
    assert "the mail server accepts at most 3000" in home.call("mailings", "show", str(large), "--json").json["held"]
    assert "hint=make the email smaller" in err
    assert home.call("mailings", "show", str(personal), "--json").json["held"] is None
    assert state_counts(store) == {"queued": 8, "sent": 3, "failed": 1}
    assert logged(home, personal) == {("sent", 250): 3, ("failed", 552): 1}
    assert replies_to(home, personal, "failed").popitem()[1][1] == "make the email smaller"
    assert_each_has_one_email(running, [f"client{number}@example.org" for number in (8, 10, 11)])


# Connections that end


@pytest.mark.parametrize("server", servers_with("idle"), ids=lambda server: server.name)
def test_connection_that_was_idle_for_too_long_is_replaced(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer]
) -> None:
    addresses = make_addresses(3)
    mailing_id = create_mailing(store, ada, addresses)
    running = start(server, "idle")

    status, *_ = wait_for_exit(start_run(store, running.port, smtp__rate="40/min", run__patience="30s"))

    assert (status, state_counts(store)) == (0, {"sent": 3})
    assert all(attempt.outcome in ("sent", "given_back") for attempt in attempts(store))
    assert running.log().count("timeout") >= 1
    assert logged(home, mailing_id)["sent", 250] == 3
    assert_each_has_one_email(running, addresses)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_server_that_is_killed_and_started_again_in_the_middle(
    store: Store, ada: Actor, home: Home, start: Starter, server: type[MailServer]
) -> None:
    addresses = make_addresses(200)
    mailing_id = create_mailing(store, ada, addresses)
    running = start(server, "plain")
    process = start_run(
        store, running.port, smtp__connections=2, smtp__rate="100/s", run__patience="60s", delivery__unknown_after=""
    )
    wait_until(lambda: state_counts(store)["sent"] > 50, process)

    running.stop()
    time.sleep(0.5)
    running.start()

    wait_for_exit(process)
    states = state_counts(store)
    assert states["sent"] + states["unknown"] == 200
    assert states["unknown"] <= 2, "at most one for each connection"
    log = logged(home, mailing_id)
    assert (log["sent", 250], log["failed", None], log["deferred", None]) == (states["sent"], 0, 0)
    delivered = running.deliver()
    assert set(delivered.values()) == {1}
    assert {address for address, _ in delivered} >= sent_addresses(store)

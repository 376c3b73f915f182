"""Test what `skychimp run` shows: its plan, summed up and as a list, and how to go on after Ctrl-C."""

import os
import re
import signal

import pytest
from support.command import Home
from support.queue_steps import NOW, create_client
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.permissions import Actor
from skychimp.services.mailings.forecast import BEYOND_LIMIT, WAITS_FOR_CANARY, kind_of_reason
from skychimp.store.clients.audience import NO_CONSENT
from skychimp.store.database import Store

CREATE = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")


@pytest.fixture
def people(store: Store, ada: Actor, home: Home) -> Home:
    """Ada's command line, with message 1 and five clients, two of them with bad addresses."""
    for name in ("bad", "worse"):
        create_client(store, ada, name, bad_at=NOW, bad_reason="550: gone")
    for name in ("one", "two", "three"):
        create_client(store, ada, name)
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Hi").status == 0
    return home


def test_plan_is_summed_up_on_a_terminal_and_lists_clients_on_request(people: Home) -> None:
    email = people.call("clients", "list", "--json").json[4]["email"]
    people.call("suppressions", "add", email)
    people.call(*CREATE, "--no-send")

    shown = people.call("run", "--plan", width=60)
    assert re.fullmatch(
        r"mailing 1, due 20[\d-]+ [\d:]{5}: 2 emails; left out: 2 bad address, 1 suppressed\n", shown.out
    )
    assert shown.err == "nothing was sent\nnext: skychimp run --plan --list\n"
    limited = people.call("run", "--plan", "--limit", "1", width=60)
    assert "1 email; left out: 2 bad address, 1 beyond --limit, 1 suppressed\n" in limited.out

    piped, listed = people.call("run", "--plan"), people.call("run", "--plan", "--list", width=120)
    assert piped.out == people.call("run", "--plan", "--list").out
    assert len(piped.out.splitlines()) == 3
    assert piped.err == f"{shown.out}nothing was sent\n"
    for line in piped.out.splitlines():
        assert line.split("\t")[2] in listed.out
    assert set(people.call("run", "--plan", "--json").json["due"][0]) == {
        "mailing_id", "due_at", "would_send", "left_out",
    }  # fmt: skip


def test_plan_says_why_a_whole_mailing_sends_nothing(people: Home) -> None:
    assert people.call("run", "--plan", width=80).out == "nothing is due\n"
    people.call(*CREATE, "--no-send")
    people.call("mailings", "disable", "1", "--reason", "a typo: \u202e")
    assert ": the mailing is disabled: a typo: \\u202e\n" in people.call("run", "--plan", width=80).out


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("suppressed with @a.org for topic news everywhere since 2026-11-29: asked: twice", "suppressed"),
        ("bad address since 2026-11-29 09:00:00+00:00: 550 no\nsuch: user", "bad address"),
        ("excluded: tag old", "excluded"),
        ("deferred: next try at 2026-11-29T09:00:00+00:00", "deferred"),
        ("the mailing is held: 1 of 2 canary emails failed", "because the mailing is held"),
        ("already sent", "already sent"),
        (NO_CONSENT, "without a recorded consent"),
        (WAITS_FOR_CANARY, "waiting for the canary"),
        (BEYOND_LIMIT, "beyond --limit"),
    ],
)
def test_kind_of_reason_has_no_details(reason: str, kind: str) -> None:
    assert kind_of_reason(reason) == kind


def test_interrupted_mailing_says_how_to_go_on(people: Home) -> None:
    commands: list[str] = []

    def interrupt(command: str, _address: str) -> None:
        commands.append(command)
        if command == "DATA" and commands.count("DATA") == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with ScriptedServer([GREETING, accept_mail(interrupt)]) as server:
        smtp = {"TRANSPORT": "smtp"}, {"HOST": "127.0.0.1", "PORT": str(server.port), "SECURITY": "none"}
        for section, values in zip(("MAIL", "SMTP"), smtp, strict=True):
            people.environ |= {f"SKYCHIMP_{section}__{name}": value for name, value in values.items()}
        people.environ["SKYCHIMP_SMTP__CONNECTIONS"] = "1"
        created = people.call(*CREATE, "--yes", width=80)
    assert created.status == 0  # the mailing exists
    last = created.err.splitlines()[-1]
    # The server may have got the next email already when the signal came.
    counts = ("1 email sent, 2 waiting", "2 emails sent, 1 waiting")
    assert last in [f'interrupted: {each}; run "skychimp run --mailing 1" to go on' for each in counts]

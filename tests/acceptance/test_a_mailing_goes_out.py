"""From an empty folder to what a real SMTP server got, and what the log says of it; and the usual traps on the way."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, Done, Home
from support.servers import GREETING, ScriptedServer, obey

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.mailings import Audience, When
from skychimp.services.messages import messages
from skychimp.store.database import Store

NAMES = [
    "Ada Lovelace",
    "Наталья Бехтерева",
    "吳健雄",
    "محمد بن موسى",
    "Żółć, Jr.",
    'Ñandú "O\'Neill"',
    "=?utf-8?q?x?=",
]
PEOPLE = {f"c{number}@example.org": f"{NAMES[number % len(NAMES)]} {number}" for number in range(1000)}

Answer = Callable[[str, str], bytes | None]


def relay(answer: Answer = lambda command, recipient: None) -> ScriptedServer:
    """A relay that takes all mail, except where `answer` says something else."""
    return ScriptedServer([GREETING, obey(answer)])


def through(server: ScriptedServer, **more: str) -> dict[str, str]:
    """The settings by which a command sends to it."""
    return {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(server.port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        **more,
    }


def letters(server: ScriptedServer) -> dict[str, EmailMessage]:
    """What came, by the address in its To line; each has one address there, and came to that address alone."""
    parsed = [message_from_bytes(re.sub(rb"(?m)^\.", b"", letter), policy=policy.default) for letter in server.letters]
    accepted = re.findall(rb"\nRCPT TO:<(.*?)>.*\r\nDATA\r\n", server.heard)
    found = {}
    for letter, recipient in zip(parsed, accepted, strict=True):
        (mailbox,) = letter["To"].addresses
        assert mailbox.addr_spec == recipient.decode()
        found[mailbox.addr_spec] = letter
    assert len(found) == len(parsed), "somebody got two letters"
    return found


def text_of(letter: EmailMessage, subtype: str = "plain") -> str:
    part = letter.get_body((subtype,))
    assert part is not None
    return str(part.get_content()).strip().replace("\r\n", "\n")


def ok(done: Done) -> Any:
    """The JSON of a command that went well."""
    assert done.status == 0, done
    return done.json


def test_a_thousand_letters_from_an_empty_folder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    quoted = {email: name.replace('"', '""') for email, name in PEOPLE.items()}
    (tmp_path / "people.csv").write_text(
        "email,name\n" + "".join(f'{email},"{name}"\n' for email, name in quoted.items()), encoding="utf-8"
    )
    assert home.run("init", "--email", "ada@skychimp.test", "--sender", "Skychimp <news@skychimp.test>").status == 0
    assert ok(home.run("clients", "import", "people.csv", "--json"))["created"] == 1000
    body = "Dear {{ client.name }},\n.\n!"
    assert home.run("messages", "create", "--subject", "Hello {{ client.name }}", "--body", body).status == 0

    with relay() as server:
        home.environ |= through(server)
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients")
        made = ok(home.run(*create, "--json"))
        log = ok(home.run("mailings", "log", "1", "--json"))
        again = ok(home.run("run", "--json"))

    assert (made["id"], made["status"], made["run"]["sent"], again["sent"]) == (1, "running", 1000, 0)
    got = letters(server)
    assert got.keys() == PEOPLE.keys()
    for email, letter in got.items():
        assert letter["To"].addresses[0].display_name == PEOPLE[email]
        assert letter["Subject"] == f"Hello {PEOPLE[email]}"
        assert text_of(letter) == f"Dear {PEOPLE[email]},\n.\n!"
        assert letter.defects == []
    assert len({letter["Message-ID"] for letter in got.values()}) == 1000
    assert server.heard.count(b"\nRCPT ") == 1000
    assert sorted(row["email"] for row in log) == sorted(PEOPLE)
    assert Counter((row["status"], row["attempt"], row["reply"]) for row in log) == {
        ("sent", 1, "250 2.0.0 queued as 1"): 1000
    }


@pytest.fixture
def due(store: Store, ada: Actor) -> Callable[..., int]:
    """Makes clients, and a mailing to all of them that is due and has not been sent."""

    def due(emails: list[str], every: Every = Every.ONCE) -> int:
        for email in emails:
            clients.create(store, ada, email=email, name="Zoë")
        words = MessageContent("Hello", "Dear *{{ client.name }}*", Format.MARKDOWN)
        message = messages.create(store, ada, words)
        when = When("now", None, every, "UTC")
        return mailings.create(store, ada, message_id=message.id, when=when, audience=Audience(all_clients=True)).id

    return due


def test_four_runs_at_once_send_nothing_twice_and_lose_nothing(home: Home, due: Callable[..., int]) -> None:
    emails = list(PEOPLE)[:300]
    due(emails)

    with relay() as server:
        environ = home.environ | through(server)
        runs = [
            subprocess.Popen([PROGRAM, "run", "--json"], stdout=subprocess.PIPE, env=environ, cwd=home.folder)
            for _ in range(4)
        ]
        summaries = [json.loads(run.communicate(timeout=60)[0]) for run in runs]

    assert sum(summary["sent"] for summary in summaries) == 300
    assert letters(server).keys() == set(emails)
    assert ok(home.call("mailings", "show", "1", "--json"))["status"] == "completed"


def test_a_bad_address_leaves_the_rest_alone_and_what_failed_is_tried_again(
    home: Home, due: Callable[..., int]
) -> None:
    refusals = {
        ("RCPT", "gone@example.org"): [b"550 5.1.1 no such user\r\n"],
        ("DATA", "gone@example.org"): [b"503 5.5.1 no recipient\r\n"],
        ("RCPT", "busy@example.org"): [b"451 4.2.1 try again\r\n"],
        ("DATA", "busy@example.org"): [b"503 5.5.1 no recipient\r\n"],
        (".", "full@example.org"): [b"452-4.3.1 no\r\n452 4.3.1 room\r\n"],
        (".", "spam@example.org"): [b"554 5.7.1 no thanks\r\n"],
    }

    def answer(command: str, recipient: str) -> bytes | None:
        waiting = refusals.get((command, recipient))
        return waiting.pop() if waiting else None

    special = [f"{name}@example.org" for name in ("gone", "busy", "full", "spam")]
    due([*special, *list(PEOPLE)[:20]])
    with relay(answer) as server:
        home.environ |= through(server, SKYCHIMP_DELIVERY__RETRY_AFTER='["1s"]')
        first = home.run("run", "--json")
        between = ok(home.call("mailings", "show", "1", "--json"))["status"]
        for _ in range(30):  # the next try comes in 0.8 to 1.2 s
            last = home.run("run", "--json")
            if last.status == 0:
                break

    assert (first.status, first.json | {"stopped": None}) == (
        75,
        first.json | {"sent": 20, "deferred": 2, "failed": 2, "unknown": 0, "queued": 0},
    )
    assert between == "running"
    assert last.status == 0
    assert ok(home.call("mailings", "show", "1", "--json"))["status"] == "completed"
    log = ok(home.call("mailings", "log", "1", "--json"))
    words: dict[str, list[Any]] = {email: [] for email in special}
    for row in log:
        words.get(row["email"], []).append((row["status"], row["attempt"], row["reply"]))
    fine = ("sent", 2, "250 2.0.0 queued as 1")
    assert list(words.values()) == [
        [("failed", 1, "550 5.1.1 no such user")],
        [("deferred", 1, "451 4.2.1 try again"), fine],
        [("deferred", 1, "452-4.3.1 no\n452 4.3.1 room"), fine],
        [("failed", 1, "554 5.7.1 no thanks")],
    ]
    assert len(log) == 26
    assert ok(home.call("clients", "show", special[0], "--json"))["bad_reason"] == "550 5.1.1 no such user"
    assert ok(home.call("clients", "show", special[3], "--json"))["bad_at"] is None
    plain = home.call("mailings", "log", "1", "--status", "deferred", "--sort", "email").out.splitlines()
    assert [line.split("\t")[1:] for line in plain] == [
        [special[1], "deferred", "1", "451 4.2.1 try again"],
        [special[2], "deferred", "1", "452-4.3.1 no\\n452 4.3.1 room"],
    ]
    assert len(home.call("mailings", "log", "1", "--last").out.splitlines()) == 24


def test_a_relay_that_is_away_leaves_the_mail_queued_and_the_mailing_made(home: Home) -> None:
    with relay() as server:
        here = through(server)
    away = here | {"SKYCHIMP_RUN__PATIENCE": "0s"}
    home.call("clients", "create", "--email", "x@example.org")
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear")

    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--json")
    made = ok(home.run(*create, environ=away))
    left = home.run("run", "--json", environ=away)

    assert (made["id"], made["status"]) == (1, "running")
    assert (left.status, left.json["queued"], left.json["sent"]) == (75, 1, 0)
    with relay() as server:
        assert ok(home.run("run", "--json", environ=through(server)))["sent"] == 1
        assert letters(server).keys() == {"x@example.org"}


def test_nobody_is_an_audience_too(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear")

    with relay() as server:
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--tag", "nobody")
        made = ok(home.run(*create, "--json", environ=through(server)))

    assert (made["status"], made["next_at"]) == ("completed", None)
    assert ok(home.call("mailings", "log", "1", "--json")) == []


def test_nobody_sees_edits_or_deletes_what_is_anothers(
    home: Home, home_of: Callable[[Actor], Home], bob: Actor, due: Callable[..., int]
) -> None:
    due(["x@example.org"])
    others = home_of(bob)
    before = home.call("mailings", "show", "1", "--json").json

    for words in (
        ("mailings", "show", "1"),
        ("mailings", "update", "1", "--every", "week"),
        ("mailings", "delete", "1", "--yes"),
        ("mailings", "disable", "1"),
        ("mailings", "log", "1"),
        ("mailings", "preview", "1"),
        ("messages", "show", "1"),
        ("messages", "update", "1", "--subject", "Mine"),
        ("messages", "delete", "1", "--yes"),
        ("clients", "show", "1"),
        ("clients", "update", "x@example.org", "--name", "Mine"),
        ("clients", "delete", "x@example.org", "--yes"),
    ):
        done = others.call(*words)
        assert (done.status, done.out) == (4, ""), words

    assert home.call("mailings", "show", "1", "--json").json == before


def test_a_mailing_made_without_sending_goes_out_by_the_next_run(home: Home) -> None:
    home.call("clients", "create", "--email", "x@example.org", "--name", "Zoë")
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear *{{ client.name }}*", "--markdown")

    with relay() as server:
        home.environ |= through(server)
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "month", "--client", "1")
        made = ok(home.run(*create, "--no-send", "--json"))
        coming = ok(home.run("run", "--dry-run", "--json"))
        assert server.letters == []
        sent = ok(home.run("run", "--mailing", "1", "--json"))

    assert made["status"] == "created"
    assert [client["email"] for client in coming["clients"]] == ["x@example.org"]
    assert (coming["sent"], coming["queued"], sent["sent"]) == (0, 1, 1)
    (letter,) = letters(server).values()
    assert text_of(letter) == "Dear *Zoë*"
    assert "<em>Zoë</em>" in text_of(letter, "html")


def test_a_run_of_at_most_so_many_leaves_the_rest_to_the_next(home: Home, due: Callable[..., int]) -> None:
    due(list(PEOPLE)[:30])

    with relay() as server:
        home.environ |= through(server)
        first = home.run("run", "--limit", "10", "--json")
        second = home.run("run", "--json")

    assert (first.status, first.json["sent"], first.json["queued"]) == (75, 10, 20)
    assert (second.status, second.json["sent"]) == (0, 20)
    assert len(letters(server)) == 30


def test_a_mailing_that_a_manager_stops_sends_nothing_until_a_manager_lets_it(
    home: Home, home_of: Callable[[Actor], Home], manager: Actor, due: Callable[..., int]
) -> None:
    due(["x@example.org"])
    above = home_of(manager)

    with relay() as server:
        home.environ |= through(server)
        stopped = ok(above.call("mailings", "disable", "1", "--reason", "a complaint", "--json"))
        assert ok(home.run("run", "--json"))["sent"] == 0
        plan = ok(home.call("run", "--plan", "--json"))
        assert home.call("mailings", "enable", "1").status == 5
        ok(above.call("mailings", "enable", "1", "--json"))
        assert ok(home.run("run", "--json"))["sent"] == 1

    assert (stopped["disabled"], stopped["disabled_by"]) == (True, manager.email)
    assert [client["left_out"] for client in plan["clients"]] == ["the mailing is disabled: a complaint"]
    assert above.call("mailings", "delete", "1", "--yes").status == 5

"""Test a mailing from an empty folder to the emails that an SMTP server received, and to the log."""

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from support.command import PROGRAM, CommandResult, Home
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import Every, Format
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import messages
from skychimp.store.database import Store

SAMPLE_NAMES = [
    "Ada Lovelace",
    "Наталья Бехтерева",
    "吳健雄",
    "محمد بن موسى",
    "Żółć, Jr.",
    'Ñandú "O\'Neill"',
    "=?utf-8?q?x?=",
]
CLIENT_NAMES = {
    f"c{number}@example.org": f"{SAMPLE_NAMES[number % len(SAMPLE_NAMES)]} {number}" for number in range(1000)
}

Responder = Callable[[str, str], bytes | None]


def mail_server(respond: Responder = lambda command, recipient: None) -> ScriptedServer:
    """Return a mail server that accepts all emails, except where `respond` returns another reply."""
    return ScriptedServer([GREETING, accept_mail(respond)])


def settings_for(server: ScriptedServer, **more: str) -> dict[str, str]:
    """Return the environment of a command that sends to this server."""
    return {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(server.port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        **more,
    }


def received_emails(server: ScriptedServer) -> dict[str, EmailMessage]:
    """Return the received emails by recipient. Each must have one To address, and be sent to that address only."""
    parsed = [message_from_bytes(re.sub(rb"(?m)^\.", b"", email), policy=policy.default) for email in server.emails]
    accepted = re.findall(rb"\nRCPT TO:<(.*?)>.*\r\nDATA\r\n", server.received)
    emails = {}
    for email, recipient in zip(parsed, accepted, strict=True):
        (mailbox,) = email["To"].addresses
        assert mailbox.addr_spec == recipient.decode()
        emails[mailbox.addr_spec] = email
    assert len(emails) == len(parsed), "a client received two emails"
    return emails


def text_of(email: EmailMessage, subtype: str = "plain") -> str:
    part = email.get_body((subtype,))
    assert part is not None
    return str(part.get_content()).strip().replace("\r\n", "\n")


def json_of(done: CommandResult) -> Any:
    """Return the JSON of a command that succeeded."""
    assert done.status == 0, done
    return done.json


def test_a_thousand_emails_from_an_empty_folder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    quoted = {email: name.replace('"', '""') for email, name in CLIENT_NAMES.items()}
    (tmp_path / "people.csv").write_text(
        "email,name\n" + "".join(f'{email},"{name}"\n' for email, name in quoted.items()), encoding="utf-8"
    )
    assert home.call("init", "--email", "ada@skychimp.test", "--sender", "Skychimp <news@skychimp.test>").status == 0
    assert json_of(home.run("clients", "import", "people.csv", "--json"))["created"] == 1000
    body = "Dear {{ client.name }},\n.\n!"
    assert home.call("messages", "create", "--subject", "Hello {{ client.name }}", "--body", body).status == 0

    with mail_server() as server:
        home.environ |= settings_for(server)
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients")
        created = json_of(home.run(*create, "--json"))
        log = json_of(home.call("mailings", "log", "1", "--json"))
        again = json_of(home.call("run", "--json"))

    assert (created["id"], created["status"], created["run"]["sent"], again["sent"]) == (1, "running", 1000, 0)
    emails = received_emails(server)
    assert emails.keys() == CLIENT_NAMES.keys()
    for address, email in emails.items():
        assert email["To"].addresses[0].display_name == CLIENT_NAMES[address]
        assert email["Subject"] == f"Hello {CLIENT_NAMES[address]}"
        assert text_of(email) == f"Dear {CLIENT_NAMES[address]},\n.\n!"
        assert email.defects == []
    assert len({email["Message-ID"] for email in emails.values()}) == 1000
    assert server.received.count(b"\nRCPT ") == 1000
    assert sorted(row["email"] for row in log) == sorted(CLIENT_NAMES)
    assert Counter((row["status"], row["attempt"], row["reply"]) for row in log) == {
        ("sent", 1, "250 2.0.0 queued as 1"): 1000
    }


@pytest.fixture
def create_due_mailing(store: Store, ada: Actor) -> Callable[..., int]:
    """Create clients, and a mailing to all of them that is due but not sent yet. Returns its id."""

    def create_due_mailing(emails: list[str], every: Every = Every.ONCE) -> int:
        for email in emails:
            clients.create(store, ada, email=email, name="Zoë")
        content = MessageContent("Hello", "Dear *{{ client.name }}*", Format.MARKDOWN)
        message = messages.create(store, ada, content)
        schedule = ScheduleInput("now", None, every, "UTC")
        return mailings.create(
            store, ada, message_id=message.id, schedule=schedule, audience=Audience(all_clients=True)
        ).id

    return create_due_mailing


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 4])
def test_concurrent_runs_send_each_email_once(home: Home, create_due_mailing: Callable[..., int], number: int) -> None:
    emails = list(CLIENT_NAMES)[:300]
    create_due_mailing(emails)

    with mail_server() as server:
        environ = home.environ | settings_for(server)
        runs = [
            subprocess.Popen([PROGRAM, "run", "--json"], stdout=subprocess.PIPE, env=environ, cwd=home.folder)
            for _ in range(number)
        ]
        summaries = [json.loads(run.communicate(timeout=60)[0]) for run in runs]

    assert sum(summary["sent"] for summary in summaries) == 300
    assert received_emails(server).keys() == set(emails)
    assert json_of(home.call("mailings", "show", "1", "--json"))["status"] == "completed"


def test_rejected_address_does_not_affect_others_and_deferred_emails_are_retried(
    home: Home, create_due_mailing: Callable[..., int]
) -> None:
    replies = {
        ("RCPT", "gone@example.org"): [b"550 5.1.1 no such user\r\n"],
        ("DATA", "gone@example.org"): [b"503 5.5.1 no recipient\r\n"],
        ("RCPT", "busy@example.org"): [b"451 4.2.1 try again\r\n"],
        ("DATA", "busy@example.org"): [b"503 5.5.1 no recipient\r\n"],
        (".", "full@example.org"): [b"452-4.3.1 no\r\n452 4.3.1 room\r\n"],
        (".", "spam@example.org"): [b"554 5.7.1 no thanks\r\n"],
    }

    def respond(command: str, recipient: str) -> bytes | None:
        remaining = replies.get((command, recipient))
        return remaining.pop() if remaining else None

    problematic = [f"{name}@example.org" for name in ("gone", "busy", "full", "spam")]
    create_due_mailing([*problematic, *list(CLIENT_NAMES)[:20]])
    with mail_server(respond) as server:
        home.environ |= settings_for(server, SKYCHIMP_DELIVERY__RETRY_AFTER='["1s"]')
        first = home.call("run", "--json")
        between = json_of(home.call("mailings", "show", "1", "--json"))["status"]
        for _ in range(30):  # the next try comes in 0.8 to 1.2 s
            time.sleep(0.3)
            last = home.call("run", "--json")
            if last.status == 0:
                break

    assert (first.status, first.json | {"stopped": None}) == (
        75,
        first.json | {"sent": 20, "deferred": 2, "failed": 2, "unknown": 0, "queued": 0},
    )
    assert between == "running"
    assert last.status == 0
    assert json_of(home.call("mailings", "show", "1", "--json"))["status"] == "completed"
    log = json_of(home.call("mailings", "log", "1", "--json"))
    attempts: dict[str, list[Any]] = {email: [] for email in problematic}
    for row in log:
        attempts.get(row["email"], []).append((row["status"], row["attempt"], row["reply"]))
    accepted = ("sent", 2, "250 2.0.0 queued as 1")
    assert list(attempts.values()) == [
        [("failed", 1, "550 5.1.1 no such user")],
        [("deferred", 1, "451 4.2.1 try again"), accepted],
        [("deferred", 1, "452-4.3.1 no\n452 4.3.1 room"), accepted],
        [("failed", 1, "554 5.7.1 no thanks")],
    ]
    assert len(log) == 26
    assert json_of(home.call("clients", "show", problematic[0], "--json"))["bad_reason"] == "550 5.1.1 no such user"
    assert json_of(home.call("clients", "show", problematic[3], "--json"))["bad_at"] is None
    plain = home.call("mailings", "log", "1", "--status", "deferred", "--sort", "email").out.splitlines()
    assert [line.split("\t")[1:] for line in plain] == [
        [problematic[1], "deferred", "1", "451 4.2.1 try again"],
        [problematic[2], "deferred", "1", "452-4.3.1 no\\n452 4.3.1 room"],
    ]
    assert len(home.call("mailings", "log", "1", "--last").out.splitlines()) == 24


def test_unavailable_mail_server_leaves_the_emails_queued_and_the_mailing_created(home: Home) -> None:
    with mail_server() as server:
        settings = settings_for(server)
    unavailable = settings | {"SKYCHIMP_RUN__PATIENCE": "0s"}
    home.call("clients", "create", "--email", "x@example.org")
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear")

    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients", "--json")
    created = json_of(home.call(*create, environ=unavailable))
    left = home.call("run", "--json", environ=unavailable)

    assert (created["id"], created["status"]) == (1, "running")
    assert (left.status, left.json["queued"], left.json["sent"]) == (75, 1, 0)
    with mail_server() as server:
        assert json_of(home.call("run", "--json", environ=settings_for(server)))["sent"] == 1
        assert received_emails(server).keys() == {"x@example.org"}


def test_mailing_without_recipients_is_completed(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear")

    with mail_server() as server:
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--tag", "unused")
        created = json_of(home.call(*create, "--json", environ=settings_for(server)))

    assert (created["status"], created["next_at"]) == ("completed", None)
    assert json_of(home.call("mailings", "log", "1", "--json")) == []


def test_other_users_cannot_see_change_or_delete_anything(
    home: Home, home_of: Callable[[Actor], Home], bob: Actor, create_due_mailing: Callable[..., int]
) -> None:
    create_due_mailing(["x@example.org"])
    other_home = home_of(bob)
    before = home.call("mailings", "show", "1", "--json").json

    for arguments in (
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
        done = other_home.call(*arguments)
        assert (done.status, done.out) == (4, ""), arguments

    assert home.call("mailings", "show", "1", "--json").json == before


def test_mailing_created_with_no_send_is_sent_by_the_next_run(home: Home) -> None:
    home.call("clients", "create", "--email", "x@example.org", "--name", "Zoë")
    home.call("messages", "create", "--subject", "Hello", "--body", "Dear *{{ client.name }}*", "--markdown")

    with mail_server() as server:
        home.environ |= settings_for(server)
        create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "month", "--client", "1")
        created = json_of(home.call(*create, "--no-send", "--json"))
        forecast = json_of(home.call("run", "--dry-run", "--json"))
        assert server.emails == []
        sent = json_of(home.call("run", "--mailing", "1", "--json"))

    assert created["status"] == "created"
    assert [client["email"] for client in forecast["clients"]] == ["x@example.org"]
    assert (forecast["sent"], forecast["queued"], sent["sent"]) == (0, 1, 1)
    (email,) = received_emails(server).values()
    assert text_of(email) == "Dear Zoë"
    assert "<em>Zoë</em>" in text_of(email, "html")


def test_run_with_a_limit_leaves_the_rest_to_the_next_run(home: Home, create_due_mailing: Callable[..., int]) -> None:
    create_due_mailing(list(CLIENT_NAMES)[:30])

    with mail_server() as server:
        home.environ |= settings_for(server)
        first = home.call("run", "--limit", "10", "--json")
        second = home.call("run", "--json")

    assert (first.status, first.json["sent"], first.json["queued"]) == (75, 10, 20)
    assert (second.status, second.json["sent"]) == (0, 20)
    assert len(received_emails(server)) == 30


def test_mailing_disabled_by_a_manager_is_sent_only_after_a_manager_enables_it(
    home: Home, home_of: Callable[[Actor], Home], manager: Actor, create_due_mailing: Callable[..., int]
) -> None:
    create_due_mailing(["x@example.org"])
    manager_home = home_of(manager)

    with mail_server() as server:
        home.environ |= settings_for(server)
        disabled = json_of(manager_home.call("mailings", "disable", "1", "--reason", "a complaint", "--json"))
        assert json_of(home.call("run", "--json"))["sent"] == 0
        plan = json_of(home.call("run", "--plan", "--json"))
        assert home.call("mailings", "enable", "1").status == 5
        json_of(manager_home.call("mailings", "enable", "1", "--json"))
        assert json_of(home.call("run", "--json"))["sent"] == 1

    assert (disabled["disabled"], disabled["disabled_by"]) == (True, manager.email)
    assert [client["left_out"] for client in plan["clients"]] == ["the mailing is disabled: a complaint"]
    assert manager_home.call("mailings", "delete", "1", "--yes").status == 5

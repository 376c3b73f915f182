"""Test the headers, links and return paths of the emails that a run sends, and that a resend repeats them."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from sqlalchemy import update
from support.sending import create_mailing, deliveries, make_settings, rows, send
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.config.settings import Settings
from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose
from skychimp.models import Mailing
from skychimp.permissions import Actor
from skychimp.store import token_keys
from skychimp.store.database import Store

BOTH: dict[str, Any] = {"web": {"url": "https://mail.example.org"}, "inbound": {"address": "in@example.net"}}
LATER = timedelta(hours=1)
BODY = "Dear {{ client.name }},\n\nleave: {{ unsubscribe_url }}\n{{ postal_address }}\n"
ONE = ("bob@example.org",)


def settings_with(port: int, **sections: dict[str, Any]) -> Settings:
    overrides = {f"{name}__{key}": value for name, section in sections.items() for key, value in section.items()}
    return make_settings(port, **overrides)


def lose_reply(command: str, _address: str) -> bytes | None:
    """Answer the final dot with what is no reply, so that the outcome is unknown."""
    return b"what?\r\n" if command == "." else None


def send_to(
    store: Store, *, reply: Any = None, later: timedelta = timedelta(), **sections: Any
) -> tuple[list[bytes], Sequence[str]]:
    """Send what is due, and return the emails and their return paths."""
    with ScriptedServer([GREETING, accept_mail(reply) if reply else accept_mail()]) as server:
        send(store, settings_with(server.port, **sections), later=later)
    return server.emails, re.findall(r"MAIL FROM:<(.*?)>", server.received.decode())


def keys(store: Store) -> dict[int, bytes]:
    with store.read() as db:
        return token_keys.read(db.connection(), datetime.now(UTC))


def test_email_has_links_to_its_own_delivery(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, body=BODY)
    mail = {
        "reply_to": "Help <help@example.org>",
        "postal_address": "1 Main Street",
        "headers": {"X-Campaign": "Frühling"},
    }

    emails, return_paths = send_to(store, mail=mail, **BOTH)

    for data, return_path in zip(emails, return_paths, strict=True):
        email = message_from_bytes(data, policy=policy.default)
        assert email.keys() == [
            "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "Precedence", "List-Id", "Feedback-ID",
            "Reply-To", "X-Campaign", "List-Unsubscribe", "List-Unsubscribe-Post", "MIME-Version", "Content-Type",
            "Content-Transfer-Encoding",
        ]  # fmt: skip
        web, mailto = re.findall("<([^>]+)>", email["List-Unsubscribe"])
        token = web.removeprefix("https://mail.example.org/u/")
        assert mailto == f"mailto:in+{token}@example.net?subject=unsubscribe"
        delivery_id = tokens.read(keys(store), Purpose.UNSUBSCRIBE, token)
        bounce = return_path.removeprefix("in+").removesuffix("@example.net")
        assert tokens.read(keys(store), Purpose.BOUNCE, bounce) == delivery_id
        assert [each.address for each in deliveries(store) if each.id == delivery_id] == [
            email["To"].addresses[0].addr_spec
        ]
        assert f"leave: {web}\n1 Main Street" in email.get_content().replace("\r\n", "\n")
        assert (email["List-Unsubscribe-Post"], email["Precedence"]) == ("List-Unsubscribe=One-Click", "bulk")
        assert (email["Auto-Submitted"], email["List-Id"]) == ("auto-generated", "<mailing-1.skychimp.test>")
        assert (email["Feedback-ID"], email["Reply-To"]) == (
            f"mailing-1:user-{ada.user_id}:bulk:skychimp", "Help <help@example.org>",
        )  # fmt: skip
        assert email["X-Campaign"] == "Frühling"
        assert email["Message-ID"].endswith("@example.net>")


@pytest.mark.parametrize(
    ("sections", "expected", "return_path"),
    [
        ({}, [], "ada@skychimp.test"),
        ({"web": BOTH["web"]}, ["https"], "ada@skychimp.test"),
        ({"web": {"url": "http://localhost:8025"}}, ["http"], "ada@skychimp.test"),
        ({"inbound": BOTH["inbound"]}, ["mailto"], r"in\+\w+@example.net"),
        (BOTH | {"mail": {"return_path": "own@example.com"}}, ["https", "mailto"], "own@example.com"),
    ],
)
def test_links_are_those_that_are_set(
    store: Store, ada: Actor, sections: dict[str, Any], expected: list[str], return_path: str
) -> None:
    create_mailing(store, ada, ONE)

    (data,), (path,) = send_to(store, **sections)

    email = message_from_bytes(data, policy=policy.default)
    assert re.findall("<([a-z]+):", email["List-Unsubscribe"] or "") == expected
    assert ("List-Unsubscribe-Post" in email) == ("https" in expected)
    assert re.fullmatch(return_path, path)


def test_transactional_email_is_not_said_to_be_bulk_mail(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE, body=BODY)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(transactional=True))

    (data,), _ = send_to(store, **BOTH)

    email = message_from_bytes(data, policy=policy.default)
    assert not [name for name in email.keys() if name.startswith(("List-", "Precedence"))]  # noqa: SIM118
    assert email["Feedback-ID"] == f"mailing-1:user-{ada.user_id}:transactional:skychimp"
    assert "leave: https://mail.example.org/u/" in email.get_content()


@pytest.mark.parametrize("topic", ["news", "Новости: наши"])
def test_list_id_stays_the_same_for_a_topic(store: Store, ada: Actor, topic: str) -> None:
    for _ in range(2):
        create_mailing(store, ada, ONE)
    with store.write() as db:
        db.execute(update(Mailing.__table__).values(topic=topic))

    first, second = (message_from_bytes(data, policy=policy.default)["List-Id"] for data in send_to(store)[0])

    assert first == second
    assert re.fullmatch(rf"<(news|topic-[0-9a-f]{{16}})\.user-{ada.user_id}\.skychimp\.test>", first)


@pytest.mark.parametrize(
    "later",
    [
        BOTH,
        {"web": {"url": "https://other.example.org"}, "inbound": {"address": "other@example.com"}},
        {},
        BOTH | {"mail": {"reply_to": "x@example.org", "headers": {"X-New": "1"}, "postal_address": "elsewhere"}},
    ],
)
def test_resend_is_the_same_to_the_byte_after_a_new_key_and_other_settings(
    store: Store, ada: Actor, later: dict[str, Any]
) -> None:
    create_mailing(store, ada, ONE, body=BODY if later else "all is well\n")
    (first,), (path,) = send_to(store, reply=lose_reply, **BOTH)
    with store.write() as db:
        token_keys.replace(db.connection(), datetime.now(UTC))
        db.execute(update(Mailing.__table__).values(topic="news", transactional=True))

    (second,), (second_path,) = send_to(store, later=LATER, **later)

    assert (second, second_path) == (first, path)


def test_email_after_a_new_key_has_a_token_of_it(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ("bob@example.org", "eve@example.org"), body=BODY)
    emails, _ = send_to(store, reply=lambda command, to: lose_reply(command, to) if "bob" in to else None, **BOTH)
    with store.write() as db:
        token_keys.replace(db.connection(), datetime.now(UTC))
    create_mailing(store, ada, ("new@example.org",), body=BODY)

    emails, _ = send_to(store, later=LATER, **BOTH)

    found = {}
    for data in emails:
        email = message_from_bytes(data, policy=policy.default)
        token = re.findall(r"/u/(\w+)", email["List-Unsubscribe"])[0]
        numbers = [
            number for number, key in keys(store).items() if tokens.read({number: key}, Purpose.UNSUBSCRIBE, token)
        ]
        found[email["To"].addresses[0].addr_spec] = numbers
    assert found["new@example.org"] == [2]
    assert found["bob@example.org"] == [1]


def test_mailing_whose_link_vanished_is_held_and_goes_on_with_the_setting(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, ONE, body=BODY)

    for _ in range(2):
        assert send_to(store) == ([], [])
    (mailing,) = rows(store, Mailing)
    assert "{{ unsubscribe_url }}" in (mailing.held_reason or "")

    emails, _ = send_to(store, **BOTH)
    assert len(emails) == 1
    assert rows(store, Mailing)[0].held_at is None

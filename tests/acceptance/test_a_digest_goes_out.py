"""Test digests with the commands and an SMTP server: each post is sent once, and nothing without a new post."""

from collections.abc import Callable
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from conftest import create_user
from support.command import Home
from support.sending import make_settings, send
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.store.database import Store

DAY = timedelta(days=1)
URL = "https://blog.example.org"


@pytest.fixture
def editor(store: Store, home_of: Callable[[Actor], Home]) -> Home:
    return home_of(create_user(store, "grace", Role.EDITOR))


def run_json(home: Home, *arguments: str, **environ: str) -> Any:
    done = home.call(*arguments, "--json", environ=environ)
    assert done.status == 0, done.err
    return done.json


def email_texts(relay: ScriptedServer) -> list[str]:
    """Return the text part of each email."""
    texts = []
    for email in relay.emails:
        part = message_from_bytes(email, policy=policy.default).get_body(("plain",))
        assert part is not None
        texts.append(part.get_content().replace("\r\n", "\n"))
    return texts


def test_each_post_is_sent_once_and_days_without_posts_are_skipped(store: Store, home: Home, editor: Home) -> None:
    with ScriptedServer([GREETING, accept_mail()]) as relay:
        environ = {
            "SKYCHIMP_MAIL__TRANSPORT": "smtp",
            "SKYCHIMP_SMTP__HOST": "127.0.0.1",
            "SKYCHIMP_SMTP__PORT": str(relay.port),
            "SKYCHIMP_SMTP__SECURITY": "none",
            "SKYCHIMP_BLOG__URL": URL,
        }
        daily = make_settings(relay.port, blog__url=URL)
        run_json(
            editor,
            "blog",
            "create",
            "--title",
            "One {{ client.email }}",
            "--body",
            "It *begins*.\n\nMore.",
            "--publish",
        )
        run_json(home, "clients", "create", "--email", "bob@example.org", "--name", "Bob")
        body = "Dear {{ client.name }},\n\n{{ posts }}\n\nBye"
        run_json(home, "messages", "create", "--subject", "News", "--body", body, "--markdown", "--digest")
        made = run_json(
            home, "mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", **environ
        )
        assert (made["digest"], made["skipped_at"], made["run"]["sent"]) == (True, None, 1)
        coming = run_json(home, "mailings", "preview", "1", "--next", "1")
        assert coming[0]["note"] == "skipped when there is no new post"

        run_json(editor, "blog", "create", "--title", "Two", "--body", "Second.", "--publish")
        assert send(store, daily, later=DAY).sent == 1
        third = send(store, daily, later=2 * DAY)

        assert (third.sent, third.opened, third.queued) == (0, 0, 0)
        assert email_texts(relay) == [
            f"Dear Bob,\n\nOne {{{{ client.email }}}} <{URL}/posts/one-client-email.html>\n\nIt begins.\n\nBye\n",
            f"Dear Bob,\n\nTwo <{URL}/posts/two.html>\n\nSecond.\n\nBye\n",
        ]
        shown = run_json(home, "mailings", "show", "1")
        assert shown["skipped_at"] > shown["start_at"]
        assert [each["state"] for each in run_json(home, "report", "1")["occurrences"]] == [
            "finished",
            "finished",
            "skipped",
        ]

        run_json(editor, "blog", "create", "--title", "Three", "--body", "Third.", "--publish")
        assert send(store, daily, later=3 * DAY).sent == 1
        assert "\nThree <" in email_texts(relay)[2]
        assert run_json(home, "mailings", "show", "1")["skipped_at"] is None


def test_digest_without_posts_is_reported_as_skipped(home: Home) -> None:
    run_json(home, "clients", "create", "--email", "bob@example.org")
    created = home.call("messages", "create", "--subject", "News", "--body", "Hello", "--digest")
    assert "blog.url" in created.err
    arguments = ("mailings", "create", "--message", "1", "--start", "now", "--every", "week", "--all-clients")

    done = home.call(*arguments)

    assert done.status == 0
    assert "skipped: there was no new post" in done.err
    assert home.call("run").status == 0
    assert home.call("mailings", "log", "1").out == ""
    assert "skipped: there was no new post" in home.on_terminal("mailings", "log", "1").out

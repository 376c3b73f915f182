"""The digest, by the commands and against a real SMTP server: each post once, and nothing when there is none."""

from collections.abc import Callable
from datetime import timedelta
from email import message_from_bytes, policy
from typing import Any

import pytest
from conftest import enrol
from support.command import Home
from support.sending import send, settings
from support.servers import GREETING, ScriptedServer, obey

from skychimp.models import Role
from skychimp.permissions import Actor
from skychimp.store.database import Store

DAY = timedelta(days=1)
URL = "https://blog.example.org"


@pytest.fixture
def editor(store: Store, home_of: Callable[[Actor], Home]) -> Home:
    return home_of(enrol(store, "grace", Role.EDITOR))


def ok(home: Home, *arguments: str, **environ: str) -> Any:
    done = home.call(*arguments, "--json", environ=environ)
    assert done.status == 0, done.err
    return done.json


def letters(relay: ScriptedServer) -> list[str]:
    """The text part of each letter."""
    found = []
    for letter in relay.letters:
        part = message_from_bytes(letter, policy=policy.default).get_body(("plain",))
        assert part is not None
        found.append(part.get_content().replace("\r\n", "\n"))
    return found


def test_two_posts_two_letters_and_a_day_without(store: Store, home: Home, editor: Home) -> None:
    with ScriptedServer([GREETING, obey()]) as relay:
        through = {
            "SKYCHIMP_MAIL__TRANSPORT": "smtp",
            "SKYCHIMP_SMTP__HOST": "127.0.0.1",
            "SKYCHIMP_SMTP__PORT": str(relay.port),
            "SKYCHIMP_SMTP__SECURITY": "none",
            "SKYCHIMP_BLOG__URL": URL,
        }
        daily = settings(relay.port, blog__url=URL)
        ok(
            editor,
            "blog",
            "create",
            "--title",
            "One {{ client.email }}",
            "--body",
            "It *begins*.\n\nMore.",
            "--publish",
        )
        ok(home, "clients", "create", "--email", "bob@example.org", "--name", "Bob")
        body = "Dear {{ client.name }},\n\n{{ posts }}\n\nBye"
        ok(home, "messages", "create", "--subject", "News", "--body", body, "--markdown", "--digest")
        made = ok(
            home, "mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", **through
        )
        assert (made["digest"], made["skipped_at"], made["run"]["sent"]) == (True, None, 1)
        coming = ok(home, "mailings", "preview", "1", "--next", "1")
        assert coming[0]["note"] == "skipped when there is no new post"

        ok(editor, "blog", "create", "--title", "Two", "--body", "Second.", "--publish")
        assert send(store, daily, later=DAY).sent == 1
        third = send(store, daily, later=2 * DAY)

        assert (third.sent, third.opened, third.queued) == (0, 0, 0)
        assert letters(relay) == [
            f"Dear Bob,\n\n## [One {{{{ client.email }}}}](<{URL}/posts/one-client-email.html>)\n\nIt begins.\n\nBye\n",
            f"Dear Bob,\n\n## [Two](<{URL}/posts/two.html>)\n\nSecond.\n\nBye\n",
        ]
        shown = ok(home, "mailings", "show", "1")
        assert shown["skipped_at"] > shown["start_at"]
        assert [each["state"] for each in ok(home, "report", "1")["occurrences"]] == ["finished", "finished", "skipped"]

        ok(editor, "blog", "create", "--title", "Three", "--body", "Third.", "--publish")
        assert send(store, daily, later=3 * DAY).sent == 1
        assert "## [Three]" in letters(relay)[2]
        assert ok(home, "mailings", "show", "1")["skipped_at"] is None


def test_one_that_has_nothing_to_say_says_so(home: Home) -> None:
    ok(home, "clients", "create", "--email", "bob@example.org")
    created = home.call("messages", "create", "--subject", "News", "--body", "Hello", "--digest")
    assert "blog.url" in created.err
    arguments = ("mailings", "create", "--message", "1", "--start", "now", "--every", "week", "--all-clients")

    done = home.call(*arguments)

    assert done.status == 0
    assert "skipped: there is no new post" in done.err
    assert home.call("run").status == 0
    assert home.call("mailings", "log", "1").out == ""
    assert "skipped: there was no new post" in home.on_terminal("mailings", "log", "1").out

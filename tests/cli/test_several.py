"""Commands that take several ids or names look up all first. They show one as an object and several as a list."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import create_user
from support.command import Home
from support.queue_steps import rows

from skychimp.delivery.composing.compose import MessageContent
from skychimp.models import AuditEntry, Every, Format, Role
from skychimp.permissions import Actor
from skychimp.services.blog import posts
from skychimp.services.clients import clients, segments
from skychimp.services.mailings import mailings
from skychimp.services.mailings.audience_input import Audience
from skychimp.services.mailings.schedules import ScheduleInput
from skychimp.services.messages import layouts, messages
from skychimp.store.database import Store

HomeOf = Callable[[Actor], Home]

LISTS = ("clients", "messages", "layouts", "segments", "mailings")


@pytest.fixture
def pairs(store: Store, ada: Actor, home: Home) -> Home:
    """Return the command line of a user with two of each: ids 1 and 2, and the names a and b of those with a name."""
    for name in "ab":
        clients.create(store, ada, email=f"{name}@x.example")
        message = messages.create(store, ada, MessageContent(f"Subject {name}", "Hello", Format.TEXT)).id
        layouts.create(store, ada, name, "{{ content }}")
        segments.create(store, ada, name, f"name = '{name}'", "UTC")
        schedule = ScheduleInput("2030-01-01 09:00", None, Every.DAY, "UTC")
        everybody = Audience(all_clients=True)
        mailings.create(store, ada, message_id=message, schedule=schedule, audience=everybody, name=name)
    return home


@pytest.fixture
def editor(store: Store, home_of: HomeOf) -> Home:
    """Return the command line of an editor with two posts, a and b. The first one is published."""
    actor = create_user(store, "eve", Role.EDITOR)
    for title in "ab":
        posts.create(store, actor, title=title, content=f"Content of {title}", publish=title == "a")
    return home_of(actor)


def snapshot(home: Home) -> dict[str, Any]:
    return {noun: home.call(noun, "list", "--json").json for noun in LISTS}


COMMANDS = [
    ("clients", "show"), ("clients", "update", "--add-tag", "x"), ("clients", "delete", "--yes"),
    ("messages", "show"), ("messages", "update", "--markdown"), ("messages", "delete", "--yes"),
    ("layouts", "show"), ("layouts", "update", "--html-file", "-"), ("layouts", "delete", "--yes"),
    ("segments", "show"), ("segments", "update", "--where", "tag = 'x'"), ("segments", "delete", "--yes"),
    ("mailings", "show"), ("mailings", "update", "--every", "week"), ("mailings", "disable"), ("mailings", "enable"),
    ("mailings", "delete", "--yes"),
]  # fmt: skip


def test_unknown_names_change_nothing_and_are_all_named(pairs: Home) -> None:
    before = snapshot(pairs)
    for noun, verb, *options in COMMANDS:
        refused = pairs.call(noun, verb, "1", "98", "2", "99", *options, "--json", stdin="<b>{{ content }}</b>")
        singular = noun.removesuffix("s")
        assert (refused.status, refused.out, refused.error["code"]) == (4, "", "not_found"), (noun, verb)
        assert refused.error["message"] == f"{singular} 98 not found, {singular} 99 not found"
        assert refused.error["hint"] == f'run "skychimp {noun} list"'
    assert snapshot(pairs) == before


def test_one_is_an_object_and_several_are_a_list(pairs: Home) -> None:
    """Each in the order in which they are named, and once. Deleting comes last, as all others need them."""
    commands = sorted(COMMANDS, key=lambda command: (command[1] == "delete", command[0] != "mailings"))
    for noun, verb, *options in commands:
        if verb != "delete":
            one = pairs.call(noun, verb, "1", "1", *options, "--json", stdin="{{ content }}")
            assert (one.status, one.json["id"]) == (0, 1), (noun, verb)
        several = pairs.call(noun, verb, "2", "1", "2", *options, "--json", stdin="{{ content }}")
        assert [each["id"] for each in several.json] == [2, 1], (noun, verb)
    assert snapshot(pairs) == {noun: [] for noun in LISTS}


def test_list_has_what_one_object_has(pairs: Home) -> None:
    for noun in LISTS:
        one, both = pairs.call(noun, "show", "1", "--json").json, pairs.call(noun, "show", "1", "2", "--json").json
        assert both[0] == one
    both = pairs.call("mailings", "update", "a", "b", "--all-clients", "--json").json
    assert [(each["name"], each["recipients"]) for each in both] == [("a", 2), ("b", 2)]


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("messages", "update", "1", "2", "--subject", "S"), "--subject"),
        (("messages", "update", "1", "2", "--body", "Chapter"), "--body"),
        (("messages", "update", "1", "2", "--body-file", "-"), "--body-file"),
        (("messages", "update", "1", "2", "--html-file", "-"), "--html-file"),
        (("messages", "update", "1", "2", "--preheader", "P"), "--preheader"),
        (("mailings", "update", "a", "b", "--name", ""), "--name"),
        (("mailings", "show", "a", "b", "--watch"), "--watch"),
        (("layouts", "update", "a", "b", "--name", "c"), "--name"),
        (("layouts", "show", "a", "b", "--html"), "--html"),
        (("segments", "update", "a", "b", "--name", "c"), "--name"),
    ],
)
def test_option_for_one_object_is_refused_for_several(pairs: Home, arguments: tuple[str, ...], option: str) -> None:
    refused = pairs.call(*arguments, width=80 if option == "--watch" else None)
    assert refused.status == 2
    assert f"{option} cannot be used for several at once" in refused.err
    assert "hint: name only one\n" in refused.err


def test_no_editor_opens_for_several(pairs: Home, editor: Home) -> None:
    for home, noun in ((pairs, "messages"), (editor, "blog")):
        refused = home.call(noun, "update", "1", "2", environ={"EDITOR": "false"})
        assert (refused.status, refused.err.splitlines()[0]) == (2, "error: nothing to change")


def test_pipe_separates_what_is_shown_by_an_empty_line(pairs: Home) -> None:
    first, second = pairs.call("clients", "show", "1", "2").out.split("\n\n")
    assert "email\ta@x.example\n" in first
    assert second.startswith("id\t2\n")
    assert not pairs.call("clients", "show", "1").out.startswith("\n")


def test_terminal_has_a_heading_for_each_and_a_line_for_each_change(pairs: Home) -> None:
    shown = pairs.call("mailings", "show", "a", "b", width=100).out
    assert shown.index('mailing 1 ("a")') < shown.index('mailing 2 ("b")')
    assert 'mailing 1 ("a")' not in pairs.call("mailings", "show", "a", width=100).out
    changed = pairs.call("messages", "update", "1", "2", "--markdown", width=100).out
    assert changed == 'updated message 1 ("Subject a")\nupdated message 2 ("Subject b")\n'
    disabled = pairs.call("mailings", "disable", "a", "b", width=100)
    assert disabled.out == 'disabled mailing 1 ("a")\ndisabled mailing 2 ("b")\n'
    assert disabled.err == "to undo this: skychimp mailings enable 1 2\n"
    assert pairs.call("mailings", "enable", "b").status == 0
    again = pairs.call("mailings", "disable", "a", "b")  # one of them was disabled before
    assert again.err == "to undo this: skychimp mailings enable 2\n"


def test_what_was_not_changed_after_an_error_is_named(pairs: Home) -> None:
    assert pairs.call("mailings", "update", "b", "--start", "2031-01-01 09:00").status == 0
    refused = pairs.call("mailings", "update", "a", "b", "--end", "2030-06-01")
    assert (refused.status, refused.out.split("\t")[0]) == (2, "1")
    assert refused.err.startswith('not updated: mailing 2 ("b")\nerror: --end must be after --start\n')


@pytest.mark.parametrize(("answer", "status"), [("n", 1), ("y", 0)])
def test_enable_asks_once_with_the_sum(pairs: Home, answer: str, status: int) -> None:
    assert pairs.call("mailings", "disable", "a", "b", "--reason", "later").status == 0
    assert pairs.call("mailings", "update", "a", "b", "--start", "2020-01-01 09:00").status == 0
    asked = pairs.call("mailings", "enable", "a", "b", stdin=f"{answer}\nn\n", width=100)
    assert asked.err.count("[y/N]") == 1
    assert "Send to 4 clients now? [y/N]" in asked.err
    assert asked.status == status
    assert [row["disabled"] for row in pairs.call("mailings", "list", "--json").json] == [answer == "n"] * 2


def test_posts(editor: Home, home: Home) -> None:
    assert [post["views"] for post in editor.call("blog", "show", "a", "2", "--json").json] == [1, 0]
    refused = home.call("blog", "show", "a", "b", "9")  # a draft is nobody else's
    assert (refused.status, refused.err.splitlines()[0]) == (4, "error: post b not found, post 9 not found")
    assert home.call("blog", "show", "a", "--json").json["views"] == 2
    assert editor.call("blog", "update", "a", "b", "--title", "c").status == 2
    assert [post["slug"] for post in editor.call("blog", "update", "b", "a", "--no-image", "--json").json] == ["b", "a"]
    assert editor.call("blog", "delete", "a", "x", "--yes").status == 4
    assert len(editor.call("blog", "delete", "a", "b", "--yes", "--json").json) == 2


def test_users_are_blocked_and_unblocked_together(store: Store, home_of: HomeOf, manager: Actor, ada: Actor) -> None:
    bob, home = create_user(store, "bob"), home_of(manager)
    names = (ada.email, str(bob.user_id))
    assert [user["email"] for user in home.call("users", "show", *names, "--json").json] == [ada.email, bob.email]
    refused = home.call("users", "block", *names, "x@y.example", str(manager.user_id))
    assert (refused.status, "to your own account" in refused.err) == (5, True)
    assert home.call("users", "block", *names, "x@y.example").status == 4
    assert not any(user["blocked_at"] for user in home.call("users", "list", "--json").json)

    blocked = home.call("users", "block", *names, "--reason", "spam")
    assert len(blocked.out.splitlines()) == 2
    assert blocked.err.endswith(f"to undo this: skychimp users unblock {ada.email} {bob.email}\n")
    trail = [(row.action, row.object_id, row.detail) for row in rows(store, AuditEntry) if row.action == "block"]
    assert trail == [("block", ada.user_id, "spam"), ("block", bob.user_id, "spam")]
    unblocked = home.call("users", "unblock", *names, "--json").json
    assert [user["blocked_at"] for user in unblocked] == [None, None]


def test_each_unknown_name_is_in_the_audit_trail(store: Store, pairs: Home, bob: Actor, home_of: HomeOf) -> None:
    """Or else somebody could try many ids of others and leave one entry."""
    assert home_of(bob).call("clients", "show", "1", "2", "99").status == 4
    trail = [(row.action, row.object_id) for row in rows(store, AuditEntry)]
    assert trail == [("refused", 1), ("refused", 2), ("not found", 99)]


def test_suppressions_of_several_addresses_are_shown_once(home: Home) -> None:
    assert home.call("suppressions", "add", "@x.example", "a@x.example").status == 0
    shown = home.call("suppressions", "show", "a@x.example", "b@x.example", "--json").json
    assert sorted(each["address"] for each in shown) == ["@x.example", "a@x.example"]
    refused = home.call("suppressions", "show", "a@x.example", "c@y.example", "d@y.example", "--json")
    assert (refused.status, refused.out) == (4, "")
    assert refused.error["message"] == "c@y.example is not suppressed, d@y.example is not suppressed"


def test_json_after_an_error_has_what_was_changed(pairs: Home) -> None:
    assert pairs.call("mailings", "update", "b", "--start", "2031-01-01 09:00").status == 0
    refused = pairs.call("mailings", "update", "a", "b", "--end", "2030-06-01", "--json")
    assert [each["id"] for each in json.loads(refused.out)] == [1]
    assert refused.error["code"] == "invalid_value"

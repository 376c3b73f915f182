"""Test the `clients` commands that are about many clients: their tags, and changing several at once."""

from typing import Any

import pytest
from support.command import Home
from support.queue_steps import NOW, create_client

from skychimp.models import Client
from skychimp.permissions import Actor
from skychimp.store.database import Store


@pytest.fixture
def people(store: Store, ada: Actor, bob: Actor, home: Home) -> Home:
    """Ada's command line, with clients 1 to 3."""
    create_client(store, ada, "ann", tags=["vip", "gold"])
    create_client(store, ada, "ben", tags=["gold"])
    create_client(store, ada, "eve")
    create_client(store, bob, "fay", tags=["vip", "silver"])
    return home


def tags_of(home: Home) -> dict[str, list[str]]:
    """Return the tags of each client by its name."""
    return {row["name"]: row["tags"] for row in home.call("clients", "list", "--json").json}


def test_tags_are_listed_with_their_clients(people: Home) -> None:
    assert people.call("clients", "tags").out == "gold\t2\nvip\t1\n"
    assert people.call("clients", "tags", "--json").json == [
        {"tag": "gold", "clients": 2},
        {"tag": "vip", "clients": 1},
    ]
    assert people.call("clients", "tags", "--sort=clients", "--limit", "1").out == "vip\t1\n"
    assert people.call("clients", "tags", "--search", "GO").out == "gold\t2\n"
    assert people.call("clients", "tags", "--search", "x", width=80).err == "no matching tags\n"


@pytest.mark.parametrize(
    ("clients", "options", "tags", "changed", "take_back"),
    [
        (
            ("1", "BEN@example.org", "3"),
            ("--add-tag", "VIP"),
            {"Ann": ["gold", "vip"], "Ben": ["gold", "vip"], "Eve": ["vip"]},
            "2 clients of 3",
            ["2 3 --remove-tag vip"],
        ),
        (
            ("1", "2", "1", "ann@example.org"),
            ("--remove-tag", "gold", "--add-tag", "new one"),
            {"Ann": ["new one", "vip"], "Ben": ["new one"], "Eve": []},
            "2 clients of 2",
            ["1 2 --remove-tag 'new one' --add-tag gold"],
        ),
        (
            ("1", "2", "3"),
            ("--no-tags",),
            {"Ann": [], "Ben": [], "Eve": []},
            "2 clients of 3",
            ["1 --add-tag gold --add-tag vip", "2 --add-tag gold"],
        ),
        (
            ("2", "3"),
            ("--tag", "gold"),
            {"Ann": ["gold", "vip"], "Ben": ["gold"], "Eve": ["gold"]},
            "1 client of 2",
            ["3 --remove-tag gold"],
        ),
        (("2", "3"), ("--good",), {"Ann": ["gold", "vip"], "Ben": ["gold"], "Eve": []}, "0 clients of 2", []),
    ],
    ids=["add", "add and remove", "no tags", "replace", "no change"],
)
def test_several_clients_are_changed_and_taken_back(
    people: Home,
    clients: tuple[str, ...],
    options: tuple[str, ...],
    tags: dict[str, list[str]],
    changed: str,
    take_back: list[str],
) -> None:
    before = tags_of(people)

    done = people.call("clients", "update", *clients, *options)

    assert (done.status, tags_of(people)) == (0, tags)
    notes = done.err.splitlines()
    assert notes[0] == f"{changed} got other tags"
    assert notes[1:] == [f"to take it back: skychimp clients update {each}" for each in take_back]
    for each in take_back:
        assert people.call("clients", "update", *each.replace("'new one'", "new_one").split()).status == 0
    if not any("new one" in each for each in take_back):
        assert tags_of(people) == before


def test_json_of_several_clients_is_a_list(people: Home) -> None:
    update = ("clients", "update", "--add-tag", "vip", "--json")

    assert [row["id"] for row in people.call(*update, "2", "3").json] == [2, 3]
    assert people.call(*update, "2").json["id"] == 2


def test_several_clients_become_good(people: Home, store: Store) -> None:
    with store.write() as db:
        for client_id in (1, 2):
            db.get_one(Client, client_id).bad_at = NOW

    people.call("clients", "update", "1", "2", "--good")

    assert people.call("clients", "list", "--bad", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (("1", "99", "--add-tag", "new"), 4, "client 99 not found"),
        (("1", "4", "--add-tag", "new"), 4, "client 4 not found"),
        (("1", "2", "--add-tag", "a,b"), 2, "invalid tag"),
        (("1", "2", "--name", "Ann"), 2, "--email, --name and --comment change one client"),
    ],
)
def test_all_clients_are_changed_or_none(people: Home, arguments: Any, status: int, problem: str) -> None:
    before = tags_of(people)

    refused = people.call("clients", "update", *arguments)

    assert (refused.status, problem in refused.err) == (status, True)
    assert tags_of(people) == before


def test_replaced_tags_are_named(home: Home) -> None:
    home.call("clients", "create", "--email", "a@x.example", "--tag", "vip", "--tag", "news")
    replaced = home.call("clients", "update", "a@x.example", "--tag", "NEWS", "--tag", "old")
    assert replaced.err == "replaced: vip; use --add-tag to keep a client's tags\n"
    assert home.call("clients", "update", "a@x.example", "--add-tag", "vip").err == ""


def test_several_are_deleted_together(home: Home) -> None:
    for name in "abc":
        home.call("clients", "create", "--email", f"{name}@x.example")
    assert home.call("clients", "delete", "a@x.example", "9", "--yes").status == 4
    assert len(home.call("clients", "list", "--json").json) == 3

    gone = home.on_terminal("clients", "delete", "a@x.example", "2", "1", answers=[("Delete 2 clients? [y/N]", "y\n")])
    assert "deleted client 1, a@x.example\ndeleted client 2, b@x.example\n" in gone.out
    assert "to send them nothing more: skychimp suppressions add a@x.example b@x.example\n" in gone.out
    assert home.call("clients", "delete", "3", "--yes", "--json").json["email"] == "c@x.example"


def test_what_was_deleted_before_an_error_is_shown(home: Home) -> None:
    for subject in ("free", "used", "free too"):
        home.call("messages", "create", "--subject", subject, "--body", "x")
    home.call("mailings", "create", "--message", "2", "--start", "tomorrow", "--every", "day", "--all-clients")
    refused = home.call("messages", "delete", "1", "2", "3", "--yes", "--json")
    assert refused.status == 6
    assert [message["subject"] for message in refused.json] == ["free"]
    assert [message["id"] for message in home.call("messages", "list", "--json").json] == [2, 3]

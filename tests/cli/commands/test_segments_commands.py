"""Segments, queries and exclusions on the command line: what is chosen, shown, refused and taken back."""

import pytest
from support.command import Home
from support.queue_steps import create_client, rows, write

from skychimp.models import Client, MailingFilter
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.store.database import Store

CREATE = ("mailings", "create", "--message", "1", "--start", "2030-01-01", "--every", "once")


@pytest.fixture
def people(store: Store, ada: Actor, home: Home) -> Home:
    """Return Ada's command line, with message 1, segment `vips`, and the clients Ann, Ben and Zoe."""
    for name, tags in (("ann", ["vip"]), ("ben", []), ("zoe", ["vip", "old"])):
        create_client(store, ada, name, tags=tags)
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Hi").status == 0
    assert home.call("segments", "create", "vips", "--where", "tag = 'vip'", "--json").json["clients"] == 2
    return home


def names(home: Home, *arguments: str) -> list[str]:
    listed = home.call("clients", "list", *arguments, "--json")
    assert listed.status == 0, listed.err
    return [client["name"] for client in listed.json]


def test_error_in_a_query_points_at_its_place(people: Home) -> None:
    refused = people.call("clients", "list", "--where", "tag = 'vip' AND nmae = 'Ann'")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == (
        "error: the query, column 17: unknown column nmae\n"
        "  tag = 'vip' AND nmae = 'Ann'\n"
        "                  ^\n"
        "hint: did you mean name?\n"
    )
    refused = people.call("clients", "list", "--where", "nmae = 'Ann'", "--json")
    message, hint = "the query, column 1: unknown column nmae", "did you mean name?"
    assert refused.error == {"code": "invalid_value", "message": message, "hint": hint}


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", []),
        ("name = 'Zoë' ANT tag = 'x'", ["  name = 'Zoë' ANT tag = 'x'", "               ^"]),
        ("name = '日本' ANT tag = 'x'", ["  name = '日本' ANT tag = 'x'", "                ^"]),
        ("name = '\u202e' ANT tag = 'x'", ["  name = '\\u202e' ANT tag = 'x'", "                  ^"]),
        ("tag = 'x'\n  AND x", ["    AND x", "        ^"]),
        (f"name = '{'a' * 200}' ANT tag = '{'b' * 200}'", [f"  …{'a' * 48}' ANT tag = '{'b' * 39}…", f"{' ' * 53}^"]),
    ],
)
def test_place_is_shown_in_its_line(people: Home, query: str, shown: list[str]) -> None:
    assert people.call("segments", "create", "x", "--where", query).err.splitlines()[1:-1] == shown


def test_lists_and_exports_take_queries_and_segments(people: Home) -> None:
    assert names(people, "--where", "name LIKE 'z%'") == ["Zoe"]
    assert names(people, "--segment", "VIPS") == ["Ann", "Zoe"]
    assert names(people, "--segment", "1", "--where", "NOT tag = 'old'", "--tag", "vip") == ["Ann"]
    assert people.call("clients", "export", "--where", "tag IS NULL").out.splitlines()[1:] == ["ben@example.org,Ben,,"]
    assert people.call("clients", "list", "--segment", "vipz").status == 4


def test_segment_is_changed_and_deleted(people: Home) -> None:
    assert people.call("segments", "update", "vips", "--name", "Regulars", "--json").json["name"] == "Regulars"
    changed = people.call("segments", "update", "regulars", "--where", "tag IS NULL", "--json").json
    assert (changed["id"], changed["where"], changed["clients"]) == (1, "tag IS NULL", 1)
    assert people.call("segments", "list").out == "1\tRegulars\ttag IS NULL\n"
    assert people.call("segments", "delete", "1").status == 2
    assert people.call("segments", "delete", "1", "--yes", "--json").json["name"] == "Regulars"
    assert people.call("segments", "list", "--json").json == []


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (("create", "VIPs", "--where", "tag IS NULL"), 6, "segment VIPs already exists"),
        (("create", "17", "--where", "tag IS NULL"), 2, 'invalid name "17"'),
        (("create", " ", "--where", "tag IS NULL"), 2, "invalid name"),
        (("create", "a\nb", "--where", "tag IS NULL"), 2, "contains a control character"),
        (("create", "x", "--where", " "), 2, "the query, column 1: it is empty"),
        (("create", "x", "--where", "fields.city = 'x'"), 2, "unknown field city"),
        (("update", "vips"), 2, "nothing to change"),
        (("update", "vips", "--where", "tag ="), 2, "the query, column 6"),
        (("show", "x\0"), 4, "not found"),
        (("show", "9" * 30), 4, "not found"),
        (("delete", "x", "--yes"), 4, "segment x not found"),
    ],
)
def test_wrong_segment_is_refused(people: Home, arguments: tuple[str, ...], status: int, problem: str) -> None:
    refused = people.call("segments", *arguments)
    assert (refused.status, refused.out) == (status, "")
    assert problem in refused.err
    assert people.call("segments", "list").out == "1\tvips\ttag = 'vip'\n"


def test_segment_of_another_user_is_not_found(people: Home, home_of: object, bob: Actor) -> None:
    others = home_of(bob)  # type: ignore[operator]
    assert others.call("segments", "show", "vips").status == 4
    assert others.call("segments", "list", "--json").json == []
    assert others.call("segments", "create", "vips", "--where", "tag = 'vip'", "--json").json["clients"] == 0


# Mailings


def test_mailing_is_created_shown_named_and_copied(people: Home) -> None:
    created = people.call(
        *CREATE, "--segment", "vips", "--where", "name = 'Ben'", "--except-tag", "OLD", "--except-segment", "1",
        "--except-where", "name = 'x'", "--name", "Big news", "--json",
    )  # fmt: skip
    chosen = {
        "name": "Big news", "segments": ["vips"], "where": "name = 'Ben'", "except_tags": ["OLD"],
        "except_segments": ["vips"], "except_where": "name = 'x'",
    }  # fmt: skip
    assert created.json.items() >= chosen.items()
    assert created.json["left_out"] == {"suppressed": 0, "bad_address": 0, "no_consent": 0, "excluded": 2}
    assert created.json["recipients"] == 1

    shown = people.call("mailings", "show", "BIG news")
    assert (
        "audience\tclients in segment vips, and clients where name = 'Ben' except those with the tag OLD,"
        " and those in segment vips, and those where name = 'x'\n"
    ) in shown.out
    copy = people.call("mailings", "duplicate", "big news", "--json").json
    assert copy.items() >= (chosen | {"name": None}).items()
    assert people.call("mailings", "audience", "big news", "--left-out").out == (
        "ann@example.org\texcluded: in segment vips\nzoe@example.org\texcluded: has tag OLD\n"
    )


def test_update_replaces_who_is_chosen_or_who_is_left_out(people: Home) -> None:
    people.call(*CREATE, "--tag", "vip", "--except-tag", "old", "--name", "news")

    changed = people.call("mailings", "update", "news", "--segment", "vips", "--json").json
    assert (changed["tags"], changed["segments"], changed["except_tags"]) == ([], ["vips"], ["old"])
    changed = people.call("mailings", "update", "news", "--except-where", "tag IS NULL", "--json").json
    assert (changed["segments"], changed["except_tags"], changed["except_where"]) == (["vips"], [], "tag IS NULL")
    changed = people.call("mailings", "update", "news", "--all-clients", "--no-except", "--name", "", "--json").json
    assert (changed["all_clients"], changed["except_where"], changed["name"]) == (True, None, None)
    assert changed["recipients"] == 3


@pytest.mark.parametrize(
    ("options", "status", "problem"),
    [
        (("--except-tag", "old"), 2, "no recipients selected"),
        (("--all-clients", "--segment", "vips"), 2, "--all-clients cannot be combined with"),
        (("--all-clients", "--where", "tag IS NULL"), 2, "--all-clients cannot be combined with"),
        (("--segment", "x"), 4, "segment x not found"),
        (("--all-clients", "--except-segment", "x"), 4, "segment x not found"),
        (("--where", ""), 2, "the query, column 1: it is empty"),
        (("--all-clients", "--except-where", "nmae = 'x'"), 2, "the query, column 1: unknown column nmae"),
        (("--where", "got(99)"), 2, "the query, column 5: mailing 99 not found"),
        (("--all-clients", "--name", "5"), 2, 'invalid name "5"'),
    ],
)
def test_wrong_audience_is_refused(
    people: Home, store: Store, options: tuple[str, ...], status: int, problem: str
) -> None:
    refused = people.call(*CREATE, *options)
    assert (refused.status, refused.out) == (status, "")
    assert problem in refused.err
    assert people.call("mailings", "list", "--json").json == []
    assert rows(store, MailingFilter) == []


def test_name_of_a_mailing_is_unique_and_finds_it(people: Home) -> None:
    people.call(*CREATE, "--all-clients", "--name", "news")
    assert people.call(*CREATE, "--all-clients", "--name", "NEWS").status == 6
    assert people.call("mailings", "update", "news", "--name", "NEWS", "--json").json["name"] == "NEWS"
    for command in (
        "mailings show",
        "mailings log",
        "mailings preview",
        "mailings disable",
        "mailings enable",
        "report",
    ):
        assert people.call(*command.split(), "news").status == 0, command
    assert people.call("run", "--mailing", "news", "--dry-run").status == 0
    assert people.call("run", "--mailing", "newz", "--dry-run").status == 4
    assert people.call("mailings", "delete", "news", "--yes").status == 0
    assert people.call("mailings", "show", "news").status == 4


def test_used_segment_is_deleted_with_its_last_mailing(people: Home) -> None:
    people.call(*CREATE, "--all-clients", "--except-segment", "vips")
    refused = people.call("segments", "delete", "vips", "--yes")
    assert (refused.status, "segment vips is used by mailing 1" in refused.err) == (6, True)
    assert people.call("mailings", "delete", "1", "--yes").status == 0
    assert people.call("segments", "delete", "vips", "--yes").status == 0


def test_creation_warns_if_nobody_is_chosen(people: Home) -> None:
    assert people.call(*CREATE, "--where", "name = 'x'").err.startswith("warning: mailing 1 goes to no client\n")


def test_mailing_with_an_invalid_segment_is_shown_and_held(people: Home, store: Store) -> None:
    people.call(*CREATE, "--segment", "vips")
    write(store, lambda db: db.exec_driver_sql("UPDATE segment SET expression = 'fields.gone = 1'"))
    problem = "the query of segment vips is no longer valid: unknown field gone"
    assert f"left_out\t{problem}\n" in people.call("mailings", "show", "1").out
    assert people.call("mailings", "audience", "1").status == 2
    assert "problem\tthe query, column 1: unknown field gone\n" in people.call("segments", "show", "vips").out
    people.call("mailings", "update", "1", "--start", "now")
    ran = people.call("run", "--json")
    assert (ran.status, ran.json["sent"]) == (75, 0)
    assert f"mailing 1 is held: {problem}" in ran.err
    assert people.call("mailings", "show", "1", "--json").json["held"] == problem


# Changes of many


def test_all_that_match_are_changed_and_it_can_be_taken_back(people: Home, store: Store) -> None:
    options = ("clients", "update", "--where", "name < 'C'", "--add-tag", "new", "--remove-tag", "vip")
    assert people.call(*options).status == 2
    assert names(people, "--tag", "new") == []

    changed = people.call(*options, "--yes")
    assert changed.out == "selected\t2\nother_tags\t2\n"
    undo = [line.removeprefix("to take it back: skychimp ") for line in changed.err.splitlines()[1:]]
    assert undo == ["clients update 1 --remove-tag new --add-tag vip", "clients update 2 --remove-tag new"]
    for line in undo:
        assert people.call(*line.split()).status == 0
    assert [client.name for client in rows(store, Client)] == ["Ann", "Ben", "Zoe"]
    assert names(people, "--tag", "vip") == ["Ann", "Zoe"]


def test_change_of_many_is_taken_back_by_an_exact_query(
    people: Home, store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skychimp.cli.commands.clients_update.MOST_IDS_SHOWN", 0)
    monkeypatch.setattr(clients, "CHANGE_BATCH", 2)
    for query, tag, undo in (
        ("email LIKE '%'", "x y's", r"--where 'tag = '\''x y'\'\'s\' --remove-tag 'x y'\'s"),
        ("email LIKE '%'", "vip", None),
    ):
        changed = people.call("clients", "update", "--where", query, "--add-tag", tag, "--yes")
        lines = changed.err.splitlines()
        if undo is None:
            assert lines[-1] == "1 client: added vip; no query finds exactly these clients"
        else:
            assert lines[-1] == f"to take it back: skychimp clients update {undo}"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "no client selected"),
        (("1", "--where", "tag IS NULL"), "CLIENT and --where or --segment cannot be combined"),
        (("--where", "tag IS NULL", "--name", "x"), "--email, --name and --comment change one client"),
        (("--segment", "vips", "--yes"), "nothing to change"),
        (("--where", "tag IS", "--good"), "the query, column 7"),
    ],
)
def test_wrong_change_of_many_is_refused(people: Home, options: tuple[str, ...], problem: str) -> None:
    refused = people.call("clients", "update", *options)
    assert (refused.status, refused.out) == (2, "")
    assert problem in refused.err

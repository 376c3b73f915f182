"""Test the `skychimp suppressions` commands, and what the clients commands show of suppressions."""

import re
import shlex
from collections.abc import Callable
from datetime import datetime

import pytest
from sqlalchemy import select
from support import ledger_rows
from support.command import Home
from support.queue_steps import rows

from skychimp.cli.commands.help import TOPICS
from skychimp.models import AuditEntry, Client, Delivery, DeliveryState, Mailing, Suppression, metadata
from skychimp.permissions import Actor
from skychimp.services.clients import suppressions
from skychimp.store.database import SQLITE, Store

HomeOf = Callable[[Actor], Home]

FIELDS = {"address", "reason", "topic", "everywhere", "source", "at", "note", "until"}


def today() -> str:
    return f"{datetime.now().astimezone():%Y-%m-%d}"


def listed(home: Home, *options: str) -> list[str]:
    return [each["address"] for each in home.call("suppressions", "list", "--json", *options).json]


def wait_for(store: Store, owner: Actor, *addresses: str, topic: str = "") -> None:
    """Let emails of a mailing wait for these addresses."""
    mailing_id = ledger_rows.mailing(store, owner)
    with store.write() as db:
        db.get_one(Mailing, mailing_id).topic = topic
    occurrence = ledger_rows.occurrence(store, mailing_id)
    for address in addresses:
        ledger_rows.delivery(store, occurrence, address, DeliveryState.QUEUED)


def states(store: Store) -> dict[str, str]:
    return {row.address: str(row.state) for row in rows(store, Delivery)}


# Add


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("grace@example.org", "grace@example.org"),
        (" Grace.Hopper+News@EXAMPLE.org ", "Grace.Hopper+News@example.org"),
        ("a..b@example.org", "a..b@example.org"),
        ("root@localhost", "root@localhost"),
        ("@Example.ORG", "@example.org"),
        ("@xn--bcher-kva.example", "@bücher.example"),
        ("@intranet", "@intranet"),
    ],
)
def test_added_suppression_is_shown(home: Home, store: Store, target: str, shown: str) -> None:
    added = home.call("suppressions", "add", target, "--json")
    assert (added.status, added.err) == (0, "")
    assert added.json.keys() == FIELDS
    expected = {"address": shown, "reason": "unsubscribed", "topic": None, "everywhere": False, "source": "command"}
    assert {name: added.json[name] for name in expected} == expected
    assert home.call("--json", "suppressions", "list").json == [added.json]
    assert home.call("suppressions", "show", shown.upper(), "--json").json == [added.json]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("no address",), 'invalid email address "no address"'),
        (("@",), 'invalid domain "@"'),
        (("@example org",), 'invalid domain "@example org"'),
        (("a@example.org", "--reason", " "), "the reason is empty"),
        (("a@example.org", "--reason", "two\nlines"), "contains a control character or a line break"),
        (("a@example.org", "--reason", "x" * 201), "is longer than 200 characters"),
        (("a@example.org", "--note", "x" * 1_001), "is longer than 1,000 characters"),
        (("a@example.org", "--topic", ""), "the topic is empty"),
        (("a@example.org", "--operator"), "--operator needs --everywhere"),
        (("a@example.org", "--everywhere", "--operator", "--topic", "news"), "cannot have a topic"),
    ],
)
def test_wrong_value_adds_nothing(home: Home, store: Store, arguments: tuple[str, ...], error: str) -> None:
    refused = home.call("suppressions", "add", "good@example.org", *arguments)
    assert refused.status == 2
    assert error in refused.err
    assert rows(store, Suppression) == []


def test_several_are_a_list(home: Home, store: Store) -> None:
    added = home.call("suppressions", "add", "A@example.org", "@example.net", "a@example.org", "--json")
    assert [each["address"] for each in added.json] == ["A@example.org", "@example.net"]
    assert home.call("suppressions", "add", "b@example.org", "c@example.org").out.count("\tcommand\t") == 2


def test_one_that_exists_stays_as_it_is(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "--reason", "complaint", "--note", "by phone")
    again = home.call("suppressions", "add", "A@example.org", "--json")
    assert (again.status, again.json["reason"], again.json["note"]) == (0, "complaint", "by phone")
    assert again.err == f"a@example.org was already suppressed since {today()}: complaint\n"


def test_what_waits_is_cancelled(home: Home, store: Store, ada: Actor, bob: Actor) -> None:
    wait_for(store, ada, "a@example.org", "b@example.org", "c@example.net", "d@sub.example.net")
    wait_for(store, bob, "e@example.net")
    added = home.call("suppressions", "add", "A@example.org", "@example.net")
    assert added.err == "2 waiting emails cancelled\n"
    waiting = {address for address, state in states(store).items() if state == "queued"}
    assert waiting == {"b@example.org", "d@sub.example.net", "e@example.net"}


def test_what_waits_for_a_domain_is_cancelled_in_batches(
    home: Home, store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppressions, "CANCEL_BATCH", 2)
    wait_for(store, ada, *(f"{name}@example.org" for name in "abcd"), "e@example.net")
    assert home.call("suppressions", "add", "@example.org").err == "4 waiting emails cancelled\n"
    assert sorted(states(store).values()) == ["cancelled"] * 4 + ["queued"]


def test_topic_is_compared_without_case(home: Home, store: Store, ada: Actor) -> None:
    wait_for(store, ada, "a@example.org", topic="Neuigkeiten für alle")
    wait_for(store, ada, "A2@example.org", topic="offers")
    topic = ("--topic", "NEUIGKEITEN FU\u0308R ALLE")
    added = home.call("suppressions", "add", "a@example.org", *topic, "--json")
    assert (added.json["topic"], added.err) == ("Neuigkeiten für alle", "1 waiting email cancelled\n")
    assert listed(home, *topic) == ["a@example.org"]
    assert listed(home, "--topic", "offers") == []
    assert home.call("suppressions", "remove", "a@example.org", "--yes").status == 4
    assert home.call("suppressions", "remove", "a@example.org", "--yes", *topic).status == 0


# All users


def test_everywhere_is_an_administrators(store: Store, home: Home, bob: Actor, admin: Actor, home_of: HomeOf) -> None:
    wait_for(store, bob, "a@example.org")
    root = home_of(admin)
    for command in (("add", "a@example.org"), ("list",), ("remove", "a@example.org", "--yes"), ("export",)):
        refused = home.call("suppressions", *command, "--everywhere")
        assert (refused.status, refused.err.splitlines()[0]) == (
            5, "error: a user may not see or change suppressions of all users' mail",
        )  # fmt: skip
    added = root.call("suppressions", "add", "a@example.org", "--everywhere", "--reason", "court order")
    assert (added.status, added.err) == (0, "1 waiting email cancelled\n")
    assert listed(root) == listed(home) == []
    assert listed(root, "--everywhere") == listed(home, "--everywhere", "--operator") == ["a@example.org"]
    home.call("clients", "create", "--email", "a@example.org")
    assert home.call("clients", "show", "a@example.org", "--json").json["suppressed"] == "court order"
    assert home.call("suppressions", "remove", "a@example.org", "--yes").status == 4
    exported = root.call("suppressions", "export", "--everywhere")
    assert "a@example.org,court order" in exported.out
    assert root.call("suppressions", "remove", "a@example.org", "--everywhere", "--yes").status == 0
    assert home.call("clients", "show", "a@example.org", "--json").json["suppressed"] is None
    trail = [(row.action, row.object, row.detail) for row in rows(store, AuditEntry) if row.object == "suppression"]
    assert trail == [
        ("suppress", "suppression", "1 address, everywhere"),
        ("export", "suppression", "everywhere"),
        ("delete", "suppression", "everywhere"),
    ]


# List and export


def test_list_is_filtered_and_sorted(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "b@example.org", "a@example.org", "--note", "asked on the phone")
    home.call("suppressions", "add", "@c.example", "--reason", "complaint")
    assert listed(home) == ["b@example.org", "a@example.org", "@c.example"]
    assert listed(home, "--sort", "address") == ["@c.example", "a@example.org", "b@example.org"]
    assert listed(home, "--sort", "-at")[0] == "@c.example"
    assert listed(home, "--reason", "complaint") == ["@c.example"]
    assert listed(home, "--search", "PHONE", "--limit", "1", "--offset", "1") == ["a@example.org"]
    assert home.call("suppressions", "list", "--sort", "colour").status == 2


def test_list_in_a_pipe_and_on_a_terminal(home: Home, store: Store) -> None:
    assert home.call("suppressions", "list", width=80).err == "no suppressions\n"
    assert home.call("suppressions", "list").out == ""
    at = home.call("suppressions", "add", "a@example.org", "--note", "by phone\u202e", "--json").json["at"]
    assert home.call("suppressions", "list").out == f"a@example.org\tunsubscribed\t\tcommand\t{at}\tby phone\\u202e\n"
    shown = home.call("suppressions", "list", width=80).out
    assert [word for word in ("Address", "Reason", "Topic", "Since", "a@example.org") if word in shown] == [
        "Address", "Reason", "Since", "a@example.org",
    ]  # fmt: skip
    assert home.call("suppressions", "list", "--search", "z", width=80).err == "no matching suppressions\n"


def test_export(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "--reason", "=1+1", "--note", "said: no, thanks")
    at = home.call("suppressions", "add", "@example.net", "--topic", "news", "--json").json["at"]
    exported = home.call("suppressions", "export")
    lines = exported.out.splitlines()
    assert lines[0] == "address,reason,topic,source,at,note"
    assert lines[1].startswith("a@example.org,'=1+1,,command,")
    assert lines[1].endswith(',"said: no, thanks"')
    assert lines[2] == f"'@example.net,unsubscribed,news,command,{at},"
    written = home.call("suppressions", "export", "out.csv", "--json")
    assert written.json == {"suppressions": 2, "file": "out.csv"}
    assert (home.folder / "out.csv").read_text(encoding="utf-8") == exported.out
    assert home.call("suppressions", "export", "--json").status == 2
    assert [row.action for row in rows(store, AuditEntry)] == ["export", "export"]


# Show and remove


def test_show_finds_everything_that_covers_an_address(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "--topic", "news")
    home.call("suppressions", "add", "@example.org", "--reason", "complaint")
    home.call("suppressions", "add", "@example.org", "--everywhere", "--operator")
    home.call("suppressions", "add", "b@example.org")
    shown = home.call("suppressions", "show", "a@example.org", "--json").json
    assert [(each["address"], each["topic"], each["everywhere"]) for each in shown] == [
        ("@example.org", None, False), ("@example.org", None, True), ("a@example.org", "news", False),
    ]  # fmt: skip
    missing = home.call("suppressions", "show", "a@example.com")
    assert (missing.status, missing.err) == (
        4, 'error: a@example.com is not suppressed\nhint: run "skychimp suppressions list"\n',
    )  # fmt: skip


def test_removal_asks(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "b@example.org")
    refused = home.call("suppressions", "remove", "a@example.org")
    assert (refused.status, refused.err) == (
        2, "error: refusing to let a@example.org get email again without confirmation\nhint: pass --yes\n",
    )  # fmt: skip
    asked = home.call("suppressions", "remove", "a@example.org", "b@example.org", width=80, stdin="n\n")
    assert (asked.status, "Let 2 addresses get email again? [y/N]" in asked.err) == (1, True)
    assert home.call("suppressions", "remove", "a@example.org", width=80, stdin="y\n").status == 0
    assert listed(home) == ["b@example.org"]
    both = home.call("suppressions", "remove", "b@example.org", "a@example.org", "--yes")
    assert (both.status, both.err.splitlines()[0]) == (4, "error: a@example.org is not suppressed")
    assert listed(home) == ["b@example.org"]


def test_removal_says_what_else_suppresses_the_address(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "@example.org")
    removed = home.call("suppressions", "remove", "A@EXAMPLE.org", "--yes", "--json")
    assert removed.json["address"] == "a@example.org"
    assert removed.err == f"A@example.org is still suppressed with @example.org since {today()}: unsubscribed\n"


def test_another_users_suppression_looks_like_none(home: Home, store: Store, bob: Actor, home_of: HomeOf) -> None:
    home.call("suppressions", "add", "a@example.org")
    bobs = home_of(bob)
    answers = [bobs.call("suppressions", *words, f"{name}@example.org")
               for words in (("remove", "--yes"), ("show",)) for name in ("a", "b")]  # fmt: skip
    assert [answer.status for answer in answers] == [4] * 4
    assert len({answer.err.replace("b@", "a@") for answer in answers}) == 2
    assert bobs.call("clients", "create", "--email", "a@example.org", "--json").json["suppressed"] is None


def test_erased_address_can_be_removed_by_naming_it(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "gone@example.org", "--note", "on paper")
    assert home.call("clients", "forget", "gone@example.org", "--yes").status == 0
    assert listed(home) == [None]
    assert home.call("suppressions", "list").out.startswith("(erased)\tunsubscribed\t")
    assert home.call("suppressions", "list", "--search", "gone").out == ""
    assert home.call("suppressions", "export").out.count("\n") == 1
    assert home.call("suppressions", "remove", "(erased)", "--yes").status == 2
    assert home.call("suppressions", "remove", "Gone@example.org", "--yes").status == 0
    assert listed(home) == []


# Clients


def test_suppressed_client_is_shown_with_the_reason(home: Home, store: Store) -> None:
    home.call("suppressions", "add", "a@example.org", "--reason", "complaint")
    home.call("suppressions", "add", "b@example.org", "--topic", "news")
    created = home.call("clients", "create", "--email", "a@example.org", "--json")
    assert (created.status, created.json["suppressed"]) == (0, "complaint")
    assert created.err == f"a@example.org is suppressed since {today()}: complaint; it gets no email\n"
    assert home.call("clients", "create", "--email", "b@example.org").err == ""
    only = home.call("clients", "list", "--suppressed", "--json").json
    assert [(client["email"], client["suppressed"]) for client in only] == [("a@example.org", "complaint")]
    assert [line.split("\t")[-1] for line in home.call("clients", "list").out.splitlines()] == ["complaint", ""]
    shown = home.call("clients", "show", "b@example.org", "--json").json
    assert (shown["suppressed"], [each["topic"] for each in shown["suppressions"]]) == (None, ["news"])
    for width in (None, 80):
        text = home.call("clients", "show", "b@example.org", width=width).out
        assert f"suppressed for topic news since {today()}: unsubscribed" in text
    assert home.call("clients", "list", "--suppressed", "--search", "b@", width=80).err == "no matching clients\n"


def test_new_address_that_is_suppressed_is_warned_of(home: Home, store: Store, ada: Actor) -> None:
    home.call("clients", "create", "--email", "old@example.org")
    home.call("suppressions", "add", "@example.net")
    wait_for(store, ada, "old@example.org")
    changed = home.call("clients", "update", "old@example.org", "--email", "new@example.net")
    assert changed.status == 0
    assert (
        changed.err
        == f"new@example.net is suppressed with @example.net since {today()}: unsubscribed; it gets no email\n"
    )
    assert list(states(store).values()) == ["cancelled"]


def test_only_a_bounce_is_removed_with_good(home: Home, store: Store) -> None:
    for email, reason in (("a@example.org", "bounce"), ("b@example.org", "unsubscribed")):
        home.call("clients", "create", "--email", email)
        home.call("suppressions", "add", email, "--reason", reason)
    good = home.call("clients", "update", "a@example.org", "--good", "--json")
    assert (good.json["suppressed"], good.err) == (None, "")
    still = home.call("clients", "update", "b@example.org", "--good", "--name", "B", "--json")
    assert still.json["suppressed"] == "unsubscribed"
    assert still.err == f"b@example.org is suppressed since {today()}: unsubscribed; it gets no email\n"
    assert listed(home) == ["b@example.org"]


def test_client_is_good_again_without_the_suppression(home: Home, store: Store) -> None:
    home.call("clients", "create", "--email", "a@example.org")
    home.call("suppressions", "add", "a@example.org", "--reason", "bounce")
    with store.write() as db:
        client = db.get_one(Client, 1)
        client.bad_at, client.bad_reason = client.created_at, "550 5.1.1 no such user"
    assert home.call("suppressions", "remove", "a@example.org", "--yes").status == 0
    shown = home.call("clients", "show", "a@example.org", "--json").json
    assert (shown["bad_at"], shown["bad_reason"], shown["suppressed"]) == (None, None, None)


def test_deletion_says_how_to_suppress(home: Home, store: Store) -> None:
    for email in ("a@example.org", "b@example.org"):
        home.call("clients", "create", "--email", email)
    home.call("suppressions", "add", "b@example.org")
    assert home.call("clients", "delete", "a@example.org", "--yes").err == (
        "an import can bring this client back; to send it nothing more: skychimp suppressions add a@example.org\n"
    )
    assert home.call("clients", "delete", "b@example.org", "--yes").err == ""


@pytest.mark.parametrize("how", ["create", "update", "import"])
def test_forgotten_person_stays_suppressed(home: Home, store: Store, how: str) -> None:
    home.call("clients", "create", "--email", "Gone@example.org")
    home.call("suppressions", "add", "gone@example.org", "--note", "on paper")
    assert home.call("clients", "forget", "gone@example.org", "--yes").status == 0
    with store.read() as db:
        kept = [str(row) for table in metadata.sorted_tables for row in db.execute(select(table))]
    assert not [row for row in kept if "gone@" in row.lower() or "on paper" in row]
    if store.dialect == SQLITE:
        store.close()
        assert not [path for path in store.path.parent.glob("skychimp.db*") if b"gone@" in path.read_bytes().lower()]
    if how == "create":
        home.call("clients", "create", "--email", "GONE@example.org")
    elif how == "import":
        home.call("clients", "import", "-", stdin="email\nGone@example.org\n")
    else:
        home.call("clients", "create", "--email", "other@example.org")
        home.call("clients", "update", "other@example.org", "--email", "gone@example.org")
    home.call("messages", "create", "--subject", "S", "--body", "B")
    when = ("--start", "now", "--every", "once", "--end", "+1d")
    assert home.call("mailings", "create", "--message", "1", "--all-clients", *when).status == 0
    assert states(store) == {}
    assert [client["suppressed"] for client in home.call("clients", "list", "--json").json] == ["unsubscribed"]


def test_own_data_have_the_suppressions(home: Home, store: Store, bob: Actor, home_of: HomeOf) -> None:
    home.call("suppressions", "add", "a@example.org")
    home_of(bob).call("suppressions", "add", "b@example.org")
    exported = home.call("users", "export").json["suppressions"]
    assert exported == home.call("suppressions", "list", "--json").json


# Tests of a message


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("a@example.org",), 6),
        (("@example.org",), 6),
        (("a@example.org", "--everywhere", "--operator"), 6),
        (("a@example.org", "--topic", "news"), 0),
        (("b@example.org",), 0),
    ],
)
def test_no_test_goes_to_a_suppressed_address(
    home: Home, store: Store, arguments: tuple[str, ...], status: int
) -> None:
    home.call("messages", "create", "--subject", "S", "--body", "B")
    home.call("suppressions", "add", *arguments)
    tested = home.call("messages", "test", "1", "--to", "A@example.org")
    assert tested.status == status
    assert ("error: A@example.org is suppressed" in tested.err) == (status == 6)


def test_test_goes_to_the_own_mailbox_all_the_same(home: Home, store: Store, ada: Actor) -> None:
    home.call("messages", "create", "--subject", "S", "--body", "B")
    home.call("suppressions", "add", ada.email, "@skychimp.test")
    assert home.call("messages", "test", "1", "--to", ada.email).status == 0


# Help


def test_examples_of_the_topic_work(store: Store, admin: Actor, home_of: HomeOf) -> None:
    root = home_of(admin)
    for name in ("ada", "grace"):
        root.call("clients", "create", "--email", f"{name}@example.org")
    text = (TOPICS / "suppressions.md").read_text(encoding="utf-8")
    examples = re.findall(r"`skychimp ((?:suppressions|clients) [^`]*@?[^`]*)`", text)
    assert len(examples) == 10
    for example in examples:
        done = root.call(*shlex.split(example))
        assert done.status == 0, (example, done.err)

"""Test `skychimp suppressions import`: which rows go in, what is said of the others, and what is cancelled."""

import subprocess
from collections.abc import Callable

import pytest
from support import ledger_rows
from support.command import PROGRAM, CommandResult, Home
from support.queue_steps import rows

from skychimp.models import AuditEntry, Delivery, DeliveryState
from skychimp.permissions import Actor
from skychimp.services.clients import suppression_import
from skychimp.store.database import Store

HomeOf = Callable[[Actor], Home]


def import_file(home: Home, data: str, *options: str, name: str = "list.csv") -> CommandResult:
    (home.folder / name).write_text(data, encoding="utf-8")
    return home.call("suppressions", "import", name, *options)


def listed(home: Home, *options: str) -> dict[str, tuple[str, str | None]]:
    found = home.call("suppressions", "list", "--json", *options).json
    return {each["address"]: (each["reason"], each["topic"]) for each in found}


def test_valid_rows_go_in_and_the_others_are_named(home: Home) -> None:
    data = "a@x.org\nbad\n@y.org\nA@x.org\n"

    done = import_file(home, data)
    again = import_file(home, data, "--json")

    assert (done.status, done.out) == (0, "added\t2\nknown\t1\nsubscribed\t0\nbad\t1\ncancelled\t0\n")
    assert done.err.startswith('line 2: invalid email address "bad"')
    assert done.err.endswith("\n2 suppressions added (unsubscribed 2)\n")
    assert again.json == {"added": 0, "known": 3, "subscribed": 0, "bad": 1, "cancelled": 0, "reasons": {}}
    assert listed(home) == {"a@x.org": ("unsubscribed", None), "@y.org": ("unsubscribed", None)}
    assert {each["source"] for each in home.call("suppressions", "list", "--json").json} == {"import"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"a@x.org": ("bounce", "news"), "b@x.org": ("unsubscribed", None)}),
        (["--reason", "moved"], {"a@x.org": ("moved", "news"), "b@x.org": ("moved", None)}),
        (["--topic", "offers"], {"a@x.org": ("bounce", "offers"), "b@x.org": ("unsubscribed", "offers")}),
        (["--ignore-column", "Topic"], {"a@x.org": ("bounce", None), "b@x.org": ("unsubscribed", None)}),
        (["--map", "topic=reason"], {"a@x.org": ("news", None), "b@x.org": ("unsubscribed", None)}),
    ],
)
def test_options_win_over_the_file(home: Home, options: list[str], expected: dict[str, tuple[str, str | None]]) -> None:
    data = "email,reason,topic\na@x.org,hard bounce,news\nb@x.org,,\n"

    assert import_file(home, data, *options).status == 0
    assert listed(home) == expected


def test_export_is_imported_unchanged(home: Home, home_of: HomeOf, bob: Actor) -> None:
    other = home_of(bob)
    home.call("suppressions", "add", "a@x.org", "@y.org", "--reason", "complaint", "--note", "=by phone")
    home.call("suppressions", "add", "a@x.org", "--topic", "news")
    exported = home.call("suppressions", "export").out

    assert import_file(other, exported).status == 0

    assert other.call("suppressions", "export").out == exported.replace(",command,", ",import,")


def test_import_for_all_users_needs_an_administrator(home: Home, home_of: HomeOf, admin: Actor, store: Store) -> None:
    admin_home = home_of(admin)
    denied = import_file(home, "a@x.org\n", "--everywhere")
    done = import_file(admin_home, "email,topic\na@x.org,news\n", "--everywhere")

    assert (denied.status, done.status) == (5, 0)
    assert listed(home) == {}
    assert listed(admin_home, "--everywhere") == {"a@x.org": ("unsubscribed", None)}
    assert [each.detail for each in rows(store, AuditEntry) if each.action == "suppress"] == ["1 address, everywhere"]


def test_waiting_emails_are_cancelled(home: Home, store: Store, ada: Actor, bob: Actor) -> None:
    for owner in (ada, bob):
        occurrence = ledger_rows.occurrence(store, ledger_rows.mailing(store, owner))
        for address in ("a@x.org", "b@y.org", "c@x.org"):
            ledger_rows.delivery(store, occurrence, address, DeliveryState.QUEUED)

    assert import_file(home, "a@x.org\n@y.org\n", "--json").json["cancelled"] == 2

    assert [str(row.state) for row in rows(store, Delivery)] == ["cancelled", "cancelled", "queued", *["queued"] * 3]


def test_contacts_who_get_mail_are_left_out_unless_the_column_is_ignored(home: Home) -> None:
    data = "email,status\na@x.org,active\nb@x.org,unsubscribed\n"

    done = import_file(home, data)

    assert (done.status, list(listed(home))) == (0, ["b@x.org"])
    assert "1 row left out, as the file says that they get mail; pass --ignore-column to" in done.err
    assert import_file(home, data, "--ignore-column", "status").status == 0
    assert list(listed(home)) == ["b@x.org", "a@x.org"]


def test_import_commits_batches_and_says_what_was_imported_before_a_fault(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression_import, "SUPPRESSION_BATCH", 2)

    stopped = import_file(home, '["a@x.org", "b@x.org", "c@x.org", oops]', name="list.json")

    assert (stopped.status, list(listed(home))) == (2, ["a@x.org", "b@x.org"])
    assert "cannot import list.json: line 1 is not valid JSON; 2 suppressions added before" in stopped.err


@pytest.mark.parametrize(
    ("data", "options", "error"),
    [
        ("bad\nworse\n", [], 'missing column "email"'),
        ("email\nbad\n", [], "no valid row in list.csv"),
        ("", [], "cannot import list.csv: it is empty"),
        ("email\na@x.org\n", ["--map", "mail=email"], 'unknown column "mail"'),
        ("email\na@x.org\n", ["--map", "email=mail"], 'unknown field "mail"'),
        ("a@x.org\n", ["--reason", " "], "the reason is empty"),
        ("a@x.org\n", ["--topic", ""], "the topic is empty"),
        ("a@x.org\n", ["--topic", "news", "--everywhere", "--operator"], "cannot have a topic"),
        ("a@x.org\n", ["--encoding", "utf8x"], 'unknown encoding "utf8x"'),
    ],
)
def test_wrong_use_imports_nothing(home: Home, data: str, options: list[str], error: str) -> None:
    refused = import_file(home, data, *options)

    assert refused.status == 2
    assert error in refused.err
    assert listed(home) == {}


@pytest.mark.sqlite
def test_pipe_is_imported_like_a_file(home: Home) -> None:
    data = "E-Mail;Grund\nmüller@bücher.example;Zoë wünscht es\n".encode("cp1252")
    command = [str(PROGRAM), "suppressions", "import", "-", "--map", "Grund=reason", "--encoding", "cp1252"]

    done = subprocess.run(command, input=data, env=home.environ, cwd=home.folder, capture_output=True, timeout=60)

    assert (done.returncode, listed(home)) == (0, {"müller@bücher.example": ("Zoë wünscht es", None)})

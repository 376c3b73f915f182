"""Test custom fields on the command line, from `clients create --field` to the emails that are sent."""

import json

import pytest
from support.command import Home
from support.inbox import body_of, read_outbox

from skychimp.store.database import Store

ADA = ("clients", "create", "--email", "ada@example.org", "--name", "Ada")


@pytest.fixture
def people(home: Home) -> Home:
    """Ada's command line, with three clients."""
    home.call(*ADA, "--field", "city=Riga", "--field", "visits=3", "--field", "vip=true", "--field", "born=1815-12-10")
    home.call("clients", "create", "--email", "bob@example.org", "--field", "city=A=B")
    home.call("clients", "create", "--email", "eve@example.org")
    return home


def test_fields_are_shown_with_their_types(people: Home) -> None:
    shown = people.call("clients", "show", "ada@example.org", "--json").json
    assert shown["fields"] == {"city": "Riga", "visits": 3, "vip": True, "born": "1815-12-10"}
    plain = people.call("clients", "show", "1").out
    assert "fields.city\tRiga\nfields.visits\t3\nfields.vip\ttrue\nfields.born\t1815-12-10\n" in plain
    listed = people.call("clients", "list", "--json").json
    assert [row["fields"] for row in listed][1:] == [{"city": "A=B"}, {}]
    assert people.call("clients", "fields").out == "born\tdate\t1\ncity\ttext\t2\nvip\tboolean\t1\nvisits\tnumber\t1\n"
    assert people.call("clients", "fields", "City", "--json").json == {"name": "city", "type": "text", "clients": 2}


def test_fields_are_changed_and_the_old_values_named(people: Home) -> None:
    changed = people.call("clients", "update", "1", "--field", "city=", "--field", "visits=4.50", "--json").json
    assert changed["fields"] == {"visits": 4.5, "vip": True, "born": "1815-12-10"}

    done = people.call("clients", "update", "1", "2", "3", "--field", "city=New York")

    assert "3 clients of 3 got other tags or fields\n" in done.err
    assert "clients update 1 3 --field city=\n" in done.err
    assert "clients update 2 --field city=A=B\n" in done.err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("update", "1", "--field", "city"), 2, '"city" is not KEY=VALUE'),
        (("update", "1", "--field", "a b=1"), 2, "invalid field name"),
        (("update", "1", "--field", "city=1", "--field", "city=2"), 2, "given twice"),
        (("update", "1", "--field", "visits=007"), 2, "is not a number"),
        (("update", "1", "--field", "citty="), 2, "did you mean city?"),
        (("fields", "citty"), 4, "did you mean city?"),
        (("fields", "--type", "text"), 2, "--type needs the name of a field"),
        (("fields", "city", "--type", "number"), 6, "2 values of the field city are no number"),
    ],
)
def test_wrong_fields_are_refused(people: Home, arguments: tuple[str, ...], status: int, message: str) -> None:
    failed = people.call("clients", *arguments)

    assert failed.status == status
    assert message in failed.err
    assert failed.err.count("\n") == 2


def test_type_is_changed(people: Home) -> None:
    assert people.call("clients", "fields", "visits", "--type", "text", "--json").json["type"] == "text"
    assert people.call("clients", "show", "1", "--json").json["fields"]["visits"] == "3"


@pytest.mark.parametrize("name", ["all.csv", "all.jsonl"])
def test_exported_fields_can_be_imported_again(people: Home, name: str) -> None:
    people.call("clients", "fields", "visits", "--type", "text")
    before = people.call("clients", "list", "--json").json, people.call("clients", "fields").out
    people.call("clients", "export", name)
    assert "fields.visits:text" in (text := (people.folder / name).read_text()) or '"visits:text"' in text
    people.call("clients", "update", "1", "--field", "city=x", "--field", "visits=")

    done = people.call("clients", "import", name, "--update")

    assert (done.status, people.call("clients", "fields").out) == (0, before[1])
    assert people.call("clients", "list", "--json").json == before[0]


def test_import_from_stdin_has_fields(home: Home) -> None:
    text = "email,Postal code,Joined\na@example.org,01067,2024-01-02\nb@example.org,10115,\n"

    done = home.run("clients", "import", "-", stdin=text.encode())

    assert (done.status, done.err.splitlines()[0]) == (0, 'fields: Postal_code (from "Postal code"), Joined')
    assert [row["fields"] for row in home.call("clients", "list", "--json").json] == [
        {"Postal_code": "01067", "Joined": "2024-01-02"}, {"Postal_code": "10115"},
    ]  # fmt: skip


def test_fields_are_in_the_emails_and_a_missing_value_fails_one_email_alone(people: Home, store: Store) -> None:
    body = "{{ client.fields.city }}, {{ client.fields.born | date('%d.%m.%Y') | default('?') }}\n"
    create = ("messages", "create", "--subject", "For {{ client.fields.visits | default('none') }}", "--body")
    assert people.call(*create, body).status == 0
    refused = people.call("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")
    assert (refused.status, "1 client has no city" in refused.err) == (2, True)
    people.call("clients", "update", "3", "--field", "city=Paris")
    options = ("--message", "1", "--start", "now", "--every", "once", "--all-clients", "--no-send", "--json")
    mailing = people.call("mailings", "create", *options).json["id"]
    people.call("clients", "update", "3", "--field", "city=")

    done = people.call("run", "--json")

    assert (done.json["outbox"], done.json["failed"]) == (2, 1)
    log = people.call("mailings", "log", str(mailing), "--json").json
    assert ["the client has no value for client.fields.city" in row["reply"] for row in log] == [
        row["email"] == "eve@example.org" for row in log
    ]
    emails = {email["To"]: email for email in read_outbox(store.path.with_name("outbox"))}
    ada = next(email for to, email in emails.items() if "ada@" in to)
    assert (ada["Subject"], body_of(ada)) == ("For 3", "Riga, 10.12.1815\n")


def test_also_open_takes_fields_that_the_old_message_did_not_use(people: Home, store: Store) -> None:
    people.call("messages", "create", "--subject", "Hello", "--body", "x")
    people.call("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--tag", "t", "--no-send")
    people.call("clients", "update", "1", "2", "--add-tag", "t")
    assert people.call("run", "--limit", "1", "--json").json["outbox"] == 1
    people.call("clients", "update", "2", "--field", "city=Oslo")

    body = "{{ client.fields.city }}"
    assert people.call("messages", "update", "1", "--body", body, "--also-open").status == 0
    assert people.call("run", "--json").json["outbox"] == 1

    bodies = sorted(body_of(email).strip() for email in read_outbox(store.path.with_name("outbox")))
    assert bodies == ["Oslo", "x"]


def test_forgotten_values_are_gone(people: Home) -> None:
    assert "Riga" in json.dumps(people.call("users", "export").json)
    assert people.call("clients", "forget", "ada@example.org", "--yes").status == 0
    exported = people.call("users", "export").json
    assert "Riga" not in json.dumps(exported)
    assert exported["fields"][1] == {"name": "city", "type": "text", "clients": 1}

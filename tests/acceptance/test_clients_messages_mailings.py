"""Test the commands `clients`, `messages`, `mailings` and `run`: JSON fields, exit statuses and output."""

import json
import os
import re
import signal
import stat
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from support.command import PROGRAM, CommandResult, Home
from support.example_homes import copy_of, create_home

from skychimp.models import Client, ClientTag, Mailing, Message
from skychimp.store.sqlite import SqliteStore

HUGE = "9" * 30
BODY = ("--body", "Dear {{ client.name }}")


@pytest.fixture(scope="module")
def example(_new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return the command line of a user who has one client, one message and one mailing."""
    home = create_home(_new_store, tmp_path_factory.mktemp("example"))
    for arguments in (
        ("clients", "create", "--email", "zoe@example.org", "--name", "Zoë", "--tag", "vip"),
        ("messages", "create", "--subject", "Hello", *BODY),
        ("mailings", "create", "--message", "1", "--start", "2030-01-31 09:00", "--every", "month", "--all-clients"),
    ):
        assert home.call(*arguments).status == 0, arguments
    return home


@pytest.fixture
def full(example: Home, tmp_path: Path) -> Home:
    """Return the same command line, on a copy of the store."""
    return copy_of(example, tmp_path)


# JSON fields


def is_aware_time(text: str) -> bool:
    return datetime.fromisoformat(text).utcoffset() is not None


CLIENT = {"id", "email", "name", "comment", "tags", "created_at", "bad_at", "bad_reason"}
MESSAGE = {"id", "subject", "body", "format", "html", "created_at", "updated_at"}
MAILING = {"id", "message_id", "start_at", "end_at", "every", "timezone", "status", "disabled", "next_at"}


@pytest.mark.parametrize(
    ("group", "fields", "change"),
    [("clients", CLIENT, "--name"), ("messages", MESSAGE, "--subject"), ("mailings", MAILING, "--end")],
)
def test_every_group_outputs_the_whole_object_as_json(full: Home, group: str, fields: set[str], change: str) -> None:
    shown = full.call(group, "show", "1", "--json")
    listed = full.call(group, "list", "--json")
    changed = full.call(group, "update", "1", change, "2031-01-01 09:00", "--json")

    assert [shown.json | listed.json[0]] == [shown.json]  # shown with more fields
    for answer in (shown.json, changed.json):
        assert answer.keys() >= fields
        for name, value in answer.items():
            assert not name.endswith("_at") or value is None or is_aware_time(value), name
    if group != "messages":
        assert full.call(group, "delete", "1", "--yes", "--json").json["id"] == 1
        assert full.call(group, "list", "--json").json == []


def test_mailing_shows_its_times_in_utc_and_local_time(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hello", *BODY)
    created = home.call(
        *("mailings", "create", "--message", "1", "--start", "2030-03-30 09:00", "--every", "day", "--json"),
        *("--end", "2030-04-01T07:01Z", "--timezone", "Europe/Berlin", "--all-clients"),
    ).json
    assert (created["start_at"], created["end_at"]) == ("2030-03-30T08:00:00+00:00", "2030-04-01T07:01:00+00:00")
    assert (created["every"], created["timezone"], created["status"]) == ("day", "Europe/Berlin", "created")

    coming = home.call("mailings", "preview", "1", "--from", "2030-03-30T08:00Z", "--next", "9", "--json").json
    assert coming == [
        {"due_at": "2030-03-30T08:00:00+00:00", "local": "2030-03-30T09:00:00+01:00", "note": ""},
        {"due_at": "2030-03-31T07:00:00+00:00", "local": "2030-03-31T09:00:00+02:00", "note": ""},
        {"due_at": "2030-04-01T07:00:00+00:00", "local": "2030-04-01T09:00:00+02:00", "note": ""},
    ]


def test_plain_lines_are_complete_and_escape_deceptive_characters(home: Home) -> None:
    home.call("clients", "create", "--email", "zoe@example.org", "--name", "[b]Zo\u202eë", "--tag", "b", "--tag", "a")

    assert home.call("clients", "list").out == "1\tzoe@example.org\t[b]Zo\\u202eë\ta,b\t\t\n"
    assert home.call("clients", "list", "--json").json[0]["name"] == "[b]Zo\u202eë"


# Exit statuses


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("clients", "create", "--email", "nobody"), 2, "invalid_value"),
        (("clients", "create", "--email", "x@example.org", "--name", "a\nb"), 2, "invalid_value"),
        (("clients", "create"), 2, "invalid_value"),
        (("clients", "create", "--email", "ZOE@example.org"), 6, "conflict"),
        (("clients", "show", HUGE), 4, "not_found"),
        (("clients", "show", "--", "-1"), 4, "not_found"),
        (("clients", "update", "x@example.org", "--name", "X"), 4, "not_found"),
        (("clients", "delete", "1"), 2, "invalid_value"),
        (("clients", "delete", "99", "--yes"), 4, "not_found"),
        (("clients", "list", "--sort", "shoe-size"), 2, "invalid_value"),
        (("clients", "list", "--limit", "-1"), 2, "invalid_value"),
        (("clients", "list", "--search", "\udcff"), 2, "invalid_value"),
        (("clients", "import", "missing.csv"), 2, "invalid_value"),
        (("clients", "export", "missing/people.csv"), 2, "invalid_value"),
        (("clients", "export"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s", "--body", "b", "--body-file", "f"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s", "--body-file", "missing.txt"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s", "--body-file", "-", "--html-file", "-"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s", "--body", "{{ client.nome }}"), 2, "invalid_value"),
        (("messages", "create", "--subject", "s", *BODY, "--markdown", "--html-file", "f"), 2, "invalid_value"),
        (("messages", "update", "1", "--markdown", "--plain"), 2, "invalid_value"),
        (("messages", "show", HUGE), 4, "not_found"),
        (("messages", "show", "one"), 2, "invalid_value"),
        (("messages", "delete", "1", "--yes"), 6, "conflict"),
        (("messages", "delete", "1"), 2, "invalid_value"),
        (("messages", "preview", "1", "--client", "99"), 4, "not_found"),
        (("messages", "test", "1", "--to", "nobody"), 2, "invalid_value"),
        (("mailings", "create", "--message", "1", "--start", "now", "--every", "day"), 2, "invalid_value"),
        (("mailings", "create", "--message", "9", "--start", "now", "--every", "day", "--all-clients"), 4, "not_found"),
        (("mailings", "create", "--message", "1", "--start", "now", "--every", "year", "--all-clients"), 2, None),
        (
            ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--client", HUGE),
            4,
            "not_found",
        ),
        (("mailings", "update", "1", "--end", "2030-01-31 09:00"), 2, "invalid_value"),
        (("mailings", "update", "1", "--end", "now", "--no-end"), 2, "invalid_value"),
        (("mailings", "show", HUGE), 4, "not_found"),
        (("mailings", "delete", "1"), 2, "invalid_value"),
        (("mailings", "log", "1", "--status", "happy"), 2, "invalid_value"),
        (("mailings", "log", "1", "--follow", "--last"), 2, "invalid_value"),
        (("mailings", "log", "99"), 4, "not_found"),
        (("run", "--mailing", "99"), 4, "not_found"),
        (("run", "--dry-run", "--plan"), 2, "invalid_value"),
        (("run", "--list"), 2, "invalid_value"),
        (("run", "--limit", "0"), 2, "invalid_value"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else None,
)
def test_each_error_has_its_exit_status_and_one_json_error(
    full: Home, arguments: tuple[str, ...], status: int, code: str | None
) -> None:
    before = all_rows(full)

    group, *rest = arguments
    done = full.call("--json", group, *rest)

    assert (done.status, done.out) == (status, "")
    assert code in (None, done.error["code"])
    assert done.error["message"]
    assert all_rows(full) == before


def all_rows(home: Home) -> list[Any]:
    with closing(SqliteStore(Path(home.environ["SKYCHIMP_STORE"]))) as store, store.read() as db:
        return [db.execute(select(table.__table__)).all() for table in (Client, ClientTag, Message, Mailing)]


def test_error_is_one_line_with_a_hint_on_stderr(home: Home) -> None:
    done = home.run("clients", "show", "x\u202e\n@example.org")

    assert (done.status, done.out) == (4, "")
    assert done.err == "error: client 'x\\u202e\\n@example.org' not found\nhint: run \"skychimp clients list\"\n"


@pytest.mark.parametrize("group", ["clients", "messages", "mailings"])
def test_without_a_login_nothing_is_shown_or_changed(full: Home, group: str) -> None:
    full.environ["SKYCHIMP_TOKEN"] = "wrong"

    for arguments in (("list",), ("show", "1"), ("delete", "1", "--yes")):
        done = full.call(group, *arguments, "--json")
        assert (done.status, done.error["code"]) == (5, "not_logged_in")


# Import and export


def test_import_reports_each_invalid_row_and_imports_the_others(home: Home) -> None:
    data = 'email,name\nzoe@example.org,"Zoë\nand more"\nbad@@example.org,Bad\nada@example.org,Ada\n'
    (home.folder / "people.csv").write_text(data)

    done = home.call("clients", "import", "people.csv", "--json")

    assert done.status == 0
    numbers = {"created": 1, "updated": 0, "skipped": 0, "bad": 2, "opted_out": 0, "suppressed": 0}
    assert done.json == numbers | {"reasons": {}}
    first, second = done.err.splitlines()
    assert first.startswith("line 2: the name ")
    assert second.startswith('line 4: invalid email address "bad@@example.org"')


def test_import_without_a_valid_row_exits_with_2(home: Home) -> None:
    done = home.run("clients", "import", "-", "--json", stdin=b"email\nbad\nworse\n")

    assert (done.status, done.json["bad"]) == (2, 2)
    assert json.loads(done.err.splitlines()[-1])["error"]["code"] == "invalid_value"


def test_who_has_opted_out_of_another_tool_is_suppressed(home: Home) -> None:
    rows = "".join(
        f"u{number},{status}{number}@example.org,Name,{{}},{status},t,t\n"
        for number, status in enumerate(("enabled", "blocklisted", "disabled"))
    )
    (home.folder / "subscribers.csv").write_text(f"uuid,email,name,attributes,status,created_at,updated_at\n{rows}")

    done = home.call("clients", "import", "subscribers.csv", "--json")

    assert (done.status, done.json["created"], done.json["suppressed"]) == (0, 1, 2)
    assert [client["email"] for client in home.call("clients", "list", "--json").json] == ["enabled0@example.org"]
    assert home.call("clients", "import", "subscribers.csv", "--ignore-column", "status", "--json").json["created"] == 2


def test_format_follows_the_extension_or_the_option(full: Home) -> None:
    exported = full.call("clients", "export", "--format", "jsonl").out
    assert [json.loads(line)["email"] for line in exported.splitlines()] == ["zoe@example.org"]
    assert full.call("clients", "export", "people.JSONL", "--json").json == {"clients": 1, "file": "people.JSONL"}
    assert (full.folder / "people.JSONL").read_text() == exported
    assert full.call("clients", "export", "people.jsonl", "--format", "csv").status == 0
    assert (full.folder / "people.jsonl").read_text().startswith("email,name,comment,tags\n")
    for name, stdin in (("people.JSONL", ""), ("-", exported)):
        form = () if stdin == "" else ("--format", "jsonl")
        assert full.call("clients", "import", name, *form, "--json", stdin=stdin).json["skipped"] == 1
    wrong = full.call("clients", "import", "people.jsonl")
    assert (wrong.status, wrong.err.splitlines()[0]) == (
        2,
        'error: cannot import people.jsonl: the first line is not a JSON object with "email"',
    )


@pytest.mark.parametrize("data", ["email\n", "email,name\nzoe@example.org,Again\n"], ids=["no rows", "all known"])
def test_import_without_new_clients_succeeds(full: Home, data: str) -> None:
    assert full.call("clients", "import", "-", stdin=data).status == 0
    assert full.call("clients", "show", "1", "--json").json["name"] == "Zoë"


def test_import_with_update_changes_existing_clients(full: Home) -> None:
    done = full.call("clients", "import", "-", "--update", "--json", stdin="Email;Phone;Name\nzoe@example.org;1;New\n")

    assert (done.status, done.json["updated"]) == (0, 1)
    assert "fields: Phone" in done.err
    client = full.call("clients", "show", "zoe@example.org", "--json").json
    assert (client["name"], client["tags"]) == ("New", ["vip"])


def test_export_to_a_file_or_stdout_is_imported_unchanged(home: Home, tmp_path: Path) -> None:
    data = 'email,name,comment,tags\n=a@example.org,\'=1+1,"x,\ny","a,b"\nb@example.org,Żółć,,\n'
    home.call("clients", "import", "-", stdin=data)
    before = home.call("clients", "list", "--json").json

    exported = home.run("clients", "export").out
    home.call("clients", "export", "people.csv")
    assert (home.folder / "people.csv").read_text() == exported == data.replace("=a", "'=a")
    assert stat.S_IMODE((home.folder / "people.csv").stat().st_mode) == 0o600
    for client in before:
        home.call("clients", "delete", client["email"], "--yes")
    assert home.call("clients", "import", "people.csv").status == 0

    after = home.call("clients", "list", "--json").json
    same = ("email", "name", "comment", "tags")
    assert [[client[name] for name in same] for client in after] == [[c[name] for name in same] for c in before]


def test_export_replaces_a_link_itself_and_writes_to_a_pipe(full: Home) -> None:
    (full.folder / "real.csv").write_text("old")
    (full.folder / "link.csv").symlink_to("real.csv")
    os.mkfifo(full.folder / "pipe")

    assert full.call("clients", "export", "link.csv", "--force").status == 0
    assert not (full.folder / "link.csv").is_symlink()
    assert "zoe@example.org" in (full.folder / "link.csv").read_text()
    assert (full.folder / "real.csv").read_text() == "old"

    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, cwd=full.folder) as reader:
        assert full.call("clients", "export", "pipe").status == 0
        assert b"zoe@example.org" in reader.communicate()[0]
    assert stat.S_ISFIFO((full.folder / "pipe").stat().st_mode)
    assert sorted(path.name for path in full.folder.iterdir()) == ["link.csv", "pipe", "real.csv"]


# Messages


def test_changed_format_removes_the_html_part(home: Home) -> None:
    (home.folder / "hello.html").write_text("<p>Dear {{ client.name }}</p>")
    created = home.call("messages", "create", "--subject", "s", *BODY, "--html-file", "hello.html", "--json").json
    assert (created["format"], created["html"]) == ("html", "<p>Dear {{ client.name }}</p>")

    with_new_body = home.call("messages", "update", "1", "--body", "New", "--json")
    assert (with_new_body.json["format"], with_new_body.json["html"]) == ("html", created["html"])
    assert "--html-file" in with_new_body.err
    for option, form in (("--markdown", "markdown"), ("--plain", "text")):
        changed = home.call("messages", "update", "1", option, "--json").json
        assert (changed["format"], changed["html"], changed["body"]) == (form, None, "New")
    body = home.call("messages", "update", "1", "--body-file", "-", "--json", stdin="\ufeff*From* stdin\n").json["body"]
    assert body == "*From* stdin\n"


def test_message_preview_and_test_email(full: Home) -> None:
    assert full.call("messages", "preview", "1", "--client", "zoe@example.org").out == (
        "To: zoe@example.org\nSubject: Hello\n\nDear Zoë\n"
    )
    rendered = full.call("messages", "preview", "1", "--client", "1", "--json").json
    assert rendered == {
        "to": "zoe@example.org",
        "subject": "Hello",
        "text": "Dear Zoë",
        "html": None,
        "attachments": [],
    }
    sent = full.call("messages", "test", "1", "--to", "me@example.org", "--json")
    assert (sent.status, sent.json["to"], sent.json["reply"][:3]) == (0, "me@example.org", "250")
    assert full.call("mailings", "log", "1", "--json").json == []


# Tags


@pytest.mark.parametrize(
    "command",
    [
        ("mailings", "create", "--message", "1", "--start", "+1d", "--every", "day", "--tag", "vpi"),
        ("mailings", "update", "1", "--tag", "vpi", "--tag", "VIP"),
        ("clients", "list", "--tag", "vpi"),
        ("clients", "export", "people.csv", "--tag", "vpi"),
        ("clients", "update", "1", "--remove-tag", "vpi"),
    ],
)
def test_tag_that_no_client_has_is_a_warning(full: Home, command: tuple[str, ...]) -> None:
    done = full.call(*command, "--json")

    assert (done.status, done.err.splitlines()[0]) == (0, 'warning: no client has the tag "vpi"; did you mean "vip"?')
    assert isinstance(done.json, dict | list)


def test_mailing_says_how_many_clients_it_goes_to(full: Home) -> None:
    create = ("mailings", "create", "--message", "1", "--start", "+1d", "--every", "day")

    assert full.call(*create, "--tag", "VIP").err.splitlines()[0] == "mailing 2 goes to 1 client"
    assert full.call(*create, "--tag", "zzz").err.splitlines()[:2] == [
        'warning: no client has the tag "zzz"',
        "warning: mailing 3 goes to no client",
    ]
    assert full.call("mailings", "update", "3", "--all-clients").err.splitlines()[0] == "mailing 3 goes to 1 client"
    assert full.call("mailings", "update", "3", "--every", "week").err.count("goes to") == 0
    unknown = full.call(*create, "--client", "99")
    assert (unknown.status, unknown.err.splitlines()[0]) == (4, "error: client 99 not found")


def test_tags_are_added_and_removed(full: Home) -> None:
    update = ("clients", "update", "1", "--json")

    assert full.call(*update, "--add-tag", "new", "--add-tag", "VIP").json["tags"] == ["new", "vip"]
    assert full.call(*update, "--remove-tag", "Vip").json["tags"] == ["new"]
    assert full.call(*update, "--tag", "a", "--tag", "b").json["tags"] == ["a", "b"]
    for options in (("--tag", "a", "--add-tag", "b"), ("--no-tags", "--remove-tag", "b"), ("--no-tags", "--tag", "c")):
        assert full.call(*update, *options).error["code"] == "invalid_value"
    assert full.call(*update, "--no-tags").json["tags"] == []


@pytest.mark.parametrize("change", [("--good",), ("--clear-bad",), ("--email", "new@example.org")])
def test_bad_client_becomes_good_again(full: Home, change: tuple[str, ...]) -> None:
    with closing(SqliteStore(Path(full.environ["SKYCHIMP_STORE"]))) as store, store.write() as db:
        client = db.get_one(Client, 1)
        client.bad_at, client.bad_reason = datetime.now(UTC), "550 5.1.1 no such user"
    assert [row["id"] for row in full.call("clients", "list", "--bad", "--json").json] == [1]

    assert full.call("clients", "update", "1", *change).status == 0

    shown = full.call("clients", "show", "1", "--json").json
    assert (shown["bad_at"], shown["bad_reason"]) == (None, None)
    assert full.call("clients", "list", "--bad", "--json").json == []


def test_filter_that_matches_nothing_says_so(full: Home) -> None:
    for options in (("--bad",), ("--search", "nobody"), ("--tag", "zzz")):
        assert full.call("clients", "list", *options, width=80).err.splitlines()[-1] == "no matching clients"


# Forecast


def test_dry_run_and_plan_send_nothing(home: Home) -> None:
    home.call("clients", "import", "-", stdin="email\na@example.org\nb@example.org\n")
    home.call("messages", "create", "--subject", "Hello", *BODY)
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", "--no-send")
    due_at = home.call(*create, "--json").json["next_at"]

    dry = home.call("run", "--dry-run", "--limit", "1")
    assert dry.out == f"1\t{due_at}\ta@example.org\n"
    assert re.search(r"^mailing 1, due 20[\d-]+ [\d:]{5}: 1 email$", dry.err, re.MULTILINE)
    assert "the other clients were not looked at" in dry.err
    assert "not looked at" not in home.call("run", "--dry-run", "--limit", "2").err
    limited = home.call("run", "--dry-run", "--limit", "1", "--json").json
    assert [client["email"] for client in limited["clients"]] == ["a@example.org"]
    assert (limited["would_send"], limited["due"][0]["would_send"]) == (1, 1)
    assert home.call("run", "--plan", "--limit", "1").out == f"1\t{due_at}\tb@example.org\tmore than --limit\n"
    forecast = home.call("run", "--dry-run", "--json")
    assert (forecast.status, forecast.json["sent"], forecast.json["queued"], forecast.json["would_send"]) == (
        0,
        0,
        2,
        2,
    )
    assert forecast.json["due"] == [{"mailing_id": 1, "due_at": due_at, "would_send": 2, "left_out": 0}]
    assert home.call("mailings", "log", "1", "--json").json == []
    assert home.call("mailings", "show", "1", "--json").json["next_at"] == due_at


def test_mailing_that_cannot_be_sent_is_created(home: Home) -> None:
    home.call("clients", "create", "--email", "a@example.org")
    home.call("messages", "create", "--subject", "Hello", *BODY)
    del home.environ["SKYCHIMP_MAIL__SENDER"]

    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", "--json")
    created = home.call(*create)

    assert (created.status, created.json["id"], created.json["status"]) == (0, 1, "created")
    assert "mail.sender" in created.err
    assert home.call("run").status == 3


# On a terminal


@pytest.mark.parametrize(
    ("answer", "status", "remaining"), [pytest.param("n\n", 1, 1, marks=pytest.mark.slow), ("\n", 1, 1), ("y\n", 0, 0)]
)
def test_delete_asks_for_confirmation_on_a_terminal(full: Home, answer: str, status: int, remaining: int) -> None:
    done = full.on_terminal("clients", "delete", "1", answers=[("[y/N]", answer)])

    assert done.status == status
    assert len(full.call("clients", "list", "--json").json) == remaining


def test_log_is_followed_until_ctrl_c(home: Home) -> None:
    home.call("clients", "create", "--email", "zoe@example.org")
    home.call("messages", "create", "--subject", "Hello", *BODY)
    create = ("mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients", "--json")
    assert home.call(*create).json["run"]["outbox"] == 1
    command: list[str | Path] = [PROGRAM, "mailings", "log", "1", "--follow"]

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=home.environ, cwd=home.folder
    ) as following:
        assert following.stdout is not None
        assert following.stderr is not None
        line = following.stdout.readline().decode()
        following.send_signal(signal.SIGINT)
        rest, errors = following.stdout.read(), following.stderr.read()

    assert line.split("\t")[1:4] == ["zoe@example.org", "outbox", "1"]
    assert (following.returncode, rest, errors) == (130, b"", b"")


def test_mailing_commands_tell_what_happens_next(full: Home) -> None:
    assert "2030-01-31 09:00 UTC" in full.call("mailings", "update", "1", "--timezone", "UTC").err
    assert "skychimp mailings enable 1" in full.call("mailings", "disable", "1").err
    disabled = last_line(full.call("mailings", "update", "1", "--start", "2020-01-01", "--end", "2020-01-02"))
    assert "enable" in disabled
    assert "its end has passed" in last_line(full.call("mailings", "enable", "1"))
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:00")
    assert "UTC" in last_line(full.call("mailings", "update", "1", "--start", soon, "--no-end"))


def last_line(done: CommandResult) -> str:
    return done.err.splitlines()[-1]

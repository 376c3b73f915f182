"""Everything that is shown is safe for a terminal, whatever others have stored: lines, tables, JSON and errors."""

import json
import re
import unicodedata
from contextlib import closing
from pathlib import Path

import pytest
from support.command import Home
from support.example_homes import copy_of, create_home
from support.sending import create_mailing, rows
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.models import User
from skychimp.permissions import Actor
from skychimp.store.schema import open_store

UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
NAME = "[red]Ada\u202e \u2066\u200f\u00ad\ufeff\U000e0041[/red] :smile: {{x}}"
"""A client may have this name: format characters are allowed, because many scripts need them."""
TITLE = NAME.replace("{{x}}", "").strip()
REPLY = "550 5.1.1 \x1b[2J\u009b31m\u202eno such user\x07\x85\u2028"
COLORS = re.compile(r"\x1b\[[0-9;]*m|\x1b\]8;[^\x1b]*\x1b\\|\x1b\[\?25[lh]|\r?\x1b\[[12][AK]|\r(?=\x1b)")
"""What Rich writes for colors, bold text, links and progress bars."""

COMMANDS = (
    ("clients", "list"),
    ("clients", "show", "1"),
    ("clients", "list", "--search", NAME),
    ("clients", "list", "--sort", NAME),
    ("clients", "show", NAME),
    ("clients", "create", "--email", NAME),
    ("clients", "create", "--email", "new@example.org", "--name", NAME, "--tag", NAME),
    ("clients", "create", "--email", "other@example.org", "--name", "\x1b[2J\x9b"),
    ("clients", "update", "1", "--tag", NAME),
    ("clients", "delete", "1", "--no-such", NAME),
    ("clients", "import", NAME),
    ("clients", "export", f"/nowhere/{NAME}"),
    ("clients", "forget", f"{NAME}@example.org", "--yes"),
    ("messages", "list"),
    ("messages", "show", "1"),
    ("messages", "preview", "1", "--client", "1"),
    ("messages", "preview", "1", "--client", NAME),
    ("messages", "create", "--subject", NAME, "--body", NAME),
    ("messages", "create", "--subject", "x", "--body", "{{" + NAME),
    ("messages", "create", "--subject", "x", "--body-file", NAME),
    ("mailings", "list"),
    ("mailings", "show", "1"),
    ("mailings", "log", "1"),
    ("mailings", "log", NAME),
    ("mailings", "create", "--message", "1", "--start", NAME, "--every", "day", "--all-clients"),
    ("mailings", "create", "--message", "1", "--start", "now", "--every", NAME, "--all-clients"),
    ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--tag", NAME),
    ("mailings", "preview", "1", "--timezone", NAME),
    ("report", "1"),
    ("report", NAME),
    ("why", "bob@example.org"),
    ("why", NAME),
    ("users", "show", NAME),
    ("users", "export"),
    ("blog", "list"),
    ("blog", "show", "1"),
    ("blog", "show", NAME),
    ("stats",),
    ("stats", "--range", NAME),
    ("status",),
    ("status", "--max-age", NAME),
    ("audit", "list", "--operator"),
    ("audit", "list", "--operator", "--action", NAME),
    ("resolve", NAME),
    ("doctor",),
    ("help", NAME),
    ("backup", f"/nowhere/{NAME}", "--operator"),
    ("restore", NAME, "--operator"),
    ("whoami",),
    ("login", "--email", NAME),
    ("register", "--email", NAME),
    ("verify", "--email", "a@example.org", NAME, "--password-stdin"),
    ("service", "cron", NAME),
    (NAME,),
    ("--" + NAME,),
    ("--config", NAME, "stats"),
    ("--store", NAME, "stats"),
)


@pytest.fixture(scope="module")
def example(_new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Return the command line of a user who has hostile text everywhere. Tests work on copies of the store."""
    home = create_home(_new_store, tmp_path_factory.mktemp("example"))
    with closing(open_store(f"sqlite:///{home.environ['SKYCHIMP_STORE']}")) as store:
        (ada,) = rows(store, User)
        create_mailing(store, Actor(ada.id or 0, ada.email, ada.role), ["bob@example.org"])
    fill(home)
    return home


def fill(home: Home) -> None:
    """Let the mail server answer with hostile text, and store some."""
    refuse = accept_mail(lambda command, address: f"{REPLY}\r\n".encode() if command == "RCPT" else None)
    with ScriptedServer([GREETING, refuse]) as server:
        environ = {"MAIL__TRANSPORT": "smtp", "SMTP__HOST": "127.0.0.1", "SMTP__PORT": str(server.port)}
        environ = {f"SKYCHIMP_{name}": value for name, value in environ.items()} | {"SKYCHIMP_SMTP__SECURITY": "none"}
        sent = home.call("run", "--json", environ=environ)
    assert sent.json["failed"] == 1, sent
    home.call("clients", "update", "1", "--name", NAME, "--comment", f"{NAME}\n{NAME}", "--tag", NAME)
    assert home.call("messages", "update", "1", "--subject", TITLE, "--body", TITLE).status == 0


@pytest.fixture
def full(example: Home, tmp_path: Path) -> Home:
    """Return the same command line, on a copy of the store."""
    return copy_of(example, tmp_path)


def require_safe(text: str, *, colors: bool) -> None:
    """Require that a text has line breaks as its only control characters, and colors if they are expected."""
    shown = COLORS.sub("", text) if colors else text
    unsafe = {character for character in shown if unicodedata.category(character) in UNSAFE_CATEGORIES} - set("\n\t")
    assert not unsafe, f"{unsafe} in {text!r}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command).encode("ascii", "replace").decode())
def test_command_shows_only_safe_text(full: Home, command: tuple[str, ...]) -> None:
    for done in (full.call(*command), full.call(*command, width=100)):
        require_safe(done.out + done.err, colors=True)
        assert "Traceback" not in done.err
        assert "unexpected" not in done.err.lower() or "unexpected argument" in done.err, done.err
    done = full.call(*command, "--json")
    require_safe(done.out + done.err, colors=False)
    if done.status:
        assert isinstance(json.loads(done.err.splitlines()[-1]), dict)
    else:
        json.loads(done.out)


def values(value: object) -> list[object]:
    """Return all values in a JSON value."""
    if isinstance(value, dict):
        return [part for each in value.values() for part in values(each)]
    if isinstance(value, list):
        return [part for each in value for part in values(each)]
    return [value]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("clients", "list", "--json"), NAME),
        (("clients", "show", "1", "--json"), f"{NAME}\n{NAME}"),
        (("messages", "list", "--json"), TITLE),
        (("users", "export"), NAME),
        (("clients", "export", "--format", "jsonl"), NAME),
    ],
)
def test_json_keeps_the_value(full: Home, command: tuple[str, ...], expected: str) -> None:
    done = full.call(*command)
    assert done.status == 0, done.err
    require_safe(done.out, colors=False)
    assert expected in values(json.loads(done.out if done.out.startswith(("{\n", "[")) else done.out.splitlines()[0]))


def test_json_of_an_error_keeps_the_value(home: Home) -> None:
    done = home.call("clients", "show", f"{NAME}@example.org", "--json")
    require_safe(done.err, colors=False)
    assert done.error["message"]

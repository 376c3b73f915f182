"""A newcomer in a terminal: from a new copy of the project to the first email that a mail server received."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.inbox import body_of
from support.installing import copy_project, install_environ
from support.storing_server import StoredEmail, StoringHandler, storing_server
from support.tmux import Screen, open_window
from support.walks import Walk, needs_tmux, server_settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
INSTALL = next(line for line in README.splitlines() if line.endswith("skychimp demo"))
MOST_COMMANDS = 6
BODY = "Welcome to our monthly news."
ACTIVATE = ". .venv/bin/activate"
INIT = "skychimp init --email you@example.org --sender 'You <you@example.org>'"
PREPARE = (
    "skychimp clients create --email ada@example.org --name 'Ada Lovelace'",
    f"skychimp messages create --subject 'Hello {{{{ client.name }}}}' --body '{BODY}'",
    "skychimp messages preview 1",
)
TEST = "skychimp messages test 1 --to you@example.org"
CREATE = "skychimp mailings create --message 1 --start now --every month --all-clients"

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(600), needs_tmux]


@dataclass(frozen=True)
class Installed:
    """A copy of the project with an installation, and the screen of installing it."""

    folder: Path
    screen: Screen


@pytest.fixture(scope="module")
def installed() -> Iterator[Installed]:
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        folder = copy_project(Path(name) / "skychimp")
        with open_window({"HOME": name} | install_environ(), folder) as window:
            yield Installed(folder, window.run(INSTALL, timeout_s=500))


@contextmanager
def begin(installed: Installed, records: Path, name: str, width: int, mail: StoringHandler) -> Iterator[Walk]:
    """Begin a walk in a new home, in a window in the folder of the project, and record it also if it fails."""
    with (
        tempfile.TemporaryDirectory(prefix="home-") as home,
        open_window({"HOME": home, "PATH": "/usr/bin:/bin"}, installed.folder, width) as window,
    ):
        walk = Walk(f"{name}, {width} columns", window, mail, installed.screen)
        assert installed.screen.lines[-4] == f"$ {ACTIVATE}"
        with walk.recorded(records):
            walk.run(ACTIVATE)
            yield walk


@pytest.mark.parametrize("width", [80, 120])
def test_first_email_takes_six_commands(installed: Installed, records: Path, width: int) -> None:
    """A mail server is at hand, and its address goes into the config."""
    with storing_server() as (port, mail), begin(installed, records, "newcomer", width, mail) as walk:
        walk.run(f"{server_settings(port)} {INIT}", ("Password", ""))
        for command in PREPARE:
            walk.run(command)
        assert mail.emails == []
        walk.run(TEST)
        assert walk.first_email
        assert walk.first_email[0] <= MOST_COMMANDS
        check_email(mail.emails[0], to="you@example.org")

        walk.run("skychimp mailings create --help")
        walk.run(CREATE)
        walk.run("skychimp mailings log 1")
        check_email(mail.emails[1], to="ada@example.org")
        assert "nothing is due" in walk.run("skychimp run --dry-run").text
        walk.run("skychimp status")


def test_newcomer_sets_the_mail_server_at_the_end(installed: Installed, records: Path) -> None:
    """All emails are in the outbox until then. No screen says that one was sent, and each says what to do."""
    with storing_server() as (port, mail), begin(installed, records, "newcomer without a server", 80, mail) as walk:
        walk.run(INIT, ("Password", "correct horse battery"), ("Repeat password", "correct horse battery"))
        for command in (*PREPARE, TEST, "skychimp mailings create --help", CREATE):
            screen = walk.run(command)
        hint = 'set mail.transport = "smtp" in '
        assert hint in screen.text
        config = screen.text.partition(hint)[2].partition(",")[0]
        walk.run("skychimp mailings log 1")
        walk.run(f"sed -i {' '.join(f'-e {shlex.quote(each)}' for each in edits(port))} {config}")
        assert "accepts mail from" in walk.run("skychimp doctor").text
        assert mail.emails == []
        assert "sent      1" in walk.run("skychimp run --from-outbox").text
        check_email(mail.emails[0], to="ada@example.org")
        walk.run("skychimp report 1")
        walk.run("skychimp why ada@example.org")


def edits(port: int) -> Iterator[str]:
    """Yield what to do to the lines of the config."""
    for key, value in {"transport": '"smtp"', "host": '"127.0.0.1"', "port": port, "security": '"none"'}.items():
        yield f"s/^#* *{key} = .*/{key} = {value}/"


def check_email(received: StoredEmail, to: str) -> None:
    email = received.message
    assert received.recipients == [to]
    assert (email["From"], email["Subject"]) == ("You <you@example.org>", "Hello Ada Lovelace")
    assert body_of(email) == f"{BODY}\n"

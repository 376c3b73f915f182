"""An administrator in a terminal: sets up a shared service, and brings it through a failure and a restore."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.command import PROGRAM
from support.debian_servers import free_port
from support.inbox import code_in
from support.storing_server import StoringHandler, storing_server
from support.tmux import CTRL_C, Window, open_window
from support.walks import Walk, needs_tmux, server_settings

FAKE_CRONTAB = """\
#!/bin/sh
case "$1" in
-l) cat "$HOME/crontab" 2>/dev/null || { echo "no crontab for admin" >&2; exit 1; };;
-) cat > "$HOME/crontab";;
esac
"""
"""Keeps the crontab in the home, as the one of this account must not change."""

PROGRAMS = ("bash", "cat", "env", "sed", "sh")
AS_CRON = """env -i HOME="$HOME" PATH=/usr/bin:/bin sh -c "$(crontab -l | sed 's/^[* ]*//')\""""
CREATE = "skychimp mailings create --message 1 --start now --every month --all-clients"
PASSWORD = "correct horse battery"
YES = ("[y/N]", "y")
NEW_PASSWORD = (("Password", PASSWORD), ("Repeat password", PASSWORD))

pytestmark = [pytest.mark.recorded, pytest.mark.timeout(600), needs_tmux]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder with the programs of a system that has cron and no systemd."""
    with tempfile.TemporaryDirectory(prefix="walk-") as name:
        programs = Path(name) / "bin"
        programs.mkdir()
        for program in PROGRAMS:
            (programs / program).symlink_to(shutil.which(program) or "")
        (programs / "skychimp").symlink_to(PROGRAM)
        (programs / "crontab").write_text(FAKE_CRONTAB)
        (programs / "crontab").chmod(0o755)
        yield Path(name)


@pytest.fixture
def windows(folder: Path) -> Iterator[dict[str, Window]]:
    """Open a window for each of three people. All use the same config."""
    with ExitStack() as stack:
        opened = {}
        for name in ("admin", "grace", "bob"):
            home = folder / name
            home.mkdir()
            config = {"SKYCHIMP_CONFIG": str(folder / "service/skychimp.toml")}
            environ = {"HOME": str(home), "PATH": str(folder / "bin")} | config
            opened[name] = stack.enter_context(open_window(environ, home))
        yield opened


def test_administrator_runs_a_shared_service(windows: dict[str, Window], records: Path) -> None:
    port, mail = free_port(), StoringHandler()
    walk = Walk("administrator", windows["admin"], mail)
    with walk.recorded(records):
        with storing_server(port, mail):
            set_up(walk, port)
            add_people(walk, windows["grace"], windows["bob"], mail)
            add_mailing(walk, windows["grace"])
            install_and_send(walk)
            assert recipients(mail)["ada@example.org"] == 1
        fail_without_server(walk, windows["grace"])
        with storing_server(port, mail):
            recover(walk)
            assert recipients(mail)["eve@example.org"] == 1
            back_up_and_restore(walk)
            walk.run("skychimp service remove", YES)
            assert "restore" in walk.run("skychimp audit list").text
    assert max(recipients(mail)[f"{name}@example.org"] for name in ("ada", "eve")) == 1, "nothing was sent twice"


def set_up(walk: Walk, port: int) -> None:
    settings = f"{server_settings(port)} SKYCHIMP_RUN__PATIENCE=1s"
    init = "skychimp --store ../service/skychimp.db init --email admin@example.org --sender 'News <news@example.org>'"
    walk.run(f"{settings} {init}", *NEW_PASSWORD)
    assert "problem" not in walk.run("skychimp doctor", is_own_idea=True).text


def add_people(walk: Walk, grace: Window, bob: Window, mail: StoringHandler) -> None:
    """Grace enters her code at once. Bob does it later, and becomes an editor."""
    code = ("Code", lambda: newest_code(mail))
    walk.run("skychimp register --email grace@example.org", *NEW_PASSWORD, code, window=grace)
    walk.run("skychimp register --email bob@example.org", *NEW_PASSWORD, ("Code", CTRL_C), status=130, window=bob)
    walk.run("skychimp verify --email bob@example.org", code, ("Password", PASSWORD), window=bob)
    walk.run("skychimp login --email bob@example.org", ("Password", PASSWORD), window=bob)
    walk.run("skychimp users list")
    walk.run("skychimp users role bob@example.org editor")
    assert "editor" in walk.run("skychimp whoami", window=bob, is_own_idea=True).text


def add_mailing(walk: Walk, grace: Window) -> None:
    for command in (
        "skychimp clients create --email ada@example.org --name Ada",
        "skychimp messages create --subject 'Hello {{ client.name }}' --body News",
        "skychimp messages preview 1",
        "skychimp messages test 1 --to grace@example.org",
        "skychimp mailings create --help",
        f"{CREATE} --no-send",
    ):
        walk.run(command, window=grace)


def install_and_send(walk: Walk) -> None:
    assert "skychimp.toml" in walk.run("skychimp service cron").text
    walk.run("skychimp service install", YES)
    walk.run("skychimp status")
    walk.run(AS_CRON)


def fail_without_server(walk: Walk, grace: Window) -> None:
    """The email stays in the queue, and the screens name the mail server."""
    walk.run("skychimp clients create --email eve@example.org --name Eve", window=grace, is_own_idea=True)
    create = "skychimp mailings create --message 1 --start now --every once --client eve@example.org"
    walk.run(create, window=grace, is_own_idea=True)
    walk.run(AS_CRON, status=75)
    walk.run("skychimp status")
    walk.run("skychimp doctor", status=1)


def recover(walk: Walk) -> None:
    walk.run(AS_CRON)
    walk.run("skychimp status")
    walk.run("skychimp doctor")


def back_up_and_restore(walk: Walk) -> None:
    """Nothing is sent until the administrator says so."""
    walk.run("skychimp backup today.backup")
    walk.run("skychimp restore today.backup", YES)
    walk.run("skychimp status")
    walk.run("skychimp resolve --restored", YES)
    walk.run("skychimp run --plan")
    walk.run(AS_CRON)
    walk.run("skychimp status")


def newest_code(mail: StoringHandler) -> str:
    return code_in(mail.emails[-1].message)


def recipients(mail: StoringHandler) -> Counter[str]:
    return Counter(email.recipients[0] for email in mail.emails)

"""Paste every command that is shown with a value of somebody else, and see that nothing but that command runs."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import create_user
from support.argon import fast_argon2  # noqa: F401
from support.command import CommandResult, Home
from support.hostile import ADDRESSES, NAMES
from support.inbox import body_of, read_outbox

from skychimp import addresses
from skychimp.models import Role, User
from skychimp.permissions import Actor
from skychimp.store.database import Store

pytestmark = pytest.mark.usefixtures("fast_argon2")

PASSWORD = "a stapled horse battery"
STUBS = ("skychimp", "chmod", "chown", "mv", "rm", "sudo", "sqlite3")
SHOWN = re.compile(
    r'\brun:? "(?P<quoted>.*)"|(?:next|to undo this|to get another code|write it before the command): (?P<rest>.*)$',
    re.MULTILINE,
)


def cases(values: Iterable[str], *first: str) -> list[object]:
    """Return a test case for each value: for these by default, and for the others in slow tests."""
    return [pytest.param(value, marks=() if value in first else pytest.mark.slow) for value in values]


SOME_ADDRESSES = cases(
    ADDRESSES, "`touch${IFS}ran`@x.example", "it's@x.example", "--yes@x.example", "ünï`id`@bücher.example"
)
SOME_NAMES = cases(NAMES, "$(touch ran)", "a'; touch ran; '", "a\ttouch ran", "%41%2e%00", "\u202egnp.exe")


class Sandbox:
    """A folder in which commands are pasted into a shell. The programs in them only record their arguments."""

    def __init__(self, folder: Path) -> None:
        programs, self._work, self._record = folder / "bin", folder / "work", folder / "record"
        for path in (programs, self._work):
            path.mkdir(parents=True)
        stub = f'#!/bin/sh\nprintf \'%s\\0\' "${{0##*/}}" "$@" >>{shlex.quote(str(self._record))}\n'
        for name in STUBS:
            (programs / name).write_text(stub)
            (programs / name).chmod(0o755)
        self._environ = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(self._work)}

    def paste(self, line: str) -> list[str]:
        """Paste a line into a shell and return the words of the programs that ran. Nothing else may have happened."""
        self._record.write_text("")
        for shell in ("sh", "bash"):
            subprocess.run([shell, "-c", line], cwd=self._work, env=self._environ, capture_output=True, check=False)
            assert not list(self._work.iterdir()), f"{shell} ran more than the command: {line}"
        words = self._record.read_text().split("\0")[:-1]
        assert words[: len(words) // 2] == words[len(words) // 2 :]
        return words[: len(words) // 2]


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path / "sandbox")


def shown_commands(text: str) -> Iterator[str]:
    """Yield the commands in what was shown: hints, next steps and indented commands of an email."""
    for match in SHOWN.finditer(text):
        yield match["quoted"] or match["rest"]
    yield from re.findall(r"^ {4}(skychimp .*)$", text, re.MULTILINE)


def require_harmless(sandbox: Sandbox, text: str, value: str) -> None:
    """Require that a text shows a command with the value, and that pasting its commands does nothing else.

    Characters that are not shown as they are make the command another one, which is harmless too.
    """
    commands = list(shown_commands(text))
    pasted = [(sandbox.paste(command), sandbox.paste(f'"{command}"')) for command in commands]
    assert pasted, f"no command in: {text}"
    assert all(not in_quotes or in_quotes == words for words, in_quotes in pasted)
    if value.isprintable():
        assert any(value in words for words, _ in pasted), f"{value!r} is not in {pasted}"


def created_client_twice(home: Home, address: str) -> CommandResult:
    assert home.call("clients", "create", "--email", address).status == 0
    return home.call("clients", "create", "--email", address)


@pytest.mark.parametrize("address", ADDRESSES)
def test_address_of_a_client(home: Home, sandbox: Sandbox, address: str) -> None:
    require_harmless(sandbox, created_client_twice(home, address).err, address)


@pytest.mark.parametrize("address", SOME_ADDRESSES)
def test_address_of_a_new_user(store: Store, home: Home, sandbox: Sandbox, address: str) -> None:
    """Test the next steps of registering, and the commands in the emails."""
    done = home.call("register", "--email", address, "--password-stdin", stdin=f"{PASSWORD}\n")
    assert done.status == 0
    require_harmless(sandbox, done.err, address)
    again = home.call("register", "--email", address, "--password-stdin", stdin=f"{PASSWORD}\n")
    reset = home.call("password", "reset", "--email", address)
    require_harmless(sandbox, again.err + reset.err, address)
    emails = read_outbox(store.path.parent / "outbox")
    assert emails
    for email in emails:
        require_harmless(sandbox, body_of(email), address)


@pytest.mark.parametrize("address", SOME_ADDRESSES)
def test_address_of_a_blocked_user(
    store: Store, home_of: Callable[[Actor], Home], admin: Actor, sandbox: Sandbox, address: str
) -> None:
    other = create_user(store, "eve", Role.EDITOR)
    with store.write() as db:
        user = db.get_one(User, other.user_id)
        user.email, user.address_key = address, addresses.parse(address).key
    done = home_of(admin).call("users", "block", "--", address)
    assert done.status == 0, done.err
    require_harmless(sandbox, done.err, address)


def hostile_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / "places" / name
    folder.mkdir(parents=True, mode=0o700)
    return folder


@pytest.mark.sqlite
@pytest.mark.parametrize("name", SOME_NAMES)
def test_name_of_the_folder_with_the_store(store: Store, tmp_path: Path, sandbox: Sandbox, name: str) -> None:
    """Test the next steps of a backup, and what doctor says about files that others can read."""
    folder = hostile_folder(tmp_path, name)
    home = Home(folder, SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    store.close()
    path = Path(shutil.copy(store.path, folder))
    commands = ("backup", "copy.backup", "--operator"), ("doctor",), ("service", "cron")
    path.chmod(0o644)
    shown = [home.call("--store", str(path), *command) for command in commands]
    assert all(done.status in (0, 1, 3) for done in shown), shown
    if "\t" in name:  # a path with a control character is no setting
        return
    require_harmless(sandbox, shown[0].err, str(folder / "copy.backup"))
    require_harmless(sandbox, shown[1].err + shown[1].out, str(path))
    line = shown[2].out.removeprefix("* * * * * ").rstrip("\n")
    if name.isprintable():
        for_shell = line.replace(r"\%", "%")  # as cron reads it (crontab(5))
        assert any(unquote(word).endswith(str(path)) for word in shlex.split(for_shell))
        program = shlex.split(for_shell)[0]
        sandbox.paste(for_shell.replace(program, "skychimp", 1))


@pytest.mark.parametrize("name", SOME_NAMES)
def test_words_of_a_mistyped_command(home: Home, sandbox: Sandbox, name: str) -> None:
    for words in (["clients", "show", "--store", name], ["clients", name], [name], ["help", name], ["--config", name]):
        done = home.call(*words)
        assert done.status in (2, 3, 4), done
        for command in shown_commands(done.err):
            sandbox.paste(command)
            sandbox.paste(f'"{command}"')

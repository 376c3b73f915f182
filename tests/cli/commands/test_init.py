"""`init`: everything or nothing, with and without a person at the terminal."""

import os
import sqlite3
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher
from support.command import Home

from skychimp.config import example

INIT = ("init", "--email", "you@example.org")
CONFIG = Path(".config/skychimp/skychimp.toml")
STORE = Path(".local/share/skychimp/skychimp.db")
STATE = Path(".local/state/skychimp/sessions")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def files(home: Home) -> dict[Path, bytes]:
    """All files under the home and what they hold; SQLite's own, beside an open store, aside."""
    found = [path for path in home.folder.rglob("*") if path.is_file() and path.suffix not in (".db-wal", ".db-shm")]
    return {path.relative_to(home.folder): path.read_bytes() for path in found}


def administrator(store: Path) -> Any:
    """Address, role and password hash of the only user."""
    with sqlite3.connect(store) as connection:
        (row,) = connection.execute("SELECT email, role, password_hash FROM user").fetchall()
    return row


def is_logged_in(home: Home, *options: str) -> bool:
    return home.call(*options, "clients", "list").status == 0


# By flags


def test_config_store_administrator_and_session(home: Home) -> None:
    done = home.call(*INIT, "--sender", "Ada <ada@example.org>", "--json")
    assert (done.status, done.json) == (
        0,
        {
            "email": "you@example.org",
            "role": "admin",
            "config": str(home.folder / CONFIG),
            "store": str(home.folder / STORE),
        },
    )
    assert [line for line in done.err.splitlines() if line.startswith("mail goes to ")]
    assert is_logged_in(home)
    assert administrator(home.folder / STORE) == ("you@example.org", "admin", None)
    said = {"mail.sender": "Ada <ada@example.org>"}
    assert (home.folder / CONFIG).read_text(encoding="utf-8") == example.example_config(said)


def test_only_their_owner_can_read_them(home: Home) -> None:
    umask = os.umask(0)
    try:
        assert home.call(*INIT).status == 0
    finally:
        os.umask(umask)
    made = [path for path in home.folder.rglob("*") if path.is_file()]
    assert len(made) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    folders = {home.folder / path.parent for path in (CONFIG, STORE, STATE / "x")}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_without_a_sender_the_administrator_is(home: Home) -> None:
    assert home.call(*INIT).status == 0
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "you@example.org"


def test_again_is_a_conflict_and_changes_nothing(home: Home) -> None:
    first = (*INIT, "--sender", "You <you@example.org>")
    assert home.call(*first).status == 0
    before = files(home)
    for again in (first, INIT, ("init", "--email", "b@example.org"), (*INIT, "--sender", "B <b@example.org>")):
        done = home.call(*again, "--json", environ={"SKYCHIMP_PASSWORD": "another password"})
        assert (done.status, done.out, done.error["code"]) == (6, "", "conflict")
    done = home.call("--config", "other.toml", "--store", str(home.folder / STORE), *INIT)
    assert done.status == 6
    assert files(home) == before
    assert is_logged_in(home)


def test_a_named_config_and_store(home: Home) -> None:
    where = ("--config", "etc/c.toml", "--store", "data/s.db")
    assert home.call(*where, *INIT).out.splitlines() == [
        "email\tyou@example.org",
        "role\tadmin",
        f"config\t{home.folder}/etc/c.toml",
        f"store\t{home.folder}/data/s.db",
    ]
    assert is_logged_in(home, "--config", "etc/c.toml")  # it knows its store, from wherever it is used
    assert not (home.folder / ".config").exists()


def test_a_config_that_is_there_is_kept(home: Home) -> None:
    Path(home.folder / "skychimp.toml").write_text("store.url = 's.db'\n")
    done = home.call(*INIT, "--json", environ={"SKYCHIMP_MAIL__SENDER": "a@example.org"})
    assert done.json["config"] == str(home.folder / "skychimp.toml")
    assert done.json["store"] == str(home.folder / "s.db")
    assert (home.folder / "skychimp.toml").read_text() == "store.url = 's.db'\n"


def test_by_environment_only_where_no_config_can_be_written(home: Home) -> None:
    environ = {
        "HOME": "/dev/null",
        "XDG_STATE_HOME": str(home.folder / "state"),
        "SKYCHIMP_STORE": str(home.folder / "s.db"),
        "SKYCHIMP_MAIL__SENDER": "You <you@example.org>",
    }
    done = home.call(*INIT, "--json", environ=environ)
    assert (done.status, done.json["config"]) == (0, None)
    assert "no config was made (/dev/null/.config/skychimp/skychimp.toml: Not a directory)" in done.err
    assert home.call("clients", "list", environ=environ).status == 0
    del environ["SKYCHIMP_MAIL__SENDER"]
    done = home.call(*INIT, environ=environ | {"SKYCHIMP_STORE": str(home.folder / "t.db")})
    assert (done.status, done.out) == (3, "")
    assert "hint: name another file: --config FILE" in done.err
    assert not (home.folder / "t.db").exists()


# What can't be


@pytest.mark.parametrize(
    "options",
    [
        ("--email", "nobody"),
        ("--email", "a@example.org\n"),
        ("--email", "a@example.org", "--sender", "Ada"),
        ("--email", "a@example.org", "--sender", "Ada <a@example.org>\nBcc: b@example.org"),
        ("--email", "a@example.org", "--password-stdin"),
        (),
    ],
)
def test_a_wrong_value_leaves_nothing(home: Home, options: tuple[str, ...]) -> None:
    done = home.call("init", *options, stdin="short\n")
    assert (done.status, done.out) == (2, "")
    assert files(home) == {}


@pytest.mark.parametrize(
    ("options", "environ", "status"),
    [
        (("--store", "/dev/null/x/s.db"), {}, 3),
        (("--store", "/proc/s.db"), {}, 3),
        (("--config", "/dev/null/x/c.toml"), {}, 3),
        ((), {"XDG_STATE_HOME": "/dev/null"}, 3),
        ((), {"SKYCHIMP_SMTP__PORT": "x"}, 3),
        ((), {"SKYCHIMP_PASSWORD": "short"}, 2),
        (("--store", os.fsdecode(b"\xff.db")), {}, 3),
    ],
)
def test_what_failed_half_way_is_no_obstacle(
    home: Home, options: tuple[str, ...], environ: dict[str, str], status: int
) -> None:
    init = (*INIT, "--sender", "You <you@example.org>")
    done = home.call(*options, *init, environ=environ)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("error: ")
    assert CONFIG not in files(home)
    assert not [path for path in files(home) if path.is_relative_to(STATE)]
    assert home.call(*init).status == 0
    assert is_logged_in(home)


def test_a_store_without_anybody_is_gone_on_with(home: Home) -> None:
    """As a kill leaves it, between the store and its first user."""
    assert home.call(*INIT).status == 0
    with sqlite3.connect(home.folder / STORE) as connection:
        connection.execute("DELETE FROM login")
        connection.execute("DELETE FROM user")
    assert home.call(*INIT).status == 0
    assert is_logged_in(home)


def test_a_file_that_is_no_store_is_left_as_it_is(home: Home) -> None:
    (home.folder / "notes.txt").write_text("precious")
    done = home.call("--store", "notes.txt", *INIT)
    assert (done.status, done.out) == (3, "")
    assert "is not a Skychimp store" in done.err
    assert files(home) == {Path("notes.txt"): b"precious"}


# The password


@pytest.mark.parametrize(
    ("options", "stdin", "environ"),
    [
        (("--password-stdin",), "päss wörd \r\n", {}),
        (("--password-stdin",), "päss wörd ", {"SKYCHIMP_PASSWORD": "another one"}),
        ((), "", {"SKYCHIMP_PASSWORD": "päss wörd "}),
    ],
)
def test_a_password_comes_by_stdin_or_environment(
    home: Home, options: tuple[str, ...], stdin: str, environ: dict[str, str]
) -> None:
    assert home.call(*INIT, *options, stdin=stdin, environ=environ).status == 0
    assert PasswordHasher().verify(administrator(home.folder / STORE)[2], "päss wörd ")


def test_a_password_that_is_not_utf_8(home: Home) -> None:
    done = home.run(*INIT, "--password-stdin", stdin=b"\xff" * 10 + b"\n")
    assert (done.status, done.err) == (2, "error: the password is not UTF-8 text\n")


# A person at the terminal


def test_a_person_is_asked(home: Home) -> None:
    done = home.on_terminal(
        "init",
        answers=[
            ("Your e-mail:", "nobody\n"),
            ("Your e-mail:", "you@example.org\n"),
            ("Letters come from (Name <address>) [you@example.org]:", "You\n"),
            ("Letters come from (Name <address>) [you@example.org]:", "Ада Лавлейс <ada@example.org>\n"),
            ("A password (Enter for none yet):", "short\n"),
            ("A password (Enter for none yet):", "long enough\n"),
            ("Again:", "wrong enough\n"),
            ("A password (Enter for none yet):", "long enough\n"),
            ("Again:", "long enough\n"),
        ],
    )
    assert done.status == 0
    assert "long enough" not in done.out
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "Ада Лавлейс <ada@example.org>"
    email, _, password_hash = administrator(home.folder / STORE)
    assert email == "you@example.org"
    assert PasswordHasher().verify(password_hash, "long enough")


def test_enter_is_an_answer(home: Home) -> None:
    answers = [("Letters come from", "\n"), ("A password", "\n")]
    assert home.on_terminal(*INIT, answers=answers).status == 0
    assert administrator(home.folder / STORE) == ("you@example.org", "admin", None)
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "you@example.org"


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_a_person_may_leave(home: Home, key: str) -> None:
    done = home.on_terminal(*INIT, answers=[("Letters come from", "\n"), ("A password", key)])
    assert done.status == 130
    assert files(home) == {}


def test_nobody_is_asked_with_no_input(home: Home) -> None:
    done = home.on_terminal("--no-input", "init")
    assert done.status == 2
    assert "--email is missing" in done.out
    assert home.on_terminal("--no-input", *INIT).status == 0

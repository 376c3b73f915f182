"""`skychimp init`: it creates everything or nothing, with and without a terminal."""

import os
import sqlite3
import stat
import tomllib
from contextlib import closing
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
    """Return all files in the home folder with their content, without those that SQLite keeps next to an open store."""
    paths = [path for path in home.folder.rglob("*") if path.is_file() and path.suffix not in (".db-wal", ".db-shm")]
    return {path.relative_to(home.folder): path.read_bytes() for path in paths}


def administrator(store: Path) -> Any:
    """Return address, role and password hash of the only user."""
    with closing(sqlite3.connect(store)) as db:
        (row,) = db.execute("SELECT email, role, password_hash FROM user").fetchall()
    return row


def is_logged_in(home: Home, *options: str) -> bool:
    return home.call(*options, "clients", "list").status == 0


# With options


def test_init_creates_config_store_administrator_and_session(home: Home) -> None:
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
    assert [line for line in done.err.splitlines() if line.startswith("emails are ")]
    assert is_logged_in(home)
    assert administrator(home.folder / STORE) == ("you@example.org", "admin", None)
    values = {"mail.sender": "Ada <ada@example.org>"}
    assert (home.folder / CONFIG).read_text(encoding="utf-8") == example.example_config(values)


def test_config_has_the_settings_of_the_environment_but_no_passwords(home: Home) -> None:
    environ = {
        "SKYCHIMP_MAIL__SENDER": "Ada <ada@example.org>",
        "SKYCHIMP_MAIL__ALLOW_LOCAL": "true",
        "SKYCHIMP_SMTP__HOST": "mx.example.org",
        "SKYCHIMP_SMTP__PORT": "2525",
        "SKYCHIMP_SMTP__USERNAME": "0123",
        "SKYCHIMP_SMTP__PASSWORD": "hunter2 secret",
        "SKYCHIMP_SMTP__RATE": '["5/s", "100/h"]',
        "SKYCHIMP_SMTP__TIMEOUT": "30s",
        "SKYCHIMP_SMTP__PASSWORD_FILE": "",
        "SKYCHIMP_CACHE__URL": "redis://:hunter2@localhost",
        "SKYCHIMP_SERVICE__OPERATORS": '["mallory"]',
        "SKYCHIMP_STORE": "data/s.db",
    }
    done = home.call(*INIT, environ=environ)
    assert done.status == 0, done.err
    text = (home.folder / CONFIG).read_text()
    config = tomllib.loads(text)
    assert config["mail"]["sender"] == "Ada <ada@example.org>"
    assert config["mail"]["allow_local"] is True
    assert [config["smtp"][key] for key in ("host", "port", "username", "timeout", "rate")] == [
        "mx.example.org", 2525, "0123", "30s", ["5/s", "100/h"],
    ]  # fmt: skip
    assert config["store"]["url"] == str(home.folder / "data/s.db")
    assert "mallory" not in text, "only a person makes an installation shared"
    assert "hunter2" not in text + done.out + done.err
    assert "# The environment has it: set smtp.password_file.\n# password = " in text
    assert f"smtp.password is not written to {home.folder / CONFIG}: set smtp.password_file\n" in done.err
    assert "cache.url is not written to" in done.err
    assert is_logged_in(home), "the config alone is enough"
    lacking = home.call("service", "cron", environ=environ | {"SKYCHIMP_SERVICE__OPERATORS": ""})
    names = [line.split()[1] for line in lacking.out.splitlines() if line.startswith("#")]
    assert names == ["SKYCHIMP_SMTP__PASSWORD", "SKYCHIMP_CACHE__URL"]


def test_created_files_are_private(home: Home) -> None:
    umask = os.umask(0)
    try:
        assert home.call(*INIT).status == 0
    finally:
        os.umask(umask)
    created = [path for path in home.folder.rglob("*") if path.is_file()]
    assert len(created) >= 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in created} == {0o600}
    folders = {home.folder / path.parent for path in (CONFIG, STORE, STATE / "x")}
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in folders} == {0o700}


def test_default_sender_is_the_administrator(home: Home) -> None:
    assert home.call(*INIT).status == 0
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "you@example.org"


def test_second_init_is_a_conflict_and_changes_nothing(home: Home) -> None:
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


def test_config_and_store_given_by_options(home: Home) -> None:
    options = ("--config", "etc/c.toml", "--store", "data/s.db")
    assert home.call(*options, *INIT).out.splitlines() == [
        "email\tyou@example.org",
        "role\tadmin",
        f"config\t{home.folder}/etc/c.toml",
        f"store\t{home.folder}/data/s.db",
    ]
    assert is_logged_in(home, "--config", "etc/c.toml")  # the config names the store
    assert not (home.folder / ".config").exists()


def test_existing_config_is_not_changed(home: Home) -> None:
    Path(home.folder / "skychimp.toml").write_text("store.url = 's.db'\n")
    assert home.call("trust").status == 0
    done = home.call(*INIT, "--json", environ={"SKYCHIMP_MAIL__SENDER": "a@example.org"})
    assert done.json["config"] == str(home.folder / "skychimp.toml")
    assert done.json["store"] == str(home.folder / "s.db")
    assert (home.folder / "skychimp.toml").read_text() == "store.url = 's.db'\n"


def test_config_that_cannot_be_written_is_not_needed_if_the_environment_has_the_settings(home: Home) -> None:
    environ = {
        "HOME": "/dev/null",
        "XDG_STATE_HOME": str(home.folder / "state"),
        "SKYCHIMP_STORE": str(home.folder / "s.db"),
        "SKYCHIMP_MAIL__SENDER": "You <you@example.org>",
    }
    done = home.call(*INIT, "--json", environ=environ)
    assert (done.status, done.json["config"]) == (0, None)
    assert (
        "cannot write /dev/null/.config/skychimp/skychimp.toml: Not a directory; all settings come from the environment"
        in done.err
    )
    assert home.call("clients", "list", environ=environ).status == 0
    del environ["SKYCHIMP_MAIL__SENDER"]
    done = home.call(*INIT, environ=environ | {"SKYCHIMP_STORE": str(home.folder / "t.db")})
    assert (done.status, done.out) == (3, "")
    assert "hint: use another file with --config FILE" in done.err
    assert not (home.folder / "t.db").exists()


# Errors


@pytest.mark.parametrize(
    "options",
    [
        ("--email", "nobody"),
        ("--email", "a@example.org\n"),
        ("--email", "a@intranet"),
        ("--email", "a..b@docomo.ne.jp"),
        ("--email", "a@example.org", "--sender", "Ada"),
        ("--email", "a@example.org", "--sender", "Ada <a@example.org>\nBcc: b@example.org"),
        ("--email", "a@example.org", "--password-stdin"),
        (),
    ],
)
def test_invalid_value_leaves_no_files(home: Home, options: tuple[str, ...]) -> None:
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
def test_init_works_after_a_failed_one(
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


def test_store_without_users_is_used(home: Home) -> None:
    """A kill between the creation of the store and of its first user leaves it like this."""
    assert home.call(*INIT).status == 0
    with closing(sqlite3.connect(home.folder / STORE)) as db, db:
        db.execute("DELETE FROM login")
        db.execute("DELETE FROM user")
    assert home.call(*INIT).status == 0
    assert is_logged_in(home)


def test_file_that_is_not_a_store_is_not_changed(home: Home) -> None:
    (home.folder / "notes.txt").write_text("precious")
    done = home.call("--store", "notes.txt", *INIT)
    assert (done.status, done.out) == (3, "")
    assert "is not a Skychimp store" in done.err
    assert files(home) == {Path("notes.txt"): b"precious"}


# The password


@pytest.mark.parametrize(
    ("options", "stdin", "environ"),
    [
        (("--password-stdin",), "päss wörd und mehr \r\n", {}),
        (("--password-stdin",), "päss wörd und mehr ", {"SKYCHIMP_PASSWORD": "another one"}),
        ((), "", {"SKYCHIMP_PASSWORD": "päss wörd und mehr "}),
    ],
)
def test_password_comes_from_stdin_or_environment(
    home: Home, options: tuple[str, ...], stdin: str, environ: dict[str, str]
) -> None:
    assert home.call(*INIT, *options, stdin=stdin, environ=environ).status == 0
    assert PasswordHasher().verify(administrator(home.folder / STORE)[2], "päss wörd und mehr ")


def test_password_that_is_not_utf_8_is_refused(home: Home) -> None:
    done = home.run(*INIT, "--password-stdin", stdin=b"\xff" * 12 + b"\n")
    assert (done.status, done.err) == (2, "error: the password is not valid UTF-8\n")


# At a terminal


def test_missing_values_are_asked_for(home: Home) -> None:
    done = home.on_terminal(
        "init",
        answers=[
            ("Email:", "nobody\n"),
            ("Email:", "you@example.org\n"),
            ("Sender (Name <address>) [you@example.org]:", "You\n"),
            ("Sender (Name <address>) [you@example.org]:", "Ада Лавлейс <ada@example.org>\n"),
            ("Password (press Enter to skip):", "short\n"),
            ("Password (press Enter to skip):", "long enough indeed\n"),
            ("Repeat password:", "wrong enough indeed\n"),
            ("Password (press Enter to skip):", "long enough indeed\n"),
            ("Repeat password:", "long enough indeed\n"),
        ],
    )
    assert done.status == 0
    assert "long enough indeed" not in done.out
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "Ада Лавлейс <ada@example.org>"
    email, _, password_hash = administrator(home.folder / STORE)
    assert email == "you@example.org"
    assert PasswordHasher().verify(password_hash, "long enough indeed")


def test_enter_accepts_the_default(home: Home) -> None:
    answers = [("Sender (Name", "\n"), ("Password", "\n")]
    assert home.on_terminal(*INIT, answers=answers).status == 0
    assert administrator(home.folder / STORE) == ("you@example.org", "admin", None)
    assert tomllib.loads((home.folder / CONFIG).read_text())["mail"]["sender"] == "you@example.org"


@pytest.mark.parametrize("key", ["\x03", pytest.param("\x04", marks=pytest.mark.slow)])
def test_interrupt_leaves_no_files(home: Home, key: str) -> None:
    done = home.on_terminal(*INIT, answers=[("Sender (Name", "\n"), ("Password", key)])
    assert done.status == 130
    assert files(home) == {}


def test_no_input_asks_nothing(home: Home) -> None:
    done = home.call("--no-input", "init", width=80)
    assert done.status == 2
    assert "missing option --email" in done.err
    assert home.call("--no-input", *INIT, width=80).status == 0

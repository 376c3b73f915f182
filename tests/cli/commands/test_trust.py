"""`skychimp trust`: a config in the current folder is used only if the user trusts it, as it is now."""

import json
import os
import stat
from pathlib import Path

import pytest
from support.command import CommandResult, Home
from support.initial_home import InitialHome

from skychimp.cli.output import Output

LOCAL = """
[mail]
transport = "smtp"
[smtp]
host = "relay.example"
password_file = "p\u202ew"
[store]
url = "local.db"
"""


@pytest.fixture(scope="module")
def initial_home(tmp_path_factory: pytest.TempPathFactory) -> InitialHome:
    return InitialHome(tmp_path_factory.mktemp("homes"), email="ada@example.org")


@pytest.fixture
def home(initial_home: InitialHome) -> Home:
    """Return a home with a config in the usual place, and another in the current folder."""
    home = initial_home.restore()
    config(home).write_text(LOCAL, encoding="utf-8")
    return home


def config(home: Home) -> Path:
    return home.folder / "skychimp.toml"


def usual(home: Home) -> Path:
    return home.folder / ".config/skychimp/skychimp.toml"


def at(folder: Path, home: Home) -> Home:
    """Return the command line of the same user in another folder."""
    return Home(folder, HOME=str(home.folder))


def used_config(home: Home, *options: str) -> str:
    """Return the path of the config that a command uses."""
    done = home.call("-v", *options, "--store", "gone.db", "stats")
    lines = [line.removeprefix("config: ") for line in done.err.splitlines() if line.startswith("config: ")]
    return lines[0] if lines else done.err


def error(done: CommandResult) -> tuple[int, str]:
    return done.status, done.err


def test_untrusted_config_is_named_and_passed_over(home: Home) -> None:
    for options in ((), ("-q",), ("--json",), ("--no-input",)):
        done = home.call(*options, "stats")
        assert done.status == 0
        assert done.err.splitlines()[0] == (
            f'{config(home)} is not trusted: using {usual(home)} (run "skychimp trust" to trust it)'
        )
    usual(home).unlink()
    assert f"{config(home)} is not trusted: using no config file" in home.call("stats").err


def test_trusted_config_is_used_in_its_folder(home: Home) -> None:
    done = home.call("trust", "--json")
    assert (done.status, done.err) == (0, "")
    shown = done.json
    assert (shown["path"], shown["state"]) == (str(config(home)), "trusted")
    assert shown["settings"] == {
        "mail.transport": "smtp",
        "smtp.host": "relay.example",
        "smtp.password_file": str(home.folder / "p\u202ew"),
        "store.url": str(home.folder / "local.db"),
    }
    assert used_config(home) == str(config(home))
    (home.folder / "sub").mkdir()
    done = at(home.folder / "sub", home).call("-v", "stats")
    assert done.err.startswith(f"config: {usual(home)}\n")


def test_trust_is_kept_in_a_private_place_without_a_secret(home: Home) -> None:
    config(home).write_text("smtp.password = 'hunter2-and-more'\n")
    mask = os.umask(0)
    try:
        assert home.call("trust").status == 0
    finally:
        os.umask(mask)
    folder = home.folder / ".local/state/skychimp/trusted"
    (record,) = folder.iterdir()
    assert (stat.S_IMODE(folder.stat().st_mode), stat.S_IMODE(record.stat().st_mode)) == (0o700, 0o600)
    assert set(json.loads(record.read_text())) == {"path", "config", "env", "trusted_at"}


@pytest.mark.parametrize(
    "change", ["config", ".env created", ".env changed", ".env removed", "config replaced by a link"]
)
def test_changed_config_is_refused_until_it_is_trusted_again(home: Home, change: str) -> None:
    env, changed = home.folder / ".env", home.folder / ".env"
    if change in (".env changed", ".env removed"):
        env.write_text("SKYCHIMP_SMTP__PORT=25\n")
    assert home.call("trust").status == 0
    assert used_config(home) == str(config(home))
    if change == "config":
        changed = config(home)
        changed.write_text(LOCAL + "\n")
    elif change == "config replaced by a link":
        changed = config(home)
        changed.unlink()
        changed.symlink_to("other.toml")
        (home.folder / "other.toml").write_text("store.url = 'other.db'\n")
    elif change == ".env removed":
        env.unlink()
    else:
        env.write_text("SKYCHIMP_SMTP__HOST=evil.example\n")
    since = "it" if changed == config(home) else config(home)
    expected = f'error: {changed} has changed since {since} was trusted\nhint: check it, then run "skychimp trust"\n'
    for command in ("stats", "run", "init"):
        assert error(home.call(command, *(["--email", "x@example.org"] if command == "init" else []))) == (3, expected)
    terminal = home.call("stats", width=80)
    assert (terminal.status, "[y/N]" in terminal.out + terminal.err) == (3, False)
    assert home.call("trust", "--list").out.split("\t")[1] == "changed"
    assert home.call("trust").status == 0
    assert used_config(home) == str(config(home))


def test_trust_holds_for_the_path(home: Home, tmp_path: Path) -> None:
    """The same content in another folder is not trusted: its paths would lead elsewhere."""
    assert home.call("trust").status == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "skychimp.toml").write_text(LOCAL, encoding="utf-8")
    assert "is not trusted" in at(other, home).call("stats").err
    (tmp_path / "link").symlink_to(home.folder)
    assert at(tmp_path / "link", home).call("-v", "stats").err.startswith(f"config: {config(home)}\n")


def test_list_and_remove(home: Home, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.touch()
    for file in ((), (str(other),)):
        assert home.call("trust", *file).status == 0
    rows = [(row["path"], row["state"]) for row in home.call("trust", "--list", "--json").json]
    assert rows == [(str(config(home)), "trusted"), (str(other), "trusted")]
    config(home).unlink()
    other.unlink()
    other.mkdir()
    states = [line.split("\t")[1] for line in home.call("trust", "--list").out.splitlines()]
    assert states == ["missing", "unsafe"]
    assert home.call("trust", "--remove", "skychimp.toml", "--json").json == {
        "path": str(config(home)), "state": "removed",
    }  # fmt: skip
    assert error(home.call("trust", "--remove", "skychimp.toml")) == (
        4, f'error: {config(home)} is not trusted\nhint: run "skychimp trust --list"\n',
    )  # fmt: skip
    assert [row["path"] for row in home.call("trust", "--list", "--json").json] == [str(other)]


def test_removed_trust_counts_at_once(home: Home) -> None:
    assert home.call("trust").status == 0
    assert home.call("trust", "--remove", str(config(home))).status == 0
    assert used_config(home) == str(usual(home))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[smtp", "is not valid TOML"),
        ("smtp.hosst = 'x'", "unknown setting smtp.hosst"),
        ("x = '\xff'", "not valid UTF-8"),
    ],
)
def test_config_that_is_invalid_is_not_trusted(home: Home, text: str, reason: str) -> None:
    config(home).write_bytes(text.encode("latin-1"))
    done = home.call("trust")
    assert (done.status, reason in done.err) == (3, True)
    assert home.call("trust", "--list").out == ""


def test_missing_config_and_wrong_usage(home: Home) -> None:
    config(home).unlink()
    hint = f'hint: run "skychimp --config {config(home)} init --email YOU@EXAMPLE.ORG" to create it\n'
    assert error(home.call("trust")) == (4, f"error: config file {config(home)} not found\n{hint}")
    for arguments in (("--list", "x.toml"), ("--list", "--remove", "x.toml"), ("y.toml", "--remove", "x.toml")):
        assert home.call("trust", *arguments).status == 2


def test_state_folder_that_cannot_be_written_or_is_unsafe(home: Home) -> None:
    done = home.call("trust", environ={"XDG_STATE_HOME": "/dev/null"})
    assert (done.status, "set XDG_STATE_HOME" in done.err) == (3, True)
    (home.folder / "open").mkdir()
    (home.folder / "open/skychimp/trusted").mkdir(parents=True)
    (home.folder / "open/skychimp/trusted").chmod(0o777)
    done = home.call("trust", environ={"XDG_STATE_HOME": str(home.folder / "open")})
    assert done.status == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"path": 1}', "null", "\0"])
def test_damaged_record_is_reported(home: Home, content: str) -> None:
    assert home.call("trust").status == 0
    (record,) = (home.folder / ".local/state/skychimp/trusted").iterdir()
    record.write_text(content)
    done = home.call("stats")
    assert (done.status, done.err.splitlines()[0]) == (3, f"error: {record} is damaged")
    assert f'run "rm {record}"' in done.err


# On a terminal


def test_on_a_terminal_the_user_is_asked_and_sees_what_matters(home: Home) -> None:
    for answer in ("\n", "what\n"):
        done = home.call("-v", "stats", width=80, stdin=answer)
        assert f"config: {usual(home)}" in done.err
        assert done.err.count("Trust skychimp.toml? [y/N]") == 1
    done = home.on_terminal("-v", "stats", answers=[("Trust skychimp.toml? [y/N]", "n\n")])
    assert f"config: {usual(home)}" in done.out
    assert done.out.count("[y/N]") == 1
    lines = done.out.splitlines()
    assert lines[0] == f"{config(home)} is not trusted yet. It sets:"
    assert '  smtp.host = "relay.example"' in lines
    assert f'  store.url = "{home.folder}/local.db"' in lines
    assert "\u202e" not in done.out
    assert home.on_terminal("stats", answers=[("[y/N]", "\x04")]).status == 130
    done = home.on_terminal("-v", "status", answers=[("Trust skychimp.toml? [y/N]", "y\n")])
    assert f"config: {config(home)}" in done.out
    again = home.call("status", width=80)
    assert "[y/N]" not in again.out + again.err


def test_what_was_shown_is_what_is_trusted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    def change_and_agree(*_: object) -> str:
        config(home).write_text(LOCAL.replace("relay.example", "evil.example"), encoding="utf-8")
        return "y"

    monkeypatch.setattr(Output, "ask", change_and_agree)
    done = home.call("-v", "stats", width=80)
    assert "relay.example" in done.err
    assert (done.status, f"{config(home)} has changed since" in done.err) == (3, True)
    assert home.call("trust", "--list").out.split("\t")[1] == "changed"


def test_config_that_decides_nothing_is_described_in_one_line(home: Home) -> None:
    config(home).write_text("mail.timezone = 'UTC'\n")
    done = home.call("stats", width=80, stdin="n\n")
    assert done.err.splitlines()[0] == f"{config(home)} is not trusted yet. It sets no mail server and no store."
    assert done.err.splitlines()[1].startswith("Trust skychimp.toml? [y/N]")


def test_what_it_sets_shows_no_password(home: Home) -> None:
    config(home).write_text("smtp.password = 'hunter2'\nstore.url = 'postgresql+psycopg://ada:hunter2@h/d'\n")
    done = home.call("stats", width=80, stdin="n\n")
    assert ("[y/N]" in done.err, "hunter2" in done.out + done.err) == (True, False)
    assert "hunter2" not in home.call("trust", "--json").out


@pytest.mark.parametrize("arguments", [("run",), ("--no-input", "stats"), ("trust", "--list"), ("stats", "--help")])
def test_some_commands_never_ask(home: Home, arguments: tuple[str, ...]) -> None:
    done = home.call(*arguments, width=80)
    assert "[y/N]" not in done.out + done.err


def test_nothing_is_asked_if_the_question_would_not_be_seen(home: Home) -> None:
    done = home.call("-v", "stats", width=80)  # both streams are terminals
    assert done.status == 130
    assert "Trust skychimp.toml? [y/N]" in done.err
    done = home.call("-v", "stats", stdin="y\n")
    assert "[y/N]" not in done.err
    assert f"config: {usual(home)}" in done.err


# `init`


def test_init_trusts_the_config_that_it_creates(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.call("--config", "skychimp.toml", "--store", "s.db", "init", "--email", "you@example.org").status == 0
    assert home.call("clients", "list").status == 0
    assert home.call("-v", "clients", "list").err.startswith(f"config: {config(home)}\n")


def test_init_that_fails_leaves_no_trust(tmp_path: Path) -> None:
    home = Home(tmp_path)
    done = home.call("--config", "skychimp.toml", "--store", "/proc/s.db", "init", "--email", "you@example.org")
    assert done.status == 3
    assert not config(home).exists()
    assert home.call("trust", "--list").out == ""


def test_init_does_not_use_a_config_that_is_not_trusted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    config(home).write_text("store.url = 'planted.db'\n")
    done = home.call("init", "--email", "you@example.org", "--json")
    assert done.json["config"] == str(usual(home))
    assert done.err.count("is not trusted") == 1
    assert not (tmp_path / "planted.db").exists()

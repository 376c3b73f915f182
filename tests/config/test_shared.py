"""Shared installations: who is restricted, and which variables they may pass. Real accounts are in tests/acceptance."""

import os
from contextlib import closing
from pathlib import Path

import pytest
from support.command import CommandResult, Home
from support.queue_steps import rows

from skychimp.config import shared
from skychimp.errors import Denied
from skychimp.models import AuditEntry
from skychimp.services import system_log
from skychimp.store.schema import create_store, open_store
from skychimp.translation import verbatim

HOME = Path("/var/lib/mailer")
OTHER = str(os.geteuid() + 1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"SUDO_USER": "ada"}, None),
        ({"SUDO_UID": str(os.geteuid()), "SUDO_USER": "ada"}, None),
        ({"SUDO_UID": "65533", "SUDO_USER": "ada"}, (65533, "ada")),
        ({"SUDO_UID": "65533"}, (65533, "65533")),
        ({"SUDO_UID": "", "SUDO_USER": "ada"}, (-1, "ada")),
        ({"SUDO_UID": "-1", "SUDO_USER": "ada"}, (-1, "ada")),
        ({"SUDO_UID": f" {os.geteuid()}", "SUDO_USER": "ada"}, (-1, "ada")),
        ({"SUDO_UID": "٠", "SUDO_USER": "ada"}, (-1, "ada")),
        ({"SUDO_UID": "9" * 5000, "SUDO_USER": "ada"}, (-1, "ada")),
    ],
)
def test_caller(environ: dict[str, str], expected: tuple[int, str] | None) -> None:
    assert shared.find_caller(environ) == expected


@pytest.mark.parametrize(
    ("service", "is_restricted"),
    [
        ({}, False),
        ({"operators": []}, False),
        ({"shared": False}, False),
        ({"shared": "false"}, False),
        ({"shared": True}, True),
        ({"shared": "true"}, True),
        ({"shared": "no"}, True),  # not valid, so it is taken for what is safe
        ({"shared": 0.5}, True),
        ({"shared": 0}, True),
        ({"shared": True, "operators": ["grace"]}, True),
        ({"shared": True, "operators": ["Ada"]}, True),
        ({"shared": True, "operators": "ada"}, True),
        ({"shared": True, "operators": {"ada": True}}, True),
        ({"shared": True, "operators": ["grace", "ada"]}, False),
        ({"shared": True, "operators": ["the-same-account"]}, False),
    ],
)
def test_who_is_restricted(service: dict[str, object], is_restricted: bool) -> None:
    assert shared.is_restricted({"ada", "the-same-account"}, service) == is_restricted


@pytest.mark.parametrize(
    "accepted",
    [
        {"SKYCHIMP_TOKEN": "x", "SKYCHIMP_PASSWORD": "x"},
        {"HOME": "/var/lib/mailer"},
        {"HOME": "/var/lib/../lib/mailer/"},
        {"HOME": "", "SKYCHIMP_STORE": "", "XDG_STATE_HOME": ""},
        {"XDG_CONFIG_HOME": "/var/lib/mailer/.config", "XDG_DATA_HOME": "/var/lib/mailer/.local/share"},
        {"XDG_STATE_HOME": "/var/lib/mailer/.local/state", "XDG_CACHE_HOME": "/var/lib/mailer/.cache"},
        {"XDG_RUNTIME_DIR": "/run/user/5", "XDG_CURRENT_DESKTOP": "x"},
        {"_SKYCHIMP_COMPLETE": "complete_bash"},
    ],
)
def test_accepted_variables(accepted: dict[str, str]) -> None:
    assert list(shared.refused_variables(accepted, HOME)) == []


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SKYCHIMP_STORE", "x"),
        ("SKYCHIMP_CONFIG", "/var/lib/mailer/.config/skychimp/skychimp.toml"),
        ("SKYCHIMP_SMTP__HOST", "x"),
        ("SKYCHIMP_TOKENS", "x"),
        ("SKYCHIMP_", "x"),
        ("HOME", "/home/ada"),
        ("HOME", "."),
        ("XDG_CONFIG_HOME", "/var/lib/mailer"),
        ("XDG_DATA_HOME", "/var/lib/mailer/.config"),
        ("XDG_STATE_HOME", "relative"),
        ("XDG_CACHE_HOME", "/tmp"),
    ],
)
def test_refused_variables(variable: str, value: str) -> None:
    assert list(shared.refused_variables({"TERM": "xterm", variable: value}, HOME)) == [variable]


DANGEROUS = """
PAGER EDITOR VISUAL BROWSER LESSOPEN LESS PATH SHELL TMPDIR TEMP TMP SQLITE_TMPDIR PYTHONPATH PYTHONHOME PYTHONSTARTUP
PYTHONINSPECT PYTHONTZPATH LD_PRELOAD LD_LIBRARY_PATH SSL_CERT_FILE SSL_CERT_DIR SSLKEYLOGFILE OPENSSL_CONF
OPENSSL_MODULES HOSTALIASES RES_OPTIONS LOCALDOMAIN GCONV_PATH NOTIFY_SOCKET http_proxy BASH_ENV ENV IFS USER LOGNAME
"""
"""Variables that name a program or a file that would be used with the rights of the account, and the like."""


def test_only_harmless_variables_are_kept() -> None:
    harmless = {"SKYCHIMP_TOKEN": "t", "TERM": "xterm", "LC_ALL": "C.UTF-8", "SUDO_UID": "5", "NO_COLOR": "1"}
    assert shared.kept_variables(harmless | dict.fromkeys(DANGEROUS.split(), "x")) == harmless


def write_own_config(home: Path, text: str) -> None:
    file = home / ".config/skychimp/skychimp.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text)


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that the password database calls the home of this account."""
    import pwd

    entry = pwd.struct_passwd(("mailer", "x", os.geteuid(), os.getegid(), "", str(tmp_path), "/bin/sh"))
    database = pwd.getpwuid
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: entry if uid == os.geteuid() else database(uid))
    return tmp_path


def test_environment_is_cleaned_also_before_an_error(own_home: Path) -> None:
    write_own_config(own_home, "[service]\nshared = true\n")
    environ = {"SUDO_UID": OTHER, "SUDO_USER": "eve", "SKYCHIMP_STORE": "x", "PAGER": "x", "HOME": str(own_home)}
    with pytest.raises(Denied, match="eve may not set SKYCHIMP_STORE in this shared installation"):
        shared.restrict_environment(environ)
    assert environ == {"SUDO_UID": OTHER, "SUDO_USER": "eve", "HOME": str(own_home), "LESSSECURE": "1"}


@pytest.mark.parametrize(
    ("arguments", "environ", "files", "action"),
    [
        ((), {"SKYCHIMP_STORE": "other.db"}, (), "set SKYCHIMP_STORE"),
        ((), {"XDG_DATA_HOME": "."}, (), "set XDG_DATA_HOME"),
        ((), {}, ("skychimp.toml",), "use the skychimp.toml of the current folder"),
        (("--store", "other.db"), {}, (), "use --store"),
        (("--config=other.toml",), {}, (), "use --config"),
    ],
)
def test_refused_setting_is_recorded_in_the_own_store(
    own_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    environ: dict[str, str],
    files: tuple[str, ...],
    action: str,
) -> None:
    """Never in the store that was refused. The system log has it, too, and the arguments are not recorded."""
    write_own_config(own_home, "[service]\nshared = true\n")
    work = own_home / "work"
    work.mkdir()
    for name in ("other.toml", *files):
        (work / name).write_text('[store]\nurl = "other.db"\n')
    create_store(f"sqlite:///{work}/other.db").close()
    own = create_store(f"sqlite:///{own_home}/.local/share/skychimp/skychimp.db")
    lines: list[str] = []
    monkeypatch.setattr(system_log, "write", lines.append)
    eve = Home(work, HOME=str(own_home), SUDO_UID=OTHER, SUDO_USER="eve")
    assert eve.call(*arguments, "why", "ada@example.org", environ=environ).status == 5
    detail = f"why: eve may not {action} in this shared installation, sudo: eve"
    assert [(row.action, row.object, row.detail) for row in rows(own, AuditEntry)] == [("refused", "command", detail)]
    own.close()
    with closing(open_store(f"sqlite:///{work}/other.db")) as other:
        assert rows(other, AuditEntry) == []
    assert [line.partition("detail=")[2] for line in lines] == [f'"{detail}"']


def test_refused_setting_without_a_store_is_in_the_system_log(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own_config(own_home, "[service]\nshared = true\n")
    lines: list[str] = []
    monkeypatch.setattr(system_log, "write", lines.append)
    eve = Home(own_home, SUDO_UID=OTHER, SUDO_USER="eve")
    assert eve.call("--store", "x.db", "stats").status == 5
    assert ["stats: eve may not use --store" in line for line in lines] == [True]


@pytest.mark.parametrize("text", ["", "[service]\nshared = false\n", '[service]\nshared = true\noperators = ["eve"]\n'])
def test_environment_is_kept_without_a_restriction(own_home: Path, text: str) -> None:
    write_own_config(own_home, text)
    environ = {"SUDO_UID": OTHER, "SUDO_USER": "eve", "SKYCHIMP_STORE": "x", "PAGER": "x", "HOME": "/elsewhere"}
    before = dict(environ)
    shared.restrict_environment(environ)
    assert environ == before


def test_own_config_is_found_whatever_the_environment_says(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"):
        monkeypatch.setenv(variable, "/elsewhere")
    assert shared.own_config_file() == own_home / ".config/skychimp/skychimp.toml"


def test_root_is_not_restricted_but_named(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as in root's crontab. Root can become the account anyway."""
    write_own_config(own_home, "[service]\nshared = true\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1001)
    environ = {"SUDO_UID": "0", "SUDO_USER": "root", "SKYCHIMP_STORE": "x"}
    shared.restrict_environment(environ)
    assert environ["SKYCHIMP_STORE"] == "x"
    shared.require_operator(verbatim("use --operator"), environ=environ)
    assert shared.find_caller(environ) == (0, "root")


def as_eve(home: Path, *arguments: str) -> CommandResult:
    work = home / "work"
    work.mkdir(exist_ok=True)
    return Home(work, HOME=str(home), SUDO_UID=OTHER, SUDO_USER="eve").call(*arguments)


def test_own_config_that_is_a_link_to_nothing_may_say_shared(own_home: Path) -> None:
    file = own_home / ".config/skychimp/skychimp.toml"
    write_own_config(own_home, "")
    file.unlink()
    file.symlink_to("dotfiles/skychimp.toml")
    done = as_eve(own_home, "audit", "list", "--operator")
    assert (done.status, done.out) == (3, "")
    assert f"{file} is a link to a file that does not exist: dotfiles/skychimp.toml" in done.err


def test_shared_is_remembered_while_the_config_is_written(own_home: Path) -> None:
    """An editor empties the file, or moves it away, before it writes the new one."""
    file = own_home / ".config/skychimp/skychimp.toml"
    write_own_config(own_home, "[service]\nshared = true\n")
    assert as_eve(own_home, "audit", "list", "--operator").status == 5
    for text in ("", "[mail]\n", None):
        file.unlink() if text is None else file.write_text(text)
        done = as_eve(own_home, "audit", "list", "--operator")
        assert (done.status, done.out) == (3, "")
        assert f"hint: set service.shared to true or false in {file}\n" in done.err
        assert Home(own_home).call("help").status == 0  # the account itself
    file.write_text("[service]\nshared = false\n")
    assert as_eve(own_home, "--store", "x.db", "help").status == 0


def test_caller_cannot_install_completion(own_home: Path) -> None:
    write_own_config(own_home, "[service]\nshared = true\n")
    done = as_eve(own_home, "--install-completion", "bash")
    assert (done.status, done.out) == (5, "")
    assert "eve may not change the shell of this account" in done.err
    assert sorted(path.name for path in own_home.iterdir()) == [".config", ".local", "work"]


@pytest.mark.parametrize("text", ["shared = true", "service = true", "service = [1]", "[[service]]\nshared = false"])
def test_section_that_is_none(own_home: Path, text: str) -> None:
    """A file that is not valid is taken for what is safe, if it says anything about the service."""
    write_own_config(own_home, text)
    restriction = shared.find_restriction({"SUDO_UID": OTHER, "SUDO_USER": "eve"})
    assert (restriction is not None) == ("service" in text)

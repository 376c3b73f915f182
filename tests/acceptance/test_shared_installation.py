"""A shared installation: colleagues run it on the service's account with the real sudo, and cannot take it over."""

import os
import pty
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import CommandResult
from support.inbox import code_in, read_outbox
from support.shared_installation import PASSWORD, SharedInstallation, shared_installation, sudoers_file

from skychimp.cli.commands.help import TOPICS

CONFIG = """\
[mail]
sender = "News <news@skychimp.test>"
[smtp]
password_file = "smtp-password"
[service]
shared = true
operators = ["root-of-another-machine", "{operator}"]
"""
SECRET = "the password of the mail server"
PLACES = {"config": "skychimp.toml", "password": "smtp-password", "env": ".env"}
"""Files with secrets in the account's config folder."""


@pytest.fixture(scope="module")
def installation() -> Iterator[SharedInstallation]:
    """Return an installation that is set up and shared. Ada and Grace may run it, and the operator anything."""
    with shared_installation() as made:
        init(made)
        share(made)
        printed = made.run_as_service(
            "service", "sudoers", "--user", made.accounts["ada"], "--user", made.accounts["grace"]
        )
        assert (printed.status, printed.err) == (0, "")
        operator = f"{made.accounts['operator']} ALL = ({made.accounts['service']}) NOPASSWD: SETENV: ALL\n"
        with sudoers_file(printed.out + operator):
            yield made


@pytest.fixture
def careless(installation: SharedInstallation) -> Iterator[SharedInstallation]:
    """Return the installation when sudo lets Ada pass any variable."""
    rule = f"{installation.accounts['ada']} ALL = ({installation.accounts['service']}) NOPASSWD: SETENV: ALL\n"
    installed = Path(f"/etc/sudoers.d/zz-skychimp-test-{os.getpid()}")  # the last rule counts
    defaults = f"Defaults!{installation.program} setenv, !always_set_home\n"
    installed.write_text(defaults + rule)
    installed.chmod(0o440)
    yield installation
    installed.unlink()


def init(installation: SharedInstallation) -> None:
    made = installation.run_as_service("init", "--email", "admin@example.org", SKYCHIMP_PASSWORD=PASSWORD)
    assert made.status == 0, made.err


def share(installation: SharedInstallation) -> None:
    """Write the account's config, and files with secrets beside it that only their folder protects."""
    installation.write_config(CONFIG.format_map(installation.accounts))
    for name in ("password", "env"):
        file = installation.config.with_name(PLACES[name])
        file.write_text(f"SKYCHIMP_SMTP__PASSWORD={SECRET}\n" if name == "env" else f"{SECRET}\n")
        file.chmod(0o644)
        installation.own(file)


def assert_denied(done: CommandResult, action: str) -> None:
    """Assert that a command was refused with one line and a hint."""
    assert (done.status, done.out) == (5, ""), done
    error, hint = done.err.splitlines()
    assert re.fullmatch(rf"error: \S+ may not {action} in this shared installation", error), error
    assert re.match(r"hint: .*ask the operator to add \"\S+\" to service\.operators in /\S+skychimp\.toml$", hint), hint


@pytest.fixture(scope="module")
def token(installation: SharedInstallation) -> str:
    """Return a token of the administrator."""
    command = ["login", "--email", "admin@example.org", "--print-token"]
    done = installation.run_as_service(*command, SKYCHIMP_PASSWORD=PASSWORD)
    assert done.status == 0, done.err
    return done.out.strip()


def files_of(installation: SharedInstallation) -> dict[Path, tuple[int, int, bytes]]:
    """Return the files in all homes, with their owners, modes and content, except the store's own."""
    found = {}
    for account in installation.accounts.values():
        for path in (installation.folder / account).rglob("*"):
            if path.is_file() and not path.name.startswith("skychimp.db"):
                status = path.stat()
                found[path] = (status.st_uid, status.st_mode, path.read_bytes())
    return found


# The set-up


def topic_blocks(language: str) -> list[str]:
    text = (TOPICS / "accounts.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_script(commands: str, folder: Path) -> None:
    done = subprocess.run(["bash", "-euxc", commands], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_setup_of_the_help_topic() -> None:
    """The commands and the settings of the topic, as they are written, with other names."""
    (before, after), (settings,) = topic_blocks("sh"), topic_blocks("toml")
    with shared_installation() as made:
        group, home, rules = f"sky-team-{os.getpid()}", made.folder / "mailer", f"/etc/sudoers.d/skychimp-{os.getpid()}"
        service = f"sky-mailer-{os.getpid()}"
        try:
            commands = before + "# next\n" + after
            for old, new in {
                "sudo -u mailer skychimp": f"sudo -u mailer {made.program}",
                "/etc/sudoers.d/skychimp": rules,
                "/var/lib/mailer": str(home),
                r"\bmailer$": service,
                "-u mailer": f"-u {service}",
                r"\bteam\b": group,
                r"\bgrace$": made.accounts["grace"],
            }.items():
                commands, count = re.subn(old, new, commands, flags=re.MULTILINE)
                assert count, old
            before, after = commands.split("# next\n")
            run_script(before, made.folder)
            config = home / ".config/skychimp/skychimp.toml"
            text = config.read_text()
            for line in settings.replace('"ada"', f'"{made.accounts["ada"]}"').splitlines()[1:]:
                text = re.sub(rf"^{line.partition(' ')[0]} = .*$", line, text, flags=re.MULTILINE)
                assert line in text
            config.write_text(text)
            run_script(after, made.folder)
            made = SharedInstallation(made.folder, made.program, {**made.accounts, "service": service})
            assert_denied(made.sudo("grace", "--store", "x", "status"), "use --store")
            assert made.sudo("grace", "status").status == 0
            assert made.run("grace", ["sudo", "-n", "-u", service, "id"]).status == 1
        finally:
            Path(rules).unlink(missing_ok=True)
            for program, name in (("userdel", service), ("groupdel", group)):
                subprocess.run([program, name], capture_output=True, check=False)


@pytest.mark.slow
def test_colleagues_work_as_themselves(installation: SharedInstallation) -> None:
    """They register, log in and send. Each has a session of their own, whoever logs in last."""
    for who in ("ada", "grace"):
        email = f"{who}@example.org"
        assert installation.sudo(who, "register", "--email", email, SKYCHIMP_PASSWORD=PASSWORD).status == 0
        code = code_in(read_outbox(installation.store.with_name("outbox"))[-1])
        done = installation.sudo(who, "verify", "--email", email, code, SKYCHIMP_PASSWORD=PASSWORD)
        assert done.status == 0, done.err
        assert installation.sudo(who, "login", "--email", email, SKYCHIMP_PASSWORD=PASSWORD).status == 0
    assert installation.sudo("ada", "whoami", "--json").json["email"] == "ada@example.org"
    assert installation.sudo("grace", "whoami", "--json").json["email"] == "grace@example.org"
    for arguments, stdin in (
        (["clients", "import", "-"], "email\nx@example.org\n"),
        (["messages", "create", "--subject", "News", "--body-file", "-"], "Hello"),
        (["mailings", "create", "--message", "1", "--start", "now", "--every", "day", "--all-clients"], ""),
    ):
        done = installation.sudo("ada", *arguments, stdin=stdin, cwd=installation.home_of("ada"))
        assert done.status == 0, done.err
    assert "x@example.org" in installation.sudo("ada", "clients", "export").out
    assert "x@example.org" not in installation.sudo("grace", "clients", "export").out
    for command in ("run", "doctor"):
        assert installation.sudo("grace", command).status in (0, 1), command
    assert installation.sudo("grace", "logout").status == 0
    assert installation.sudo("grace", "whoami").status == 5
    assert installation.sudo("ada", "whoami").status == 0


def test_token_is_no_setting(installation: SharedInstallation, token: str) -> None:
    assert installation.sudo("grace", "whoami", "--json", SKYCHIMP_TOKEN=token).json["email"] == "admin@example.org"
    done = installation.sudo("grace", "whoami", "--json", keep="SKYCHIMP_TOKEN", SKYCHIMP_TOKEN=token)
    assert done.json["email"] == "admin@example.org"


def test_session_belongs_to_the_account_alone(installation: SharedInstallation) -> None:
    """It is made with a password in a variable, which is no setting."""
    assert installation.sudo("grace", "login", "--email", "admin@example.org", SKYCHIMP_PASSWORD=PASSWORD).status == 0
    folder = installation.home / ".local/state/skychimp/sessions"
    uid = pwd.getpwnam(installation.accounts["grace"]).pw_uid
    (session,) = [path for path in folder.iterdir() if path.name.endswith(f"-{uid}")]
    for path, mode in ((session, 0o600), (folder, 0o700)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.owner() == installation.accounts["service"]
    installation.home.chmod(0o755)  # even then
    try:
        for command in (["cat", str(session)], ["cp", "/dev/null", str(session)], ["touch", str(folder / "x")]):
            assert installation.run("grace", command).status == 1
    finally:
        installation.home.chmod(0o700)
    assert installation.sudo("grace", "whoami").status == 0
    assert installation.sudo("grace", "logout").status == 0


def test_audit_trail_names_the_caller(installation: SharedInstallation, token: str) -> None:
    create = ["blog", "create", "--body", "B", "--title"]
    for who in ("grace", "operator"):
        assert installation.sudo(who, *create, f"by {who}", SKYCHIMP_TOKEN=token).status == 0
    assert installation.run_as_service(*create, "by the account", SKYCHIMP_TOKEN=token).status == 0
    rows = installation.run_as_service("audit", "list", "--json", SKYCHIMP_TOKEN=token).json
    assert [row["detail"] for row in rows if "by " in row["detail"]] == [
        f"by grace, sudo: {installation.accounts['grace']}",
        f"by operator, sudo: {installation.accounts['operator']}",
        "by the account",
    ]


# What callers may not do

REFUSED = [
    ("--config {own}/skychimp.conf status", "use --config"),
    ("--store {own}/own.db status", "use --store"),
    ("--store= status", "use --store"),
    ("--config {own}/skychimp.conf --json status", "use --config"),
    ("init --email eve@example.org", 'run "skychimp init"'),
    ("demo", 'run "skychimp demo"'),
    ("doctor --accept-clock", "use --accept-clock"),
    ("doctor --accept-clock --operator --yes", "use --accept-clock"),
    ("trust {own}/skychimp.conf", 'run "skychimp trust"'),
    ("trust --remove {own}/skychimp.conf", 'run "skychimp trust"'),
    ("backup {own}/copy", "write a backup as this account"),
    ("backup --operator {own}/copy", "write a backup as this account"),
    ("restore {own}/copy", "restore the store"),
    ("restore --operator --yes {own}/copy", "restore the store"),
    ("resolve --restored --operator", "use --operator"),
    ("help --man {own}/man", "write files as this account"),
    ("--install-completion bash", "change the shell of this account"),
    ("service systemd --dir {own}", "write files as this account"),
    ("blog build {own}/site", "build the site as this account"),
    ("clients export {own}/out.csv", "write files as this account"),
    ("clients export /dev/stdout", "write files as this account"),
    ("users export {own}/out.json", "write files as this account"),
    ("clients import {config}/.env", "read .* as this account"),
    ("messages create --subject S --body-file {config}/smtp-password", "read .* as this account"),
    ("messages create --subject S --body-file {config}/skychimp.toml", "read .* as this account"),
    ("messages create --subject S --body B --html-file {config}/.env", "read .* as this account"),
    ("messages create --subject S --body-file {own}/link", "read .* as this account"),
    ("messages create --subject S --body-file {store}", "read .* as this account"),
    ("blog create --title T --body-file {own}/link", "read .* as this account"),
    ("blog create --title T --body B --image {store}", "read .* as this account"),
]
"""Command lines, and what they are said to try."""

WITH_SUDO = (
    "--config {own}/skychimp.conf status",
    "--config {own}/skychimp.conf --json status",
    "backup {own}/copy",
    "clients export {own}/out.csv",
    "messages create --subject S --body-file {config}/smtp-password",
)
"""Those that are always run with the real sudo, too."""


@pytest.fixture
def own(installation: SharedInstallation) -> Iterator[Path]:
    """Return a folder of Ada's that the service can write to, with a link to a secret."""
    folder = installation.folder / "exchange"
    folder.mkdir()
    (folder / "link").symlink_to(installation.config.with_name("smtp-password"))
    (folder / "text.md").write_text("Hello")
    (folder / "skychimp.conf").write_text('[smtp]\nhost = "mail.attacker.example"\n')
    installation.own(folder, folder / "text.md", folder / "skychimp.conf", by="ada")
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def words_of(line: str, installation: SharedInstallation, own: Path) -> list[str]:
    return line.format(own=own, config=installation.config.parent, store=installation.store).split()


def assert_refused(done: CommandResult, line: str, action: str) -> None:
    if "--json" in line:
        assert (done.status, done.error["code"]) == (5, "denied")
    else:
        assert_denied(done, action)
    assert SECRET not in done.out + done.err


@pytest.mark.parametrize(
    ("line", "action"),
    [
        pytest.param(line, action, id=line, marks=[] if line in WITH_SUDO else pytest.mark.slow)
        for line, action in REFUSED
    ],
)
def test_caller_is_refused(installation: SharedInstallation, own: Path, line: str, action: str, token: str) -> None:
    """An administrator who is no operator: their role is not what is missing."""
    before = files_of(installation)
    done = installation.sudo("ada", *words_of(line, installation, own), SKYCHIMP_TOKEN=token)
    assert_refused(done, line, action)
    assert files_of(installation) == before
    assert sorted(path.name for path in own.iterdir()) == ["link", "skychimp.conf", "text.md"]


def test_caller_is_refused_everything(installation: SharedInstallation, own: Path, token: str) -> None:
    """All of these, in one process with the variables that sudo sets, which takes less time."""
    before = files_of(installation)
    commands = [words_of(line, installation, own) for line, _ in REFUSED]
    for done, (line, action) in zip(installation.call_each("ada", commands, token), REFUSED, strict=True):
        assert_refused(done, line, action)
    assert files_of(installation) == before
    assert sorted(path.name for path in own.iterdir()) == ["link", "skychimp.conf", "text.md"]


def test_caller_may_name_files_that_they_can_read(installation: SharedInstallation, own: Path, token: str) -> None:
    subject = ["messages", "create", "--subject", "S"]
    assert installation.sudo("ada", *subject, "--body-file", str(own / "text.md"), SKYCHIMP_TOKEN=token).status == 0
    (own / "text.md").chmod(0o600)  # now the account cannot read it
    done = installation.sudo("ada", *subject, "--body-file", str(own / "text.md"), SKYCHIMP_TOKEN=token)
    assert done.status == 2
    assert "Permission denied" in done.err
    done = installation.sudo("grace", *subject, "--body-file", "/etc/passwd", SKYCHIMP_TOKEN=token)
    assert done.status == 0, done.err


REFUSED_VARIABLES = {
    "SKYCHIMP_CONFIG": "{own}/skychimp.conf",
    "SKYCHIMP_STORE": "{own}/own.db",
    "SKYCHIMP_MAIL__TRANSPORT": "outbox",
    "SKYCHIMP_SMTP__HOST": "mail.attacker.example",
    "SKYCHIMP_SERVICE__SHARED": "false",
    "SKYCHIMP_SERVICE__OPERATORS": '["{ada}"]',
    "SKYCHIMP_UNKNOWN": "x",
    "XDG_CONFIG_HOME": "{own}",
    "XDG_DATA_HOME": "{own}",
    "XDG_STATE_HOME": "{own}",
    "XDG_CACHE_HOME": "{own}",
    "HOME": "{own}",
}
MORE_VARIABLES = ("SKYCHIMP_MAIL__TRANSPORT", "SKYCHIMP_SMTP__HOST", "XDG_CACHE_HOME", "XDG_STATE_HOME")
"""Those that are refused like others."""


@pytest.mark.parametrize(
    ("variable", "command"),
    [
        *((variable, ("status",)) for variable in REFUSED_VARIABLES if variable not in MORE_VARIABLES),
        *(pytest.param(variable, ("status",), marks=pytest.mark.slow) for variable in MORE_VARIABLES),
        ("SKYCHIMP_STORE", ("help",)),
        ("SKYCHIMP_SMTP__HOST", ("password", "reset", "--email", "admin@example.org")),
    ],
)
def test_variable_is_refused(careless: SharedInstallation, own: Path, variable: str, command: tuple[str, ...]) -> None:
    """Even where sudo passes it."""
    value = REFUSED_VARIABLES[variable].format(own=own, ada=careless.accounts["ada"])
    program = [str(careless.program), *command]
    done = careless.run("ada", ["sudo", "-n", "-u", careless.accounts["service"], f"{variable}={value}", *program])
    assert_denied(done, f"set {variable}")


def test_variable_that_is_empty_or_usual_is_accepted(careless: SharedInstallation) -> None:
    settings = [
        "SKYCHIMP_STORE=",
        "XDG_CONFIG_HOME=",
        f"XDG_DATA_HOME={careless.home}/.local/share",
        f"HOME={careless.home}/",
    ]
    command = ["sudo", "-n", "-u", careless.accounts["service"], *settings, str(careless.program), "status"]
    done = careless.run("ada", command)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    "variable",
    [
        *("SUDO_UID", "PYTHONPATH", "SKYCHIMP_STORE"),
        *(pytest.param(variable, marks=pytest.mark.slow) for variable in ("SUDO_USER", "EDITOR", "PAGER")),
    ],
)
def test_sudoers_file_lets_callers_set_no_variable(installation: SharedInstallation, variable: str) -> None:
    """Whoever may set SUDO_UID can be somebody else, and whoever may set PYTHONPATH can run anything."""
    program = [str(installation.program), "status"]
    done = installation.run("ada", ["sudo", "-n", "-u", installation.accounts["service"], f"{variable}=x", *program])
    assert done.status == 1
    assert "not allowed to set" in done.err
    assert installation.sudo("ada", "status", keep=variable, **{variable: "x"}).status == 1  # type: ignore[arg-type]
    assert installation.sudo("ada", "status", **{variable: "/usr/bin:/bin"}).status == 0  # type: ignore[arg-type]


def test_config_in_the_current_folder_is_refused(installation: SharedInstallation, own: Path) -> None:
    (own / "skychimp.conf").rename(own / "skychimp.toml")
    assert_denied(installation.sudo("ada", "status", cwd=own), "use the skychimp.toml of the current folder")
    (own / "skychimp.toml").unlink()
    (own / ".env").write_text("SKYCHIMP_SMTP__HOST=mail.attacker.example\n")
    assert installation.sudo("ada", "status", cwd=own).status == 0


def test_program_in_the_current_folder_is_not_run(installation: SharedInstallation, own: Path) -> None:
    """Not by the process that helps a run either: Python looks for modules in the current folder if it is asked to."""
    for module in ("json.py", "skychimp.py", "sitecustomize.py", "pysqlite3.py"):
        (own / module).write_text(f"open({str(own / 'taken over')!r}, 'w')\n")
    for command in ("status", "run"):
        assert installation.sudo("ada", command, cwd=own).status == 0
    assert not (own / "taken over").exists()


def on_terminal(installation: SharedInstallation, *arguments: str, **environ: str) -> CommandResult:
    """Run the command with sudo on a terminal, as Ada."""
    account = pwd.getpwnam(installation.accounts["ada"])
    terminal, command_side = pty.openpty()
    os.chown(os.ttyname(command_side), account.pw_uid, -1)
    command = ["sudo", "-n", "-u", installation.accounts["service"], str(installation.program), *arguments]
    with subprocess.Popen(
        command, stdin=command_side, stdout=command_side, stderr=command_side, cwd="/", start_new_session=True,
        user=account.pw_uid, group=account.pw_gid, extra_groups=[], env={"TERM": "xterm", **environ},
    ) as process:  # fmt: skip
        os.close(command_side)
        output = b""
        try:
            while chunk := os.read(terminal, 65536):
                output += chunk
        except OSError:  # Linux reports a closed terminal as an error
            pass
    os.close(terminal)
    return CommandResult(process.returncode, output.decode(), "")


@pytest.mark.parametrize(
    "command",
    ["messages create --subject S", pytest.param("blog create --title T", marks=pytest.mark.slow), "blog update 1"],
)
def test_editor_is_not_started(careless: SharedInstallation, own: Path, command: str, token: str) -> None:
    editor = own / "editor"
    editor.write_text(f"#!/bin/sh\ntouch '{own}/taken over'\n")
    editor.chmod(0o755)
    if command == "blog update 1":
        careless.run_as_service("blog", "create", "--title", "First", "--body", "B", SKYCHIMP_TOKEN=token)
    environ = {"EDITOR": str(editor), "VISUAL": str(editor), "PAGER": str(editor), "SKYCHIMP_TOKEN": token}
    done = on_terminal(careless, *command.split(), **environ)
    assert done.status == 5, done.out
    assert "may not start an editor as this account in this shared installation" in done.out
    assert not (own / "taken over").exists()


def test_pager_is_not_started(careless: SharedInstallation, own: Path, token: str) -> None:
    """A pager can start any program, as the account of the service."""
    rows = "".join(f"c{number}@example.org\n" for number in range(30))
    (own / "clients.csv").write_text(f"email\n{rows}")
    (own / "clients.csv").chmod(0o644)
    careless.run_as_service("clients", "import", str(own / "clients.csv"), SKYCHIMP_TOKEN=token)
    pager = own / "pager"
    pager.write_text(f"#!/bin/sh\ntouch '{own}/taken over'\n")
    pager.chmod(0o755)
    done = on_terminal(careless, "clients", "list", PAGER=str(pager), SKYCHIMP_TOKEN=token)
    assert "c29@example.org" in done.out
    assert not (own / "taken over").exists()


def complete(installation: SharedInstallation, who: str, line: str, token: str) -> list[str]:
    """Return what Tab suggests after this line."""
    words = line.split(" ")
    variables = ["_SKYCHIMP_COMPLETE=complete_bash", "COMP_WORDS=" + "\n".join(words), f"COMP_CWORD={len(words) - 1}"]
    variables.append(f"SKYCHIMP_TOKEN={token}")
    command = ["sudo", "-n", "-u", installation.accounts["service"], *variables, str(installation.program)]
    done = installation.run(who, command)
    assert (done.status, done.err) == (0, "")
    return done.out.split()


def test_completion_is_restricted_too(careless: SharedInstallation, token: str) -> None:
    careless.run_as_service("blog", "create", "--title", "Secret draft", "--body", "B", SKYCHIMP_TOKEN=token)
    assert "secret-draft" in complete(careless, "ada", "skychimp blog show s", token)
    assert "secret-draft" in complete(careless, "operator", f"skychimp --store {careless.store} blog show s", token)
    for option in (f"--store {careless.store}", f"--config {careless.config}"):
        assert complete(careless, "ada", f"skychimp {option} blog show s", token) == []


# Operators, and installations that are not shared


def test_operator_is_not_restricted(installation: SharedInstallation, own: Path, token: str) -> None:
    service = installation.accounts["service"]
    done = installation.sudo(
        "operator", "--config", str(installation.config), "backup", "--operator", str(installation.home / "b")
    )
    assert done.status == 0, done.err
    command = ["sudo", "-n", "-u", service, "SKYCHIMP_MAIL__TIMEZONE=Asia/Tokyo", str(installation.program), "status"]
    assert installation.run("operator", command).status == 0
    assert installation.sudo("operator", "--store", str(installation.home / "other.db"), "status").status == 3
    rows = installation.run_as_service("audit", "list", "--json", SKYCHIMP_TOKEN=token).json
    assert f"sudo: {installation.accounts['operator']}" in str([row for row in rows if "back" in row["action"]])


def test_root_is_not_restricted(installation: SharedInstallation, token: str) -> None:
    """As in root's crontab. The audit trail names root."""
    made = SharedInstallation(installation.folder, installation.program, {**installation.accounts, "root": "root"})
    done = made.sudo("root", "backup", "--operator", str(installation.home / "by-root"))
    assert done.status == 0, done.err
    rows = installation.run_as_service("audit", "list", "--json", SKYCHIMP_TOKEN=token).json
    assert any(row["detail"].endswith("sudo: root") for row in rows)


@pytest.fixture
def unshared(installation: SharedInstallation) -> Iterator[SharedInstallation]:
    """Return the installation without `service.shared`."""
    installation.write_config(CONFIG.format_map(installation.accounts).replace("shared = true", "shared = false"))
    yield installation
    share(installation)


@pytest.mark.slow
def test_without_the_setting_sudo_works_as_ever(unshared: SharedInstallation, own: Path) -> None:
    home, other = unshared.home, str(unshared.home / "another.db")
    for arguments in (
        ["--config", str(unshared.config), "status"],
        ["--store", other, "init", "--email", "x@example.org"],
        ["backup", "--operator", str(home / "copy")],
        ["help", "--man", str(home / "man")],
        ["service", "systemd", "--dir", str(home)],
    ):
        done = unshared.sudo("ada", *arguments)
        assert done.status == 0, done.err
    service = unshared.accounts["service"]
    command = ["sudo", "-n", "-u", service, f"SKYCHIMP_STORE={other}", str(unshared.program), "whoami", "--json"]
    assert unshared.run("operator", command).status == 5
    assert unshared.sudo("ada", "--store", other, "whoami", "--json").json["email"] == "x@example.org"


@pytest.mark.parametrize(
    "command",
    [
        ("status",),
        pytest.param(("--config", "/dev/null", "status"), marks=pytest.mark.slow),
        ("--store", "x", "status"),
    ],
)
def test_config_that_cannot_be_read_may_say_shared(installation: SharedInstallation, command: tuple[str, ...]) -> None:
    for text, mode in (("[service\n", 0o600), (CONFIG, 0o666)):
        installation.config.write_text(text)
        installation.config.chmod(mode)
        done = installation.sudo("ada", *command)
        assert (done.status, len(done.err.splitlines()) <= 2, str(installation.config) in done.err) == (
            3,
            True,
            True,
        ), done
    installation.config.chmod(0o600)
    share(installation)


def test_refusals_are_in_the_audit_trail(installation: SharedInstallation) -> None:
    """With the name of the person who ran sudo, also if the command was refused before the store was opened."""
    tried = {
        ("backup", "/tmp/x", "--operator"): "backup: ",
        ("doctor", "--accept-clock", "--yes"): "doctor: ",
        ("audit", "list", "--operator"): "audit list: ",
    }
    for command in tried:
        assert installation.sudo("grace", *command).status == 5
    listed = installation.run_as_service("audit", "list", "--operator", "--action", "refused", "--json")
    last = listed.json[-len(tried) :]
    assert [entry["detail"].startswith(begin) for entry, begin in zip(last, tried.values(), strict=True)] == [True] * 3
    assert {entry["detail"].rpartition(", ")[2] for entry in last} == {f"sudo: {installation.accounts['grace']}"}

"""Systemd and cron accept the units and the crontab line, which run this installation."""

import itertools
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import PROGRAM, Home
from support.initial_home import InitialHome

from skychimp.cli.commands import service_sudoers

PATH = f"{PROGRAM.parent}:{os.environ['PATH']}"
"""Where commands that run in this process find the installed one, too."""
PASSWORD_FILE = "a file\\with %n and $HOME"


@pytest.fixture(scope="module")
def initial_home(tmp_path_factory: pytest.TempPathFactory) -> InitialHome:
    return InitialHome(
        tmp_path_factory.mktemp("homes"),
        *("--config", "my config.toml", "--store", "the store/s.db"),
        SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>",
        PATH=PATH,
    )


@pytest.fixture
def home(initial_home: InitialHome) -> Home:
    """Return a home with a config, a store and nothing else."""
    return initial_home.restore()


def run_service(home: Home, *arguments: str, **environ: str) -> str:
    done = home.call("--config", "my config.toml", "service", *arguments, environ=environ)
    assert done.status == 0, done.err
    return done.out


def test_systemd_accepts_the_units(home: Home) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (home.folder / PASSWORD_FILE).write_text("secret")
    run_service(
        home, "systemd", "--dir", str(home.folder), SKYCHIMP_SMTP__PASSWORD_FILE=str(home.folder / PASSWORD_FILE)
    )
    units = sorted(home.folder.glob("skychimp*.[st]*"))
    assert [unit.name for unit in units if unit.suffix in (".service", ".timer")] == [
        "skychimp-run.service", "skychimp-run.timer", "skychimp-web.service", "skychimp.service",
    ]  # fmt: skip
    for unit in (unit for unit in units if unit.suffix in (".service", ".timer")):
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), unit.name


@pytest.mark.parametrize("account", ["skychimp", "root"])
def test_systemd_rates_the_units_as_safe(home: Home, account: str) -> None:
    """An exposure of 0 is best and 10 is worst. The units must have 1.5 or less, also as root."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    run_service(home, "systemd", "--dir", str(home.folder), **WEB)
    for unit in home.folder.glob("skychimp*.service"):
        own = f"User={pwd.getpwuid(os.geteuid()).pw_name}\n"
        assert own in unit.read_text()
        unit.write_text(unit.read_text().replace(own, f"User={account}\n"))
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", unit],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def test_service_may_write_metrics_and_read_mail(home: Home) -> None:
    settings = {
        "SKYCHIMP_MONITOR__METRICS_FILE": "/var/lib/my metrics/s.prom",
        "SKYCHIMP_INBOUND__MAILDIR": "/srv/mail",
    }
    run_service(home, "systemd", "--dir", str(home.folder), **settings)
    written = f'ReadWritePaths="{home.folder}/the store"'
    lines = (home.folder / "skychimp.service").read_text().splitlines()
    assert f'{written} "-/var/lib/my metrics" -/srv/mail' in lines
    assert written in (home.folder / "skychimp-web.service").read_text().splitlines()


def test_units_have_the_documented_options(home: Home) -> None:
    text = run_service(home, "systemd")
    daemon, run, timer = text.split("# skychimp-run.")[0], *text.split("# skychimp-run.")[1:]
    for line in ("Type=notify", "WatchdogSec=120", "TimeoutStopSec=660", "NoNewPrivileges=yes", "ProtectSystem=strict",
                 "MemoryMax=1G", "TasksMax=64"):  # fmt: skip
        assert line in daemon.splitlines()
    assert "SuccessExitStatus=75" in run.splitlines()
    assert "Persistent=true" in timer.splitlines()
    assert "LoadCredential" not in text


ONLY_HERE = "SKYCHIMP_SMTP__HOST is only in your environment; the service does not have it"


def test_settings_of_the_environment_that_a_service_lacks_are_named(home: Home) -> None:
    """Not those that the config has too, that are passed on, or that name the config and the store."""
    (home.folder / "password").write_text("secret")
    config = home.folder / "my config.toml"
    config.write_text(config.read_text().replace("connections = 10", "connections = 7"))
    environ = {
        "SKYCHIMP_CONFIG": str(config),
        "SKYCHIMP_STORE": str(home.folder / "the store/s.db"),
        "SKYCHIMP_SMTP__CONNECTIONS": "7",
        "SKYCHIMP_SMTP__HOST": "mx.example.org",
        "SKYCHIMP_SMTP__PASSWORD_FILE": str(home.folder / "password"),
        "SKYCHIMP_TOKEN": "secret token",
    }
    cron = home.call("service", "cron", environ=environ)
    assert [line[2:] for line in cron.out.splitlines()[:-1]] == [
        ONLY_HERE, ONLY_HERE.replace("HOST", "PASSWORD_FILE")
    ]  # fmt: skip
    assert cron.out.splitlines()[-1].startswith("* * * * * ")
    assert cron.err.startswith(f"warning: {ONLY_HERE}\nwarning: ")
    assert cron.err.endswith(f"hint: set them in {config}\n")
    assert home.call("service", "cron", "--json", environ=environ).json["crontab"] == cron.out.splitlines()[-1]

    units = home.call("service", "systemd", environ=environ)
    assert units.err == f"warning: {ONLY_HERE}\nhint: set it in {config}\n"
    assert units.out.count(f"# {ONLY_HERE}\n[Unit]") == 3
    assert "secret token" not in units.out + units.err + cron.out + cron.err


def test_watchdog_is_longer_than_several_intervals(home: Home) -> None:
    assert "WatchdogSec=900\n" in run_service(home, "systemd", SKYCHIMP_DAEMON__INTERVAL="5m")


@pytest.mark.parametrize("unit", ["skychimp.service", "skychimp-run.service"])
def test_service_starts_after_network_and_clock(home: Home, unit: str) -> None:
    run_service(home, "systemd", "--dir", str(home.folder))
    lines = (home.folder / unit).read_text().splitlines()
    for line in ("Wants", "After"):
        assert f"{line}=network-online.target time-sync.target" in lines


def test_daemon_started_by_its_unit_notifies_systemd(home: Home) -> None:
    """The unit's command line in the environment of a systemd service, with a socket in place of systemd."""
    run_service(home, "systemd", "--dir", str(home.folder))
    (line,) = [
        line.removeprefix("ExecStart=")
        for line in (home.folder / "skychimp.service").read_text().splitlines()
        if line.startswith("ExecStart=")
    ]
    config = home.folder / "my config.toml"
    config.write_text(config.read_text().replace("# sender = ", "sender = "))
    command = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    environ = {"NOTIFY_SOCKET": str(home.folder / "notify"), "WATCHDOG_USEC": "120000000", "PATH": "/usr/bin:/bin"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(environ["NOTIFY_SOCKET"])
        manager.settimeout(20)
        with subprocess.Popen(command, env=environ, cwd="/", stderr=subprocess.PIPE, text=True) as daemon:
            notifications = [manager.recv(100)]
            while notifications.count(b"WATCHDOG=1") < 2:
                notifications.append(manager.recv(100))
            daemon.terminate()
            while notifications[-1] != b"STOPPING=1":
                notifications.append(manager.recv(100))
            assert daemon.stderr
            assert "event=started" in daemon.stderr.read()
    assert daemon.returncode == 0
    assert notifications == [b"READY=1", *[b"WATCHDOG=1"] * (len(notifications) - 2), b"STOPPING=1"]


def test_password_file_is_passed_as_a_credential(home: Home) -> None:
    (home.folder / "password").write_text("secret")
    text = run_service(home, "systemd", SKYCHIMP_SMTP__PASSWORD_FILE=str(home.folder / "password"))
    assert text.count(f"LoadCredential=smtp-password:{home.folder}/password\n") == 2
    assert text.count("Environment=SKYCHIMP_SMTP__PASSWORD_FILE=%d/smtp-password\n") == 2


def test_crontab_line_works_in_an_empty_environment(home: Home) -> None:
    line = home.run("--config", "my config.toml", "service", "cron").out.strip()
    assert line.startswith("* * * * * ")
    command = line.removeprefix("* * * * * ").replace("\\%", "%")
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin", "SKYCHIMP_MAIL__SENDER": "Ada <ada@skychimp.test>"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert str(PROGRAM) in line


def test_folder_that_cannot_be_written_is_reported(home: Home) -> None:
    done = home.call("--config", "my config.toml", "service", "systemd", "--dir", "/nonexistent")
    assert done.status == 2
    assert done.err.startswith("error: cannot write to /nonexistent: No such file or directory")


HOSTILE_NAMES = ("a\nExecStartPre=id", "a\n* * * * * id", "a\rb", "a\x1b[2Jb", "a\x85b", "a\u2028b")
SOURCES = ("--config", "SKYCHIMP_CONFIG", "folder", "--store", "SKYCHIMP_STORE", "password_file")
PRINTED = ("systemd", "cron")


def is_usual(name: str, printed: str, source: str) -> bool:
    """Return whether to test this case always. Every two values of different parameters meet in one of these."""
    shift = HOSTILE_NAMES.index(name) - SOURCES.index(source)
    return shift % 6 in ((0, 2, 4) if printed == "systemd" else (1, 3, 5))


@pytest.mark.parametrize(
    ("name", "printed", "source"),
    [
        pytest.param(*case, marks=[] if is_usual(*case) else pytest.mark.slow)
        for case in itertools.product(HOSTILE_NAMES, PRINTED, SOURCES)
    ],
)
def test_path_that_would_begin_a_new_line_is_not_printed(tmp_path: Path, name: str, printed: str, source: str) -> None:
    folder = tmp_path / (name if source == "folder" else "x")
    folder.mkdir()
    config = folder / (f"{name}.toml" if source in ("--config", "SKYCHIMP_CONFIG") else "c.toml")
    config.touch()
    environ = {"SKYCHIMP_CONFIG": str(config)} if source not in ("--config", "folder") else {}
    options = ["--config", str(config)] if source in ("--config", "folder") else []
    if source == "--store":
        options += ["--store", str(folder / name)]
    elif source == "SKYCHIMP_STORE":
        environ["SKYCHIMP_STORE"] = str(folder / name)
    elif source == "password_file":
        environ["SKYCHIMP_SMTP__PASSWORD_FILE"] = str(folder / name)
    done = Home(tmp_path).call(*options, "service", printed, environ=environ)
    assert (done.status in (2, 3), done.out) == (True, "")
    assert done.err.replace("\n", "").isprintable()
    assert done.err.count("\n") == 2


@pytest.mark.parametrize("name", ["password\\", "password "])
def test_password_file_that_would_join_lines_of_a_unit_is_not_printed(home: Home, name: str) -> None:
    environ = {"SKYCHIMP_SMTP__PASSWORD_FILE": f"{home.folder}/{name}"}
    done = home.call("--config", "my config.toml", "service", "systemd", environ=environ)
    assert (done.status, done.out) == (2, "")


def test_account_of_the_unit_does_not_come_from_the_environment(home: Home) -> None:
    text = run_service(home, "systemd", LOGNAME="x\nExecStartPre=id", USER="eve")
    assert f"User={pwd.getpwuid(os.geteuid()).pw_name}\n" in text
    assert "ExecStartPre" not in text


# Web


WEB = {"SKYCHIMP_WEB__URL": "https://news.example.org"}


def test_web_unit_may_only_talk_to_this_machine(home: Home) -> None:
    run_service(home, "systemd", "--dir", str(home.folder))
    lines = (home.folder / "skychimp-web.service").read_text().splitlines()
    assert {"IPAddressDeny=any", "NoNewPrivileges=yes", "ProtectSystem=strict", "TimeoutStopSec=30"} <= set(lines)
    assert any(line.startswith("ExecStart=") and line.endswith(" serve --log-format logfmt") for line in lines)
    run_service(home, "systemd", "--dir", str(home.folder), SKYCHIMP_WEB__LISTEN="0.0.0.0:8025")
    assert "IPAddressDeny" not in (home.folder / "skychimp-web.service").read_text()


@pytest.mark.parametrize(
    ("url", "listen", "server", "words"),
    [
        ("", "127.0.0.1:9", "nginx", ["location ~ ^/[up]/ {", "proxy_pass http://127.0.0.1:9;", "access_log off;"]),
        ("/mail", "unix:/run/w.sock", "nginx", ["rewrite ^/mail(/[up]/.*)$ $1 break;", "http://unix:/run/w.sock;"]),
        ("", "127.0.0.1:9", "caddy", ["news.example.org {", "path /u/* /p/*", "reverse_proxy 127.0.0.1:9"]),
        ("/mail", "unix:/run/w.sock", "caddy", ["uri strip_prefix /mail", "reverse_proxy unix//run/w.sock"]),
    ],
)
def test_web_server_passes_only_the_pages_on(home: Home, url: str, listen: str, server: str, words: list[str]) -> None:
    environ = {"SKYCHIMP_WEB__URL": WEB["SKYCHIMP_WEB__URL"] + url, "SKYCHIMP_WEB__LISTEN": listen}
    text = run_service(home, "web", "--for", server, **environ)
    for word in words:
        assert word in text
    assert "metrics" not in text
    assert "\\t" not in text, "a tab would be printed as an escape"


def test_rights_of_the_role_are_printed(home: Home) -> None:
    lines = run_service(home, "web", "--for", "postgres", "--role", 'a"b').splitlines()
    assert 'GRANT INSERT, DELETE ON suppression TO "a""b";' in lines
    assert not [line for line in lines if (" ON client " in line and "name" in line) or '"user"' in line]


def test_web_needs_its_url(home: Home) -> None:
    done = home.call("--config", "my config.toml", "service", "web")
    assert (done.status, done.out) == (3, "")
    assert done.err.startswith("error: web.url is not set\nhint: ")


# sudo


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return the home of this account, with nothing but a config that says that the installation is shared."""
    monkeypatch.setattr("skychimp.config.shared._own_home", lambda: tmp_path)
    file = tmp_path / ".config/skychimp/skychimp.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[service]\nshared = true\n")
    return Home(tmp_path, PATH=PATH)


MEMBERS = [
    ([], "%skychimp"),
    (["--group", "team"], "%team"),
    (["--user", "ada"], "ada"),
    (["--user", "ada", "--user", "grace", "--group", "team"], "%team, ada, grace"),
    (["--user", "ADA"], '"ADA"'),  # without quotes it would be an alias
    (["--group", "domain users"], '"%domain users"'),
    (["--user", "ada@example.org"], '"ada@example.org"'),
    (["--user", "ada.l-b+c_1"], '"ada.l-b+c_1"'),
    (["--user", "machine$"], '"machine$"'),
]


@pytest.mark.parametrize(("arguments", "members"), MEMBERS)
def test_visudo_accepts_the_sudoers_file(bare: Home, arguments: list[str], members: str) -> None:
    done = bare.call("service", "sudoers", *arguments)
    assert done.status == 0, done.err
    text = done.out
    account = pwd.getpwuid(os.geteuid()).pw_name
    assert text.splitlines()[1:] == [
        f'Defaults!{PROGRAM} env_reset, !setenv, always_set_home, env_keep = "SKYCHIMP_TOKEN SKYCHIMP_PASSWORD"',
        f"{members} ALL = ({account}) NOPASSWD: NOSETENV: {PROGRAM}",
    ]
    if shutil.which("visudo") is None:
        pytest.skip("sudo is not installed")
    (bare.folder / "sudoers").write_text(text)
    checked = subprocess.run(["visudo", "-cf", bare.folder / "sudoers"], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


NAMES = [
    *("", " ", "ALL", "!ada", "#0", "%wheel", "+everybody", "a,b", "a:b", "a=b", "a)b", "a\\b", 'a"b', "a\nb", "a\tb"),
    *("-x", "1000", "a%b", "a ALL=(ALL) ALL #", "ü", "a\u2028b", "@include", "$a"),
]


@pytest.mark.parametrize(
    ("option", "name"),
    [
        *(("--user", name) for name in NAMES),
        *(("--group", name) for name in NAMES[:3]),
        *(pytest.param("--group", name, marks=pytest.mark.slow) for name in NAMES[3:]),
    ],
)
def test_name_that_sudo_would_misunderstand_is_refused(bare: Home, option: str, name: str) -> None:
    done = bare.call("service", "sudoers", f"{option}={name}")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("error: invalid name ")
    assert len(done.err.splitlines()) == 2


@pytest.mark.parametrize(
    "name",
    [
        *("a command", "a*", "a\nb", "ü"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("a,b", "a=b", "a:b", "a#b", 'a"b', "a\\b")),
    ],
)
def test_program_that_sudo_would_misunderstand_is_refused(bare: Home, name: str) -> None:
    program = bare.folder / name / "skychimp"
    program.parent.mkdir()
    program.symlink_to(PROGRAM)
    done = subprocess.run(
        [program, "service", "sudoers"],
        cwd=bare.folder, env=bare.environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: sudo cannot be given ")


@pytest.mark.parametrize("text", ["", "[service]\nshared = false\n"])
def test_no_sudoers_file_before_the_installation_is_shared(bare: Home, text: str) -> None:
    """The rule would let others use any settings until then."""
    file = bare.folder / ".config/skychimp/skychimp.toml"
    file.write_text(text)
    done = bare.call("service", "sudoers")
    assert (done.status, done.out) == (3, "")
    assert done.err.endswith(f"this installation is not shared\nhint: set service.shared = true in {file}\n")


def test_module_is_no_command_for_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would look for it in the current folder. So it is the command that was installed with it."""
    monkeypatch.setattr(
        sys, "argv", [str(Path(service_sudoers.__file__).parents[2] / "__main__.py"), "service", "sudoers"]
    )
    assert service_sudoers._sudoers_program() == str(PROGRAM)


def test_warnings_about_an_unsafe_installation(bare: Home) -> None:
    program = bare.folder / "open/skychimp"
    program.parent.mkdir()
    shutil.copy(PROGRAM, program)
    program.chmod(0o777)
    done = bare.call("service", "sudoers", "--json", environ={"PATH": str(program.parent)})
    assert done.status == 0
    assert "ALL = (" in done.json["sudoers"]
    assert f"{program} can be changed by others; install Skychimp where only root can change it" in done.err
    assert ("run Skychimp as root" in done.err) == (os.geteuid() == 0)

"""Systemd and cron accept the units and the crontab line, which run this installation."""

import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from support.command import PROGRAM, Home

PASSWORD_FILE = "a file\\with %n and $HOME"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path, SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    assert (
        home.run("--config", "my config.toml", "--store", "the store/s.db", "init", "--email", "a@b.test").status == 0
    )
    return home


def run_service(home: Home, *arguments: str, **environ: str) -> str:
    done = home.run("--config", "my config.toml", "service", *arguments, environ=environ)
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
        "skychimp-run.service", "skychimp-run.timer", "skychimp.service",
    ]  # fmt: skip
    for unit in (unit for unit in units if unit.suffix in (".service", ".timer")):
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), unit.name


def test_units_have_the_documented_options(home: Home) -> None:
    text = run_service(home, "systemd")
    daemon, run, timer = text.split("# skychimp-run.")[0], *text.split("# skychimp-run.")[1:]
    for line in ("Type=notify", "WatchdogSec=120", "TimeoutStopSec=660", "NoNewPrivileges=yes", "ProtectSystem=strict"):
        assert line in daemon.splitlines()
    assert "SuccessExitStatus=75" in run.splitlines()
    assert "Persistent=true" in timer.splitlines()
    assert "LoadCredential" not in text


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
    line = run_service(home, "cron").strip()
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
    done = home.run("--config", "my config.toml", "service", "systemd", "--dir", "/nonexistent")
    assert done.status == 2
    assert done.err.startswith("error: cannot write /nonexistent/skychimp.service: No such file or directory")

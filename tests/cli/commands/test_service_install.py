"""`service install` sets up systemd or cron, `service remove` undoes it, and neither touches what is not ours.

The programs systemctl and crontab are small scripts, which note what they are asked.
"""

import os
import re
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from support.command import PROGRAM, CommandResult, Home
from support.initial_home import InitialHome

from skychimp.models import Run
from skychimp.services.installing import crontab, detection, systemd
from skychimp.store.database import Store

FAKE_SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> "$FAKES/systemctl.log"
case "$*" in *"$FAIL_ON"*) echo "Job for skychimp.service failed." >&2; exit 1;; esac
"""
FAKE_CRONTAB = """\
#!/bin/sh
case "$1" in
-l) [ -z "$CRON_ERROR" ] || { echo "$CRON_ERROR" >&2; exit 1; }
    cat "$FAKES/crontab" 2>/dev/null || { echo "no crontab for ada" >&2; exit 1; };;
-) cat > "$FAKES/crontab";;
*) exit 2;;
esac
"""
OTHER_LINES = "MAILTO=ada\n0 1 * * * backup 100\\% # nightly\n"


@pytest.fixture(scope="module")
def initial_home(tmp_path_factory: pytest.TempPathFactory) -> InitialHome:
    return InitialHome(
        tmp_path_factory.mktemp("homes"), "--store", "a store/s.db", SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>"
    )


@pytest.fixture
def home(initial_home: InitialHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home on a system without systemd and without cron."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "cat"):
        (programs / name).symlink_to(shutil.which(name) or "")
    (programs / "skychimp").symlink_to(PROGRAM)
    monkeypatch.setattr(systemd, "BOOTED", tmp_path / "booted")
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path / "system")
    monkeypatch.setattr(systemd, "LINGERING", tmp_path / "linger")
    home = initial_home.restore()
    fakes = {"PATH": str(programs), "FAKES": str(tmp_path), "FAIL_ON": "nothing", "CRON_ERROR": ""}
    return Home(home.folder, **home.environ | fakes)


def add_program(home: Home, name: str, text: str) -> None:
    program = Path(home.environ["PATH"]) / name
    program.write_text(text)
    program.chmod(0o755)


@pytest.fixture
def with_systemd(home: Home) -> Home:
    Path(systemd.BOOTED).mkdir()
    add_program(home, "systemctl", FAKE_SYSTEMCTL)
    return home


@pytest.fixture
def with_cron(home: Home) -> Home:
    add_program(home, "crontab", FAKE_CRONTAB)
    return home


def service(home: Home, *arguments: str, **environ: str) -> CommandResult:
    store = str(home.folder / "a store/s.db")
    return home.call("--store", store, "service", *arguments, environ=environ)


def systemctl_calls(home: Home) -> list[str]:
    log = Path(home.environ["FAKES"]) / "systemctl.log"
    return log.read_text().splitlines() if log.exists() else []


def read_crontab(home: Home) -> str:
    return (Path(home.environ["FAKES"]) / "crontab").read_text()


# systemd


def test_user_service_is_set_up_and_removed(with_systemd: Home) -> None:
    home, unit = with_systemd, with_systemd.folder / ".config/systemd/user/skychimp.service"
    done = service(home, "install", "--user", "--yes", "--json")
    assert done.status == 0, done.err
    assert done.json["service"] == "systemd"
    assert done.json["steps"] == [
        f"write {unit}",
        "run systemctl --user daemon-reload",
        "run systemctl --user enable skychimp.service",
        "run systemctl --user restart skychimp.service",
    ]
    assert "loginctl enable-linger" in done.err
    assert "User=" not in unit.read_text()
    assert systemctl_calls(home) == [
        "--user daemon-reload", "--user enable skychimp.service", "--user restart skychimp.service",
    ]  # fmt: skip
    assert service(home, "install", "--user", "--yes").status == 0, "it can be repeated"
    removed = service(home, "remove", "--user", "--yes")
    assert removed.status == 0, removed.err
    assert not unit.exists()
    assert systemctl_calls(home)[-2:] == ["--user disable --now skychimp.service", "--user daemon-reload"]
    again = service(home, "remove", "--user", "--yes")
    assert again.status == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_sets_up_a_service_of_the_system(with_systemd: Home) -> None:
    done = service(with_systemd, "install", "--yes")
    assert done.status == 0, done.err
    assert "User=root\n" in (systemd.SYSTEM_UNITS / "skychimp.service").read_text()
    assert "warning: the service runs as root" in done.err
    assert systemctl_calls(with_systemd)[0] == "daemon-reload"


def test_others_need_the_option_user(with_systemd: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(with_systemd.folder).st_uid or 12345)
    done = service(with_systemd, "install", "--yes")
    assert done.status == 2
    assert "use --user" in done.err
    assert systemctl_calls(with_systemd) == []


def test_systemd_accepts_the_unit_of_a_user(with_systemd: Home) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    assert service(with_systemd, "install", "--user", "--yes").status == 0
    unit = with_systemd.folder / ".config/systemd/user/skychimp.service"
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", unit], capture_output=True, text=True, check=False,
        env=os.environ | {"XDG_RUNTIME_DIR": str(with_systemd.folder)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["install", "remove"])
def test_unit_that_is_not_ours_is_left_alone(with_systemd: Home, command: str) -> None:
    unit = with_systemd.folder / ".config/systemd/user/skychimp.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    done = service(with_systemd, command, "--user", "--yes")
    assert (done.status, systemctl_calls(with_systemd)) == (6, [])
    assert "was not written by Skychimp, or was changed since" in done.err
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_nothing_changes_without_a_confirmation(with_systemd: Home) -> None:
    done = service(with_systemd, "install", "--user")
    assert (done.status, systemctl_calls(with_systemd)) == (2, [])
    assert f"write {with_systemd.folder}/.config/systemd/user/skychimp.service" in done.err
    assert done.err.endswith("hint: pass --yes\n")


def test_service_that_does_not_start_is_an_error(with_systemd: Home) -> None:
    done = service(with_systemd, "install", "--user", "--yes", FAIL_ON="restart")
    assert done.status == 1
    assert done.err.splitlines()[-2:] == [
        "error: systemctl --user restart skychimp.service failed: Job for skychimp.service failed.",
        'hint: run "journalctl --user-unit skychimp.service"',
    ]


def test_service_that_could_send_nothing_is_not_set_up(with_systemd: Home) -> None:
    (config,) = with_systemd.folder.glob(".config/skychimp/skychimp.toml")
    config.write_text(re.sub(r"^sender = .*", "", config.read_text(), flags=re.MULTILINE))
    no_sender = service(with_systemd, "install", "--user", "--yes", SKYCHIMP_MAIL__SENDER="")
    assert (no_sender.status, "mail.sender is not set" in no_sender.err) == (3, True)
    missing = with_systemd.call("--store", "missing.db", "service", "install", "--user", "--yes")
    assert (missing.status, systemctl_calls(with_systemd)) == (3, [])


# cron


def test_line_is_added_to_the_crontab_and_removed(with_cron: Home) -> None:
    home = with_cron
    (Path(home.environ["FAKES"]) / "crontab").write_text(OTHER_LINES)
    done = service(home, "install", "--yes", "--json")
    assert done.status == 0, done.err
    assert done.json["service"] == "cron"
    line = read_crontab(home).removeprefix(OTHER_LINES)
    assert line.startswith("* * * * * ")
    assert line.endswith(f" -q run >/dev/null {crontab.MARK}\n")
    assert service(home, "install", "--yes").status == 0
    assert read_crontab(home) == OTHER_LINES + line, "it is there once"
    assert service(home, "remove", "--yes").status == 0
    assert read_crontab(home) == OTHER_LINES
    assert service(home, "remove", "--yes").status == 4


def test_line_with_an_older_path_of_the_program_is_replaced(with_cron: Home) -> None:
    assert service(with_cron, "install", "--yes").status == 0
    line = read_crontab(with_cron)
    old = line.replace(f"{with_cron.environ['PATH']}/skychimp", "/opt/old/skychimp")
    assert old != line
    (Path(with_cron.environ["FAKES"]) / "crontab").write_text(OTHER_LINES + old)
    assert service(with_cron, "install", "--yes").status == 0
    assert read_crontab(with_cron) == OTHER_LINES + line


def test_line_of_another_store_and_of_a_person_stay(with_cron: Home) -> None:
    assert service(with_cron, "install", "--yes").status == 0
    line = read_crontab(with_cron)
    others = line.replace("s.db", "other.db") + line.replace(f" {crontab.MARK}", "")
    (Path(with_cron.environ["FAKES"]) / "crontab").write_text(others + line)
    assert service(with_cron, "remove", "--yes").status == 0
    assert read_crontab(with_cron) == others


def test_crontab_line_works_with_its_mark(with_cron: Home) -> None:
    assert service(with_cron, "install", "--yes").status == 0
    command = read_crontab(with_cron).removeprefix("* * * * * ").replace("\\%", "%")
    environ = {"HOME": str(with_cron.folder), "PATH": "/usr/bin:/bin", "SKYCHIMP_MAIL__SENDER": "a@x.test"}
    done = subprocess.run(["/bin/sh", "-c", command], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_crontab_that_cannot_be_read_is_not_replaced(with_cron: Home) -> None:
    (Path(with_cron.environ["FAKES"]) / "crontab").write_text(OTHER_LINES)
    done = service(with_cron, "install", "--yes", CRON_ERROR="You (ada) are not allowed to use this program")
    assert done.status == 1
    assert "cannot read the crontab: You (ada) are not allowed" in done.err
    assert read_crontab(with_cron) == OTHER_LINES


def test_system_without_systemd_and_cron_is_named(home: Home) -> None:
    done = service(home, "install", "--yes")
    assert done.status == 3
    assert done.err.startswith("error: this system has neither systemd nor cron\n")


# Does anything send?


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([], False),
        ([(timedelta(hours=1), timedelta(seconds=2), None)] * 2, False),
        ([(timedelta(hours=1), timedelta(seconds=2), 1)] * 5, False),
        ([(timedelta(days=3), timedelta(hours=2), None)] * 5, False),
        ([(timedelta(hours=1), timedelta(seconds=2), None)] * 3, True),
        ([(timedelta(hours=3), timedelta(hours=3), None)], True),
    ],
    ids=["none", "by hand", "one mailing", "long ago", "timer", "daemon"],
)
def test_timer_or_daemon_is_seen(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    runs: list[tuple[timedelta, timedelta, int | None]], expected: bool,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path / "system")
    now = store.now()
    with store.write() as db:
        for ago, duration, mailing in runs:
            started_at = now - ago
            db.add(Run(host="x", pid=1, started_at=started_at, heartbeat_at=started_at + duration, mailing_id=mailing))
    assert detection.is_sent_by_itself(store) == expected


def test_recurring_mailing_says_that_nothing_sends_it(home: Home) -> None:
    store = ("--store", str(home.folder / "a store/s.db"))
    assert home.call(*store, "messages", "create", "--subject", "S", "--body", "B").status == 0
    assert home.call(*store, "clients", "create", "--email", "bob@example.org").status == 0
    create = (*store, "mailings", "create", "--message", "1", "--all-clients", "--yes", "--timezone", "UTC", "--start")
    note = "nothing sends it by itself yet: skychimp service install\n"
    assert note in home.call(*create, "2026-01-01 09:00", "--every", "day").err
    assert note in home.call(*create, "2099-01-01 09:00", "--every", "once").err
    assert note not in home.call(*create, "2026-01-01 09:00", "--every", "once").err
    unit = home.folder / ".config/systemd/user/skychimp.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert note not in home.call(*create, "2026-01-01 09:00", "--every", "day").err

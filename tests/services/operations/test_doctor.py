"""Test that `doctor` finds faults with their remedies, and that a wrong clock stops sending until it is accepted."""

import os
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.accounts import MAIL, NOBODY, needs_root
from support.command import CommandResult, Home
from support.dkim import ED25519
from support.nameserver import NameServer
from support.sending import attempts, create_mailing, make_settings, rows, send
from support.servers import GREETING, CountingReceiver, ScriptedServer, Step, hang, read_line

from skychimp import files
from skychimp.delivery.composing import dkim
from skychimp.errors import ClockBehind
from skychimp.models import Every, Mailing, RelayState, Run, StoreInfo
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.operations import clock, doctor
from skychimp.services.operations.findings import Finding, Level
from skychimp.store.database import POSTGRESQL, SQLITE, Store

SENDER = "Ada <ada@skychimp.test>"
GOOD_DNS = {
    "skychimp.test": {"MX": ["10 mx.skychimp.test."], "TXT": ['"v=spf1 mx -all"']},
    "s7._domainkey.skychimp.test": {"TXT": ['"v=DKIM1; p=MIGf"']},
    "_dmarc.skychimp.test": {"TXT": ['"v=DMARC1; p=none"']},
}


TAKES_SENDER: tuple[Step, ...] = (read_line, b"250 ok\r\n") * 3 + (read_line, b"221 bye\r\n")
"""MAIL, RCPT, RSET and QUIT."""


def findings_of(store: Store) -> dict[str, Finding]:
    """Return the findings without a mail server."""
    return {
        finding.about: finding
        for finding in doctor.check_installation(make_settings(1, mail__transport="outbox"), lambda: store)
    }


def ran_at(store: Store, at: datetime) -> None:
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=at, heartbeat_at=at, ended_at=at))


@pytest.fixture
def installed(store: Store, store_url: str, tmp_path: Path) -> Callable[..., CommandResult]:
    """Return a function that runs `doctor --json` in a valid installation, but for some settings or the mail server."""

    def run_doctor(*arguments: str, relay: Sequence[Step] = (), **changed: str) -> CommandResult:
        store.close()
        dialogue = relay or (GREETING, read_line, b"250-x\r\n250-SIZE 30000000\r\n250 PIPELINING\r\n", *TAKES_SENDER)
        with ScriptedServer(dialogue) as server, NameServer(GOOD_DNS) as names:
            usual = {
                "mail__transport": "smtp", "mail__sender": SENDER, "smtp__host": "127.0.0.1",
                "smtp__port": str(server.port), "smtp__security": "none", "dns__nameserver": names.address,
            }  # fmt: skip
            environ = {f"SKYCHIMP_{name.upper()}": value for name, value in (usual | changed).items()}
            home = Home(tmp_path, SKYCHIMP_STORE=store_url, **environ)
            return home.call("doctor", "--dkim-selector", "s7", "--json", *arguments)

    return run_doctor


def test_valid_installation(installed: Callable[..., CommandResult], store: Store) -> None:
    done = installed()
    findings = {finding["about"]: finding for finding in done.json["findings"]}
    assert (done.status, done.json["ok"]) == (0, True)
    checked = {"config", "store", "disk", "clock", "relay", "sender", "SPF", "DKIM", "DMARC", "alignment"}
    if store.dialect == POSTGRESQL:
        checked.remove("disk")
    assert {about: finding["level"] for about, finding in findings.items()} == dict.fromkeys(checked, "ok")
    assert store.name in findings["store"]["found"]
    assert findings["relay"]["found"].endswith(
        "accepts mail from ada@skychimp.test (security: none); extensions: PIPELINING, SIZE"
    )


def damage(store: Store) -> None:
    with store.write() as db:
        for number in range(50):
            at = datetime.now(UTC)
            db.add(Run(host="x" * 2000, pid=number, started_at=at, heartbeat_at=at, ended_at=at))
    store.close()
    size = store.path.stat().st_size
    with store.path.open("r+b") as file:
        file.seek(size - 8 * 4096)
        file.write(b"\xff" * 4096 * 4)


def hold(store: Store) -> None:
    with store.write() as db:
        db.get_one(StoreInfo, 1).held_at = datetime.now(UTC)


def lose(store: Store) -> None:
    store.close()
    store.path.unlink()


def overwrite(store: Store) -> None:
    store.close()
    store.path.write_text("not a database")


WANTS_LOGIN = (GREETING, read_line, b"250-x\r\n250 AUTH PLAIN\r\n", read_line, b"535 5.7.8 bad password\r\n", hang)
BROKEN: dict[str, tuple[Callable[[Store], object], dict[str, Any], int, str, str, str]] = {
    "an invalid setting": (
        lambda store: None, {"smtp__timeout": "soon"}, 3, "config", 'invalid smtp.timeout "soon"', "use 30s",
    ),
    "no sender": (lambda store: None, {"mail__sender": ""}, 3, "config", "mail.sender is not set", "set mail.sender ="),
    "no password file": (
        lambda store: None, {"smtp__username": "ada", "smtp__password_file": "/nonexistent"}, 3, "config",
        "cannot read /nonexistent", "set smtp.password_file",
    ),
    "no store": (lose, {}, 3, "store", "no store at", "skychimp init"),
    "not a store": (overwrite, {}, 3, "store", "is not a Skychimp store", "--store PATH"),
    "a damaged store": (damage, {}, 3, "store", "", "skychimp restore FILE"),
    "a restored store": (hold, {}, 3, "store", "on hold after a restore", "skychimp resolve --restored"),
    "a wrong clock": (
        lambda store: ran_at(store, datetime.now(UTC) + timedelta(days=3)), {}, 1, "clock",
        "was last used at", "--accept-clock",
    ),
    "an unknown mail server": (
        lambda store: None, {"smtp__host": "mx.invalid"}, 1, "relay",
        "cannot find the host mx.invalid in DNS", "correct smtp.host",
    ),
    "an unreachable mail server": (
        lambda store: None, {"smtp__port": "1"}, 1, "relay",
        "cannot connect to", "smtp.port and smtp.security, and that the mail server is running",
    ),
    "a mail server without STARTTLS": (
        lambda store: None, {"smtp__security": "starttls"}, 1, "relay",
        "does not offer STARTTLS", 'set smtp.security to "tls"',
    ),
    "a wrong password": (
        lambda store: None, {"smtp__username": "ada", "smtp__password": "x", "relay": WANTS_LOGIN}, 1, "relay",
        "535 5.7.8 bad password", "check smtp.username and smtp.password",
    ),
}  # fmt: skip


OF_A_FILE = ("no store", "not a store", "a damaged store")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.sqlite) if name in OF_A_FILE else name for name in BROKEN]
)
def test_fault_is_found_with_its_remedy(installed: Callable[..., CommandResult], store: Store, name: str) -> None:
    """Everything else that can still be checked is checked too."""
    damage_store, changed, status, about, text, remedy = BROKEN[name]
    damage_store(store)
    done = installed(**changed)
    assert (done.status, done.json["ok"]) == (status, False)
    problems = [finding for finding in done.json["findings"] if finding["level"] == "problem"]
    assert about in [finding["about"] for finding in problems]
    (problem,) = [finding for finding in problems if finding["about"] == about]
    assert text in problem["found"]
    assert remedy in problem["remedy"]
    if name != "an invalid setting":
        assert {"relay", "store"} <= {finding["about"] for finding in done.json["findings"]}


def test_warnings_do_not_change_the_exit_status(
    installed: Callable[..., CommandResult], store: Store, ada: Actor, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    create_mailing(store, ada, ["bob@example.org"], body="\\x" * 15_000)
    with store.write() as db:
        db.add(RelayState(relay="x:25", paused_at=now, reason="535 no", settings_hash="hash", next_probe_at=now))
    (tmp_path / "skychimp.toml").write_text("[smtp]\npassword = 'secret'\n")
    (tmp_path / "skychimp.toml").chmod(0o644)
    assert Home(tmp_path).call("trust").status == 0
    expected = [f"chmod 600 {tmp_path}/skychimp.toml", "skychimp run", "messages update 1"]
    if store.dialect == SQLITE:
        store.path.chmod(0o640)
        expected.append(f"chmod 600 {store.path}")
    small = (GREETING, read_line, b"250-x\r\n250 SIZE 40000\r\n", *TAKES_SENDER)
    done = installed(relay=small)
    warnings = {finding["found"]: finding["remedy"] for finding in done.json["findings"] if not finding["ok"]}
    assert (done.status, done.json["ok"]) == (0, True)
    remedies = "\n".join(warnings.values())
    assert [remedy for remedy in expected if remedy not in remedies] == []
    assert len(warnings) == len(expected)
    assert "secret" not in done.out


def test_outbox_that_cannot_be_used_is_a_problem(store: Store) -> None:
    assert findings_of(store)["relay"].level == "ok"
    assert not store.path.with_name("outbox").exists()
    store.path.parent.mkdir(0o700, parents=True, exist_ok=True)
    store.path.with_name("outbox").touch()
    found = findings_of(store)["relay"]
    assert (found.level, found.found) == (
        "problem", f"cannot use the outbox {store.path.parent}/outbox: it is not a folder",
    )  # fmt: skip


@pytest.mark.sqlite
@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_store_that_cannot_be_written_is_a_problem(store: Store, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    part = f"{store.path}{suffix}"
    with store.write():
        Path(part).touch()
    monkeypatch.setattr(os, "access", lambda path, *_, **__: str(path) != part)
    found = findings_of(store)["store"]
    assert found.level == "problem"
    assert found.found.endswith(f": cannot write to {part}")
    assert found.remedy == f'run "chmod u+w {part}"'


def test_question_comes_before_the_progress_bar(store: Store, store_url: str, tmp_path: Path) -> None:
    """The bar would hide a part of it."""
    (tmp_path / "skychimp.toml").write_text(f"[store]\nurl = '{store_url}'\n")
    store.close()
    done = Home(tmp_path).call("doctor", stdin="n\n", width=80)
    assert -1 < done.err.find("[y/N]") < done.err.find("checking")


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("name", "text", "mode", "is_open"),
    [
        ("skychimp.toml", "smtp.password = 'secret'", 0o644, True),
        ("skychimp.toml", "[smtp]\npassword = 'secret'", 0o604, True),
        ("skychimp.toml", "smtp = {password = 'secret'}", 0o644, True),
        ("skychimp.toml", "store.url = 'postgresql+psycopg://ada:secret@h/d'", 0o644, True),
        ("skychimp.toml", "smtp.password = 'secret'", 0o600, False),
        ("skychimp.toml", "# password = 'none'", 0o644, False),
        ("skychimp.toml", "smtp.password_file = '.env'", 0o644, False),
        (".env", "export SKYCHIMP_SMTP__PASSWORD=secret", 0o644, True),
        (".env", "SKYCHIMP_STORE=postgresql+psycopg://ada:secret@h/d", 0o644, True),
        (".env", "SKYCHIMP_SMTP__PASSWORD=secret", 0o600, False),
        (".env", "SKYCHIMP_SMTP__USERNAME=ada", 0o644, False),
    ],
)
def test_password_that_others_can_read_is_a_warning(
    store_url: str, tmp_path: Path, name: str, text: str, mode: int, is_open: bool
) -> None:
    """Also one in the .env beside the config, and whatever way it is written. The shown command fixes it."""
    config = tmp_path / "skychimp.toml"
    config.touch(mode=0o600)
    path = tmp_path / name
    path.write_text(text)
    path.chmod(mode)
    home = Home(tmp_path, SKYCHIMP_CONFIG=str(config), SKYCHIMP_STORE=store_url, SKYCHIMP_MAIL__SENDER=SENDER)
    done = home.call("doctor", "--json")
    found = {row["found"]: row["remedy"] for row in done.json["findings"] if row["about"] == "config"}
    assert (f"other users can read the password in {path}" in found) == is_open
    assert "secret" not in done.out
    if is_open:
        command = found[f"other users can read the password in {path}"].removeprefix('run "').removesuffix('"')
        subprocess.run(command, shell=True, check=True)
        assert [row["level"] for row in home.call("doctor", "--json").json["findings"] if row["about"] == "config"] == [
            "ok"
        ]


@needs_root
@pytest.mark.usefixtures("store")
def test_password_that_a_shared_group_can_read_is_a_warning(store_url: str, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("smtp.password = 'secret'")
    environ = {"SKYCHIMP_STORE": store_url, "SKYCHIMP_MAIL__SENDER": SENDER, "SKYCHIMP_CONFIG": str(config)}
    for owner, group, is_open in ((NOBODY, MAIL, True), (NOBODY, NOBODY, True), (MAIL, MAIL, False), (0, MAIL, False)):
        os.chown(config, owner, group)
        config.chmod(0o640)
        assert files.can_others_read(config.stat(), config) == is_open
    assert "can read the password" not in Home(tmp_path).call("doctor", environ=environ).out


@pytest.mark.usefixtures("store")
def test_plain_output(store_url: str, tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_STORE=store_url)
    done = home.call("doctor")
    assert done.status == 3
    (first, *_) = done.out.splitlines()
    assert first.split("\t") == [
        "problem", "config", "no configuration file; mail.sender is not set", 'set mail.sender = "Name <address>"',
    ]  # fmt: skip
    assert home.call("doctor", environ={"SKYCHIMP_MAIL__SENDER": SENDER}).status == 0


MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 27 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw
41 40 0:41 / /home/ada/My\040Disk rw,relatime - btrfs /dev/sdb rw
42 27 0:42 / /srv rw,relatime - cifs //server/srv rw
42 27 0:43 / /srv rw,relatime - xfs /dev/sdc rw
"""


@pytest.mark.parametrize(
    ("path", "fs_type"),
    [
        ("/var/lib/skychimp.db", "ext4"),
        ("/home/ada/skychimp.db", "nfs4"),
        ("/home/ada/My Disk/skychimp.db", "btrfs"),
        ("/homeless/skychimp.db", "ext4"),
        ("/srv/skychimp.db", "xfs"),
    ],
)
def test_file_system_type_of_a_path(path: str, fs_type: str) -> None:
    """The longest matching mount point counts, and the last of two mounts at the same point."""
    assert doctor.file_system_type(Path(path), MOUNTS.strip()) == fs_type
    assert doctor.file_system_type(Path(path), "") == ""


@pytest.mark.sqlite
def test_store_on_a_network_file_system_is_a_problem(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_mounts", lambda: "42 27 0:42 / / rw - nfs4 server:/srv rw")
    finding = findings_of(store)["store"]
    assert finding.level == Level.PROBLEM
    assert "on a network file system (nfs4)" in finding.found
    assert finding.remedy == "move the store to a local disk, and set store.url"


@pytest.mark.parametrize(
    ("free", "size", "level"),
    [
        (10**12, 10**6, Level.OK),
        (10**9, 10**9, Level.WARNING),
        (10**8, 10**6, Level.WARNING),
        (10**7, 10**6, Level.PROBLEM),
    ],
)
def test_free_disk_space(free: int, size: int, level: Level) -> None:
    finding = doctor.check_disk_space(free, size)
    assert finding.level == level
    assert (finding.remedy is None) == (level == Level.OK)


@pytest.mark.sqlite
def test_large_write_ahead_log_is_a_warning(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LARGE_LOG", 100_000)
    home = Home(tmp_path, SKYCHIMP_STORE=store_url, SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")
    with store.read() as reader:
        assert reader.get(StoreInfo, 1)
        for _ in range(50):
            with store.write() as db:
                db.get_one(StoreInfo, 1).created_at = store.now()
        found = home.call("doctor", "--json").json["findings"]
    assert "write-ahead log has grown" in "".join(finding["found"] for finding in found if not finding["ok"])


@pytest.mark.sqlite
def test_many_copies_of_old_stores_are_a_warning(store: Store, store_url: str, tmp_path: Path) -> None:
    names = [f"skychimp.db.before-restore-2026010{day}T000000Z" for day in range(1, 4)]
    for age, name in enumerate(["skychimp.db.before-restore-notes", *names]):
        store.path.with_name(name).touch()
        os.utime(store.path.with_name(name), (age, age))
    home = Home(tmp_path, SKYCHIMP_STORE=store_url, SKYCHIMP_MAIL__SENDER="Ada <ada@skychimp.test>")

    def disk() -> list[dict[str, str]]:
        findings = home.call("doctor", "--json").json["findings"]
        return [finding for finding in findings if finding["about"] == "disk"]

    assert len(disk()) == 1
    oldest = store.path.with_name("skychimp.db.before-0005-1")
    oldest.touch()
    os.utime(oldest, (0, 0))
    found = disk()[1]
    assert found["level"] == "warning"
    assert "4 copies from restores and upgrades" in found["found"]
    assert found["remedy"] == f'run "rm {oldest}"'


def test_clock_behind_the_last_run_stops_sending_until_accepted(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    ran_at(store, datetime.now(UTC) + timedelta(days=3))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        with pytest.raises(ClockBehind, match="but the store was last used at"):
            send(store, make_settings(receiver.port))
        assert attempts(store) == []
        finding = findings_of(store)["clock"]
        assert (finding.level, "doctor --accept-clock" in (finding.remedy or "")) == (Level.PROBLEM, True)
        with store.write() as db:  # it was opened for tomorrow while the clock was wrong
            db.get_one(Mailing, 1).next_at = datetime.now(UTC) + timedelta(days=3)
        assert clock.accept(store, OPERATOR).mailings == 1
        next_at = rows(store, Mailing)[0].next_at
        assert next_at is not None
        assert next_at < datetime.now(UTC) + timedelta(days=1)
        assert send(store, make_settings(receiver.port)).stopped == ""


def test_clock_slightly_behind_is_accepted(store: Store, ada: Actor, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    ran_at(store, datetime.now(UTC) + timedelta(minutes=5))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1


def test_command_accepts_the_clock(store: Store, store_url: str, tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_STORE=store_url, SKYCHIMP_MAIL__SENDER=SENDER)
    ran_at(store, datetime.now(UTC) + timedelta(days=3))
    done = home.call("run")
    assert done.status == 3
    assert "skychimp doctor --accept-clock" in done.err
    accepted = home.call("doctor", "--accept-clock", "--operator", "--yes", "--json")
    assert accepted.json == {"clock": "accepted", "mailings": 0, "restored": 0, "requeued": 0, "passed": []}
    assert home.call("run").status == 0


def test_keys_that_sign_are_checked(installed: Callable[..., CommandResult], tmp_path: Path) -> None:
    key = ED25519._replace(domain="skychimp.test")
    path = tmp_path / "e1.pem"
    path.write_bytes(dkim.to_pem(key.private))
    path.chmod(0o644)
    settings = {"dkim__domain": "skychimp.test", "dkim__selector": "e1", "dkim__key_file": str(path)}
    found = {(each["about"], each["level"]): each for each in installed(**settings).json["findings"]}
    assert found["DKIM", "warning"]["found"].startswith("no key at e1._domainkey.skychimp.test")
    assert dkim.key_record(key).text in found["DKIM", "warning"]["remedy"]
    assert found["config", "warning"]["found"] == f"other users can read the private key in {path}"
    path.unlink()
    result = installed(**settings)
    assert result.status == 3
    assert f"cannot read {path}" in result.out

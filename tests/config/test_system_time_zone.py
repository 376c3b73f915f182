"""The system's zone is the one that the C library uses, and its name is found wherever there is one."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from support.command import Home

from skychimp.config.system_time_zone import read_system_time_zone
from skychimp.errors import ConfigError

ZONES = Path("/usr/share/zoneinfo")
PROGRAM = """
import json, sys, time
from skychimp.config.system_time_zone import read_system_time_zone
from skychimp.errors import ConfigError
try:
    name = read_system_time_zone()
except ConfigError as error:
    name = error.message
print(json.dumps([name, [time.localtime(at).tm_gmtoff for at in json.loads(sys.argv[1])]]))
"""
RULES = (resources.files("tzdata") / "zoneinfo/Europe/Berlin").read_bytes()
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = [NEW_YEAR + timedelta(hours=97) * n for n in range(500)]

needs_zone_files = pytest.mark.skipif(
    not (ZONES / "Europe/Berlin").exists(), reason="the system has no files of time zones"
)


def ask_in_process(**environ: str) -> tuple[str, list[timedelta]]:
    """Return the name of the zone, or the error, and the offsets that the C library uses at TIMES."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TZ")}
    arguments = [sys.executable, "-c", PROGRAM, json.dumps([at.timestamp() for at in TIMES])]
    done = subprocess.run(arguments, env=kept | environ, check=True, capture_output=True, text=True)
    name, offsets = json.loads(done.stdout)
    return name, [timedelta(seconds=offset) for offset in offsets]


@needs_zone_files
@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("Europe/Berlin", "Europe/Berlin"),
        (":Europe/Berlin", "Europe/Berlin"),
        (":/usr/share/zoneinfo/Europe/Berlin", "Europe/Berlin"),
        ("/usr/share/zoneinfo/Asia/Calcutta", "Asia/Calcutta"),
        ("posix/Europe/Berlin", "Europe/Berlin"),
        ("EST5EDT", "EST5EDT"),
        ("MSK-3", "Etc/GMT-3"),
        (":MSK-3", "Etc/GMT-3"),
        ("<+03>-03:00", "Etc/GMT-3"),
        ("EST5", "Etc/GMT+5"),
        ("XYZ+12", "Etc/GMT+12"),
        ("UTC0", "UTC"),
        ("", "UTC"),
        (":", "UTC"),
    ],
)
def test_zone_of_the_environment_has_the_offsets_of_the_c_library(value: str, name: str) -> None:
    found, offsets = ask_in_process(TZ=value)
    assert found == name
    assert offsets == [at.astimezone(ZoneInfo(found)).utcoffset() for at in TIMES]


@pytest.mark.parametrize(
    "value",
    [
        "EST5EDT,M3.2.0,M11.1.0",
        "MSK-3MSD",
        "IST-5:30",
        "XYZ13",
        "XYZ-15",
        "right/UTC",
        "Mars/Olympus",
        "/no/such/file",
        "/etc/passwd",
        "/etc",
        "a" * 5000,
    ],
)
def test_zone_without_a_name_is_an_error(value: str) -> None:
    found, _ = ask_in_process(TZ=value)
    assert found.startswith(f"the system's time zone has no name (TZ=\"{value[:40]}")


@needs_zone_files
def test_folder_of_the_environment_is_used(tmp_path: Path) -> None:
    shutil.copy(ZONES / "Asia/Kathmandu", tmp_path / "Office")
    found, offsets = ask_in_process(TZ="Office", TZDIR=str(tmp_path))
    assert found == "Asia/Kathmandu"
    assert offsets == [timedelta(hours=5, minutes=45)] * len(TIMES)


def test_zone_without_environment_is_that_of_the_system() -> None:
    found, offsets = ask_in_process()
    assert offsets == [at.astimezone(ZoneInfo(found)).utcoffset() for at in TIMES]


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of /etc/localtime and /etc/timezone."""
    monkeypatch.delenv("TZ", raising=False)
    return tmp_path


def read(etc: Path) -> str:
    return read_system_time_zone(etc / "localtime", etc / "timezone")


def copy_rules(name: str, file: Path) -> None:
    with resources.as_file(resources.files("tzdata") / "zoneinfo" / name) as rules:
        shutil.copy(rules, file)


def test_link_names_the_zone_whatever_etc_timezone_says(etc: Path) -> None:
    (etc / "localtime").symlink_to("/usr/share/zoneinfo/Pacific/Auckland")
    (etc / "timezone").write_text("Europe/Berlin\n")
    assert read(etc) == "Pacific/Auckland"


@pytest.mark.parametrize("name", ["Europe/Berlin", "America/New_York", "Asia/Tehran", "UTC"])
def test_copied_file_is_recognised_by_its_rules(etc: Path, name: str) -> None:
    copy_rules(name, etc / "localtime")
    assert read(etc) == name


@needs_zone_files
def test_copied_file_of_another_form_is_recognised(etc: Path) -> None:
    """The system's files often have all changes of the clock at length, and those of tzdata do not."""
    shutil.copy(ZONES / "Europe/Berlin", etc / "localtime")
    assert read(etc) == "Europe/Berlin"


@pytest.mark.parametrize(
    ("written", "name"),
    [("Europe/Stockholm\n", "Europe/Stockholm"), ("Asia/Tokyo\n", "Europe/Berlin"), ("?\xff", "Europe/Berlin")],
)
def test_etc_timezone_counts_if_the_copied_file_has_its_rules(etc: Path, written: str, name: str) -> None:
    copy_rules("Europe/Berlin", etc / "localtime")
    (etc / "timezone").write_text(written, encoding="latin-1")
    assert read(etc) == name


@pytest.mark.parametrize(("written", "name"), [("Asia/Tokyo\n", "Asia/Tokyo"), ("", "UTC"), ("localtime", "UTC")])
def test_etc_timezone_counts_without_etc_localtime(etc: Path, written: str, name: str) -> None:
    (etc / "timezone").write_text(written)
    assert read(etc) == name


def test_private_file_has_no_name(etc: Path) -> None:
    """Berlin's rules, with the summer time a week later."""
    copy_rules("Europe/Berlin", etc / "localtime")
    rules = (etc / "localtime").read_bytes()
    (etc / "localtime").write_bytes(rules.replace(b"M10.5.0", b"M10.4.0"))
    with pytest.raises(ConfigError, match="has no name"):
        read(etc)


@pytest.mark.parametrize("content", [b"", b"TZif", b"\0" * 100, *(RULES[:-size] for size in (1, 28, 29, 30, 300))])
def test_damaged_file_has_no_name(etc: Path, content: bytes) -> None:
    (etc / "localtime").write_bytes(content)
    with pytest.raises(ConfigError):
        read(etc)


UNNAMED = {"TZ": "EST5EDT,M3.2.0,M11.1.0"}
MESSAGE = 'the system\'s time zone has no name (TZ="EST5EDT,M3.2.0,M11.1.0")'


def test_commands_say_that_the_zone_has_no_name(home: Home) -> None:
    del home.environ["SKYCHIMP_MAIL__TIMEZONE"]
    home.call("clients", "create", "--email", "bob@example.org")
    home.call("messages", "create", "--subject", "s", "--body", "b")
    create = ("mailings", "create", "--message", "1", "--every", "day", "--all-clients", "--start", "2030-01-01 09:00")
    refused = home.call(*create, environ=UNNAMED)
    hint = 'hint: set mail.timezone to your time zone, such as "Europe/Berlin"'
    assert (refused.status, refused.err) == (3, f"error: {MESSAGE}\n{hint}\n")
    for way in ({"SKYCHIMP_MAIL__TIMEZONE": "America/New_York"}, {}):
        zone = () if way else ("--timezone", "America/New_York")
        assert home.call(*create, *zone, "--json", environ=UNNAMED | way).json["timezone"] == "America/New_York"
    listed = home.call("mailings", "list", environ=UNNAMED, width=160)
    assert (listed.status, listed.out.count("09:00 America/New_York")) == (0, 2)
    log = ("mailings", "log", "1", "--since")
    assert [home.call(*log, since, environ=UNNAMED).status for since in ("3d", "2030-01-01")] == [0, 3]
    findings = home.call("doctor", "--json", environ=UNNAMED).json["findings"]
    (finding,) = [finding for finding in findings if finding["about"] == "time zone"]
    assert (finding["level"], finding["found"]) == ("warning", MESSAGE)


def test_init_says_that_the_zone_has_no_name(tmp_path: Path) -> None:
    done = Home(tmp_path).call("init", "--email", "ada@example.org", environ=UNNAMED)
    assert (done.status, MESSAGE in done.err) == (0, True)
    quiet = tmp_path / "other"
    quiet.mkdir()
    assert "time zone" not in Home(quiet).call("init", "--email", "ada@example.org", environ={"TZ": "MSK-3"}).err

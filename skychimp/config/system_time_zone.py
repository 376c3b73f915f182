"""Find the name of the system's time zone, as the C library finds the zone: from TZ, or else from /etc/localtime.

The C library needs the rules of a zone only. A mailing needs its name, as governments change the rules.
"""

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from skychimp.errors import ConfigError
from skychimp.text import shortened
from skychimp.timezones import is_time_zone
from skychimp.translation import tr

LOCALTIME, NAME_FILE = Path("/etc/localtime"), Path("/etc/timezone")

_HINT = tr('set mail.timezone to your time zone, such as "Europe/Berlin"')
_FOLDER = "/usr/share/zoneinfo"
_FIXED_OFFSET = re.compile(r"(?:[A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)([+-]?)(\d{1,2})(?::0?0){0,2}", re.ASCII)
"""The name of a zone and its hours west of Greenwich (POSIX.1-2024, section 8.3, TZ), without a summer time."""

_MOST_HOURS_EAST, _MOST_HOURS_WEST = 14, 12
_LEAP_SECONDS = slice(28, 32)
"""Where a file has its number of leap seconds (RFC 9636, section 3.1)."""

_MAX_FILE_BYTES = 1_000_000

_Offsets = Sequence[tuple[datetime, timedelta | None]]
"""Local times with their offsets from UTC."""


def read_system_time_zone(localtime: Path = LOCALTIME, name_file: Path = NAME_FILE) -> str:
    """Return the name of the system's time zone.

    Raises ConfigError if it has none: the rules are written out in TZ, or come from a file that is no zone's.
    """
    value = os.environ.get("TZ")
    if value is None:
        name = _name_of_system_file(localtime, name_file)
        found = str(localtime)
    else:
        name = _name_of_value(value.removeprefix(":"), localtime, name_file)
        found = f"TZ={shortened(value)}"
    if name is None:
        raise ConfigError(tr("the system's time zone has no name ({found})", found=found), _HINT)
    return name


def _name_of_value(value: str, localtime: Path, name_file: Path) -> str | None:
    """Return the name of the zone that TZ describes: by its name, by a file, or by its offset."""
    if is_time_zone(value):
        return value
    file = Path(os.environ.get("TZDIR") or _FOLDER, value)
    if file == localtime:
        return _name_of_system_file(localtime, name_file)
    if value and os.path.isfile(file):
        return _name_of_file(file)
    return _name_of_offset(value) if value else "UTC"


def _name_of_offset(value: str) -> str | None:
    """Return the name of the zone with a fixed offset, such as Etc/GMT-3 for MSK-3; None for another value."""
    match = _FIXED_OFFSET.fullmatch(value)
    if match is None:
        return None
    is_east, hours = match[1] == "-", int(match[2])
    if hours > (_MOST_HOURS_EAST if is_east else _MOST_HOURS_WEST):
        return None
    return f"Etc/GMT{'-' if is_east else '+'}{hours}" if hours else "UTC"


def _name_of_system_file(localtime: Path, name_file: Path) -> str | None:
    """Return the name of the zone of /etc/localtime. Without that file, /etc/timezone counts, and then UTC."""
    written = _read(name_file).decode("ascii", "replace").strip()
    if os.path.lexists(localtime):
        return _name_of_file(localtime, written)
    return written if is_time_zone(written) else "UTC"


def _name_of_file(file: Path, likely: str = "") -> str | None:
    """Return the name of the zone whose rules a file has: by the file's place, or else by its content."""
    for path in (os.path.normpath(file), os.path.realpath(file)):
        name = path.rpartition("/zoneinfo/")[2]
        if is_time_zone(name):
            return name
    return _name_of_rules(_read(file), likely)


def _name_of_rules(rules: bytes, likely: str) -> str | None:
    """Return the name of the zone with the rules of a file: the likely name, or else the usual one."""
    try:
        zone = ZoneInfo.from_file(_Reader(rules))
    except Exception:  # it fails in many ways at a damaged file
        return None
    if rules[_LEAP_SECONDS] != bytes(4):  # its clock is not that of UTC
        return None
    present = _offsets(zone, _present_times())
    if is_time_zone(likely) and _has_all(likely, present):
        return likely
    names = _all_names()
    for name in names:
        if _read(Path(_FOLDER, name)) == rules:
            return name
    past = _offsets(zone, _past_times())
    same = [name for name in names if _has_all(name, present)]
    return max(same, key=lambda name: _count_same(name, past), default=None)


class _Reader(io.BytesIO):
    """Raises EOFError at the end of the bytes. At the end of a file that was cut off, zoneinfo reads for ever."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if size and not data:
            raise EOFError
        return data


def _all_names() -> Sequence[str]:
    """Return the names of all zones. Of names for the same rules, the usual one is the first: it is in zone1970.tab."""
    from importlib import resources  # takes milliseconds, and few systems need it

    table = resources.files("tzdata").joinpath("zoneinfo", "zone1970.tab").read_text(encoding="utf-8")
    usual = [line.split("\t")[2] for line in table.splitlines() if not line.startswith("#")]
    return [name for name in dict.fromkeys(["UTC", *usual, *sorted(available_timezones())]) if is_time_zone(name)]


def _present_times() -> Iterator[datetime]:
    """Yield times at which a zone's offsets show its rules of today.

    The bytes of two files tell less, as a file can have the same rules in several forms.
    """
    first, now = datetime.fromisoformat("2010-01-01"), datetime.now(UTC).replace(tzinfo=None)
    yield from (first + timedelta(weeks=n) for n in range(52 * 25))
    yield from (now + timedelta(hours=n) for n in range(24 * 366))


def _past_times() -> Iterator[datetime]:
    """Yield times at which the offsets tell zones from each other that have the same rules today."""
    yield from (datetime.fromisoformat("1880-01-01") + timedelta(weeks=5 * n) for n in range(52 * 26))


def _offsets(zone: ZoneInfo, times: Iterable[datetime]) -> _Offsets:
    return [(at, zone.utcoffset(at)) for at in times]


def _has_all(name: str, offsets: _Offsets) -> bool:
    zone = ZoneInfo(name)
    return all(zone.utcoffset(at) == offset for at, offset in offsets)


def _count_same(name: str, offsets: _Offsets) -> int:
    zone = ZoneInfo(name)
    return sum(zone.utcoffset(at) == offset for at, offset in offsets)


def _read(file: Path) -> bytes:
    """Return the beginning of a file, or b"" if it is not a regular file that can be read."""
    with suppress(OSError):
        if os.path.isfile(file):
            with file.open("rb") as opened:
                return opened.read(_MAX_FILE_BYTES)
    return b""

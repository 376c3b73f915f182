"""Read the times that people type; pure."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from skychimp.delivery.scheduling.recurrence import LAST_YEAR, to_local, to_utc
from skychimp.errors import InvalidValue

FIRST_YEAR = 1970


_EXAMPLES = "write now, +10m, 2026-12-01 09:00, 2026-12-01T09:00+03:00 or 2026-12-01T09:00Z"


_OFFSET = re.compile(r"\+((?:\d+[smhd])+)", re.ASCII)


_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?", re.ASCII)


def parse_when(text: str, timezone: str, now: datetime) -> datetime:
    """The instant that a person wrote, in UTC; without an offset it is local to `timezone`. Raises InvalidValue."""
    said = _parse(text, timezone, now)
    return said.astimezone(UTC) if said.tzinfo else to_utc(said, timezone)


def parse_local(text: str, timezone: str, now: datetime) -> datetime:
    """What a person wrote as wall-clock time in `timezone`, without an offset, kept as it is even in a gap.

    Raises InvalidValue, also for an instant to come that no schedule can mean: the second time of an overlap.
    """
    said = _parse(text, timezone, now)
    if said.tzinfo is None:
        return said
    local = to_local(said, timezone)
    if said > now and to_utc(local, timezone) != said:
        raise InvalidValue(
            f"{text!r} is the second {local:%H:%M} of that day in {timezone}, and a mailing goes by the first",
            "give a time outside that hour, or a time zone without it, such as UTC",
        )
    return local


def _parse(text: str, timezone: str, now: datetime) -> datetime:
    _require_zone(timezone)
    text = text.strip()
    try:
        if text == "now":
            said = now
        elif match := _OFFSET.fullmatch(text):
            said = now + _delay(match[1])
        elif _DATE.fullmatch(text):
            said = datetime.fromisoformat(text)
        else:
            raise InvalidValue(f"{text!r} is not a time", _EXAMPLES)
        if not FIRST_YEAR <= said.year <= LAST_YEAR:
            raise InvalidValue(f"{text!r} is not in the years {FIRST_YEAR} to {LAST_YEAR}", _EXAMPLES)
    except (ValueError, OverflowError):
        raise InvalidValue(f"{text!r} is not a time", _EXAMPLES) from None
    return said.replace(microsecond=0)


def _delay(text: str) -> timedelta:
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    parts = re.findall(r"(\d+)([smhd])", text)
    return sum((timedelta(**{units[unit]: int(number)}) for number, unit in parts), timedelta())


def _require_zone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (OSError, ValueError, KeyError):
        raise InvalidValue(
            f"there is no time zone {timezone!r}", "write an IANA zone, as Europe/Berlin or UTC"
        ) from None

"""Parse the times that people type; pure."""

import re
from datetime import UTC, datetime

from skychimp.delivery.scheduling.recurrence import LAST_YEAR, to_local, to_utc
from skychimp.durations import is_duration, parse_duration
from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.timezones import require_time_zone

FIRST_YEAR = 1970

_HINT = "use now, +10m, 2026-12-01 09:00, 2026-12-01T09:00+03:00 or 2026-12-01T09:00Z"
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?", re.ASCII)


def parse_when(text: str, timezone: str, now: datetime) -> datetime:
    """Return the instant that a person typed, in UTC. Without an offset, the time is local to `timezone`.

    Raises InvalidValue for an invalid time or time zone.
    """
    time = _parse(text, timezone, now)
    return time.astimezone(UTC) if time.tzinfo else to_utc(time, timezone)


def parse_past(text: str, timezone: str, now: datetime) -> datetime:
    """Return the instant that a person typed, in UTC. A duration such as `3d` means that long ago.

    Raises InvalidValue for an invalid time or time zone.
    """
    if is_duration(text.strip()):
        return now - parse_duration(text.strip())
    return parse_when(text, timezone, now)


def parse_local(text: str, timezone: str, now: datetime) -> datetime:
    """Return the time that a person typed as wall-clock time in `timezone`, without an offset.

    A time that a clock change skips is returned as typed. Raises InvalidValue for an invalid time or time zone. Also
    raises it for a future instant that no schedule can express: the second occurrence of a repeated hour.
    """
    time = _parse(text, timezone, now)
    if time.tzinfo is None:
        return time
    local = to_local(time, timezone)
    if time > now and to_utc(local, timezone) != time:
        raise InvalidValue(
            f"{shortened(text)} is the second {local:%H:%M} of that day in {timezone}; mailings use the first",
            "use a time outside that hour, or a time zone without clock changes such as UTC",
        )
    return local


def _parse(text: str, timezone: str, now: datetime) -> datetime:
    """Return the time that a person typed, to the second; without an offset unless the text has one."""
    require_time_zone(timezone)
    text = text.strip()
    try:
        time = _read(text, now)
    except (ValueError, OverflowError):
        raise InvalidValue(f"invalid time {shortened(text)}", _HINT) from None
    if not FIRST_YEAR <= time.year <= LAST_YEAR:
        raise InvalidValue(f"the year of {shortened(text)} is not between {FIRST_YEAR} and {LAST_YEAR}", _HINT)
    return time.replace(microsecond=0)


def _read(text: str, now: datetime) -> datetime:
    if text == "now":
        return now
    if text.startswith("+"):
        return now + parse_duration(text[1:])
    if _DATE.fullmatch(text):
        return datetime.fromisoformat(text)
    raise ValueError

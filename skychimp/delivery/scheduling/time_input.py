"""Parse the times that people type; pure."""

import re
from datetime import UTC, date, datetime, time, timedelta

from skychimp.delivery.scheduling.recurrence import LAST_YEAR, to_local, to_utc
from skychimp.durations import is_duration, parse_duration
from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.timezones import require_time_zone
from skychimp.translation import tr

FIRST_YEAR = 1970

_HINT = tr("use now, +10m, 09:00, tomorrow 09:00, 2026-12-01 09:00, 2026-12-01T09:00+03:00 or 2026-12-01T09:00Z")
_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T].*)?", re.ASCII)
_DAY = re.compile(r"(today|tomorrow|yesterday|\d{4}-\d\d-\d\d)(?: (.+))?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d))?(?::(\d\d))?(?: ?([ap])m)?", re.ASCII)
_DAYS_AHEAD = {"yesterday": -1, "today": 0, "tomorrow": 1}


def parse_when(text: str, timezone: str, now: datetime, *, is_past: bool = False) -> datetime:
    """Return the instant that a person typed, in UTC. Without an offset, the time is local to `timezone`.

    A clock time alone is the next one, or with `is_past` the last one. Raises InvalidValue for an invalid time or time
    zone.
    """
    at = _parse(text, timezone, now, is_past=is_past)
    return at.astimezone(UTC) if at.tzinfo else to_utc(at, timezone)


def parse_past(text: str, timezone: str, now: datetime) -> datetime:
    """Return the instant that a person typed, in UTC. A duration such as `3d` means that long ago.

    A clock time alone is the last one. Raises InvalidValue for an invalid time or time zone.
    """
    if is_duration(text.strip()):
        return now - parse_duration(text.strip())
    return parse_when(text, timezone, now, is_past=True)


def parse_local(text: str, timezone: str, now: datetime) -> datetime:
    """Return the time that a person typed as wall-clock time in `timezone`, without an offset.

    A time that a clock change skips is returned as typed. Raises InvalidValue for an invalid time or time zone. Also
    raises it for a future instant that no schedule can express: the second occurrence of a repeated hour.
    """
    at = _parse(text, timezone, now)
    if at.tzinfo is None:
        return at
    local = to_local(at, timezone)
    if at > now and to_utc(local, timezone) != at:
        raise InvalidValue(
            tr(
                "{value} is the second {local:%H:%M} of that day in {timezone}; mailings use the first",
                value=shortened(text),
                local=local,
                timezone=timezone,
            ),
            tr("use a time outside that hour, or a time zone without clock changes such as UTC"),
        )
    return local


def _parse(text: str, timezone: str, now: datetime, *, is_past: bool = False) -> datetime:
    """Return the time that a person typed, to the second; without an offset unless the text has one."""
    require_time_zone(timezone)
    text = text.strip()
    try:
        at = _read(text, timezone, now, is_past)
    except (ValueError, OverflowError):
        raise InvalidValue(tr("invalid time {value}", value=shortened(text)), _HINT) from None
    if not FIRST_YEAR <= at.year <= LAST_YEAR:
        raise InvalidValue(
            tr(
                "the year of {value} is not between {first_year} and {last_year}",
                value=shortened(text),
                first_year=FIRST_YEAR,
                last_year=LAST_YEAR,
            ),
            _HINT,
        )
    return at.replace(microsecond=0)


def _read(text: str, timezone: str, now: datetime, is_past: bool) -> datetime:
    words = text.lower()
    if words == "now":
        return now
    if text.startswith("+"):
        return now + parse_duration(text[1:])
    if day := _DAY.fullmatch(words):
        clock = _CLOCK.fullmatch(day[2]) if day[2] else None
        if clock or not day[2]:
            return datetime.combine(_read_day(day[1], timezone, now), _read_clock(clock) if clock else time())
    if clock := _CLOCK.fullmatch(words):
        return _nearest(_read_clock(clock), timezone, now, is_past)
    if _DATE.fullmatch(text):
        return datetime.fromisoformat(text)
    raise ValueError


def _read_day(word: str, timezone: str, now: datetime) -> date:
    if word in _DAYS_AHEAD:
        return to_local(now, timezone).date() + timedelta(days=_DAYS_AHEAD[word])
    return date.fromisoformat(word)


def _read_clock(match: "re.Match[str]") -> time:
    """Return a clock time such as 9:00, 09:00:30, 9am or 9:30 pm. Raises ValueError."""
    hour, minute, second, half = int(match[1]), match[2], match[3], match[4]
    if half:
        if not 1 <= hour <= 12:
            raise ValueError
        hour = hour % 12 + (12 if half == "p" else 0)
    elif minute is None:  # a number alone
        raise ValueError
    return time(hour, int(minute or 0), int(second or 0))


def _nearest(clock: time, timezone: str, now: datetime, is_past: bool) -> datetime:
    """Return the next time that a clock shows this, or the last one."""
    at = datetime.combine(to_local(now, timezone).date(), clock)
    if is_past:
        return at if to_utc(at, timezone) <= now else at - timedelta(days=1)
    return at if to_utc(at, timezone) > now else at + timedelta(days=1)

"""The one grammar of durations: `0s`, `5m`, `2h`, `3d`, `1h30m`; pure."""

import re
from datetime import timedelta

from skychimp.errors import InvalidValue

LONGEST_DURATION = timedelta(days=36_500)  # so that now and it are always a date


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> timedelta:
    """The duration that `0s`, `5m`, `2h`, `3d` or `1h30m` says. Raises InvalidValue."""
    if not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise InvalidValue(f"{text!r} is not a duration", "write 30s, 5m, 2h, 3d or 1h30m")
    seconds = sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text))
    if seconds > LONGEST_DURATION.total_seconds():
        raise InvalidValue(f"{text!r} is too long", f"at most {format_duration(LONGEST_DURATION)}")
    return timedelta(seconds=seconds)


def format_duration(duration: timedelta) -> str:
    """A duration as it is written in the config."""
    seconds = int(duration.total_seconds())
    for unit, size in reversed(_UNITS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return "0s"

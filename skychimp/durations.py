"""Read and write durations such as `0s`, `5m`, `2h`, `3d` and `1h30m`; pure."""

import re
from datetime import timedelta

from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.translation import Phrase, tr, trn

MAX_DURATION = timedelta(days=36_500)
"""About 100 years, so that the current time plus or minus a duration is always a valid date."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = re.compile(r"([0-9]+)([smhd])")
_DURATION = re.compile(r"([0-9]{1,9}[smhd])+")


def parse_duration(text: str) -> timedelta:
    """Return the duration that a text such as `5m` or `1h30m` means.

    Raises InvalidValue for any other text, and for more than MAX_DURATION.
    """
    if not is_duration(text):
        raise InvalidValue(tr("invalid duration {value}", value=shortened(text)), tr("use 30s, 5m, 2h, 3d or 1h30m"))
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    if seconds > MAX_DURATION.total_seconds():
        raise InvalidValue(
            tr("the duration {value} is too long", value=shortened(text)),
            tr("use at most {duration}", duration=format_duration(MAX_DURATION)),
        )
    return timedelta(seconds=seconds)


def is_duration(text: str) -> bool:
    """Return whether a text is written as a duration."""
    return _DURATION.fullmatch(text) is not None


def format_ago(duration: timedelta) -> Phrase:
    """Return how long ago something was, for a person: `just now`, `4 min ago`, `2 days ago`. Fractions are dropped."""
    seconds = max(int(duration.total_seconds()), 0)
    if days := seconds // 86_400:
        return trn("{number} day ago", "{number} days ago", days)
    if hours := seconds // 3_600:
        return tr("{number} h ago", number=hours)
    if minutes := seconds // 60:
        return tr("{number} min ago", number=minutes)
    return tr("just now")


def format_duration(duration: timedelta) -> str:
    """Return a duration in its largest whole unit, as `parse_duration` reads it: `90m`, `3d`. Fractions are dropped."""
    seconds = int(duration.total_seconds())
    for unit, size in reversed(_SECONDS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return "0s"

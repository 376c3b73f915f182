"""Read how many clients get each occurrence of a mailing first, and how long the others wait, as a user typed it."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from skychimp.durations import format_duration
from skychimp.errors import InvalidValue
from skychimp.models import Every
from skychimp.store.occurrences.canary import sample_size
from skychimp.text import shortened
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.models import Mailing

DEFAULT_WAIT = timedelta(minutes=30)
SHORTEST_WAIT = timedelta(seconds=1)
LONGEST_WAIT = {
    Every.ONCE: timedelta(days=30),
    Every.DAY: timedelta(hours=12),
    Every.WEEK: timedelta(days=3),
    Every.MONTH: timedelta(days=14),
}
"""With a longer wait, the next occurrence would have to wait for this one."""

_NUMBER = re.compile(r"0*([1-9][0-9]{0,6})")
_PERCENTAGE = re.compile(r"0*([0-9]{1,2}(?:\.[0-9]{1,4})?) ?%")


@dataclass(frozen=True)
class CanaryInput:
    """A canary as a user typed it: a number of clients or `1%`, and how long the others wait.

    None is what was not given. With `is_removed`, all clients get each occurrence at once.
    """

    size: str | None = None
    wait: timedelta | None = None
    is_removed: bool = False


NO_CANARY = CanaryInput()


def set_canary(mailing: "Mailing", typed: CanaryInput) -> None:
    """Set what is given. An occurrence that is open keeps its canary.

    Raises InvalidValue, also if there is a wait and no canary, or if the wait is too long for the mailing's period.
    """
    if typed.is_removed:
        mailing.canary, mailing.canary_wait_s = "", 0
        return
    if typed.size is not None:
        had_canary = bool(mailing.canary)
        mailing.canary = parse_size(typed.size)
        if not had_canary and typed.wait is None:
            mailing.canary_wait_s = _seconds(DEFAULT_WAIT)
    if typed.wait is not None:
        if not mailing.canary:
            raise InvalidValue(tr("--canary-wait needs a canary"), tr("use --canary 1% or --canary 50"))
        mailing.canary_wait_s = _seconds(typed.wait)
    if mailing.canary:
        _check_wait(timedelta(seconds=mailing.canary_wait_s), mailing.every)


def parse_size(text: str) -> str:
    """Return a number of clients, or a percentage, as it is stored: `50`, `1%`. Raises InvalidValue."""
    if number := _NUMBER.fullmatch(text.strip()):
        return number[1]
    percentage = _PERCENTAGE.fullmatch(text.strip())
    if percentage is None or not float(percentage[1]):
        raise InvalidValue(
            tr("invalid --canary {value}", value=shortened(text)),
            tr("use a number of clients such as 50, or a percentage such as 1%"),
        )
    return f"{percentage[1]}%"


def number_of_first(size: str, number: int) -> int:
    """Return how many of `number` clients get an occurrence first. Raises InvalidValue."""
    return sample_size(parse_size(size), number)


def _check_wait(wait: timedelta, every: Every) -> None:
    if wait < SHORTEST_WAIT:
        raise InvalidValue(
            tr("--canary-wait is too short"),
            tr("use at least {duration}", duration=format_duration(SHORTEST_WAIT)),
        )
    if wait > LONGEST_WAIT[every]:
        raise InvalidValue(
            tr(
                "--canary-wait {duration} is too long for --every {every}",
                duration=format_duration(wait),
                every=every,
            ),
            tr("use at most {duration}", duration=format_duration(LONGEST_WAIT[every])),
        )


def _seconds(wait: timedelta) -> int:
    return round(wait.total_seconds())

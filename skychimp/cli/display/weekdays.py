"""Name the days of the week."""

from datetime import date

from skychimp.translation import Phrase, tr

NAMES = (
    tr("Monday"), tr("Tuesday"), tr("Wednesday"), tr("Thursday"), tr("Friday"), tr("Saturday"), tr("Sunday"),
)  # fmt: skip
_SHORT_NAMES = (tr("Mon"), tr("Tue"), tr("Wed"), tr("Thu"), tr("Fri"), tr("Sat"), tr("Sun"))


def with_weekday(day: date, time: str) -> Phrase:
    """Return a time after the short name of its day: `Mon 2026-01-05 09:00`."""
    return tr("{weekday} {time}", weekday=_SHORT_NAMES[day.weekday()], time=time)

"""Write dates in the language in which text is shown."""

from datetime import date

from skychimp.translation import tr, translated

_MONTHS = (
    tr("January"), tr("February"), tr("March"), tr("April"), tr("May"), tr("June"), tr("July"), tr("August"),
    tr("September"), tr("October"), tr("November"), tr("December"),
)  # fmt: skip
"""The months as they are written between a day and a year."""

_SHORT_MONTHS = (
    tr("Jan"), tr("Feb"), tr("Mar"), tr("Apr"), tr("May"), tr("Jun"), tr("Jul"), tr("Aug"), tr("Sep"), tr("Oct"),
    tr("Nov"), tr("Dec"),
)  # fmt: skip


def format_date(day: date) -> str:
    """Return a date such as `5 January 2026`."""
    return f"{day.day} {translated(_MONTHS[day.month - 1])} {day.year:04}"


def format_short_date(day: date) -> str:
    """Return a date without its year, such as `05 Jan`."""
    return f"{day.day:02} {translated(_SHORT_MONTHS[day.month - 1])}"

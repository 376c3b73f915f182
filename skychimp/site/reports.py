"""Render a report as one self-contained HTML page with figures, tables and SVG plots; pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

from jinja2 import Environment

from skychimp.return_rates import format_rate
from skychimp.services.reporting.reports import OccurrenceReport, RatePoint, Report, counts_by_status, format_percent
from skychimp.site.dates import format_short_date
from skychimp.site.rendering import make_environment
from skychimp.translation import current_language, translated

MAX_PLOTS = 12
"""How many of the latest occurrences have a plot of their sending rate."""

WIDTH, HEIGHT = 720, 160
"""The size of a plot in its own units. The page stretches it to the room that there is, but not its labels."""

OUTCOMES = ("sent", "outbox", "deferred", "failed", "unknown", "given_back")

_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Block(NamedTuple):
    """A colored rectangle. `kind` is a status or an outcome."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Plot(NamedTuple):
    """Emails per second over time: blocks stacked by outcome, and labels from end to end of both axes."""

    title: str
    blocks: Sequence[Block]
    times: Sequence[str]
    rates: Sequence[str]


def render_report(report: Report, timezone: str) -> str:
    """Return the page, with times in this time zone."""
    zone = ZoneInfo(timezone)
    plotted = [occurrence for occurrence in report.occurrences if occurrence.peak is not None][-MAX_PLOTS:]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            language=current_language(),
            timezone=timezone,
            zone=zone,
            shown_counts=shown_counts,
            shown=lambda counts: {name: number for name, number in counts.items() if number},
            outcomes=OUTCOMES,
            stacked_bar=stacked_bar,
            attempt_bars=list(attempt_bars(report.tries)),
            plots=[plot_rate(occurrence, zone) for occurrence in plotted],
            width=WIDTH,
            height=HEIGHT,
        )
    )


def shown_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts by status that are above zero."""
    return {status: number for status, number in counts_by_status(counts).items() if number}


def stacked_bar(counts: Mapping[str, int], width: float = 100) -> list[Block]:
    """Return a row of blocks, each as long as its share, but long enough to be visible."""
    shortest = sum(counts.values()) / 250
    lengths = {kind: max(number, shortest) for kind, number in counts.items()}
    total, blocks, x = sum(lengths.values()), [], 0.0
    for kind, length in lengths.items():
        blocks.append(Block(kind, round(x, 2), 0, round(length / total * width, 2), 1))
        x += length / total * width
    return blocks


def attempt_bars(tries: Mapping[int, int]) -> Iterator[tuple[int, int, float]]:
    """Yield a number of attempts, how many emails took as many, and the length of their bar in percent."""
    most = max(tries.values(), default=1)
    for attempts, emails in tries.items():
        yield attempts, emails, round(100 * emails / most, 2)


def plot_rate(occurrence: OccurrenceReport, zone: ZoneInfo) -> Plot:
    """Return the plot of an occurrence's sending rate."""
    points = occurrence.rate
    highest = round_up(max(point.per_second for point in points))
    step = WIDTH / len(points)
    blocks = [
        block
        for index, point in enumerate(points)
        for block in _stacked_column(point, index * step, max(step - 0.6, 0.6), HEIGHT / highest)
    ]
    rates = [f"{highest * half / 2:,g}" for half in range(3)]
    return Plot(_format_time(occurrence.due_at, zone), blocks, list(_times(points, zone)), rates)


def round_up(number: float) -> float:
    """Return the next round number: 1, 2 or 5 times a power of ten."""
    power = 1e-6
    while True:
        for factor in (1, 2, 5):
            if number <= power * factor:
                return float(f"{power * factor:.0e}")
        power *= 10


def escape_invisible(text: str) -> str:
    """Return the text with each control and bidi character as `\\u202e`."""
    return _INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _stacked_column(point: RatePoint, x: float, width: float, unit: float) -> Iterator[Block]:
    """Yield the blocks of one point. `unit` is the height of one email per second."""
    y = float(HEIGHT)
    for outcome in OUTCOMES:
        height = point.counts[outcome] / point.seconds * unit
        if height:
            y -= height
            yield Block(outcome, round(x, 2), round(y, 2), round(width, 2), round(height, 2))


def _times(points: Sequence[RatePoint], zone: ZoneInfo) -> Iterator[str]:
    """Yield five times, from the beginning to the end."""
    duration = points[-1].at - points[0].at + timedelta(seconds=points[-1].seconds)
    time_format = "%H:%M:%S" if duration < timedelta(hours=1) else "%H:%M"
    for quarter in range(5):
        local = (points[0].at + duration * quarter / 4).astimezone(zone)
        day = "" if duration < timedelta(days=1) else f"{format_short_date(local)} "
        yield f"{day}{local:{time_format}}"


def _format_time(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _format_seconds(duration: timedelta) -> str:
    """Return a duration in whole seconds, such as `0:03:02`."""
    return str(timedelta(seconds=round(duration.total_seconds())))


@cache
def _environment() -> Environment:
    return make_environment(
        escape_invisible=escape_invisible,
        time=_format_time,
        percent=lambda number, total: translated(format_percent(number, total)),
        rate=lambda share: translated(format_rate(share)),
        duration=_format_seconds,
    )

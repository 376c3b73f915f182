"""A report as one page that needs nothing else: figures, tables and plots in SVG; pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from skychimp.services.reporting.reports import OccurrenceReport, RatePoint, Report, percent, shown

PLOTTED = 12
"""How many of the latest occurrences have a plot of their rate."""

WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 26
"""Of a plot, and of the margins around what is drawn; in the plot's own units."""

OUTCOMES = ("sent", "deferred", "failed", "unknown", "given_back")

_HERE = Path(__file__).parent
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Block(NamedTuple):
    """A coloured rectangle; `kind` is a state or an outcome."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Mark(NamedTuple):
    """A place on an axis, and what is written there."""

    at: float
    text: str


class Plot(NamedTuple):
    """Letters a second over time: blocks on top of each other, with their axes."""

    title: str
    blocks: Sequence[Block]
    across: Sequence[Mark]
    up: Sequence[Mark]


def page(report: Report, timezone: str) -> str:
    """The whole page, with times in this zone."""
    zone = ZoneInfo(timezone)
    plotted = [one for one in report.occurrences if one.peak is not None][-PLOTTED:]
    return (
        _environment()
        .get_template("report.html")
        .render(
            report=report,
            timezone=timezone,
            zone=zone,
            became=became,
            outcomes=OUTCOMES,
            strip=strip,
            tries=list(tries(report.tries)),
            plots=[plot(one, zone) for one in plotted],
            width=WIDTH,
            height=HEIGHT,
            left=LEFT,
            right=WIDTH - RIGHT,
            bottom=HEIGHT - BOTTOM,
        )
    )


def became(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts by state, without those of none."""
    return {state: number for state, number in shown(counts).items() if number}


def strip(counts: Mapping[str, int], width: float = 100) -> list[Block]:
    """A line of blocks, each as long as its share; what is not nothing is seen."""
    least = sum(counts.values()) / 250
    lengths = {kind: max(number, least) for kind, number in counts.items()}
    whole, blocks, x = sum(lengths.values()), [], 0.0
    for kind, length in lengths.items():
        blocks.append(Block(kind, round(x, 2), 0, round(length / whole * width, 2), 1))
        x += length / whole * width
    return blocks


def tries(counts: Mapping[int, int]) -> Iterator[tuple[int, int, float]]:
    """Attempts made, how many letters took so many, and how long that bar is in hundredths of the longest."""
    longest = max(counts.values(), default=1)
    for attempts, letters in counts.items():
        yield attempts, letters, round(100 * letters / longest, 2)


def plot(occurrence: OccurrenceReport, zone: ZoneInfo) -> Plot:
    """An occurrence's rate over time."""
    points = occurrence.rate
    highest = nice(max(point.a_second for point in points))
    step = (WIDTH - LEFT - RIGHT) / len(points)
    drawn = HEIGHT - TOP - BOTTOM
    blocks = []
    for place, point in enumerate(points):
        y = HEIGHT - float(BOTTOM)
        for kind in OUTCOMES:
            tall = point.counts[kind] / point.seconds / highest * drawn
            if tall:
                y -= tall
                x = LEFT + place * step
                blocks.append(Block(kind, round(x, 2), round(y, 2), round(max(step - 0.6, 0.6), 2), round(tall, 2)))
    up = [Mark(round(HEIGHT - BOTTOM - part / 2 * drawn, 2), f"{highest * part / 2:,g}") for part in range(3)]
    return Plot(_moment(occurrence.due_at, zone), blocks, list(_across(points, step, zone)), up)


def nice(number: float) -> float:
    """The next number of those that an axis may end at: 1, 2 or 5, and these times ten as often as needed."""
    size = 1e-6
    while True:
        for step in (1, 2, 5):
            if number <= size * step:
                return float(f"{size * step:.0e}")
        size *= 10


def _across(points: Sequence[RatePoint], step: float, zone: ZoneInfo) -> Iterator[Mark]:
    """Five times or fewer along a plot, the first and the last among them."""
    number = len(points)
    length = points[-1].at - points[0].at + timedelta(seconds=points[-1].seconds)
    form = "%H:%M:%S" if length < timedelta(hours=1) else "%H:%M" if length < timedelta(days=1) else "%d %b %H:%M"
    for part in range(5):
        at = points[0].at + length * part / 4
        yield Mark(round(LEFT + number * step * part / 4, 2), at.astimezone(zone).strftime(form))


def visible(text: str) -> str:
    """What came from outside, with control and bidi characters as `\\u202e`."""
    return _HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _moment(at: datetime, zone: ZoneInfo) -> str:
    return at.astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _lasting(duration: timedelta) -> str:
    """A duration to the second, without the parts of one."""
    return str(timedelta(seconds=round(duration.total_seconds())))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"visible": visible, "moment": _moment, "percent": percent, "lasting": _lasting}
    return made

"""Figures on a terminal: numbers with bars beside them, and lines of blocks; nothing is told by colour alone."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from skychimp.services.reporting.reports import percent

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "sent": "green", "deferred": "yellow", "failed": "red", "unknown": "magenta", "queued": "blue",
    "given_back": "cyan",
}  # fmt: skip
_LEVELS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉"


def spark(values: Sequence[float], width: int) -> str:
    """The values as a line of blocks, at most `width` long; what is not nothing is seen."""
    if not any(values):
        return ""
    step = -(-len(values) // width)
    taken = [max(values[start : start + step]) for start in range(0, len(values), step)]
    highest = max(taken)
    return "".join(_LEVELS[round(value / highest * (len(_LEVELS) - 1))] if value else " " for value in taken)


def bar(share: float, width: int) -> str:
    """A part of one as a bar; what is not nothing is seen."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def many(number: int, what: str) -> str:
    """So many of something."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def span(duration: timedelta) -> str:
    """A duration as a person would say it."""
    seconds = duration.total_seconds()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"


def bars(counts: Mapping[str, int], width: int) -> "Table":
    """Numbers with their share and a bar; those that are nothing are left out."""
    from rich.text import Text

    total, table = sum(counts.values()), grid()
    for name, number in counts.items():
        if number:
            style = STYLES.get(name, "dim")
            cells = (str(name).replace("_", " "), f"{number:,}", percent(number, total), bar(number / total, width))
            table.add_row(*(Text(cell, style if place == 3 else "") for place, cell in enumerate(cells)))
    return table


def grid(right: Iterable[int] = (1, 2), columns: int = 4) -> "Table":
    """A table without lines; the columns named by `right` are numbers."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2), pad_edge=True)
    for place in range(columns):
        is_number = place in set(right)
        table.add_column(justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def title(text: str) -> "Text":
    """The heading of a part, after an empty line."""
    from rich.text import Text

    return Text(f"\n{text}", "bold")

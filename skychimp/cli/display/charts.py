"""Draw numbers on a terminal: bars, sparklines and tables without lines. Color only repeats what the text says."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from skychimp.services.reporting.reports import format_percent
from skychimp.text import thousands
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from rich.bar import Bar
    from rich.table import Table
    from rich.text import Text

STYLES = {
    "sent": "green", "outbox": "bright_black", "deferred": "yellow", "failed": "red", "unknown": "magenta",
    "queued": "blue", "given_back": "cyan",
}  # fmt: skip
_LEVELS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the values as a line of blocks, at most `width` long. A value above zero is always visible."""
    if not any(values):
        return ""
    step = -(-len(values) // width)
    shown = [max(values[start : start + step]) for start in range(0, len(values), step)]
    highest = max(shown)
    return "".join(_LEVELS[round(value / highest * (len(_LEVELS) - 1))] if value else " " for value in shown)


def bar(share: float, width: int, color: str = "green") -> "Bar":
    """Return a bar for a share between 0 and 1. A share above zero is always visible."""
    from rich.bar import Bar

    smallest = 1.01 / (8 * width)  # an eighth of a character; Rich rounds down
    return Bar(1, 0, max(share, smallest) if share else 0, width=width, color=color)


def format_elapsed(duration: timedelta) -> Phrase:
    """Return a rounded duration, such as `3 h`."""
    seconds = duration.total_seconds()
    if seconds >= 2 * 86400:
        return tr("{number:.0f} d", number=seconds / 86400)
    if seconds >= 2 * 3600:
        return tr("{number:.0f} h", number=seconds / 3600)
    if seconds >= 2 * 60:
        return tr("{number:.0f} min", number=seconds / 60)
    return tr("{number:.0f} s", number=seconds) if seconds >= 1 else tr("under 1 s")


def bars(counts: Mapping[str, int], width: int) -> "Table":
    """Return a table of the numbers above zero, each with its share and a bar."""
    from rich.text import Text

    total, table = sum(counts.values()), borderless_table()
    for name, number in counts.items():
        if number:
            cells = (translated(name).replace("_", " "), thousands(number), format_percent(number, total))
            table.add_row(
                *(Text(translated(cell)) for cell in cells),
                bar(number / total, width, STYLES.get(name, "bright_black")),
            )
    return table


def borderless_table(numbers: Iterable[int] = (1, 2), columns: int = 4) -> "Table":
    """Return an empty table without lines. `numbers` are the indexes of the columns that are aligned to the right."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2), pad_edge=True)
    for index in range(columns):
        is_number = index in set(numbers)
        table.add_column(justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def heading(text: str) -> "Text":
    """Return the heading of a section, below an empty line."""
    from rich.text import Text

    return Text(f"\n{translated(text)}", "bold")

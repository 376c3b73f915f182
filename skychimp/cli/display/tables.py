"""Show a list as a table that fits the terminal. It breaks no word if there is room, and never an id or an address.

Rich's own tables shorten the widest columns first, and break an email address although a column of words next to it
could wrap.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from skychimp.cli.display.pager import paged
from skychimp.cli.display.values import cell_text, terminal_text
from skychimp.listed import Listed
from skychimp.text import count_of
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CHUNK = 1_000
"""How many rows are laid out at once. Those that follow get the widths of the first ones."""

ADDRESS_COLUMNS = {"email", "address", "owner", "actor", "to"}
COLUMN_WIDTH = 10
"""The width that columns of words have at least, as long as there are times or numbers that can be left out instead."""
MIN_COLUMN_WIDTH = 6
LATER_WIDTH = 4
"""How much wider the ids and addresses of later rows may be."""

GUTTER = 3
"""The space between two columns."""
HEAD_HEIGHT = 3
"""The number of lines above the rows: how many rows there are, the headings, and a rule."""

CELL_STYLES = {
    "sent": "green", "outbox": "cyan", "running": "green", "failed": "red", "expired": "red",
    "deferred": "yellow", "unknown": "magenta",
}  # fmt: skip
"""The styles of cells that contain nothing but this word."""


class ColumnSize(NamedTuple):
    """The width of a column's longest word and of its longest cell.

    Ids, addresses, times and numbers are rigid: they are not broken. Times and numbers, which are no keys of the row,
    are rather left out.
    """

    word: int
    cell: int
    is_rigid: bool = False
    is_key: bool = False

    def widened(self, more: int) -> "ColumnSize":
        """Return a larger size."""
        return self._replace(word=self.word + more, cell=self.cell + more)

    def least(self, column_width: int) -> int:
        """Return the smallest width, if a column of words may be as narrow as this."""
        return self.word if self.is_rigid else min(self.word, column_width)


def show_list(
    console: "Console",
    records: Iterable[Any],
    columns: Mapping[str, str],
    optional: Iterable[str],
    noun: str,
    plural: str,
) -> bool:
    """Show records as a table on a terminal, in the pager if it is longer than the screen. Return False without any.

    `columns` maps each field to its heading. Columns without any value are left out. If the table does not fit, so are
    the `optional` columns, the first one first. With a noun, the first line says how many records there are.
    """
    rows = iter(records)
    first = list(islice(rows, CHUNK))
    following = list(islice(rows, 1))
    if not first:
        return False
    columns = {name: translated(heading) for name, heading in columns.items()}
    texts = _texts(first, columns)
    if not following:
        texts = {name: cells for name, cells in texts.items() if any(cells)} or texts
    sizes = {name: _measure(name, [columns[name], *cells], first) for name, cells in texts.items()}
    if following:
        sizes = {name: size.widened(LATER_WIDTH) if size.is_rigid else size for name, size in sizes.items()}
    widths = fit(sizes, optional, console.width)
    with paged(is_long=len(first) + HEAD_HEIGHT >= console.height) as console.file:
        if noun:
            count_line = _count_line(records, len(first), noun, plural, is_whole=not following)
            console.print(translated(count_line), style="dim")
        console.print(_build_table(texts, columns, widths))
        while following:
            chunk = following + list(islice(rows, CHUNK))
            console.print(_build_table(_texts(chunk, columns), columns, widths, has_head=False))
            following = list(islice(rows, 1))
    return True


def draw_record(values: Mapping[str, Any]) -> "Table":
    """Return a table with a line for each value, after its name. Long values wrap below themselves."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(Text(translated(name)), Text(terminal_text(value, multiline=True)))
    return table


def _count_line(records: Iterable[Any], shown: int, noun: str, plural: str, *, is_whole: bool) -> Phrase:
    """Return how many records there are: `2,001 clients`, `30 of 2,001 clients`."""
    is_part = isinstance(records, Listed) and records.is_part
    if is_whole and not is_part:
        return count_of(shown, noun, plural)
    total = records.count() if isinstance(records, Listed) else None
    if total is None:
        known = count_of(shown, noun, plural)
        return known if is_whole else tr("more than {number}", number=known)
    everything = count_of(total, noun, plural)
    return tr("{shown:,} of {total}", shown=shown, total=everything) if is_whole and shown < total else everything


def _texts(records: Sequence[Any], columns: Mapping[str, str]) -> dict[str, list[str]]:
    return {name: [cell_text(getattr(record, name)) for record in records] for name in columns}


def _build_table(
    texts: Mapping[str, Sequence[str]], columns: Mapping[str, str], widths: Mapping[str, int], *, has_head: bool = True
) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, show_header=has_head)
    for name, width in widths.items():
        table.add_column(columns[name], overflow="fold", width=width)
    for row in zip(*(texts[name] for name in widths), strict=True):
        table.add_row(*(Text(cell, style=CELL_STYLES.get(cell, "")) for cell in row))
    return table


def fit(sizes: Mapping[str, ColumnSize], optional: Iterable[str], width: int) -> dict[str, int]:
    """Return the width of each column that is shown in a table of this width.

    A word is broken only if there is no room for all words, and then the longest word. Ids and addresses are broken
    only if nothing else is left, and they are wider than the terminal.
    """
    shown = _choose_columns(sizes, optional, width)
    room = max(width - (len(shown) - 1) * GUTTER, len(shown))
    least = _least_widths(list(shown.values()), room)
    wanted = [size.cell - low if low == size.word else 0 for size, low in zip(shown.values(), least, strict=True)]
    extra = _share(wanted, room - sum(least))
    return {name: low + more for name, low, more in zip(shown, least, extra, strict=True)}


def _choose_columns(sizes: Mapping[str, ColumnSize], optional: Iterable[str], width: int) -> dict[str, ColumnSize]:
    """Return the columns for which there is room: the optional ones, then times and numbers, then words.

    Words stay if there is no room for the ids and addresses alone, which are broken then.
    """
    shown = dict(sizes)
    for name in optional:
        if _total(size.cell for size in shown.values()) > width:
            shown.pop(name, None)
    values = [name for name, size in shown.items() if size.is_rigid and not size.is_key]
    keys = [size.word for size in shown.values() if size.is_key]
    words = [name for name, size in reversed(shown.items()) if not size.is_rigid] if _total(keys) <= width else []
    for names, column_width in ((values, COLUMN_WIDTH), (words, MIN_COLUMN_WIDTH)):
        for name in names:
            if len(shown) > 1 and _total(size.least(column_width) for size in shown.values()) > width:
                del shown[name]
    return shown


def _measure(name: str, cells: Sequence[str], records: Iterable[Any]) -> ColumnSize:
    """Return the size of a column."""
    from rich.cells import cell_len

    longest = max(map(cell_len, cells))
    if name in ADDRESS_COLUMNS or all(isinstance(getattr(record, name), datetime | int | None) for record in records):
        is_key = name in ADDRESS_COLUMNS or name == "id" or name.endswith("_id")
        return ColumnSize(longest, longest, is_rigid=True, is_key=is_key)
    longest_word = max(cell_len(word) for cell in cells for word in cell.split(" "))
    return ColumnSize(longest_word, longest)


def _least_widths(sizes: Sequence[ColumnSize], room: int) -> list[int]:
    """Return the width of each column's longest word, or less if there is no room: rigid columns shrink last."""
    rest = room - sum(size.word for size in sizes if size.is_rigid)
    flexible = [size.word for size in sizes if not size.is_rigid]
    if rest < len(flexible):
        return _share([size.word for size in sizes], room)
    shares = iter(_share(flexible, rest))
    return [size.word if size.is_rigid else next(shares) for size in sizes]


def _share(wanted: Sequence[int], room: int) -> list[int]:
    """Return as much as wanted for each, or as much as the others get. In total it is at most `room`."""
    given = [0] * len(wanted)
    left = room
    for position, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        given[index] = min(wanted[index], left // (len(wanted) - position))
        left -= given[index]
    return given


def _total(widths: Iterable[int]) -> int:
    widths = list(widths)
    return sum(widths) + (len(widths) - 1) * GUTTER

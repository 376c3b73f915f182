"""The only code that prints: tables on a terminal, plain lines in a pipe, JSON where it is asked for.

stdout is data, stderr is everything else. What came from outside is shown with control, format and bidi characters
escaped, and never as Rich markup; only JSON keeps the value.
"""

import contextlib
import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime, timedelta
from io import TextIOWrapper
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from skychimp.cli.table_layout import Need, fit
from skychimp.errors import Interrupted, SkychimpError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment

Colour = tuple[int, int, int]
"""Red, green and blue."""

LONGEST_TABLE = 1_000
"""A longer list comes as plain lines on a terminal too: a table has to be held in memory as a whole."""

WIDEST_PAGE = 100
WIDEST_PICTURE = 80
HIGHEST_PICTURE = 40

COLOURS = {
    "sent": "green", "running": "green", "failed": "red", "expired": "red", "deferred": "yellow", "unknown": "magenta",
}  # fmt: skip
"""Of a cell that holds such a word alone."""

PIPE_CLOSED = 141
"""What a shell says of a command that SIGPIPE ended."""

_ESCAPED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def escape(text: str) -> str:
    """The text with each control, format or bidi character as `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED:
        return character
    number = ord(character)
    return _SHORT.get(character) or (f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")


def prepare_streams() -> None:
    """Let the standard streams take any text, and be there even where they were closed."""
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


class Tell(Protocol):
    """To be told how much is done, a few words about it, and how much it will be in all, where that is known."""

    def __call__(self, done: int, words: str, total: int | None = None) -> None: ...


@dataclass
class Output:
    json: bool = False
    quiet: bool = False

    @property
    def on_terminal(self) -> bool:
        return _is_terminal(sys.stdout)

    def rows(
        self,
        items: Iterable[Any],
        columns: Mapping[str, str],
        *,
        empty: str = "nothing here yet",
        spare: Iterable[str] = (),
    ) -> None:
        """Show a list of records as it is read; `columns` maps a field to its heading.

        On a terminal that is too narrow, the columns of `spare` are left out, the first one first.
        """
        if self.json:
            self._json_list(items)
            return
        items = iter(items)
        if not self.on_terminal:
            self._lines(items, columns)
            return
        first = list(islice(items, LONGEST_TABLE + 1))
        if not first:
            self.note(empty)
        elif len(first) > LONGEST_TABLE:
            self._lines(chain(first, items), columns)
        else:
            self._table(first, columns, spare)

    def lines(self, items: Iterable[Any], columns: Mapping[str, str]) -> None:
        """Show records as plain lines, or as JSON, one value a line; at once."""
        if self.json:
            for item in items:
                self._write(json.dumps(_record(item), default=_json_value, ensure_ascii=False))
        else:
            self._lines(items, columns)
        sys.stdout.flush()

    def csv(self, items: Iterable[Any], columns: Iterable[str], *, header: bool = True) -> None:
        """Show records as CSV, as they are read, the fields' names first; a spreadsheet runs nothing in it."""
        import csv

        from skychimp.services.clients.csv_files import quoted

        writer = csv.writer(sys.stdout, lineterminator="\n")
        if header:
            writer.writerow(columns)
        for item in items:
            writer.writerow([quoted(_plain(getattr(item, name))) for name in columns])
        sys.stdout.flush()

    def one(self, item: Any, fields: Sequence[str] | None = None) -> None:
        """Show one record: JSON, or a line a field."""
        record = _record(item)
        if self.json:
            self._write(json.dumps(record, default=_json_value, ensure_ascii=False, indent=2))
            return
        shown = {name: record[name] for name in fields or record}
        if not self.on_terminal:
            for name, value in shown.items():
                self._write(f"{name}\t{_plain(value)}")
            return
        console, width = _console(stderr=False), max(map(len, shown))
        for name, value in shown.items():
            console.print(f"{name:<{width}}  ", style="bold", end="")
            console.print(_for_eyes(value, lines=True), markup=False, soft_wrap=True)

    def text(self, text: str) -> None:
        """Show a text of several lines, each escaped."""
        self._write("\n".join(escape(line) for line in text.split("\n")))

    def raw(self, text: str) -> None:
        """Give out a text as it is: one that is made to be a file."""
        self._write(text, end="")

    def markdown(self, text: str) -> None:
        """Show Markdown as it is meant, or as it is in a pipe; escaped also where it was written as an entity."""
        if not self.on_terminal:
            self.text(text)
            return
        from rich.markdown import Markdown
        from rich.segment import Segment, Segments

        console = _console(stderr=False)
        options = console.options.update(width=self.width)
        drawn = console.render(Markdown(text, code_theme="ansi_dark", hyperlinks=False), options)
        safe = [
            Segment("\n".join(map(escape, part.text.split("\n"))), part.style) for part in drawn if not part.control
        ]
        console.print(Segments(safe), end="")

    @property
    def canvas(self) -> tuple[int, int] | None:
        """The width and height, in pixels, of a picture that can be shown; None where there are no colours."""
        console = _console(stderr=False)
        if not self.on_terminal or console.color_system is None or console.no_color:
            return None
        return min(console.width, WIDEST_PICTURE), HIGHEST_PICTURE

    def picture(self, rows: Sequence[Sequence[Colour | None]]) -> None:
        """Show the rows of an image, two a line: each character is an upper and a lower pixel."""
        from rich.segment import Segment, Segments

        halves: list[Segment] = []
        for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=[None] * len(rows[0])):
            halves += [_half_block(*pair) for pair in zip(upper, lower, strict=True)] + [Segment.line()]
        _console(stderr=False).print(Segments(halves))

    @property
    def width(self) -> int:
        """Of what is drawn: no wider than can be read well."""
        return min(_console(stderr=False).width, WIDEST_PAGE)

    def draw(self, *parts: "RenderableType") -> None:
        """Show what Rich draws, on a terminal; what is in it is escaped already."""
        console = _console(stderr=False)
        for part in parts:
            console.print(part, width=self.width)

    def heading(self, title: str, text: str) -> None:
        """Set off a part of a longer story."""
        console = _console(stderr=False)
        console.print(f"\n{escape(title)}", style="bold", markup=False)
        console.print("\n".join(map(escape, text.split("\n"))), style="cyan", markup=False, soft_wrap=True)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say what was done, or what to do next; not with --quiet."""
        if not self.quiet:
            self.warn(text)

    def next(self, command: str) -> None:
        """Say which command comes next, to a person who is there to type it."""
        if _is_terminal(sys.stderr) and sys.stdin.isatty() and not self.json:
            self.note(f"next: skychimp {command}")

    def warn(self, text: str) -> None:
        """Say what a person must see, on one line."""
        _say(escape(text))

    def error(self, error: SkychimpError) -> None:
        """Show an error: one line, and a hint where there is one."""
        if self.json:
            parts = {"code": error.code, "message": error.message, "hint": error.hint}
            _say(json.dumps({"error": parts}, ensure_ascii=False))
            return
        in_colour = _is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
        _say(("\x1b[1;31merror:\x1b[0m " if in_colour else "error: ") + escape(error.message))
        if error.hint:
            self.warn(f"hint: {error.hint}")

    def ask(self, question: str) -> str:
        """One line from the person at the terminal. Raises Interrupted where there is no more."""
        _say(f"{escape(question)} ", end="")
        answer = sys.stdin.readline()
        if not answer:
            _say("")
            raise Interrupted("aborted")
        return answer.strip()

    def ask_secret(self, question: str) -> str:
        """One line that is not shown. Raises Interrupted where there is no more."""
        from getpass import getpass

        try:
            return getpass(f"{question} ", stream=sys.stderr)
        except EOFError:
            raise Interrupted("aborted") from None

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Tell]:
        """Show long work with its rate and the time left: a bar on a terminal, a line every ten seconds elsewhere."""
        if self.quiet:
            yield lambda done, words, total=None: None
        elif _is_terminal(sys.stderr):
            yield from self._bar(title, total)
        else:
            yield self._now_and_then(title, total)

    def finish(self, status: int) -> int:
        """Flush what is left; the exit status, which a stdout that can't be written changes."""
        try:
            sys.stdout.flush()
        except OSError as error:
            if status == 0 and not isinstance(error, BrokenPipeError):
                self.error(SkychimpError(f"stdout can't be written: {error.strerror}"))
            _abandon(sys.stdout)
            return PIPE_CLOSED if isinstance(error, BrokenPipeError) else status or 1
        return status

    def _bar(self, title: str, of: int | None) -> Iterator[Tell]:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[words]}", markup=False),
        )
        console, pace = _console(stderr=True), _Pace()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=of, words="")

            def tell(done: int, words: str, total: int | None = of) -> None:
                words = f"{done}/{total or '?'} {words}{pace.of(done, total)}"
                bar.update(task, completed=done, total=total, words=words)

            yield tell

    def _now_and_then(self, title: str, of: int | None) -> Tell:
        pace = _Pace()
        last = pace.began

        def tell(done: int, words: str, total: int | None = of) -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                self.note(f"{title}: {done}" + (f" of {total} " if total else " ") + words + pace.of(done, total))

        return tell

    def _json_list(self, items: Iterable[Any]) -> None:
        _write_list(sys.stdout, items)
        self._write("")

    def _lines(self, items: Iterable[Any], columns: Mapping[str, str]) -> None:
        for item in items:
            self._write("\t".join(_plain(getattr(item, name)) for name in columns))

    def _table(self, items: Sequence[Any], columns: Mapping[str, str], spare: Iterable[str]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        console = _console(stderr=False)
        cells = {name: [columns[name], *(_in_table(getattr(item, name)) for item in items)] for name in columns}
        cells = {name: column for name, column in cells.items() if any(column[1:])} or cells
        needs = {name: _need(name, column, items) for name, column in cells.items()}
        widths = fit(needs, spare, console.width)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, width in widths.items():
            table.add_column(columns[name], overflow="fold", width=width)
        for row in zip(*(cells[name][1:] for name in widths), strict=True):
            table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
        console.print(table)

    def _write(self, line: str, end: str = "\n") -> None:
        sys.stdout.write(line + end)


class _Pace:
    """How fast a long work goes, from its beginning on; Rich's own begins anew whenever the total changes."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def of(self, done: int, total: int | None) -> str:
        """The time left, where the total is known, and the rate."""
        rate = done / max(time.monotonic() - self.began, 0.001)
        if not done:
            return ""
        left = f", {timedelta(seconds=round(max(total - done, 0) / rate))} left" if total else ""
        return f"{left}, {rate:,.0f}/s"


def _need(name: str, column: Sequence[str], items: Iterable[Any]) -> Need:
    """What a column needs; its times and ids are words, and its addresses are rather kept whole than a reply."""
    from rich.cells import cell_len

    longest = max(map(cell_len, column))
    if all(isinstance(getattr(item, name), datetime | int | None) for item in items):
        return Need(longest, longest, firm=True)
    return Need(max(cell_len(word) for cell in column for word in cell.split(" ")), longest, firm=name == "email")


def _half_block(upper: Colour | None, lower: Colour | None) -> "Segment":
    from rich.color import Color
    from rich.segment import Segment
    from rich.style import Style

    above, below = (None if colour is None else Color.from_rgb(*colour) for colour in (upper, lower))
    if above is None:
        return Segment("▄" if below else " ", Style(color=below))
    return Segment("▀", Style(color=above, bgcolor=below))


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _say(line: str, end: str = "\n") -> None:
    try:
        print(line, end=end, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # nobody listens: the work is not to stop for that
        _abandon(sys.stderr)


def _abandon(stream: TextIO) -> None:
    """Let what is still written to a stream go nowhere, so that it fails no more."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _record(item: Any) -> dict[str, Any]:
    """A record's fields; none of them is a record itself, so that nothing has to be copied deeply."""
    return dict(vars(item)) if is_dataclass(item) else dict(item)


def write_object(opened: TextIO, parts: Iterable[tuple[str, Any]]) -> None:
    """Write one JSON object, a part at a time; a part that is an iterator becomes a list, as it is read."""
    opening = "{"
    for name, part in parts:
        opened.write(f"{opening}\n{json.dumps(name)}: ")
        opening = ","
        if isinstance(part, Iterator):
            _write_list(opened, part)
        else:
            opened.write(_as_json(part))
    opened.write("\n}\n")


def _write_list(opened: TextIO, items: Iterable[Any]) -> None:
    opening = "["
    for item in items:
        opened.write(opening + _as_json(item))
        opening = ",\n "
    opened.write("[]" if opening == "[" else "]")


def _as_json(item: Any) -> str:
    return json.dumps(_record(item), default=_json_value, ensure_ascii=False)


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        from skychimp.durations import format_duration

        return format_duration(value)
    raise TypeError(f"{type(value).__name__} is not shown as JSON")


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime | timedelta):
        return str(_json_value(value))
    if isinstance(value, list | tuple):
        return ",".join(_plain(part) for part in value)
    return escape(str(value))


def _in_table(value: Any) -> str:
    """As `_for_eyes`, but a time to the minute: a table is narrow, and `show` has the seconds."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(value, datetime) else _for_eyes(value)


def _for_eyes(value: Any, *, lines: bool = False) -> str:
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    if isinstance(value, str):
        return "\n".join(map(escape, value.split("\n"))) if lines else escape(value)
    return _plain(value)

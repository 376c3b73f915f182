"""The only code that prints: tables on a terminal, plain lines in a pipe, JSON where it is asked for.

stdout is data, stderr is everything else. What came from outside is shown with control, format and bidi characters
escaped, and never as Rich markup; only JSON keeps the value.
"""

import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from datetime import datetime, timedelta
from io import TextIOWrapper
from itertools import chain, islice, zip_longest
from typing import TYPE_CHECKING, Any, TextIO

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

NARROWEST_COLUMN = 12
GUTTER = 3

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


@dataclass
class Output:
    json: bool = False
    quiet: bool = False

    @property
    def on_terminal(self) -> bool:
        return _is_terminal(sys.stdout)

    def rows(self, items: Iterable[Any], columns: Mapping[str, str], *, empty: str = "nothing here yet") -> None:
        """Show a list of records as it is read; `columns` maps a field to its heading."""
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
            self._table(first, columns)

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

        from skychimp.services.clients_csv import quoted

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
        drawn = console.render(Markdown(text, hyperlinks=False))
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
            console.print(part, width=min(console.width, WIDEST_PAGE))

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
    def progress(self, title: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
        """Show long work: a bar on a terminal, a line every ten seconds elsewhere.

        Gives a function to be told how much is done, and a few words about it.
        """
        if self.quiet:
            yield lambda done, words: None
        elif _is_terminal(sys.stderr):
            yield from self._bar(title, total)
        else:
            yield self._now_and_then(title)

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

    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}", markup=False),
        )
        console = _console(stderr=True)
        with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=total, words="")
            yield lambda done, words: bar.update(task, completed=done, words=words)

    def _now_and_then(self, title: str) -> Callable[[int, str], None]:
        import time

        last = time.monotonic()

        def tell(done: int, words: str) -> None:
            nonlocal last
            if time.monotonic() - last >= 10:
                last = time.monotonic()
                self.note(f"{title}: {done} {words}".rstrip())

        return tell

    def _json_list(self, items: Iterable[Any]) -> None:
        _write_list(sys.stdout, items)
        self._write("")

    def _lines(self, items: Iterable[Any], columns: Mapping[str, str]) -> None:
        for item in items:
            self._write("\t".join(_plain(getattr(item, name)) for name in columns))

    def _table(self, items: Sequence[Any], columns: Mapping[str, str]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        console = _console(stderr=False)
        cells = {name: [_in_table(getattr(item, name)) for item in items] for name in columns}
        whole = _to_keep_whole(cells, columns, console.width)
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, heading in columns.items():
            table.add_column(heading, overflow="fold", no_wrap=name in whole)
        for row in zip(*cells.values(), strict=True):
            table.add_row(*map(Text, row))
        console.print(table)

    def _write(self, line: str, end: str = "\n") -> None:
        sys.stdout.write(line + end)


def _to_keep_whole(cells: Mapping[str, Sequence[str]], headings: Mapping[str, str], width: int) -> set[str]:
    """The columns that hold single words, as addresses, where there is room for them beside the others."""
    from rich.cells import cell_len

    words = {
        name: max(map(cell_len, (headings[name], *column)))
        for name, column in cells.items()
        if " " not in "".join(column)
    }
    needed = sum(words.values()) + (len(cells) - len(words)) * NARROWEST_COLUMN + len(cells) * GUTTER
    return set(words) if needed <= width else set()


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
        from skychimp.config import format_duration

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

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
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from skychimp.cli.layout import Need, fit
from skychimp.errors import Interrupted, SkychimpError

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_TABLE = 1_000
"""A longer list comes as plain lines on a terminal too: a table has to be held in memory as a whole."""

WIDEST_TEXT = 100
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
        """Show records as plain lines, at once."""
        self._lines(items, columns)
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

    def markdown(self, text: str) -> None:
        """Show a text of our own: laid out on a terminal, as it is written elsewhere."""
        if not self.on_terminal:
            self.text(text)
            return
        from rich.markdown import Markdown

        console = _console(stderr=False)
        console.print(Markdown(text, code_theme="ansi_dark"), width=min(console.width, WIDEST_TEXT))

    def heading(self, title: str, text: str) -> None:
        """Set off a part of a longer story."""
        console = _console(stderr=False)
        console.print(f"\n{title}", style="bold", markup=False)
        console.print(text, style="cyan", markup=False, soft_wrap=True)
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
        opened = "["
        for item in items:
            self._write(opened + json.dumps(_record(item), default=_json_value, ensure_ascii=False), end="")
            opened = ",\n "
        self._write("[]" if opened == "[" else "]")

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

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
from dataclasses import asdict, dataclass, is_dataclass
from datetime import datetime
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from skychimp.errors import SkychimpError

if TYPE_CHECKING:
    from rich.console import Console

LONGEST_TABLE = 1_000
"""A longer list comes as plain lines on a terminal too: a table has to be held in memory as a whole."""

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


@dataclass
class Output:
    json: bool
    quiet: bool
    color: bool

    def __post_init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")

    @property
    def on_terminal(self) -> bool:
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

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
        width = max(map(len, shown))
        for name, value in shown.items():
            self.console().print(f"{name:<{width}}  ", style="bold", end="", highlight=False)
            self.console().print(_for_eyes(value, lines=True), markup=False, highlight=False, soft_wrap=True)

    def text(self, text: str) -> None:
        """Show a text of several lines, each escaped."""
        self._write("\n".join(escape(line) for line in text.split("\n")))

    def heading(self, title: str, text: str) -> None:
        """Set off a part of a longer story."""
        self.console().print(f"\n{title}", style="bold", markup=False)
        self.console().print(text, style="cyan", markup=False, soft_wrap=True)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Say what was done, or what to do next; not with --quiet."""
        if not self.quiet:
            print(escape(text), file=sys.stderr)  # noqa: T201

    def warn(self, text: str) -> None:
        """Say what a person must see, on one line."""
        print(escape(text), file=sys.stderr)  # noqa: T201

    def error(self, error: SkychimpError) -> None:
        """Show an error: one line, and a hint where there is one."""
        with contextlib.suppress(OSError):
            if self.json:
                parts = {"code": error.code, "message": error.message, "hint": error.hint}
                print(json.dumps({"error": parts}, ensure_ascii=False), file=sys.stderr)  # noqa: T201
                return
            self._red("error: ", error.message)
            if error.hint:
                self.warn(f"hint: {error.hint}")

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None = None) -> Iterator[Callable[[int, str], None]]:
        """Show long work: a bar on a terminal, a line every ten seconds elsewhere.

        Gives a function to be told how much is done, and a few words about it.
        """
        if self.quiet:
            yield lambda done, words: None
        elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            yield from self._bar(title, total)
        else:
            yield self._now_and_then(title)

    def console(self) -> "Console":
        """Rich's console on stdout, without colours where they are not wanted."""
        return _console(self.color, stderr=False)

    def finish(self, status: int) -> int:
        """Flush; the exit status, which a closed pipe may change."""
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        return status

    def _bar(self, title: str, total: int | None) -> Iterator[Callable[[int, str], None]]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
        )
        console = _console(self.color, stderr=True)
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

    def _red(self, label: str, text: str) -> None:
        if not sys.stderr.isatty() or not self.color or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
            self.warn(label + text)
            return
        print(f"\x1b[1;31m{label}\x1b[0m{escape(text)}", file=sys.stderr)  # noqa: T201

    def _json_list(self, items: Iterable[Any]) -> None:
        opened = "["
        for item in items:
            self._write(opened + json.dumps(_record(item), default=_json_value, ensure_ascii=False), end="")
            opened = ",\n "
        self._write("[]" if opened == "[" else "]")

    def _lines(self, items: Iterable[Any], columns: Mapping[str, str]) -> None:
        for item in items:
            self._write("\t".join(_plain(getattr(item, name)) for name in columns))

    def _table(self, items: Sequence[Any], columns: Mapping[str, str]) -> None:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in columns.values():
            table.add_column(heading, overflow="fold")
        for item in items:
            table.add_row(*(Text(_for_eyes(getattr(item, name))) for name in columns))
        self.console().print(table)

    def _write(self, line: str, end: str = "\n") -> None:
        sys.stdout.write(line + end)


def _console(color: bool, *, stderr: bool) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr, no_color=None if color else True, highlight=False, emoji=False)


def _record(item: Any) -> dict[str, Any]:
    return asdict(item) if is_dataclass(item) and not isinstance(item, type) else dict(item)


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not shown as JSON")


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return ",".join(_plain(part) for part in value)
    return escape(str(value))


def _for_eyes(value: Any, *, lines: bool = False) -> str:
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")
    if isinstance(value, list | tuple):
        return ", ".join(_plain(part) for part in value)
    if isinstance(value, str):
        return "\n".join(map(escape, value.splitlines())) if lines else escape(value)
    return _plain(value)

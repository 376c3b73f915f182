"""Print everything that the program prints: tables on a terminal, plain lines in a pipe, JSON on request.

stdout is for data, stderr for everything else. Values from outside are shown with control, format and bidi characters
escaped, and never as Rich markup. JSON keeps their values: it writes such characters as `\\u202e`.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TextIO

from skychimp import safe_json, shell
from skychimp.cli.display import progress
from skychimp.cli.display.progress import ProgressReporter
from skychimp.cli.display.values import (
    escape,
    fields,
    json_text,
    plain_text,
    terminal_text,
    write_json_list,
    write_json_object,
)
from skychimp.errors import Interrupted, InvalidQuery, SkychimpError
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.segment import Segment

Color = tuple[int, int, int]
"""Red, green and blue."""

MAX_PAGE_WIDTH = 100
MAX_PICTURE_WIDTH = 80
MAX_PICTURE_HEIGHT = 40

NOTHING_YET = tr("nothing here yet")

YES = ("y", "yes", "д", "да")
"""The answers to a question that mean yes, in lower case."""

PIPE_CLOSED = 141
"""The exit status that a shell gives to a command that SIGPIPE ended."""


def prepare_streams() -> None:
    """Make the standard streams take any text, and open those that are closed."""
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


def is_output_broken() -> bool:
    """Return whether stdout cannot take what was written to it, for example because a disk is full."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def output_error(error: OSError) -> SkychimpError:
    """Return the error for output that cannot be written, although the command may have done its work."""
    return SkychimpError(
        tr("cannot write the output: {strerror}", strerror=error.strerror),
        tr("any change that the command made is kept"),
    )


def new_console(*, stderr: bool) -> "Console":
    """Return a Rich console for stdout or stderr that shows text as it is."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, emoji=False)


@dataclass
class Output:
    """What a command prints with."""

    json: bool = False
    quiet: bool = False
    log: Callable[[str, str, Mapping[str, object]], None] | None = None
    """Takes messages in place of stderr, if a program reads the log: a level, a text and further fields."""

    @property
    def on_terminal(self) -> bool:
        """Whether stdout is a terminal that can do more than plain lines."""
        return _is_terminal(sys.stdout)

    # Data, on stdout

    def rows(
        self,
        records: Iterable[Any],
        columns: Mapping[str, str],
        *,
        noun: str = "",
        plural: str = "",
        empty: Phrase = NOTHING_YET,
        optional: Iterable[str] = (),
        is_filtered: bool = False,
    ) -> None:
        """Show a list of records as they are read. `columns` maps each field to its heading.

        On a terminal, it is a table. A `noun` such as "client" tells how many there are, with its `plural` unless that
        has only an "s" more. `optional` columns are left out if the terminal is too narrow, the first one first.
        `empty` is shown for an empty list, unless it `is_filtered`: then nothing matches. In a pipe, nothing is.
        """
        if self.json:
            write_json_list(sys.stdout, records)
            self._write("")
            return
        if not self.on_terminal:
            self._write_lines(records, columns)
            return
        from skychimp.cli.display.tables import show_list

        if not show_list(new_console(stderr=False), records, columns, optional, noun, plural):
            self.note(_why_nothing_is_shown(records, noun, plural, empty, is_filtered=is_filtered))

    def lines(self, records: Iterable[Any], columns: Mapping[str, str]) -> None:
        """Show records as plain lines, or as one JSON value per line, without buffering."""
        if self.json:
            for record in records:
                self._write(json_text(record))
        else:
            self._write_lines(records, columns)
        sys.stdout.flush()

    def csv(self, records: Iterable[Any], columns: Iterable[str], *, header: bool = True) -> None:
        """Show records as CSV, as they are read. Formulas are escaped, so that no spreadsheet runs them."""
        import csv

        from skychimp.services.clients.files.csv_files import escape_formula

        writer = csv.writer(sys.stdout, lineterminator="\n")
        if header:
            writer.writerow(columns)
        for record in records:
            writer.writerow([escape_formula(plain_text(getattr(record, name))) for name in columns])
        sys.stdout.flush()

    def record(self, record: Any, names: Sequence[str] | None = None) -> None:
        """Show one record as JSON or as a line per field. Without JSON, `names` are the fields to show."""
        if self.json:
            self._write(json_text(record, indent=2))
            return
        values = fields(record)
        shown = {name: values[name] for name in names or values}
        if not self.on_terminal:
            for name, value in shown.items():
                self._write(f"{name}\t{plain_text(value)}")
            return
        labels = {name: translated(name) for name in shown}
        console, width = new_console(stderr=False), max(map(len, labels.values()))
        for name, value in shown.items():
            console.print(f"{labels[name]:<{width}}  ", style="bold", end="")
            text = terminal_text(value, multiline=True)
            console.print(_wrapped(text, console.width, width + 2), markup=False, soft_wrap=True)

    def json_object(self, parts: Iterable[tuple[str, Any]]) -> None:
        """Write one JSON object, a part at a time, as the parts are read. An iterator becomes a list."""
        write_json_object(sys.stdout, parts)

    def text(self, text: str) -> None:
        """Show a text of several lines, each escaped."""
        self._write(terminal_text(text, multiline=True))

    def raw(self, text: str) -> None:
        """Write a text as it is, because it is going to be a file."""
        self._write(text, end="")

    def markdown(self, text: str) -> None:
        """Show Markdown formatted on a terminal, and as it is in a pipe."""
        if not self.on_terminal:
            self.text(text)
            return
        from rich.markdown import Markdown
        from rich.segment import Segment, Segments

        console = new_console(stderr=False)
        options = console.options.update(width=self.width)
        rendered = console.render(Markdown(text, code_theme="ansi_dark", hyperlinks=False), options)
        # Escaped after it is rendered, because Markdown can write any character as an entity.
        safe = [
            Segment("\n".join(map(escape, part.text.split("\n"))), part.style) for part in rendered if not part.control
        ]
        console.print(Segments(safe), end="")

    @property
    def picture_size(self) -> tuple[int, int] | None:
        """The largest width and height of a picture, in pixels, or None if the output has no colors."""
        console = new_console(stderr=False)
        if not self.on_terminal or console.color_system is None or console.no_color:
            return None
        return min(console.width, MAX_PICTURE_WIDTH), MAX_PICTURE_HEIGHT

    def picture(self, rows: Sequence[Sequence[Color | None]]) -> None:
        """Show the rows of an image, two per line: each character is an upper and a lower pixel."""
        from rich.segment import Segment, Segments

        halves: list[Segment] = []
        for upper, lower in zip_longest(rows[::2], rows[1::2], fillvalue=[None] * len(rows[0])):
            halves += [_half_block(*pair) for pair in zip(upper, lower, strict=True)] + [Segment.line()]
        new_console(stderr=False).print(Segments(halves))

    @property
    def width(self) -> int:
        """The width of what is drawn: that of the terminal, but at most what is easy to read."""
        return min(new_console(stderr=False).width, MAX_PAGE_WIDTH)

    def draw(self, *parts: "RenderableType") -> None:
        """Show what Rich draws, on a terminal. The caller has escaped it."""
        console = new_console(stderr=False)
        for part in parts:
            console.print(part, width=self.width)

    def heading(self, title: Phrase, text: str = "") -> None:
        """Show a heading and the line below it, if there is one."""
        console = new_console(stderr=False)
        console.print(f"\n{terminal_text(title)}", style="bold", markup=False)
        if text:
            console.print(terminal_text(text, multiline=True), style="cyan", markup=False, soft_wrap=True)
        sys.stdout.flush()

    # Messages, on stderr

    def note(self, text: Phrase) -> None:
        """Show one line about what was done. Nothing with --quiet."""
        if not self.quiet:
            self._tell("info", text)

    def next(self, *words: object) -> None:
        """Suggest the next `skychimp` command to a person at a terminal. The words are quoted for the shell."""
        if _is_terminal(sys.stderr) and sys.stdin.isatty() and not self.json:
            self.note(tr("next: {command}", command=shell.command(*words)))

    def warn(self, text: Phrase) -> None:
        """Show one line that the user must see."""
        self._tell("warning", text)

    def write_log_line(self, line: str) -> None:
        """Write a line of the log."""
        _print_message(escape(line))

    def error(self, error: SkychimpError) -> None:
        """Show an error: one line, and another for its hint."""
        if self.json:
            parts = {"code": error.code, "message": error.message, "hint": error.hint}
            _print_message(safe_json.dumps({"error": parts}))
            return
        if self.log is not None:
            self.log("error", error.message, {"code": error.code, "hint": error.hint})
            return
        has_color = _is_terminal(sys.stderr) and not os.environ.get("NO_COLOR")
        label = terminal_text(tr("error:"))
        _print_message((f"\x1b[1;31m{label}\x1b[0m " if has_color else f"{label} ") + terminal_text(error.message))
        if isinstance(error, InvalidQuery):
            from skychimp.cli.display.query_errors import pointed_lines

            for line in pointed_lines(error.query, error.position):
                _print_message(line)
        if error.hint:
            self.warn(tr("hint: {hint}", hint=error.hint))

    def ask(self, question: Phrase) -> str:
        """Return the answer of the person at the terminal, one line. Raises Interrupted at the end of the input."""
        _print_message(f"{terminal_text(question)} ", end="")
        with _end_line_without_answer():
            answer = sys.stdin.readline()
            if not answer:
                raise EOFError
            return answer.strip()

    def ask_secret(self, question: Phrase) -> str:
        """Return an answer that is not shown while it is typed. Raises Interrupted at the end of the input."""
        from getpass import getpass

        with _end_line_without_answer():
            return getpass(f"{translated(question)} ", stream=sys.stderr)

    @contextlib.contextmanager
    def progress(self, title: str, total: int | None = None, *, delay_s: float = 0) -> Iterator[ProgressReporter]:
        """Show the progress, rate and time left of long work: a bar on a terminal, a line now and then elsewhere.

        Work that takes less than `delay_s` shows nothing.
        """
        if self.quiet:
            yield progress.ignore_progress
        elif _is_terminal(sys.stderr) and self.log is None:
            yield from progress.progress_bar(new_console(stderr=True), title, total, delay_s)
        else:
            yield progress.progress_lines(self.note, title, total)

    def finish(self, status: int, text: str = "") -> int:
        """Write the last text, flush the output and return the exit status: an error's if stdout cannot be written."""
        try:
            self.raw(text)
            sys.stdout.flush()
        except OSError as error:
            if status == 0 and not isinstance(error, BrokenPipeError):
                self.error(output_error(error))
            _discard_output(sys.stdout)
            return PIPE_CLOSED if isinstance(error, BrokenPipeError) else status or 1
        return status

    def _tell(self, level: str, text: str) -> None:
        if self.log is not None:
            self.log(level, text.removeprefix("warning: "), {})
        else:
            _print_message(terminal_text(text))

    def _write_lines(self, records: Iterable[Any], columns: Mapping[str, str]) -> None:
        for record in records:
            self._write("\t".join(plain_text(getattr(record, name)) for name in columns))

    def _write(self, line: str, end: str = "\n") -> None:
        sys.stdout.write(line + end)


def _why_nothing_is_shown(
    records: Iterable[Any], noun: str, plural: str, empty: Phrase, *, is_filtered: bool
) -> Phrase:
    from skychimp.listed import Listed
    from skychimp.text import count_of

    if isinstance(records, Listed) and records.is_part and (total := records.count()):
        return tr("{shown:,} of {total}", shown=0, total=count_of(total, noun, plural))
    return tr(f"no matching {plural or noun + 's'}") if is_filtered else empty


def _wrapped(text: str, width: int, indent: int) -> str:
    """Return a text of one line in lines that fit into a width after an indent. A word is never broken.

    Widths are in columns of the terminal: a Chinese character has two.
    """
    from rich.cells import cell_len

    if "\n" in text:
        return text
    lines: list[list[str]] = []
    used = width
    for word in text.split(" "):
        needed = cell_len(word)
        if lines and used + 1 + needed <= width:
            lines[-1].append(word)
            used += 1 + needed
        else:
            lines.append([word])
            used = indent + needed
    return ("\n" + " " * indent).join(map(" ".join, lines))


def _half_block(upper: Color | None, lower: Color | None) -> "Segment":
    from rich.color import Color as RichColor
    from rich.segment import Segment
    from rich.style import Style

    above, below = (None if color is None else RichColor.from_rgb(*color) for color in (upper, lower))
    if above is None:
        return Segment("▄" if below else " ", Style(color=below))
    return Segment("▀", Style(color=above, bgcolor=below))


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextlib.contextmanager
def _end_line_without_answer() -> Iterator[None]:
    """End the line of a question that gets no answer. Raises Interrupted at the end of the input."""
    try:
        yield
    except KeyboardInterrupt:
        _print_message("")
        raise
    except EOFError:
        _print_message("")
        raise Interrupted(tr("interrupted")) from None


def _print_message(line: str, end: str = "\n") -> None:
    try:
        print(line, end=end, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:  # nobody reads stderr, which is no reason to stop the work
        _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
    """Let what is still written to a stream go nowhere, so that it does not fail again."""
    with open(os.devnull, "w", encoding="utf-8") as null:
        os.dup2(null.fileno(), stream.fileno())

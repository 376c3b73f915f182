"""Read and write clients as CSV.

Each row that cannot be read is reported with its line number, and the rows after it are still read. After an unclosed
quote the lines of its row are read again, as rows of their own. A file with nothing but unclosed quotes is not read to
its end. Cells that a spreadsheet would run as a formula are written with an apostrophe in front.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from skychimp.errors import InvalidValue
from skychimp.services.clients import third_party_exports
from skychimp.services.clients.clients import ClientInfo
from skychimp.services.clients.importing import FileRow, ImportedRow, InvalidRow
from skychimp.services.clients.third_party_exports import RowReader
from skychimp.text import count_of

ENCODING, ERRORS, NEWLINE = "utf-8-sig", "surrogateescape", ""
"""How a file must be opened for `read`: invalid UTF-8 is then reported row by row, and line ends are kept."""

HEADINGS = ("email", "name", "comment", "tags")
MAX_LINE_LENGTH = 1_000_000  # characters; also the maximum of a cell and, about, of a row with several lines
MAX_COLUMNS = 1_000

_HEADING_ALIASES = {
    "e-mail": "email", "email address": "email", "e-mail address": "email", "mail": "email",
    "full name": "name", "full_name": "name", "fullname": "name", "tag": "tags", "comments": "comment",
}  # fmt: skip
_MAX_SKIPPED = 100_000_000  # characters of one line
_LINE_COST = 50  # reading a line takes as long as reading this many characters
_MAX_REREAD_COST = 20_000_000  # characters and _LINE_COST per line
_DELIMITERS = ",;\t"
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_HEADER_HINT = "the first line must name the columns: email,name,comment,tags"


class ClientFile(NamedTuple):
    """A file of clients whose rows are read one by one.

    `columns` are those of HEADINGS that the file has, `ignored_columns` the others. `tool` is the mailing tool that
    exported the file, if it is known.
    """

    columns: Sequence[str]
    ignored_columns: Sequence[str]
    rows: Iterator[FileRow]
    tool: str = ""


def read(opened: TextIO) -> ClientFile:
    """Read a file that was opened with ENCODING, ERRORS and NEWLINE. Its delimiter is a comma, semicolon or tab.

    Raises InvalidValue if the first line does not name the columns.
    """
    lines = _LineReader(opened)
    header = _read_header(lines)
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        headings = next(csv.reader([header], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise InvalidValue("unclosed quote in the first line", _HEADER_HINT) from None
    if len(headings) > MAX_COLUMNS:
        raise InvalidValue(f"the file has {len(headings):,} columns", f"use at most {MAX_COLUMNS:,} columns")
    if export := third_party_exports.recognise(headings, str(getattr(opened, "name", ""))):
        rows = _read_rows(lines, len(headings), delimiter, export.read_row)
        return ClientFile(export.columns, (), rows, export.tool)
    columns = [_column_name(heading) for heading in headings]
    known = [name for name in HEADINGS if name in columns]
    if "email" not in known:
        raise InvalidValue('missing column "email"', _HEADER_HINT)
    if duplicates := [name for name in known if columns.count(name) > 1]:
        raise InvalidValue(f'duplicate column "{duplicates[0]}"', "remove one of them")
    ignored = [name for name in columns if name and name not in known]
    return ClientFile(known, ignored, _read_rows(lines, len(columns), delimiter, _row_reader(columns)))


def write(opened: TextIO, clients: Iterable[ClientInfo]) -> int:
    """Write clients with a header, so that `read` returns the same clients. Return their number."""
    writer = csv.writer(opened, lineterminator="\n")
    writer.writerow(HEADINGS)
    number = 0
    for client in clients:
        writer.writerow(map(escape_formula, (client.email, client.name, client.comment, ",".join(client.tags))))
        number += 1
    return number


def skip_line(opened: TextIO, start: str) -> None:
    """Read the rest of a line that is too long. Raises InvalidValue if it does not end, as in /dev/zero."""
    skipped = 0
    while start and not start.endswith(("\n", "\r")):
        start = opened.readline(MAX_LINE_LENGTH)
        skipped += len(start)
        if skipped > _MAX_SKIPPED:
            raise InvalidValue(f"a line is longer than {_MAX_SKIPPED:,} characters", "use a file of text")


def escape_formula(cell: str) -> str:
    """Return the cell with an apostrophe in front if a spreadsheet would run it as a formula.

    A cell that already looks escaped gets another apostrophe, so that `_unescape_formula` returns every cell unchanged.
    """
    return "'" + cell if _is_formula(cell) else cell


class _LineReader:
    """Yields the lines of a text and counts them. The lines of a row that cannot be read can be read again."""

    def __init__(self, opened: TextIO) -> None:
        self.row_start = 1
        """The number of the line at which the current row begins. The header is line 1."""
        self._opened = opened
        self._row: list[str] = []
        self._row_cost = 0
        self._pushed_back: list[str] = []
        self._reread_cost = 0
        self._max_reread_cost = _MAX_REREAD_COST

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._row_cost > MAX_LINE_LENGTH:
            raise _RowTooLong
        line = self._pushed_back.pop() if self._pushed_back else self._read_line()
        if not line:
            raise StopIteration
        self._row_cost += len(line) + _LINE_COST
        if len(line) == MAX_LINE_LENGTH:
            self._row.append("\n")
            skip_line(self._opened, line)
            raise _LineTooLong
        self._row.append(line)
        return line

    def end_row(self) -> None:
        """Start the next row."""
        self.row_start += len(self._row)
        self._row.clear()
        self._row_cost = 0

    def discard_first_line(self) -> None:
        """End the current row after its first line. Its other lines are read again, as rows of their own."""
        self._reread_cost += self._row_cost
        self._pushed_back.extend(self._row[:0:-1])
        del self._row[1:]
        self.end_row()

    @property
    def is_exhausted(self) -> bool:
        """Return whether too much was read again, compared with what was read of the file."""
        return self._reread_cost > self._max_reread_cost

    def _read_line(self) -> str:
        line = self._opened.readline(MAX_LINE_LENGTH)
        self._max_reread_cost += 2 * (len(line) + _LINE_COST)
        return line


class _LineTooLong(csv.Error):
    pass


class _RowTooLong(csv.Error):
    pass


def _read_header(lines: _LineReader) -> str:
    try:
        header = next(lines, "")
    except _LineTooLong:
        header = ""
    lines.end_row()
    if "\0" in header or any("\ud800" <= character <= "\udfff" for character in header):
        raise InvalidValue("the file is not valid UTF-8", "save it as UTF-8")
    return header


def _column_name(heading: str) -> str:
    name = heading.strip().casefold()
    return _HEADING_ALIASES.get(name, name)


def _read_rows(lines: _LineReader, width: int, delimiter: str, read_row: RowReader) -> Iterator[FileRow]:
    csv.field_size_limit(MAX_LINE_LENGTH)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InvalidRow(lines.row_start, _reason(error))
            lines.discard_first_line()
            if lines.is_exhausted:
                yield InvalidRow(lines.row_start, "too many unclosed quotes; the rest of the file was not read")
                return
            continue
        text = "".join(cells)
        if len(cells) > width:
            yield InvalidRow(lines.row_start, f"{len(cells)} cells, but the header has {count_of(width, 'column')}")
        elif text and not text.isspace():
            if "'" in text:
                cells = [_unescape_formula(cell) for cell in cells]
            yield read_row(lines.row_start, cells + [""] * (width - len(cells)))
        lines.end_row()


def _row_reader(columns: Sequence[str]) -> RowReader:
    """Return the reader for the rows of a file whose columns have our headings."""
    missing = len(columns)
    email, name, comment, tags = (columns.index(name) if name in columns else missing for name in HEADINGS)

    def read_row(line: int, cells: Sequence[str]) -> ImportedRow:
        cells = [*cells, ""]  # the last cell stands for a missing column
        return ImportedRow(line, cells[email], cells[name], cells[comment], _split_tags(cells[tags]))

    return read_row


def _reason(error: csv.Error) -> str:
    if isinstance(error, _LineTooLong):
        return f"longer than {MAX_LINE_LENGTH:,} characters"
    return "unclosed quote, or a quote inside a cell that is not doubled"


def _split_tags(cell: str) -> Sequence[str]:
    return [tag.strip() for tag in cell.replace(";", ",").split(",") if tag.strip()] if cell else ()


def _unescape_formula(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(cell: str) -> bool:
    return cell.lstrip("'").startswith(_FORMULA_STARTS)

"""Clients as CSV: read so that a bad row costs only itself, and written so that a spreadsheet runs nothing in it."""

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TextIO

from skychimp.errors import InvalidValue
from skychimp.services.clients import third_party_exports
from skychimp.services.clients.clients import ClientInfo
from skychimp.services.clients.importing import BadRow, ClientRow, LeftOut
from skychimp.services.clients.third_party_exports import Make

ENCODING, ERRORS, NEWLINE = "utf-8-sig", "surrogateescape", ""
HEADINGS = ("email", "name", "comment", "tags")
LONGEST_LINE = 1_000_000  # characters; also of a cell
_KNOWN_AS = {
    "e-mail": "email", "email address": "email", "e-mail address": "email", "mail": "email",
    "full name": "name", "full_name": "name", "fullname": "name", "tag": "tags", "comments": "comment",
}  # fmt: skip
_DELIMITERS = ",;\t"
_RUNS_IN_A_SPREADSHEET = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


class Sheet(NamedTuple):
    """A file of clients: those of HEADINGS that it has, its other columns, and its rows, as they are read."""

    columns: Sequence[str]
    others: Sequence[str]
    rows: Iterator[ClientRow | BadRow | LeftOut]
    tool: str = ""
    """The mailing tool whose export it is."""


def read(opened: TextIO) -> Sheet:
    """A sheet from a text opened with the three settings below; comma, semicolon or tab stands between its cells.

    Raises InvalidValue where the first line doesn't name the columns.
    """
    lines = _Lines(opened)
    header = _header(lines)
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        headings = next(csv.reader([header], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise InvalidValue("the quotes in the first line don't match", _FIRST_LINE) from None
    if export := third_party_exports.recognise(headings, str(getattr(opened, "name", ""))):
        return Sheet(export.columns, (), _rows(lines, len(headings), delimiter, export.make), export.tool)
    columns = [_heading(cell) for cell in headings]
    if "email" not in columns:
        raise InvalidValue("there is no column email in the first line", _FIRST_LINE)
    known = [name for name in HEADINGS if name in columns]
    if twice := [name for name in known if columns.count(name) > 1]:
        raise InvalidValue(f"the column {twice[0]} is there twice", "take one of them away")
    others = [name for name in columns if name and name not in known]
    return Sheet(known, others, _rows(lines, len(columns), delimiter, _plainly(columns)))


def write(opened: TextIO, clients: Iterable[ClientInfo]) -> int:
    """Write clients with a header, as `read` takes them back; how many there were."""
    writer = csv.writer(opened, lineterminator="\n")
    writer.writerow(HEADINGS)
    number = 0
    for client in clients:
        writer.writerow(map(quoted, (client.email, client.name, client.comment, ",".join(client.tags))))
        number += 1
    return number


_FIRST_LINE = "the first line names the columns: email,name,comment,tags"


class _Lines:
    """A text's lines, counted, with those of the row at hand remembered: they are read anew where it can't be used."""

    def __init__(self, opened: TextIO) -> None:
        self.number = 1
        """Of the line at which the row at hand begins; the header is line 1."""
        self._opened = opened
        self._row: list[str] = []
        self._again: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.pop() if self._again else self._opened.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        if len(line) == LONGEST_LINE:
            self._row.append("\n")
            while line and not line.endswith(("\n", "\r")):
                line = self._opened.readline(LONGEST_LINE)
            raise _TooLong
        self._row.append(line)
        return line

    def next_row(self) -> None:
        """The row at hand is done."""
        self.number += len(self._row)
        self._row.clear()

    def spoil(self) -> None:
        """The row at hand can't be used: only its first line is lost, the others may be rows of their own."""
        self._again.extend(self._row[:0:-1])
        del self._row[1:]


class _TooLong(csv.Error):
    pass


def _header(lines: _Lines) -> str:
    try:
        header = next(lines, "")
    except _TooLong:
        header = ""
    lines.next_row()
    if "\0" in header or any("\ud800" <= character <= "\udfff" for character in header):
        raise InvalidValue("this is not UTF-8 text", "save it as CSV in UTF-8")
    return header


def _heading(cell: str) -> str:
    name = cell.strip().casefold()
    return _KNOWN_AS.get(name, name)


def _rows(lines: _Lines, width: int, delimiter: str, make: Make) -> Iterator[ClientRow | BadRow | LeftOut]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(lines.number, _fault(error))
            lines.spoil()
            lines.next_row()
            continue
        text = "".join(cells)
        if len(cells) > width:
            yield BadRow(lines.number, f"{len(cells)} cells under {width} headings")
        elif text and not text.isspace():
            if "'" in text:
                cells = [_bare(cell) for cell in cells]
            yield make(lines.number, cells + [""] * (width - len(cells)))
        lines.next_row()


def _plainly(columns: Sequence[str]) -> Make:
    """How a row of a file with our own headings is read."""
    email, name, comment, tags = (columns.index(name) if name in columns else len(columns) for name in HEADINGS)

    def make(line: int, cells: Sequence[str]) -> ClientRow:
        cells = [*cells, ""]  # the last one stands for a column that isn't there
        return ClientRow(line, cells[email], cells[name], cells[comment], _tags(cells[tags]))

    return make


def _fault(error: csv.Error) -> str:
    if isinstance(error, _TooLong):
        return f"longer than {LONGEST_LINE} characters"
    return "a quote that is not closed, or not doubled within a cell"


def _tags(cell: str) -> Sequence[str]:
    return [tag.strip() for tag in cell.replace(";", ",").split(",") if tag.strip()] if cell else ()


def quoted(cell: str) -> str:
    """The cell with an apostrophe in front where a spreadsheet would run it, or would take an apostrophe for ours."""
    return "'" + cell if cell.lstrip("'").startswith(_RUNS_IN_A_SPREADSHEET) else cell


def _bare(cell: str) -> str:
    quoted = cell.startswith("'") and cell.lstrip("'").startswith(_RUNS_IN_A_SPREADSHEET)
    return cell[1:] if quoted else cell

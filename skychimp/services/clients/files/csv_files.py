"""Read and write clients as CSV.

Each row that cannot be read is reported with its line number, and the rows after it are still read. After an unclosed
quote the lines of its row are read again, as rows of their own. A file with nothing but unclosed quotes is not read to
its end. Cells that a spreadsheet would run as a formula are written with an apostrophe in front.
"""

import contextlib
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TextIO, TypeVar

from skychimp.errors import InvalidValue
from skychimp.fields import Field, format_value
from skychimp.models import FieldType
from skychimp.services.clients.clients import Export, ExportedClient
from skychimp.services.clients.files import column_mapping, field_columns, opt_outs, text_files
from skychimp.services.clients.files import headings as known_headings
from skychimp.services.clients.files.column_mapping import ColumnChoice, Columns
from skychimp.services.clients.files.field_columns import FieldSurvey, FoundFields, read_names, typed_name
from skychimp.services.clients.importing import FileRow, InvalidRow
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

HEADINGS = ("email", "name", "comment", "tags")
CONSENT_HEADINGS = column_mapping.CONSENT_FIELDS
MAX_LINE_LENGTH = 1_000_000  # characters; also the maximum of a cell and, about, of a row with several lines
MAX_COLUMNS = 1_000

_MAX_SKIPPED = 100_000_000  # characters of one line
_LINE_COST = 50  # reading a line takes as long as reading this many characters
_MAX_REREAD_COST = 20_000_000  # characters and _LINE_COST per line
_MAX_HEADER_LINES = 100
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r"\"?sep=(.)\"?[,;\t]*\s*", re.IGNORECASE)
"""A first line that tells Excel the delimiter."""
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ESCAPED_STARTS = frozenset(("'", *_FORMULA_STARTS))
_HEADER_HINT = tr("the first line must name the columns: email,name,comment,tags")

_T = TypeVar("_T")


class ClientFile(NamedTuple):
    """A file of clients whose rows are read one by one.

    `columns` are those of HEADINGS that the file has, `ignored_columns` the headings that are not read. `notes` say
    what else was decided about the columns. `fields` are the custom fields by their names in the rows.
    """

    columns: Sequence[str]
    ignored_columns: Sequence[str]
    rows: Iterator[FileRow]
    notes: Sequence[str] = ()
    fields: Mapping[str, Field] = {}


class Table(NamedTuple):
    """A file as its headings, and its rows with the lines at which they begin. Without a header, it has no headings."""

    headings: Sequence[str]
    rows: Iterator[tuple[int, Sequence[str]] | InvalidRow]


class _Layout(NamedTuple):
    width: int
    delimiter: str


def read(opened: TextIO, choice: ColumnChoice | None = None) -> ClientFile:
    """Read a file that was opened with NEWLINE. Its delimiter is a comma, semicolon, tab or vertical bar.

    Raises InvalidValue if the first line does not name the columns, or if a column that marks who has opted out has a
    value that is not understood. To find that out, and the types of custom fields, all rows are read beforehand, and
    what can be read only once is copied to the disk.
    """
    lines = _LineReader(opened)
    headings, delimiter = _read_headings(lines)
    columns = column_mapping.recognise(headings, choice or ColumnChoice(), str(getattr(opened, "name", "")))
    layout = _Layout(len(headings), delimiter)
    source, found = opened, FoundFields({}, ())
    if columns.opt_outs or columns.custom or columns.attributes is not None:
        source = text_files.make_seekable(opened)
        columns, found, lines = _survey(source, lines.row_start, layout, columns)
    rows = _read_rows(lines, layout, column_mapping.row_reader(headings, columns))
    return ClientFile(
        [*column_mapping.filled_fields(columns), *(("fields",) if found.fields else ())],
        [*(headings[index].strip() for index in columns.unused), *found.ignored],
        rows if source is opened else text_files.close_after(rows, source),
        [*column_mapping.explain(headings, columns), *read_names(found)],
        found.fields,
    )


def read_table(opened: TextIO, is_header: Callable[[Sequence[str]], bool]) -> Table:
    """Read a file that was opened with NEWLINE. If its first line is no header, it is a row.

    Raises InvalidValue if the first line cannot be read.
    """
    lines = _LineReader(opened)
    first, delimiter = _read_headings(lines)
    first_line = lines.row_start - 1
    rows = _read_rows(lines, _Layout(len(first), delimiter), lambda line, cells: (line, cells))
    if is_header(first):
        return Table(first, rows)
    return Table((), itertools.chain([(first_line, first)], rows))


def write(opened: TextIO, export: Export) -> int:
    """Write clients with a header, so that `read` returns the same clients. Return their number."""
    writer = csv.writer(opened, lineterminator="\n")
    names = [each.field.name for each in export.fields]
    headings = [*HEADINGS, *(CONSENT_HEADINGS if export.has_consents else ())]
    writer.writerow([*headings, *(_heading(each.field, is_evident=each.is_evident) for each in export.fields)])
    number = 0
    for client in export.clients:
        cells = [client.email, client.name, client.comment, ",".join(client.tags)]
        if export.has_consents:
            cells += consent_cells(client)
        if names:
            cells += [format_value(client.fields.get(name, "")) for name in names]
        writer.writerow(map(escape_formula, cells))
        number += 1
    return number


def consent_cells(client: ExportedClient) -> Sequence[str]:
    """Return the cells of CONSENT_HEADINGS for a client."""
    if client.consent is None or client.consent.at is None:
        return ("", "", "")
    return (client.consent.at.isoformat(), client.consent.wording, client.consent.proof)


def skip_line(opened: TextIO, start: str) -> None:
    """Read the rest of a line that is too long. Raises InvalidValue if it does not end, as in /dev/zero."""
    skipped = 0
    while start and not start.endswith(("\n", "\r")):
        start = opened.readline(MAX_LINE_LENGTH)
        skipped += len(start)
        if skipped > _MAX_SKIPPED:
            raise InvalidValue(
                tr("a line is longer than {max_skipped:,} characters", max_skipped=_MAX_SKIPPED),
                tr("use a file of text"),
            )


def escape_formula(cell: str) -> str:
    """Return the cell with an apostrophe in front if a spreadsheet would run it as a formula.

    A cell that already looks escaped gets another apostrophe, so that `_unescape_formula` returns every cell unchanged.
    """
    return "'" + cell if cell[:1] in _ESCAPED_STARTS and _is_formula(cell) else cell


class _LineReader:
    """Yields the lines of a text and counts them. The lines of a row that cannot be read can be read again."""

    def __init__(self, opened: TextIO, row_start: int = 1) -> None:
        self.row_start = row_start
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


# Header


def _read_headings(lines: _LineReader) -> tuple[Sequence[str], str]:
    """Return the headings and the delimiter."""
    header = _read_header(lines)
    delimiters = sorted(_DELIMITERS, key=_outside_quotes(header).count, reverse=True)
    if separator := _SEPARATOR_LINE.fullmatch(header):
        delimiters = [separator[1]]
        header = _read_header(lines)
    rows = {delimiter: row for delimiter in delimiters if (row := _split_header(header, delimiter))}
    if not rows:
        raise InvalidValue(tr("unclosed quote in the first line"), _HEADER_HINT)
    delimiter = next((each for each, row in rows.items() if any(map(known_headings.is_email, row))), next(iter(rows)))
    headings = rows[delimiter]
    if len(headings) > MAX_COLUMNS:
        raise InvalidValue(
            tr("the file has {number:,} columns", number=len(headings)),
            tr("use at most {max_columns:,} columns", max_columns=MAX_COLUMNS),
        )
    twice = [name for name, number in Counter(heading.strip().casefold() for heading in headings).items() if number > 1]
    if named_twice := [name for name in twice if known_headings.is_known(name)]:
        raise InvalidValue(tr('duplicate column "{named_twice}"', named_twice=named_twice[0]), tr("remove one of them"))
    return headings, delimiter


def _read_header(lines: _LineReader) -> str:
    """Read the first line, or more if a heading in quotes has line breaks."""
    header = ""
    with contextlib.suppress(_LineTooLong, _RowTooLong):
        header = next(lines, "")
        for _ in range(_MAX_HEADER_LINES):
            if header.count('"') % 2 == 0:
                break
            header += next(lines, "")
    lines.end_row()
    header = header.removeprefix("\ufeff")
    if not header:
        raise InvalidValue(tr("it is empty"), _HEADER_HINT)
    if "\0" in header or any("\ud800" <= character <= "\udfff" for character in header):
        raise InvalidValue(
            tr("the first line has characters that are not valid in its encoding"), tr("pass --encoding")
        )
    return header


def _outside_quotes(header: str) -> str:
    return "".join(header.split('"')[::2])


def _split_header(header: str, delimiter: str) -> Sequence[str]:
    """Return the headings, none if a quote is not closed or not at the end of a heading."""
    with contextlib.suppress(csv.Error):
        return next(csv.reader(io.StringIO(header, newline=""), delimiter=delimiter, strict=True), [])
    return []


# Rows


def _survey(
    source: TextIO, row_start: int, layout: _Layout, columns: Columns
) -> tuple[Columns, FoundFields, _LineReader]:
    """Read all rows to find who has opted out, and the custom fields. Return the lines of the rows, to be read again.

    A column that could have marked who has opted out, but is about something else, is a custom field.
    """
    position = source.tell()
    rows = _read_rows(_LineReader(source, row_start), layout, lambda line, cells: (line, cells))
    survey = FieldSurvey(columns.targets)
    uncertain = {each.heading: each.position for each in columns.opt_outs if not each.is_certain}
    valid_rows = (row for row in rows if not isinstance(row, InvalidRow))
    chosen = opt_outs.choose_columns(
        columns.opt_outs, _surveyed(valid_rows, survey, columns._replace(custom={**columns.custom, **uncertain}))
    )
    ours = {**columns.custom, **{each.heading: each.position for each in chosen.others}}
    found = survey.result(leave_out=uncertain.keys() - ours.keys())
    custom = {heading: index for heading, index in ours.items() if heading in found.fields}
    source.seek(position)
    return columns._replace(opt_outs=chosen.opt_outs, custom=custom), found, _LineReader(source, row_start)


def _surveyed(
    rows: Iterator[tuple[int, Sequence[str]]], survey: FieldSurvey, columns: Columns
) -> Iterator[tuple[int, Sequence[str]]]:
    """Yield the rows, and tell the survey of their values."""
    finders = [(survey.finder(heading), index) for heading, index in columns.custom.items()]
    for line, cells in rows:
        for finder, index in finders:
            if finder.type is not FieldType.TEXT:
                finder.add_text(cells[index])
        if columns.attributes is not None:
            survey.add_json(column_mapping.parse_attributes(cells[columns.attributes]) or {})
        yield line, cells


def _heading(field: Field, *, is_evident: bool) -> str:
    if is_evident:
        return column_mapping.heading_of(field.name)
    return f"{field_columns.PREFIX}{typed_name(field, is_evident=False)}"


def _read_rows(
    lines: _LineReader, layout: _Layout, read_row: Callable[[int, Sequence[str]], _T]
) -> Iterator[_T | InvalidRow]:
    csv.field_size_limit(MAX_LINE_LENGTH)
    width = layout.width
    reader = csv.reader(lines, delimiter=layout.delimiter, strict=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield InvalidRow(lines.row_start, _reason(error))
            lines.discard_first_line()
            if lines.is_exhausted:
                yield InvalidRow(lines.row_start, tr("too many unclosed quotes; the rest of the file was not read"))
                return
            continue
        text = "".join(cells)
        if len(cells) > width:
            yield InvalidRow(
                lines.row_start,
                tr(
                    "{number} cells, but the header has {columns}", number=len(cells), columns=count_of(width, "column")
                ),
            )
        elif text and not text.isspace():
            if "'" in text:
                cells = [_unescape_formula(cell) for cell in cells]
            yield read_row(lines.row_start, cells + [""] * (width - len(cells)))
        lines.end_row()


def _reason(error: csv.Error) -> Phrase:
    if isinstance(error, _LineTooLong):
        return tr("longer than {max_line_length:,} characters", max_line_length=MAX_LINE_LENGTH)
    return tr("unclosed quote, or a quote inside a cell that is not doubled")


def _unescape_formula(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _is_formula(cell) else cell


def _is_formula(cell: str) -> bool:
    return cell.lstrip("'").startswith(_FORMULA_STARTS)

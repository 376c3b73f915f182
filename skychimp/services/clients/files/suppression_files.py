"""Write suppressions as CSV, and read them from that and from the files of other tools.

A file can be a list of addresses, CSV with a header, JSON lines, or a JSON list such as Amazon SES gives. Its columns
are recognised by their headings. Of a file with columns that mark who has opted out, only such contacts are taken.
"""

import csv
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple, TextIO

from skychimp.errors import InvalidValue
from skychimp.services.clients.files import column_mapping, csv_files, json_objects, jsonl_files, opt_outs, text_files
from skychimp.services.clients.files import headings as known_headings
from skychimp.services.clients.files.column_mapping import ColumnChoice
from skychimp.services.clients.files.csv_files import escape_formula
from skychimp.services.clients.files.headings import normalise
from skychimp.services.clients.files.opt_outs import OptOut, OptOutColumn, OtherCell
from skychimp.services.clients.importing import InvalidRow
from skychimp.services.clients.suppressions import COMPLAINT, SuppressionInfo
from skychimp.store.clients.suppressions import BOUNCE
from skychimp.translation import tr

HEADINGS = ("address", "reason", "topic", "source", "at", "note")

FIELDS = ("email", "reason", "topic", "at", "note")
"""What a column can be."""

_HEADINGS: Mapping[str, Collection[str]] = {
    "email": {"address", "recipient", "subscriber", "suppressed address"},
    "reason": {"reason", "suppression reason", "suppression type"},
    "topic": {"topic"},
    "at": {
        "at", "created", "created at", "added", "added at", "date", "time", "timestamp", "last update time",
        "suppressed at",
    },
    "note": {"note", "notes", "comment"},
}  # fmt: skip


class SuppressedRow(NamedTuple):
    """An address or domain to suppress, as it was read from a file. A `reason` of None is not known."""

    line: int
    target: str
    reason: str | None = None
    topic: str = ""
    at: datetime | None = None
    note: str = ""


class SubscribedRow(NamedTuple):
    """A row of somebody who gets mail, as the file says."""

    line: int


FileRow = SuppressedRow | SubscribedRow | InvalidRow
_RowReader = Callable[[int, Sequence[str]], FileRow]


class _Columns(NamedTuple):
    """What the columns are: that of each field, and those that mark who has opted out.

    `reason_of_all` is the reason of all rows, if the headings or the name of the file tell it.
    """

    by_field: Mapping[str, int]
    opt_outs: Sequence[OptOutColumn]
    reason_of_all: str | None


def read(opened: TextIO, choice: ColumnChoice | None = None) -> Iterator[FileRow]:
    """Yield the rows of a file that was opened as for clients. Raises InvalidValue."""
    name, choice = str(getattr(opened, "name", "")), choice or ColumnChoice()
    source = text_files.make_seekable(opened)
    rows = _read_json(source, choice, name) if json_objects.is_json(source) else _read_csv(source, choice, name)
    return rows if source is opened else text_files.close_after(rows, source)


def write(opened: TextIO, suppressions: Iterable[SuppressionInfo]) -> int:
    """Write suppressions whose addresses are known, with a header. Return their number.

    A domain begins with `@`, as a formula does, so its cell has an apostrophe in front.
    """
    writer = csv.writer(opened, lineterminator="\n")
    writer.writerow(HEADINGS)
    number = 0
    for each in suppressions:
        cells = (each.address or "", each.reason, each.topic or "", each.source, each.at.isoformat(), each.note)
        writer.writerow(map(escape_formula, cells))
        number += 1
    return number


def _read_csv(opened: TextIO, choice: ColumnChoice, name: str) -> Iterator[FileRow]:
    table = csv_files.read_table(opened, lambda cells: not any(map(_is_target, cells)))
    if table.headings:
        read_row = _row_reader(table.headings, choice, name)
    elif choice.fields or choice.ignored:
        raise InvalidValue(
            tr("the first line is an address and names no columns"), tr("leave out --map and --ignore-column")
        )
    else:
        read_row = _read_list_row
    for row in table.rows:
        yield row if isinstance(row, InvalidRow) else read_row(*row)


def _read_json(opened: TextIO, choice: ColumnChoice, name: str) -> Iterator[FileRow]:
    readers = lru_cache(100)(lambda keys: _row_reader(keys, choice, name, must_have=False))
    for row in json_objects.read(opened):
        if isinstance(row, InvalidRow):
            yield row
            continue
        line, value = row
        if isinstance(value, str):
            yield SuppressedRow(line, value)
        elif isinstance(value, dict):
            yield readers(tuple(value))(line, [*map(jsonl_files.as_cell, value.values())])
        else:
            yield InvalidRow(line, tr("not a JSON object"))


def _read_list_row(line: int, cells: Sequence[str]) -> FileRow:
    """Read a row of a file without a header: the address is the cell that looks like one."""
    return SuppressedRow(line, next(filter(_is_target, cells), cells[0]))


def _is_target(cell: str) -> bool:
    return "@" in cell


def _row_reader(headings: Sequence[str], choice: ColumnChoice, name: str, *, must_have: bool = True) -> _RowReader:
    """Return the function that reads the cells of a row. Raises InvalidValue if there is no column of addresses."""
    columns = _recognise(headings, choice, name, must_have=must_have)
    missing = len(headings)
    email, reason, topic, at, note = (columns.by_field.get(field, missing) for field in FIELDS)

    def read_row(line: int, cells: Sequence[str]) -> FileRow:
        cells = [*cells, ""]
        opted_out = opt_outs.find(columns.opt_outs, cells)
        is_subscribed = columns.opt_outs and not opted_out and not columns.reason_of_all
        if is_subscribed and all(_is_subscribed(column, cells) for column in columns.opt_outs):
            return SubscribedRow(line)
        given = opt_outs.reason_of(cells[reason].strip())
        found = [OptOut(columns.reason_of_all)] if columns.reason_of_all else []
        strongest = opt_outs.strongest([*filter(None, [opted_out]), *found])
        known_at = opt_outs.parse_time(cells[at]) or (opted_out.at if opted_out else None)
        why = given or (strongest.reason if strongest else None)
        return SuppressedRow(line, cells[email], why, cells[topic].strip(), known_at, cells[note].strip())

    return read_row


def _is_subscribed(column: OptOutColumn, cells: Sequence[str]) -> bool:
    """Return whether a cell says that a contact gets mail. The time of a subscription does not: it can have ended."""
    cell = cells[column.position]
    return column.understand(cell) is OtherCell.FINE and opt_outs.parse_time(cell) is None


def _recognise(headings: Sequence[str], choice: ColumnChoice, name: str, *, must_have: bool) -> _Columns:
    names = [normalise(heading) for heading in headings]
    mapped, ignored = column_mapping.find_chosen(headings, choice) if must_have else _find_chosen(headings, choice)
    free = [index for index in range(len(headings)) if names[index] and index not in mapped and index not in ignored]
    by_field = {field: index for index, field in mapped.items()}
    is_sendgrid = {"email", "created"} <= set(names)
    for field in FIELDS:
        known = {"reason"} if field == "note" and is_sendgrid else _HEADINGS[field]
        if field not in by_field and not (field == "reason" and is_sendgrid):
            found = [index for index in free if names[index] in known or _is_email(field, headings[index])]
            by_field |= {field: found[0]} if found else {}
    if must_have and "email" not in by_field:
        raise InvalidValue(tr('missing column "email"'), tr("name it in the first line, or use --map COLUMN=email"))
    free = [index for index in free if index not in by_field.values() and not is_sendgrid]
    of_all = column_mapping.opt_out_of_all(headings, name)
    reason_of_all = of_all.reason if of_all else _sendgrid_reason(set(names)) if is_sendgrid else None
    return _Columns(by_field, opt_outs.find_columns(headings, free), reason_of_all)


def _find_chosen(keys: Sequence[str], choice: ColumnChoice) -> tuple[Mapping[int, str], Collection[int]]:
    """Return the same as for columns. An object need not have all keys."""
    mapped = {index: choice.fields[key] for index, key in enumerate(keys) if key in choice.fields}
    return mapped, {index for index, key in enumerate(keys) if key in choice.ignored}


def _is_email(field: str, heading: str) -> bool:
    return field == "email" and known_headings.is_email(heading)


def _sendgrid_reason(names: Collection[str]) -> str | None:
    """Return the reason of all rows in a file of SendGrid: bounces and invalid emails have a reason in words."""
    if "reason" in names:
        return BOUNCE
    return COMPLAINT if "ip" in names else None

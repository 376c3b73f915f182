"""Read the exports of other mailing tools: which column is which, and who is no longer sent to; pure.

listmonk, export: uuid, email, name, attributes (a JSON object), status, created_at, updated_at.
Mailchimp, Export audience: Email Address, the audience's own fields, MEMBER_RATING and other columns of Mailchimp,
NOTES and TAGS. There is one file each for subscribed, unsubscribed, cleaned and nonsubscribed contacts, and only the
file's name tells which it is.
"""

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from skychimp.services.clients.importing import ExcludedRow, FileRow, ImportedRow, InvalidRow

RowReader = Callable[[int, Sequence[str]], FileRow]
"""Makes a client from the number of a row's line and its cells, of which there are as many as headings."""

_LISTMONK_STATUSES = ("disabled", "blocklisted")
_MAILCHIMP_COLUMNS = {
    "email address", "first name", "last name", "fname", "lname", "notes", "tags", "email_type", "member_rating",
    "optin_time", "optin_ip", "confirm_time", "confirm_ip", "latitude", "longitude", "gmtoff", "dstoff", "timezone",
    "cc", "region", "last_changed", "leid", "euid", "source",
}  # fmt: skip
_MAILCHIMP_EXCLUSIONS = {"unsub_": "unsubscribed", "clean_": "cleaned"}
"""By the start of the columns that are filled for such contacts."""


class Export(NamedTuple):
    """The export of another tool: the tool's name, the columns that it fills, and how a row is read."""

    tool: str
    columns: Sequence[str]
    read_row: RowReader


def recognise(headings: Sequence[str], file_name: str) -> Export | None:
    """Return the export that a file with these headings is, or None if it is no known tool's."""
    names = [heading.strip().casefold() for heading in headings]
    if {"email", "attributes"} <= set(names):
        return Export("listmonk", ("email", "name", "comment"), _listmonk_reader(names))
    if "email address" in names and {"member_rating", "leid", "euid"} & set(names):
        match = re.match(r"(unsubscribed|cleaned|nonsubscribed)_", PurePath(file_name).name)
        read_row = _mailchimp_reader(headings, names, match[1] if match else "")
        return Export("Mailchimp", ("email", "name", "comment", "tags"), read_row)
    return None


def _listmonk_reader(names: Sequence[str]) -> RowReader:
    def read_row(line: int, cells: Sequence[str]) -> FileRow:
        row = dict(zip(names, cells, strict=True))
        status = row.get("status", "").strip().lower()
        if status not in ("", "enabled"):
            return ExcludedRow(line, status if status in _LISTMONK_STATUSES else "with another status", row["email"])
        try:
            attributes = json.loads(row["attributes"] or "{}")
        except (ValueError, RecursionError):
            attributes = None
        if not isinstance(attributes, dict):
            return InvalidRow(line, '"attributes" is not a JSON object')
        return ImportedRow(line, row["email"], row.get("name", ""), _field_lines(attributes), ())

    return read_row


def _mailchimp_reader(headings: Sequence[str], names: Sequence[str], file_status: str) -> RowReader:
    """Return the reader for a Mailchimp file. `file_status` is why all its contacts are excluded, or ""."""
    own_columns = [
        (index, headings[index].strip())
        for index, name in enumerate(names)
        if name and name not in _MAILCHIMP_COLUMNS and not name.startswith(tuple(_MAILCHIMP_EXCLUSIONS))
    ]
    exclusions = [
        (index, reason)
        for index, name in enumerate(names)
        for start, reason in _MAILCHIMP_EXCLUSIONS.items()
        if name.startswith(start)
    ]

    def read_row(line: int, cells: Sequence[str]) -> FileRow:
        row = dict(zip(names, cells, strict=True))
        reason = file_status or next((reason for index, reason in exclusions if cells[index].strip()), "")
        if reason:
            return ExcludedRow(line, reason, row["email address"])
        own_fields = _field_lines({heading: cells[index].strip() for index, heading in own_columns})
        comment = "\n".join(filter(None, (row.get("notes", "").strip(), own_fields)))
        return ImportedRow(line, row["email address"], _full_name(row), comment, _split_tags(row.get("tags", "")))

    return read_row


def _full_name(row: Mapping[str, str]) -> str:
    parts = (row.get("first name") or row.get("fname"), row.get("last name") or row.get("lname"))
    return " ".join(part.strip() for part in parts if part)


def _field_lines(fields: Mapping[str, object]) -> str:
    """Return a line `name: value` for each field that has a value."""
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
        if value not in ("", None, [], {})
    )


def _split_tags(cell: str) -> Sequence[str]:
    """Return the tags of a cell such as `"VIP","New in Berlin"`, without the commas and semicolons in them."""
    if not cell:
        return ()
    try:
        tags = next(csv.reader([cell], skipinitialspace=True))
    except (csv.Error, StopIteration):
        tags = cell.split(",")
    return [plain for tag in tags if (plain := " ".join(re.sub("[,;]", " ", tag).split()))]

"""Decide which column of a file is which, also in the exports of other mailing tools and address books; pure.

Known are the headings of Mailchimp, listmonk, Keila, phpList, HubSpot, Brevo, Amazon SES, Google Contacts, Outlook and
Thunderbird (`headings`), and their columns of who has opted out (`opt_outs`).

Two tools have more than headings. listmonk has a JSON object in its column "attributes". Mailchimp writes one file each
for subscribed, unsubscribed, cleaned and nonsubscribed contacts, and may tell by the file's name only which it is.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.services.clients import headings as known_headings
from skychimp.services.clients import opt_outs
from skychimp.services.clients.headings import normalise
from skychimp.services.clients.importing import FileConsent, FileRow, ImportedRow, InvalidRow, OptedOutRow
from skychimp.services.clients.opt_outs import OptOut, OptOutColumn
from skychimp.text import did_you_mean

FIELDS = ("email", "name", "first_name", "last_name", "comment", "tags")
"""What a column can be. First and last name are joined where there is no name."""

CONSENT_FIELDS = ("consent_at", "consent", "consent_proof")
"""What columns about a consent can be: its time, without which the others do not count, its wording and its proof."""
ALL_FIELDS = (*FIELDS, *CONSENT_FIELDS)

RowReader = Callable[[int, Sequence[str]], FileRow]
"""Makes a client from the number of a row's line and its cells, of which there are as many as headings."""

# Tools

_MAILCHIMP_OWN = {
    "email type", "member rating", "optin time", "optin ip", "confirm time", "confirm ip", "latitude", "longitude",
    "gmtoff", "dstoff", "timezone", "cc", "region", "last changed", "leid", "euid", "source",
}  # fmt: skip
_MAILCHIMP_SIGNED_UP = "optin time"
"""Mailchimp sets it for who has signed up, and "confirm time" also for who was added by somebody else."""
_MAILCHIMP_FILE = re.compile(r"(unsubscribed|cleaned|nonsubscribed)_")
_MAILCHIMP_EVENTS = ("unsub ", "clean ")
"""The columns that Mailchimp adds for contacts who no longer get mail begin like this."""


@dataclass(frozen=True)
class ColumnChoice:
    """What the user says of the columns: which field each is, by its heading, and which are not read."""

    fields: Mapping[str, str] = field(default_factory=dict)
    ignored: Collection[str] = ()


class Columns(NamedTuple):
    """What the columns of a file are: those of each field, the first of which is used, and the others.

    `opt_out_of_all` is the opt-out of all contacts, if the name of the file says that they have opted out.
    """

    tool: str
    by_field: Mapping[str, Sequence[int]]
    in_comment: Sequence[int]
    opt_outs: Sequence[OptOutColumn]
    opt_out_of_all: OptOut | None
    unused: Sequence[int]


def parse_choice(mapped: Sequence[str], ignored: Sequence[str], known: Sequence[str] = ALL_FIELDS) -> ColumnChoice:
    """Return the choice that the texts COLUMN=FIELD, with a known field, and the headings stand for.

    Raises InvalidValue.
    """
    fields: dict[str, str] = {}
    for text in mapped:
        heading, separator, name = (part.strip() for part in text.rpartition("="))
        if not separator or not heading:
            raise InvalidValue(f'"{text}" is not COLUMN=FIELD', "use for example --map Mail=email")
        if name not in known:
            raise InvalidValue(f'unknown field "{name}"', _suggest(name, known, "fields"))
        if heading in fields or name in fields.values():
            twice = heading if heading in fields else name
            raise InvalidValue(f'"{twice}" is mapped twice', "use --map once for each column and each field")
        fields[heading] = name
    return ColumnChoice(fields, ignored)


def recognise(headings: Sequence[str], choice: ColumnChoice, file_name: str = "") -> Columns:
    """Decide what the columns with these headings are. Raises InvalidValue if none has the email address."""
    names = [normalise(heading) for heading in headings]
    mapped, ignored = find_chosen(headings, choice)
    free = [index for index in range(len(headings)) if names[index] and index not in mapped and index not in ignored]
    tool = _recognise_tool(names)
    by_field = _with_consent(_columns_by_field(names, mapped, free), names, free, tool)
    if not by_field.get("email"):
        raise InvalidValue(
            'missing column "email"', "the first line must name the columns: email,name,comment,tags; or use --map"
        )
    found = opt_outs.find_columns(headings, free, tool)
    of_all = opt_out_of_all(headings, file_name)
    taken = {index for columns in by_field.values() for index in columns} | {column.position for column in found}
    rest = [index for index in free if index not in taken]
    in_comment = [index for index in rest if _goes_into_comment(names[index], tool)]
    unused = [index for index in rest if index not in in_comment]
    return Columns(tool, by_field, in_comment, found, of_all, unused)


def opt_out_of_all(headings: Sequence[str], file_name: str) -> OptOut | None:
    """Return the opt-out of all contacts in a file of Mailchimp, if its name tells that they have opted out."""
    if _recognise_tool([normalise(heading) for heading in headings]) != "Mailchimp":
        return None
    status = _MAILCHIMP_FILE.match(PurePath(file_name).name)
    return status and opt_outs.reason_of_all(status[1])


def find_chosen(headings: Sequence[str], choice: ColumnChoice) -> tuple[Mapping[int, str], Collection[int]]:
    """Return the field of each column that the user maps, and the columns that are ignored. Raises InvalidValue."""
    mapped = {_find_column(headings, heading): name for heading, name in choice.fields.items()}
    ignored = {_find_column(headings, heading) for heading in choice.ignored}
    if len(mapped) < len(choice.fields) or not ignored.isdisjoint(mapped):
        raise InvalidValue("a column is mapped twice, or mapped and ignored", "use one option for each column")
    return mapped, ignored


def join_names(first_name: str, last_name: str) -> str:
    """Return the full name."""
    return " ".join(filter(None, (first_name.strip(), last_name.strip())))


def split_tags(text: str) -> Sequence[str]:
    """Return the tags of a text with commas or semicolons between them."""
    return [tag.strip() for tag in text.replace(";", ",").split(",") if tag.strip()] if text else ()


def filled_fields(columns: Columns) -> Sequence[str]:
    """Return which of email, name, comment and tags the columns give."""
    filled = {"name" if name in ("first_name", "last_name") else name for name in columns.by_field}
    if columns.in_comment:
        filled.add("comment")
    return [name for name in FIELDS if name in filled]


def explain(headings: Sequence[str], columns: Columns) -> Sequence[str]:
    """Return what to tell the user about the columns that are read."""
    notes = [
        f'{name} is taken from "{headings[first].strip()}", not from {_quoted(headings, others)}'
        for name, (first, *others) in ((name, found) for name, found in columns.by_field.items() if found)
        if others
    ]
    if columns.in_comment:
        notes.append(f"{columns.tool} export: added to the comment: {_quoted(headings, columns.in_comment)}")
    if columns.opt_out_of_all:
        return [*notes, f"{columns.tool} names a file like this if all contacts in it have opted out"]
    if columns.tool == "Mailchimp" and "consent_at" in columns.by_field:
        notes.append(f"consents are taken from {_quoted(headings, columns.by_field['consent_at'][:1])}")
    return [*notes, *opt_outs.explain(columns.opt_outs)]


def row_reader(headings: Sequence[str], columns: Columns) -> RowReader:
    """Return the function that makes a client, or one who has opted out, from the cells of a row."""
    missing = len(headings)
    email, name, first, last, comment, tags = (columns.by_field.get(field, [missing])[0] for field in FIELDS)
    labels = [(index, headings[index].strip()) for index in columns.in_comment]
    split = _TAG_SPLITTERS.get(columns.tool, split_tags)

    def read_plain(line: int, cells: Sequence[str]) -> FileRow:
        cells = [*cells, ""]  # the last cell stands for a missing column
        return ImportedRow(line, cells[email], cells[name], cells[comment], split(cells[tags]))

    def read_any(line: int, cells: Sequence[str]) -> FileRow:
        cells = [*cells, ""]
        full_name = cells[name].strip() or join_names(cells[first], cells[last])
        notes = [cells[comment].strip()]
        if columns.tool == "listmonk" and labels:
            attributes = _parse_attributes(cells[labels[0][0]])
            if attributes is None:
                return InvalidRow(line, '"attributes" is not a JSON object')
            notes.append(_field_lines(attributes))
        else:
            notes.append(_field_lines({label: cells[index].strip() for index, label in labels}))
        return ImportedRow(line, cells[email], full_name, "\n".join(filter(None, notes)), split(cells[tags]))

    read_client = read_plain if (first, last) == (missing, missing) and not labels else read_any

    def read_opted_out(line: int, cells: Sequence[str]) -> FileRow:
        found = opt_outs.find(columns.opt_outs, cells)
        if columns.opt_out_of_all:
            found = opt_outs.strongest([*filter(None, [found]), columns.opt_out_of_all])
        return OptedOutRow(line, cells[email], found) if found else read_client(line, cells)

    if "consent_at" not in columns.by_field:
        return read_opted_out if columns.opt_outs or columns.opt_out_of_all else read_client
    read_consent = consent_reader(headings, columns)

    def read_with_consent(line: int, cells: Sequence[str]) -> FileRow:
        row = read_opted_out(line, cells)
        return row._replace(consent=read_consent(cells)) if isinstance(row, ImportedRow) else row

    return read_with_consent


def consent_reader(headings: Sequence[str], columns: Columns) -> Callable[[Sequence[str]], FileConsent]:
    """Return the function that reads a consent from the cells of a row. There is a column of its time."""
    missing = len(headings)
    at, wording, proof = (columns.by_field.get(field, [missing])[0] for field in CONSENT_FIELDS)
    unnamed = wording_without_words(headings[at], columns.tool)

    def read(cells: Sequence[str]) -> FileConsent:
        cells = [*cells, ""]
        return FileConsent(cells[at], cells[wording], cells[proof], unnamed)

    return read


def wording_without_words(heading: str, tool: str = "") -> str:
    """Return what to record of a consent of which a file has only the time, in a column with this heading."""
    if tool == "Mailchimp" and normalise(heading) == _MAILCHIMP_SIGNED_UP:
        return "signed up in Mailchimp"
    return f'imported from column "{heading.strip()}"'


def _columns_by_field(
    names: Sequence[str], mapped: Mapping[int, str], free: Sequence[int]
) -> Mapping[str, Sequence[int]]:
    """Return the columns of each field. A field that the user maps has only that column."""
    by_field: dict[str, list[int]] = {name: [index] for index, name in mapped.items()}
    chosen = set(by_field)
    if "name" in chosen:
        chosen |= {"first_name", "last_name"}
    elif chosen & {"first_name", "last_name"}:
        chosen.add("name")
    for name in ALL_FIELDS:
        if name not in chosen and (columns := [index for index in free if names[index] in known_headings.FIELDS[name]]):
            by_field[name] = columns
    if "email" not in chosen:
        further = [index for index in free if known_headings.FURTHER_EMAIL.fullmatch(names[index])]
        by_field["email"] = by_field.get("email", []) + further
    return by_field


def _with_consent(
    by_field: Mapping[str, Sequence[int]], names: Sequence[str], free: Sequence[int], tool: str
) -> Mapping[str, Sequence[int]]:
    """Return the columns of each field, without those of a consent that has no time. Raises InvalidValue."""
    if tool == "Mailchimp" and "consent_at" not in by_field:
        signed_up = [index for index in free if names[index] == _MAILCHIMP_SIGNED_UP]
        by_field = {**by_field, **({"consent_at": signed_up} if signed_up else {})}
    if "consent_at" in by_field:
        return by_field
    return {name: columns for name, columns in by_field.items() if name not in CONSENT_FIELDS}


def _find_column(headings: Sequence[str], wanted: str) -> int:
    """Return the column with a heading that the user has named. Raises InvalidValue if there is none, or more."""
    own = [heading.strip() for heading in headings]
    found = [index for index, heading in enumerate(own) if heading == wanted.strip()]
    found = found or [index for index, heading in enumerate(own) if normalise(heading) == normalise(wanted) != ""]
    if not found:
        raise InvalidValue(f'unknown column "{wanted}"', _suggest(wanted, own, "columns"))
    if len(found) > 1:
        raise InvalidValue(f'duplicate column "{wanted}"', "remove one of them")
    return found[0]


def _quoted(headings: Sequence[str], columns: Sequence[int]) -> str:
    return ", ".join(f'"{headings[index].strip()}"' for index in columns)


def _suggest(word: str, known: Sequence[str], noun: str) -> str:
    """Return a hint that names what resembles a mistyped word, and what there is."""
    there = f"the {noun} are {', '.join(filter(None, known))}"
    return " ".join(filter(None, (did_you_mean(word, known), there)))


# Tools


def _recognise_tool(names: Collection[str]) -> str:
    """Return the tool that exported a file with these headings, if it needs more than its headings."""
    if {"email", "attributes"} <= set(names):
        return "listmonk"
    if "email address" in names and {"member rating", "leid", "euid"} & set(names):
        return "Mailchimp"
    return "Google Contacts" if "e mail 1 value" in names else ""


def _goes_into_comment(name: str, tool: str) -> bool:
    if tool == "listmonk":
        return name == "attributes"
    return tool == "Mailchimp" and name not in _MAILCHIMP_OWN and not name.startswith(_MAILCHIMP_EVENTS)


def _parse_attributes(cell: str) -> Mapping[str, object] | None:
    """Return listmonk's attributes of a contact, None if they are no JSON object."""
    try:
        attributes = json.loads(cell or "{}")
    except (ValueError, RecursionError):
        return None
    return attributes if isinstance(attributes, dict) else None


def _field_lines(fields: Mapping[str, object]) -> str:
    """Return a line `name: value` for each field that has a value."""
    return "\n".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
        if value not in ("", None, [], {})
    )


def _split_quoted_tags(cell: str) -> Sequence[str]:
    """Return the tags of a cell such as `"VIP","New in Berlin"`, without the commas and semicolons in them."""
    if not cell:
        return ()
    try:
        tags = next(csv.reader([cell], skipinitialspace=True))
    except (csv.Error, StopIteration):
        tags = cell.split(",")
    return [plain for tag in tags if (plain := " ".join(re.sub("[,;]", " ", tag).split()))]


def _split_google_groups(cell: str) -> Sequence[str]:
    """Return the labels of a cell such as `* myContacts ::: Friends` without those with a star, which are Google's."""
    labels = (label.strip() for label in cell.split(":::"))
    return [" ".join(re.sub("[,;]", " ", label).split()) for label in labels if label and not label.startswith("*")]


_TAG_SPLITTERS = {"Mailchimp": _split_quoted_tags, "Google Contacts": _split_google_groups}

"""Decide which column of a file is which, also in the exports of other mailing tools and address books; pure.

Known are the headings of Mailchimp, listmonk, Keila, phpList, HubSpot, Brevo, Amazon SES, Google Contacts, Outlook and
Thunderbird (`headings`), and their columns of who has opted out (`opt_outs`).

Some tools have more than headings. listmonk and Keila have a JSON object in one column. Mailchimp writes one file each
for subscribed, unsubscribed, cleaned and nonsubscribed contacts, and may tell by the file's name only which it is.

What is left becomes custom fields (`field_columns`), but for columns that only the tool itself needs.
"""

import csv
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.services.clients.files import field_columns, opt_outs
from skychimp.services.clients.files import headings as known_headings
from skychimp.services.clients.files.headings import normalise
from skychimp.services.clients.files.opt_outs import OptOut, OptOutColumn
from skychimp.services.clients.importing import FileConsent, FileRow, ImportedRow, InvalidRow, OptedOutRow
from skychimp.text import did_you_mean
from skychimp.translation import Phrase, joined, tr

FIELDS = ("email", "name", "first_name", "last_name", "comment", "tags")
"""What a column can be. First and last name are joined where there is no name."""

CONSENT_FIELDS = ("consent_at", "consent", "consent_proof")
"""What columns about a consent can be: its time, without which the others do not count, its wording and its proof."""
ALL_FIELDS = (*FIELDS, *CONSENT_FIELDS)

RowReader = Callable[[int, Sequence[str]], FileRow]
"""Makes a client from the number of a row's line and its cells, of which there are as many as headings."""

# Tools

_TECHNICAL = {
    "uuid", "uniqid", "unique id", "password", "passwordchanged", "htmlemail", "subscribepage", "rssfrequency",
    "bouncecount", "bounce count", "leid", "euid", "member rating", "optin time", "optin ip", "confirm time",
    "confirm ip", "gmtoff", "dstoff", "e mail type", "e mail 1 type", "e mail 1 label",
}  # fmt: skip
_MAILCHIMP_SIGNED_UP = "optin time"
"""Mailchimp sets it for who has signed up, and "confirm time" also for who was added by somebody else."""
_TECHNICAL_OF_TOOLS = {
    "Mailchimp": {"email type", "latitude", "longitude", "timezone", "cc", "region", "last changed", "source"},
    "listmonk": {"id", "created at", "updated at"},
}
"""Columns that mean something only to the tool that wrote them."""
_ATTRIBUTES = {"listmonk": "attributes", "Keila": "data"}
"""Columns with a JSON object of custom fields."""
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

    `opt_out_of_all` is the opt-out of all contacts, if the name of the file says that they have opted out. `custom` has
    the columns of custom fields by their headings, and `targets` those that the user has chosen. `attributes` is the
    column with JSON objects of custom fields, None if there is none.
    """

    tool: str
    by_field: Mapping[str, Sequence[int]]
    opt_outs: Sequence[OptOutColumn]
    opt_out_of_all: OptOut | None
    custom: Mapping[str, int]
    targets: Mapping[str, str]
    attributes: int | None
    unused: Sequence[int]


def parse_choice(mapped: Sequence[str], ignored: Sequence[str], known: Sequence[str] = ALL_FIELDS) -> ColumnChoice:
    """Return the choice that the texts COLUMN=FIELD, with a known field, and the headings stand for.

    A client has custom fields as well: `fields.NAME`, or `fields.NAME:TYPE`. Raises InvalidValue.
    """
    fields: dict[str, str] = {}
    for text in mapped:
        heading, separator, name = (part.strip() for part in text.rpartition("="))
        if not separator or not heading:
            raise InvalidValue(tr('"{value}" is not COLUMN=FIELD', value=text), tr("use for example --map Mail=email"))
        if known is ALL_FIELDS and field_columns.is_field(name):
            name = field_columns.check_target(name)
        elif name not in known:
            shown = (*known, "fields.NAME") if known is ALL_FIELDS else known
            raise InvalidValue(
                tr('unknown field "{name}"', name=name),
                _suggest(name, shown, tr("the fields are {names}", names=", ".join(shown))),
            )
        if heading in fields or name in fields.values():
            twice = heading if heading in fields else name
            raise InvalidValue(
                tr('"{name}" is mapped twice', name=twice), tr("use --map once for each column and each field")
            )
        fields[heading] = name
    return ColumnChoice(fields, ignored)


def recognise(headings: Sequence[str], choice: ColumnChoice, file_name: str = "") -> Columns:
    """Decide what the columns with these headings are. Raises InvalidValue if none has the email address."""
    names = [normalise(heading) for heading in headings]
    mapped, ignored = find_chosen(headings, choice)
    free = [index for index in range(len(headings)) if names[index] and index not in mapped and index not in ignored]
    tool = _recognise_tool(names)
    targets = {headings[index].strip(): name for index, name in mapped.items() if field_columns.is_field(name)}
    chosen = {index: name for index, name in mapped.items() if not field_columns.is_field(name)}
    exported = [index for index in free if field_columns.is_field(headings[index].strip())]
    by_field = _columns_by_field(names, chosen, [index for index in free if index not in exported])
    by_field = _with_consent(by_field, names, free, tool)
    if not by_field.get("email"):
        raise InvalidValue(
            tr('missing column "email"'),
            tr("the first line must name the columns: email,name,comment,tags; or use --map"),
        )
    found = opt_outs.find_columns(headings, [index for index in free if index not in exported], tool)
    of_all = opt_out_of_all(headings, file_name)
    taken = {index for columns in by_field.values() for index in columns} | {column.position for column in found}
    rest = [index for index in free if index not in taken]
    attributes = next((index for index in rest if names[index] == _ATTRIBUTES.get(tool)), None)
    custom: dict[str, int] = {}
    for index in sorted({*rest, *(mapped.keys() - chosen.keys())} - {attributes}):
        is_other = not is_technical(headings[index], tool) and not known_headings.is_known(headings[index])
        if index in mapped or is_other:
            custom.setdefault(headings[index].strip(), index)
    unused = [index for index in rest if index != attributes and index not in custom.values()]
    return Columns(tool, by_field, found, of_all, custom, targets, attributes, unused)


def is_technical(heading: str, tool: str = "") -> bool:
    """Return whether a column means something only to the tool that wrote it."""
    name = normalise(heading)
    if name in _TECHNICAL or name in _TECHNICAL_OF_TOOLS.get(tool, ()):
        return True
    return tool == "Mailchimp" and name.startswith(_MAILCHIMP_EVENTS)


def heading_of(name: str) -> str:
    """Return the heading with which a column becomes the custom field with a name."""
    read = recognise(["email", name], ColumnChoice())
    return name if name in read.custom else f"{field_columns.PREFIX}{name}"


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
        raise InvalidValue(tr("a column is mapped twice, or mapped and ignored"), tr("use one option for each column"))
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
    return [name for name in FIELDS if name in filled]


def explain(headings: Sequence[str], columns: Columns) -> Sequence[Phrase]:
    """Return what to tell the user about the columns that are read."""
    notes = [
        tr(
            '{field} is taken from "{column}", not from {others}',
            field=name,
            column=headings[first].strip(),
            others=_quoted(headings, others),
        )
        for name, (first, *others) in ((name, found) for name, found in columns.by_field.items() if found)
        if others
    ]
    if columns.opt_out_of_all:
        note = tr("{tool} names a file like this if all contacts in it have opted out", tool=columns.tool)
        return [*notes, note]
    if columns.tool == "Mailchimp" and "consent_at" in columns.by_field:
        column = _quoted(headings, columns.by_field["consent_at"][:1])
        notes.append(tr("consents are taken from {column}", column=column))
    return [*notes, *opt_outs.explain(columns.opt_outs)]


def row_reader(headings: Sequence[str], columns: Columns) -> RowReader:
    """Return the function that makes a client, or one who has opted out, from the cells of a row."""
    missing = len(headings)
    email, name, first, last, comment, tags = (columns.by_field.get(field, [missing])[0] for field in FIELDS)
    split = _TAG_SPLITTERS.get(columns.tool, split_tags)
    custom = list(columns.custom.items())
    has_parts = (first, last) != (missing, missing)

    def read_plain(line: int, cells: Sequence[str]) -> ImportedRow:
        cells = [*cells, ""]  # the last cell stands for a missing column
        full_name = cells[name]
        if has_parts:
            full_name = full_name.strip() or join_names(cells[first], cells[last])
        fields = {heading: cells[index] for heading, index in custom} if custom else {}
        return ImportedRow(line, cells[email], full_name, cells[comment], split(cells[tags]), fields)

    def read_with_attributes(line: int, cells: Sequence[str]) -> FileRow:
        attributes = parse_attributes(cells[columns.attributes or 0])
        if attributes is None:
            return InvalidRow(line, tr('"{name}" is not a JSON object', name=headings[columns.attributes or 0].strip()))
        row = read_plain(line, cells)
        return row._replace(fields={**attributes, **row.fields})

    read_client = read_plain if columns.attributes is None else read_with_attributes

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


def parse_attributes(cell: str) -> Mapping[str, object] | None:
    """Return the custom fields in a cell, None if it is no JSON object."""
    try:
        attributes = json.loads(cell or "{}")
    except (ValueError, RecursionError):
        return None
    return attributes if isinstance(attributes, dict) else None


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
        there = tr("the columns are {names}", names=", ".join(filter(None, own)))
        raise InvalidValue(tr('unknown column "{name}"', name=wanted), _suggest(wanted, own, there))
    if len(found) > 1:
        raise InvalidValue(tr('duplicate column "{name}"', name=wanted), tr("remove one of them"))
    return found[0]


def _quoted(headings: Sequence[str], columns: Sequence[int]) -> str:
    return ", ".join(f'"{headings[index].strip()}"' for index in columns)


def _suggest(word: str, known: Sequence[str], there: Phrase) -> Phrase:
    """Return a hint that names what resembles a mistyped word, and what there is."""
    return joined(" ", (did_you_mean(word, known), there))


# Tools


def _recognise_tool(names: Collection[str]) -> str:
    """Return the tool that exported a file with these headings, if it needs more than its headings."""
    if {"email", "attributes"} <= set(names):
        return "listmonk"
    if {"email", "data", "external id"} <= set(names):
        return "Keila"
    if "email address" in names and {"member rating", "leid", "euid"} & set(names):
        return "Mailchimp"
    return "Google Contacts" if "e mail 1 value" in names else ""


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

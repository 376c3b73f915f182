"""Read and write clients as JSON lines: one object with email, name, comment, tags and fields on each line.

It can also have the keys of a consent. Keys with other names become custom fields, and those that mark who has opted
out are understood as in CSV.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TextIO

from skychimp import safe_json
from skychimp.errors import InvalidValue
from skychimp.services.clients.clients import Export
from skychimp.services.clients.files import column_mapping, field_columns, opt_outs, text_files
from skychimp.services.clients.files.column_mapping import ColumnChoice
from skychimp.services.clients.files.csv_files import (
    CONSENT_HEADINGS,
    HEADINGS,
    MAX_COLUMNS,
    MAX_LINE_LENGTH,
    ClientFile,
    consent_cells,
    skip_line,
)
from skychimp.services.clients.files.field_columns import PREFIX, FieldSurvey, FoundFields, read_names, typed_name
from skychimp.services.clients.files.opt_outs import OptOutColumn
from skychimp.services.clients.importing import FileConsent, FileRow, ImportedRow, InvalidRow, OptedOutRow
from skychimp.translation import tr

_OBJECTS = ("fields", "attributes", "attribs")
"""Keys of an object with custom fields. listmonk has the last two."""


class _Keys(NamedTuple):
    """The keys of the objects: that of each field, those that can say that somebody has opted out, and the others.

    `custom` are keys of custom fields, of which `targets` has those that the user has chosen. `objects` are keys of
    objects with custom fields.
    """

    by_field: Mapping[str, str]
    opt_outs: Sequence[OptOutColumn]
    custom: Collection[str]
    targets: Mapping[str, str]
    objects: Collection[str]
    unused: Sequence[str]


def read(opened: TextIO, choice: ColumnChoice | None = None) -> ClientFile:
    """Read a file that was opened as for CSV. Every line must have the same of our fields as the first one.

    Raises InvalidValue if the first line is not an object with an email, or if a key that marks who has opted out has a
    value that is not understood. As any line can have such a key, or a custom field, all are read beforehand, and what
    can be read only once is copied to the disk.
    """
    source = text_files.make_seekable(opened)
    start = source.tell()
    first, names = _read_names(source)
    if first is None:  # as an export without clients
        return ClientFile((), (), iter(()))
    keys = _recognise(names, choice or ColumnChoice())
    fields = {field: key for field, key in keys.by_field.items() if key in first}
    if "email" not in fields:
        email = keys.by_field.get("email", "email")
        raise InvalidValue(
            tr('the first line is not a JSON object with "{email}"', email=email),
            tr('write lines such as {"email": "ada@example.org"}, or use --map'),
        )
    marking, custom, found = keys.opt_outs, keys.custom, FoundFields({}, ())
    if keys.opt_outs or keys.custom or keys.objects:
        source.seek(start)
        marking, custom, found = _survey(source, names, keys)
    source.seek(start)
    others = set(keys.by_field.values()) - set(fields.values())

    def read_row(number: int, line: str) -> FileRow:
        values = None if len(line) == MAX_LINE_LENGTH else _parse_object(line)
        row = _read_row(number, values, fields, others, is_long=len(line) == MAX_LINE_LENGTH)
        if values is None or isinstance(row, InvalidRow):
            return row
        if marking and (opt_out := opt_outs.find(marking, _cells(values, names, marking))):
            return OptedOutRow(number, row.email, opt_out)
        if not found.fields:
            return row
        invalid = [key for key in keys.objects if not isinstance(values.get(key) or {}, dict)]
        if invalid:
            return InvalidRow(number, tr('"{invalid}" is not a JSON object', invalid=invalid[0]))
        return row._replace(fields=_custom_values(values, custom, keys.objects))

    rows = (read_row(number, line) for number, line in _numbered_lines(source))
    columns = {"name" if field in ("first_name", "last_name") else field for field in fields}
    return ClientFile(
        [*(name for name in HEADINGS if name in columns), *(("fields",) if found.fields else ())],
        [*keys.unused, *found.ignored],
        rows if source is opened else text_files.close_after(rows, source),
        [*opt_outs.explain(marking), *read_names(found)],
        found.fields,
    )


def write(opened: TextIO, export: Export) -> int:
    """Write clients so that `read` returns the same clients. Return their number.

    If one has a consent, all lines have the keys of consents.
    """
    number = 0
    keys = {each.field.name: typed_name(each.field, is_evident=each.is_evident) for each in export.fields}
    for client in export.clients:
        fields = {keys[name]: value for name, value in client.fields.items() if name in keys}
        values: dict[str, Any] = dict(zip(HEADINGS, client, strict=False))
        if export.has_consents:
            values |= dict(zip(CONSENT_HEADINGS, consent_cells(client), strict=True))
        opened.write(safe_json.dumps(values | {"fields": fields}) + "\n")
        number += 1
    return number


def _numbered_lines(opened: TextIO) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, with their numbers. A line is cut off at MAX_LINE_LENGTH."""
    number = 0
    while line := opened.readline(MAX_LINE_LENGTH):
        number += 1
        if len(line) == MAX_LINE_LENGTH:
            skip_line(opened, line)
        if not line.isspace():
            yield number, line


# Keys


def _read_names(opened: TextIO) -> tuple[Mapping[str, Any] | None, Sequence[str]]:
    """Return the object of the first line, None if there is no line, and the names of the keys of all lines."""
    first: Mapping[str, Any] | None = None
    names: dict[str, None] = {}
    for _, line in _numbered_lines(opened):
        values = _parse_object(line) or {}
        first = values if first is None else first
        names |= dict.fromkeys(values)
        if len(names) > MAX_COLUMNS:
            raise InvalidValue(
                tr("the lines have too many different keys"), tr("use at most {max_columns:,}", max_columns=MAX_COLUMNS)
            )
    return first, list(names)


def _recognise(names: Sequence[str], choice: ColumnChoice) -> _Keys:
    """Decide what the keys are. A field that the user maps is read from that key only. Raises InvalidValue."""
    mapped, ignored = column_mapping.find_chosen(names, choice)
    by_field = {name: names[index] for index, name in mapped.items() if not field_columns.is_field(name)}
    targets = {names[index]: name for index, name in mapped.items() if field_columns.is_field(name)}
    mapped_fields = {*by_field, *(("name",) if by_field.keys() & {"first_name", "last_name"} else ())}
    free = [index for index in range(len(names)) if index not in mapped and index not in ignored]
    known_keys = {*HEADINGS, *CONSENT_HEADINGS} - mapped_fields
    own = [index for index in free if names[index] in known_keys]
    by_field |= {names[index]: names[index] for index in own}
    if "consent_at" not in by_field:  # without a time there is no consent
        own = [index for index in own if names[index] not in CONSENT_HEADINGS]
        by_field = {field: key for field, key in by_field.items() if field not in CONSENT_HEADINGS}
    tool = "listmonk" if {"attributes", "attribs"} & set(names) else ""
    found = opt_outs.find_columns(names, [index for index in free if index not in own])
    known = {*own, *(column.position for column in found)}
    rest = [names[index] for index in free if index not in known]
    objects = [name for name in rest if name in _OBJECTS]
    unused = [name for name in rest if name in HEADINGS or column_mapping.is_technical(name, tool)]
    custom = [*targets, *(name for name in rest if name not in (*objects, *unused))]
    return _Keys(by_field, found, custom, targets, objects, unused)


def _survey(
    source: TextIO, names: Sequence[str], keys: _Keys
) -> tuple[Sequence[OptOutColumn], Collection[str], FoundFields]:
    """Read all lines to find who has opted out, and the custom fields, with the keys of those outside of objects."""
    survey = FieldSurvey(keys.targets)
    uncertain = {each.heading: names[each.position] for each in keys.opt_outs if not each.is_certain}

    def surveyed() -> Iterator[tuple[int, Mapping[int, str]]]:
        for number, line in _numbered_lines(source):
            values = _parse_object(line) or {}
            survey.add_json(_custom_values(values, [*keys.custom, *uncertain.values()], keys.objects))
            yield number, _cells(values, names, keys.opt_outs)

    chosen = opt_outs.choose_columns(keys.opt_outs, surveyed())
    custom = [*keys.custom, *(names[each.position] for each in chosen.others)]
    return chosen.opt_outs, custom, survey.result(leave_out=set(uncertain.values()) - set(custom))


def _custom_values(values: Mapping[str, object], custom: Iterable[str], objects: Iterable[str]) -> Mapping[str, object]:
    """Return the values of custom fields by their names: `fields.NAME` for those in the object "fields"."""
    found: dict[str, object] = {}
    for key in objects:
        inner = values.get(key)
        if isinstance(inner, dict):
            found |= {f"{PREFIX}{name}": value for name, value in inner.items()} if key == "fields" else inner
    return found | {key: values[key] for key in custom if key in values}


def _cells(values: Mapping[str, Any], names: Sequence[str], columns: Sequence[OptOutColumn]) -> Mapping[int, str]:
    """Return the values that can say that somebody has opted out, as cells of CSV, by their positions."""
    return {column.position: as_cell(values.get(names[column.position])) for column in columns}


def as_cell(value: object) -> str:
    """Return a value as a cell of CSV would have it."""
    if isinstance(value, str):
        return value
    return "" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)


# Rows


def _read_row(
    number: int, values: Mapping[str, Any] | None, keys: Mapping[str, str], others: Iterable[str], *, is_long: bool
) -> ImportedRow | InvalidRow:
    """Read a client from an object that must have the key of each field, and none of the others."""
    if is_long:
        return InvalidRow(number, tr("longer than {max_line_length:,} characters", max_line_length=MAX_LINE_LENGTH))
    if values is None:
        return InvalidRow(number, tr("not a JSON object"))
    if not values.keys() >= set(keys.values()) or not values.keys().isdisjoint(others):
        return InvalidRow(
            number, tr("the fields differ from those of the first line ({values})", values=", ".join(keys.values()))
        )
    email, name, first_name, last_name, comment = (
        values[keys[field]] or "" if field in keys else "" for field in column_mapping.FIELDS[:5]
    )
    tags = values[keys["tags"]] or [] if "tags" in keys else []
    tags = list(column_mapping.split_tags(tags)) if isinstance(tags, str) else tags
    if not isinstance(tags, list) or not all(
        isinstance(text, str) for text in (email, name, first_name, last_name, comment, *tags)
    ):
        return InvalidRow(number, tr("email, name and comment must be strings, and tags a list of strings"))
    name = name or column_mapping.join_names(first_name, last_name)
    if "consent_at" not in keys:
        return ImportedRow(number, email, name, comment, tags)
    at, wording, proof = (values[keys[field]] or "" if field in keys else "" for field in CONSENT_HEADINGS)
    if not all(isinstance(text, str) for text in (at, wording, proof)):
        return InvalidRow(
            number, tr("{consent_headings} must be strings", consent_headings=", ".join(CONSENT_HEADINGS))
        )
    consent = FileConsent(at, wording, proof, column_mapping.wording_without_words(keys["consent_at"]))
    return ImportedRow(number, email, name, comment, tags, consent=consent)


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

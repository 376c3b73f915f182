"""Read and write clients as JSON lines: one object with email, name, comment and tags on each line."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from skychimp import safe_json
from skychimp.errors import InvalidValue
from skychimp.services.clients.clients import ClientInfo
from skychimp.services.clients.csv_files import HEADINGS, MAX_LINE_LENGTH, ClientFile, skip_line
from skychimp.services.clients.importing import ImportedRow, InvalidRow


def read(opened: TextIO) -> ClientFile:
    """Read a file that was opened as for CSV. Every line must have the same of our fields as the first one.

    Raises InvalidValue if the first line is not an object with an email.
    """
    lines = _numbered_lines(opened)
    first = next(lines, None)
    if first is None:  # as an export without clients
        return ClientFile((), (), iter(()))
    fields = _parse_object(first[1])
    if fields is None or "email" not in fields:
        raise InvalidValue(
            'the first line is not a JSON object with "email"', 'write lines such as {"email": "ada@example.org"}'
        )
    columns = [name for name in HEADINGS if name in fields]
    ignored = [name for name in fields if name not in HEADINGS]
    return ClientFile(columns, ignored, _read_rows(first, lines, columns))


def write(opened: TextIO, clients: Iterable[ClientInfo]) -> int:
    """Write clients so that `read` returns the same clients. Return their number."""
    number = 0
    for client in clients:
        line = {name: getattr(client, name) for name in HEADINGS}
        opened.write(safe_json.dumps(line) + "\n")
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


def _read_rows(
    first: tuple[int, str], lines: Iterator[tuple[int, str]], columns: Sequence[str]
) -> Iterator[ImportedRow | InvalidRow]:
    yield _read_row(*first, columns)
    for number, line in lines:
        yield _read_row(number, line, columns)


def _read_row(number: int, line: str, columns: Sequence[str]) -> ImportedRow | InvalidRow:
    if len(line) == MAX_LINE_LENGTH:
        return InvalidRow(number, f"longer than {MAX_LINE_LENGTH:,} characters")
    fields = _parse_object(line)
    if fields is None:
        return InvalidRow(number, "not a JSON object")
    if [name for name in HEADINGS if name in fields] != columns:
        return InvalidRow(number, f"the fields differ from those of the first line ({', '.join(columns)})")
    email, name, comment = (fields.get(name) or "" for name in HEADINGS[:3])
    tags = fields.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(text, str) for text in (email, name, comment, *tags)):
        return InvalidRow(number, "email, name and comment must be strings, and tags a list of strings")
    return ImportedRow(number, email, name, comment, tags)


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None

"""Clients as JSON lines: one object a line, with email, name, comment and tags; a bad line costs only itself."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from skychimp.errors import InvalidValue
from skychimp.services.clients.clients import ClientInfo
from skychimp.services.clients.csv_files import HEADINGS, LONGEST_LINE, Sheet
from skychimp.services.clients.importing import BadRow, ClientRow


def read(opened: TextIO) -> Sheet:
    """A sheet from a text opened as for CSV. What the first line says of a client, each other one says, too.

    Raises InvalidValue where the first line is no object with an email.
    """
    lines = _lines(opened)
    first = next(lines, None)
    if first is None:  # as an export of nobody is
        return Sheet((), (), iter(()))
    fields = _object(first[1])
    if fields is None or "email" not in fields:
        raise InvalidValue("the first line is no JSON object with an email", 'a line is {"email": "ada@example.org"}')
    columns = [name for name in HEADINGS if name in fields]
    others = [name for name in fields if name not in HEADINGS]
    return Sheet(columns, others, _rows(first, lines, columns))


def write(opened: TextIO, clients: Iterable[ClientInfo]) -> int:
    """Write clients as `read` takes them back; how many there were."""
    number = 0
    for client in clients:
        line = {name: getattr(client, name) for name in HEADINGS}
        opened.write(json.dumps(line, ensure_ascii=False) + "\n")
        number += 1
    return number


def _lines(opened: TextIO) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers; of one that is too long, only its beginning."""
    number = 0
    while line := opened.readline(LONGEST_LINE):
        number += 1
        rest = line
        while len(rest) == LONGEST_LINE and not rest.endswith("\n"):
            rest = opened.readline(LONGEST_LINE)
        if not line.isspace():
            yield number, line


def _rows(
    first: tuple[int, str], lines: Iterator[tuple[int, str]], columns: Sequence[str]
) -> Iterator[ClientRow | BadRow]:
    yield _row(*first, columns)
    for number, line in lines:
        yield _row(number, line, columns)


def _row(number: int, line: str, columns: Sequence[str]) -> ClientRow | BadRow:
    if len(line) == LONGEST_LINE:
        return BadRow(number, f"longer than {LONGEST_LINE} characters")
    fields = _object(line)
    if fields is None:
        return BadRow(number, "no JSON object")
    if [name for name in HEADINGS if name in fields] != columns:
        return BadRow(number, f"it says not the same as the first line, which has {', '.join(columns)}")
    email, name, comment = (fields.get(name) or "" for name in HEADINGS[:3])
    tags = fields.get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(text, str) for text in (email, name, comment, *tags)):
        return BadRow(number, "email, name and comment are texts, and tags a list of texts")
    return ClientRow(number, email, name, comment, tags)


def _object(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None

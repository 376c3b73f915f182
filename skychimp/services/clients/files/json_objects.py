"""Read the objects of a JSON file one by one: JSON lines, or a list, also one within an object as AWS prints it."""

import json
import re
from collections.abc import Iterator
from typing import Any, TextIO

from skychimp.errors import InvalidValue
from skychimp.services.clients.files.csv_files import MAX_LINE_LENGTH
from skychimp.services.clients.importing import InvalidRow
from skychimp.translation import tr

_CHUNK = 100_000
_STARTS_JSON = re.compile(r"\s*[\[{]\s*([\"\[{}\]]|$)")
_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)'
_BETWEEN_LISTS = re.compile(rf'[\s,{{}}]+|"(?:[^"\\]|\\.)*"\s*:\s*{_SCALAR}')
_LIST_START = re.compile(r'(?:"(?:[^"\\]|\\.)*"\s*:\s*)?\[')
_LIST_END = re.compile(r"\]")
_BETWEEN_ITEMS = re.compile(r"[\s,]+")


def is_json(opened: TextIO) -> bool:
    """Return whether a text begins like JSON. It can be read again from where it was."""
    start = opened.tell()
    sample = opened.read(1000)
    opened.seek(start)
    return _STARTS_JSON.match(sample) is not None


def read(opened: TextIO) -> Iterator[tuple[int, Any] | InvalidRow]:
    """Yield the objects, or texts, with their lines. Raises InvalidValue where a list is not valid JSON."""
    start = opened.tell()
    first = _parse(opened.readline(MAX_LINE_LENGTH))
    opened.seek(start)
    is_lines = isinstance(first, dict) and any(isinstance(value, str) and "@" in value for value in first.values())
    return _read_lines(opened) if is_lines else _read_lists(opened)


def _read_lines(opened: TextIO) -> Iterator[tuple[int, Any] | InvalidRow]:
    number = 0
    while line := opened.readline(MAX_LINE_LENGTH):
        number += 1
        value = _parse(line)
        while len(line) == MAX_LINE_LENGTH and not line.endswith("\n"):
            line = opened.readline(MAX_LINE_LENGTH)
        if isinstance(value, dict):
            yield number, value
        elif not line.isspace():
            yield InvalidRow(number, tr("not a JSON object"))


def _read_lists(opened: TextIO) -> Iterator[tuple[int, Any] | InvalidRow]:
    buffer, line, is_in_list = _Buffer(opened), 1, False
    while buffer.fill():
        start = buffer.position
        if between := buffer.match(_BETWEEN_ITEMS if is_in_list else _BETWEEN_LISTS):
            line += between.count("\n")
        elif is_in_list and buffer.match(_LIST_END):
            is_in_list = False
        elif not is_in_list and buffer.match(_LIST_START):
            is_in_list = True
        elif is_in_list:
            value = buffer.decode(line)
            yield line, value
            line += buffer.text.count("\n", start, buffer.position)
        else:
            raise _invalid(line)


class _Buffer:
    """The part of a text that is being read."""

    def __init__(self, opened: TextIO) -> None:
        self.text = ""
        self.position = 0
        self._opened = opened
        self._decoder = json.JSONDecoder()

    def fill(self) -> bool:
        """Read on if little is left. Return whether anything is left."""
        if len(self.text) - self.position < _CHUNK and (more := self._opened.read(5 * _CHUNK)):
            self.text = self.text[self.position :] + more
            self.position = 0
        return self.position < len(self.text)

    def match(self, pattern: re.Pattern[str]) -> str:
        """Return what matches here, and go on after it."""
        found = pattern.match(self.text, self.position)
        self.position = found.end() if found else self.position
        return found[0] if found else ""

    def decode(self, line: int) -> Any:
        """Return the value that begins here, and go on after it. Raises InvalidValue."""
        while True:
            try:
                value, self.position = self._decoder.raw_decode(self.text, self.position)
                return value
            except (ValueError, RecursionError):
                is_short = len(self.text) - self.position < MAX_LINE_LENGTH
                more = self._opened.read(MAX_LINE_LENGTH) if is_short else ""
            if not more:
                raise _invalid(line)
            self.text += more


def _invalid(line: int) -> InvalidValue:
    return InvalidValue(
        tr("line {line} is not valid JSON", line=line), tr("use a list of objects, or one object on each line")
    )


def _parse(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None

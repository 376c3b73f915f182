"""Turn values into text: escaped for people, or as JSON."""

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from datetime import datetime, timedelta
from typing import Any, TextIO

from skychimp import safe_json
from skychimp.translation import tr, translated

_ESCAPED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_YES, _NO = tr("yes"), tr("no")
_SHORT_ESCAPES = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def escape(text: str) -> str:
    """Return the text with each control, format or bidi character as `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def plain_text(value: Any) -> str:
    """Return a value as it is written in a line: escaped, times in ISO 8601, lists joined with commas."""
    if isinstance(value, str):  # first, as most values of a long list are
        return escape(str(value))
    if value is None:
        return ""
    if isinstance(value, bool):
        return _YES if value else _NO
    if isinstance(value, datetime | timedelta):
        return str(_json_value(value))
    if isinstance(value, list | tuple):
        return ",".join(plain_text(part) for part in value)
    return escape(str(value))


def terminal_text(value: Any, *, multiline: bool = False) -> str:
    """Return a value as it is shown to a person: escaped, in their language, times in the local time zone.

    Line breaks are escaped as well, unless `multiline` is true.
    """
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S" if value.second else "%Y-%m-%d %H:%M")
    if isinstance(value, list | tuple):
        return ", ".join(map(terminal_text, value))
    if isinstance(value, str) and multiline:
        return "\n".join(map(escape, translated(value).split("\n")))
    return escape(str(translated(value))) if isinstance(value, str) else translated(plain_text(value))


def cell_text(value: Any) -> str:
    """Return a value as it is shown in a table. Times are cut to the minute, because tables are narrow."""
    return value.astimezone().strftime("%Y-%m-%d %H:%M") if isinstance(value, datetime) else terminal_text(value)


def fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass or a mapping. They are no records themselves, so no deep copy is needed."""
    return dict(vars(record)) if is_dataclass(record) else dict(record)


def json_text(record: Any, *, indent: int | None = None) -> str:
    """Return a record as JSON that is safe on a terminal. Times are in ISO 8601."""
    return safe_json.dumps(fields(record), default=_json_value, indent=indent)


def write_json_list(opened: TextIO, records: Iterable[Any]) -> None:
    """Write records as one JSON list, each as soon as it is read."""
    separator = "["
    for record in records:
        opened.write(separator + json_text(record))
        separator = ",\n "
    opened.write("[]" if separator == "[" else "]")


def write_json_object(opened: TextIO, parts: Iterable[tuple[str, Any]]) -> None:
    """Write one JSON object, a part at a time. A part that is an iterator becomes a list, written as it is read."""
    separator = "{"
    for name, part in parts:
        opened.write(f"{separator}\n{safe_json.dumps(name)}: ")
        separator = ","
        if isinstance(part, Iterator):
            write_json_list(opened, part)
        else:
            opened.write(json_text(part) if is_dataclass(part) else safe_json.dumps(part, default=_json_value))
    opened.write("\n}\n")


def _escape_character(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED_CATEGORIES:
        return character
    code = ord(character)
    return _SHORT_ESCAPES.get(character) or (f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        from skychimp.durations import format_duration

        return format_duration(value)
    if is_dataclass(value):
        return fields(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")

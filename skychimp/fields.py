"""Parse, type and print the values of custom fields; pure.

A value is a string, a number, a boolean or a date. A date is kept as a string such as "2026-12-01". A client has no
empty value.
"""

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.models import FieldType
from skychimp.text import did_you_mean, folded, nfc, shortened, some_lines
from skychimp.translation import tr

MAX_FIELDS = 100
"""How many fields the clients of a user can have."""
MAX_FIELD_NAME_LENGTH = 50
MAX_VALUE_LENGTH = 1_000
"""Characters of a value."""

FieldValue = str | int | float | bool

_MAX_INTEGER = 2**53
"""Larger integers are not kept exactly by all programs that read JSON (RFC 8259, section 6)."""
_MAX_NUMBER_LENGTH = 40
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_EXAMPLES = {
    FieldType.NUMBER: tr("use a number such as 12 or 1.5"),
    FieldType.BOOLEAN: tr("use true or false"),
    FieldType.DATE: tr("use a date such as 2026-12-01"),
}


class Field(NamedTuple):
    """A custom field: its name as the user first gave it, and the type of its values."""

    name: str
    type: FieldType


# Names


def checked_name(name: str) -> str:
    """Return the name of a field in NFC. Raises InvalidValue if it is no valid name."""
    name = nfc(name.strip())
    if not name.isidentifier():
        raise InvalidValue(
            tr("invalid field name {name}", name=shortened(name)),
            tr("use a name such as city or postal_code, without spaces and signs"),
        )
    if len(name) > MAX_FIELD_NAME_LENGTH:
        raise InvalidValue(
            tr(
                "the field name {name} is longer than {most} characters",
                name=shortened(name),
                most=MAX_FIELD_NAME_LENGTH,
            )
        )
    return name


def fitted_name(heading: str) -> str | None:
    """Return the name of a field for a column with this heading, or None if nothing of it fits."""
    name = nfc(heading.strip())
    if not name.isidentifier():
        allowed = "".join(character if f"_{character}".isidentifier() else " " for character in name)
        name = "_".join(allowed.split()).strip("_")
        name = name if name.isidentifier() or not name else f"_{name}"
    return name[:MAX_FIELD_NAME_LENGTH] or None


def find_field(name: str, known: Iterable[Field]) -> Field | None:
    """Return the field with a name. Case does not matter, nor how characters are composed."""
    return next((each for each in known if folded(each.name) == folded(name)), None)


def unknown_field(name: str, known: Collection[Field], place: str = "") -> InvalidValue:
    """Return the error for a name that no field has. It names similar ones."""
    suggestion = did_you_mean(name, [each.name for each in known])
    return InvalidValue(
        tr("{place}unknown field {name}", place=place, name=name), suggestion or tr('run "skychimp clients fields"')
    )


# Values


def parse_value(text: str, field_type: FieldType, name: str) -> FieldValue | None:
    """Return the value that a text stands for, None if it is empty.

    `name` is the field's, for the error. Raises InvalidValue if the text is no value of this type, or is too long.
    """
    text = text.strip()
    if not text:
        return None
    if field_type is FieldType.TEXT:
        if len(text) <= MAX_VALUE_LENGTH and text.isprintable():  # as most are: checking each character is slow
            return text
        return some_lines(text, tr("field {name}", name=name), MAX_VALUE_LENGTH)
    value = _PARSERS[field_type](text)
    if value is None:
        hint = tr("{hint}, or change the type of the field", hint=_EXAMPLES[field_type])
        raise InvalidValue(
            tr("{value} is not a {type} (field {name})", value=shortened(text), type=field_type, name=name),
            hint,
        )
    return value


def format_value(value: FieldValue) -> str:
    """Return a value as it is printed: numbers and booleans as in JSON, but never with an exponent."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return _format_float(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def convert_value(value: FieldValue, field_type: FieldType, name: str) -> FieldValue | None:
    """Return a value as one of another type. Raises InvalidValue if it is none."""
    return parse_value(format_value(value), field_type, name)


def text_of_json(value: object) -> str:
    """Return any value of a JSON file as the text of a field. It is empty if there is nothing in it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return format_value(value)
    return "" if value in (None, [], {}) else json.dumps(value, ensure_ascii=False)


def parse_fields(stored: str) -> dict[str, FieldValue]:
    """Return the values of a JSON object as it is stored."""
    return {} if stored == "{}" else json.loads(stored)


def dump_fields(values: Mapping[str, FieldValue | None]) -> str:
    """Return values as a JSON object to be stored. None removes a value where they are merged with others."""
    return _ENCODER.encode(values) if values else "{}"


def parse_names(stored: str) -> list[str]:
    """Return the names of a JSON list as it is stored."""
    return [] if stored == "[]" else json.loads(stored)


def dump_names(names: Sequence[str]) -> str:
    """Return names as a JSON list to be stored."""
    return json.dumps(list(names), ensure_ascii=False)


# Types


def type_of_text(text: str) -> FieldType:
    """Return the type of a text that is not empty. It is a number only if it is written as the number is printed."""
    for field_type in (FieldType.NUMBER, FieldType.BOOLEAN, FieldType.DATE):
        value = _PARSERS[field_type](text)
        if value is not None and format_value(value) == text:
            return field_type
    return FieldType.TEXT


def type_of_json(value: object) -> FieldType:
    """Return the type of a value of a JSON file. A string is a text or a date."""
    if isinstance(value, bool):
        return FieldType.BOOLEAN
    if isinstance(value, str):
        return FieldType.DATE if _parse_date(value.strip()) else FieldType.TEXT
    return FieldType.TEXT if _parse_number(text_of_json(value)) is None else FieldType.NUMBER


class TypeFinder:
    """Finds the type that all values of a column have. It is text if they have different types."""

    __slots__ = ("type",)

    def __init__(self) -> None:
        self.type: FieldType | None = None
        """None as long as there is no value."""

    def add(self, field_type: FieldType) -> None:
        """Take the type of another value into account."""
        if self.type != field_type:
            self.type = field_type if self.type is None else FieldType.TEXT

    def add_text(self, text: str) -> None:
        """Take another value into account, as it is written. An empty one does not count."""
        if self.type is not FieldType.TEXT and (stripped := text.strip()):
            self.add(type_of_text(stripped))


def _parse_number(text: str) -> int | float | None:
    if len(text) > _MAX_NUMBER_LENGTH or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    if abs(number) > _MAX_INTEGER:
        return None
    if number.is_integer():
        return int(number) if "." in text or abs(int(text)) <= _MAX_INTEGER else None
    return number if len(_format_float(number)) <= _MAX_NUMBER_LENGTH else None


def _format_float(number: float) -> str:
    shortest = repr(number)
    return format(Decimal(shortest), "f") if "e" in shortest else shortest


def _parse_boolean(text: str) -> bool | None:
    return {"true": True, "false": False}.get(text.lower())


@lru_cache(maxsize=4096)  # a column has the same dates in many rows
def _parse_date(text: str) -> str | None:
    if _DATE.fullmatch(text):
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError:
            pass
    return None


_PARSERS: Mapping[FieldType, Callable[[str], FieldValue | None]] = {
    FieldType.NUMBER: _parse_number,
    FieldType.BOOLEAN: _parse_boolean,
    FieldType.DATE: _parse_date,
}

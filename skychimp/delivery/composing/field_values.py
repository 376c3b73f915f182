"""Show a client's custom fields to templates; pure."""

from collections.abc import Collection, Mapping
from datetime import date

from jinja2 import StrictUndefined, TemplateRuntimeError, Undefined

from skychimp.errors import InvalidValue
from skychimp.fields import MAX_VALUE_LENGTH, Field, FieldValue, format_value
from skychimp.models import FieldType
from skychimp.text import folded
from skychimp.translation import Phrase, tr

_SAMPLES: Mapping[FieldType, FieldValue] = {
    FieldType.NUMBER: 12,
    FieldType.BOOLEAN: True,
    FieldType.DATE: "2026-12-01",
}


class FieldValues:
    """The values that a client has, by the folded names of the fields. Raises InvalidValue for one that is too long."""

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, FieldValue]) -> None:
        self._values = {folded(name): value for name, value in values.items()}
        if any(isinstance(value, str) and len(value) > MAX_VALUE_LENGTH for value in values.values()):
            raise InvalidValue(tr("a field of the client is too long"))  # a damaged store

    def value(self, key: str) -> object:
        """Return a value that prints as it should. A missing one can only be tested, or get a default."""
        value = self._values.get(key)
        if value is None:
            return _Missing(hint=_reason(key))
        if isinstance(value, bool):
            return _Boolean(value)
        return _Float(value) if isinstance(value, float) else value

    def text(self, key: str) -> str:
        """Return a value as it is printed. Raises InvalidValue if it is missing."""
        value = self._values.get(key)
        if value is None:
            raise InvalidValue(_reason(key))
        return value if isinstance(value, str) else format_value(value)


def format_date(value: object, date_format: str) -> object:
    """Return a date field's value in a format of strftime. A missing value stays one, which can get a default.

    Raises TemplateRuntimeError if it is no date.
    """
    if isinstance(value, Undefined):
        return value
    try:
        return date.fromisoformat(str(value)).strftime(date_format)
    except ValueError:
        raise TemplateRuntimeError("date must be used with a date") from None


def sample_values(fields: Collection[Field], text: str = "") -> dict[str, FieldValue]:
    """Return a value for each field. A text field has its own name as its value, unless a text is given."""
    return {field.name: _SAMPLES.get(field.type, text or field.name) for field in fields}


class _Missing(StrictUndefined):
    """The value of a field that a client does not have."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]
        return False


class _Boolean(int):
    """A boolean that prints as in JSON."""

    def __str__(self) -> str:
        return format_value(bool(self))


class _Float(float):
    """A number that prints without an exponent."""

    def __str__(self) -> str:
        return format_value(float(self))


def _reason(key: str) -> Phrase:
    return tr("the client has no value for client.fields.{key}", key=key)

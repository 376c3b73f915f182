"""Find the custom fields in the columns of a file, and the types of their values; pure.

A column becomes the field that its heading names. Only a column with a value does. `fields.zip` and `fields.zip:text`
name a field, and its type, for certain: an export writes them where a plain heading would mean something else.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.fields import Field, TypeFinder, checked_name, fitted_name, text_of_json, type_of_json
from skychimp.models import FieldType
from skychimp.text import folded
from skychimp.translation import Phrase, joined, tr

PREFIX = "fields."
MAX_NAMES = 1_000
"""How many different names of fields a file can have. Most of them may have no value."""


class FoundFields(NamedTuple):
    """The fields of a file by their names in it, and the names that are left out."""

    fields: Mapping[str, Field]
    ignored: Sequence[str]


class FieldSurvey:
    """Reads all values of a file, to find its fields. `targets` are chosen by the user, such as `fields.zip`."""

    def __init__(self, targets: Mapping[str, str] | None = None) -> None:
        self._targets = targets or {}
        self._finders: dict[str, TypeFinder] = {}

    def finder(self, name: str) -> TypeFinder:
        """Return what finds the type of the column with a name. Raises InvalidValue for too many columns."""
        if name not in self._finders:
            if len(self._finders) >= MAX_NAMES:
                raise InvalidValue(
                    tr("the file has too many different fields"), tr("use at most {most:,}", most=MAX_NAMES)
                )
            self._finders[name] = TypeFinder()
        return self._finders[name]

    def add_json(self, values: Mapping[str, object]) -> None:
        """Take the values of a JSON object into account. They have types of their own."""
        for name, value in values.items():
            finder = self.finder(name)
            if finder.type != FieldType.TEXT and text_of_json(value).strip():
                finder.add(type_of_json(value))

    def result(self, leave_out: Collection[str] = ()) -> FoundFields:
        """Return the fields that have a value, or that the user has chosen with their type."""
        found: dict[str, Field] = {}
        ignored: list[str] = []
        taken: set[str] = set()
        names = [name for name in self._finders if name not in leave_out]
        for name in sorted(names, key=lambda name: not self._is_explicit(name)):
            field_name, field_type = parse_target(self._targets.get(name, name))
            field_type = field_type or self._finders[name].type
            if field_name is None or folded(field_name) in taken:
                ignored.append(name)
            elif field_type is not None:
                found[name] = Field(field_name, field_type)
                taken.add(folded(field_name))
        return FoundFields({name: found[name] for name in names if name in found}, ignored)

    def _is_explicit(self, name: str) -> bool:
        return name in self._targets or is_field(name)


def is_field(target: str) -> bool:
    """Return whether a target or a heading names a field for certain."""
    return target.startswith(PREFIX)


def check_target(target: str) -> str:
    """Return a target such as `fields.zip` or `fields.zip:text`. Raises InvalidValue for any other."""
    name, separator, field_type = target.removeprefix(PREFIX).partition(":")
    if separator and field_type not in list(FieldType):
        raise InvalidValue(
            tr('unknown type "{name}"', name=field_type),
            tr("choose one of: {types}", types=", ".join(FieldType)),
        )
    return f"{PREFIX}{checked_name(name)}{separator}{field_type}"


def parse_target(target: str) -> tuple[str | None, FieldType | None]:
    """Return the name of the field that a target or a heading stands for, and its type, each None if there is none."""
    if not is_field(target):
        return fitted_name(target), None
    name, _, field_type = target.removeprefix(PREFIX).partition(":")
    return fitted_name(name), FieldType(field_type) if field_type in list(FieldType) else None


def typed_name(field: Field, *, is_evident: bool) -> str:
    """Return the name of a field in a file, with the type unless that is evident from the values."""
    return field.name if is_evident else f"{field.name}:{field.type}"


def read_names(found: FoundFields) -> Sequence[Phrase]:
    """Return what to tell the user about the columns that become fields."""
    names = [
        field.name
        if name in (field.name, f"{PREFIX}{field.name}")
        else tr('{field} (from "{column}")', field=field.name, column=name)
        for name, field in found.fields.items()
    ]
    return [tr("fields: {names}", names=joined(", ", names))] if names else []

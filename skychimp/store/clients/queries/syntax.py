"""Name the parts of a query; pure.

A query is a tree of these nodes. `<>`, NOT IN, NOT LIKE and IS NOT NULL are a Negation of the other one, and BETWEEN is
two comparisons: that is what they mean in SQL.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from skychimp.models.enums import FieldType

MAX_BYTES = 4_096
MAX_DEPTH = 32
MAX_TERMS = 200
MAX_DIGITS = 15
"""Every number with as many digits is the same on both databases."""

FIELD_PREFIX = "fields."


class Kind(StrEnum):
    """What the values of a column are, which decides what it can be compared with."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"
    TIME = "time"
    ADDRESS = "address"
    TAG = "tag"
    """A client has any number of tags. One that is equal is enough."""


class KnownField(NamedTuple):
    """A custom field of a user's clients."""

    name: str
    type: FieldType


class Known(NamedTuple):
    """What a user's queries may name: the fields by their folded names, and mailings by their ids."""

    fields: Mapping[str, KnownField]
    is_mailing: Callable[[int], bool]


@dataclass(frozen=True, slots=True)
class Column:
    """Something that is known of a client. `name` is a key of COLUMNS, or a field's name if `is_field` is true."""

    name: str
    kind: Kind
    is_field: bool = False

    def __str__(self) -> str:
        """Return the column as queries name it."""
        return FIELD_PREFIX + self.name if self.is_field else self.name


COLUMNS = {
    column.name: column
    for column in (
        Column("email", Kind.ADDRESS),
        Column("name", Kind.TEXT),
        Column("comment", Kind.TEXT),
        Column("created_at", Kind.TIME),
        Column("consent_at", Kind.TIME),
        Column("tag", Kind.TAG),
    )
}

Value = str | Decimal | bool
"""A value in a query. A time is kept as it is written, because it may be relative to the time of the evaluation."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`name = 'Ada'`. The operator is one of `=`, `<`, `<=`, `>` and `>=`."""

    column: Column
    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    """`name IN ('Ada', 'Bob')`."""

    column: Column
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Like:
    """`name LIKE 'a%'`. `%` stands for any characters and `_` for one. Case does not matter."""

    column: Column
    pattern: str


@dataclass(frozen=True, slots=True)
class IsNull:
    """`name IS NULL`: the client has no value."""

    column: Column


@dataclass(frozen=True, slots=True)
class Got:
    """`got(7, '-30d')`: the client was sent this mailing, since a time if one is given."""

    mailing_id: int
    since: str | None = None


@dataclass(frozen=True, slots=True)
class Negation:
    """`NOT operand`."""

    operand: "Node"


@dataclass(frozen=True, slots=True)
class Conjunction:
    """`first AND second AND ...`."""

    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Disjunction:
    """`first OR second OR ...`."""

    operands: tuple["Node", ...]


Node = Comparison | OneOf | Like | IsNull | Got | Negation | Conjunction | Disjunction

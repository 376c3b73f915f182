"""Make random queries and clients, write queries as text, and evaluate them in Python by SQL's rules."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from operator import eq, ge, gt, le, lt
from typing import Any

from hypothesis import strategies as st
from sqlalchemy import Connection, insert

from skychimp.models import ClientField, FieldType
from skychimp.store.clients.queries.parser import parse_time
from skychimp.store.clients.queries.syntax import (
    COLUMNS,
    Column,
    Comparison,
    Conjunction,
    Disjunction,
    Got,
    IsNull,
    Kind,
    Known,
    KnownField,
    Like,
    Negation,
    Node,
    OneOf,
    Value,
)
from skychimp.text import folded

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
TIMEZONE = "Europe/Riga"
FIELDS = {
    "city": FieldType.TEXT,
    "Größe": FieldType.NUMBER,
    "paid": FieldType.BOOLEAN,
    "born": FieldType.DATE,
}
KNOWN = Known({folded(name): KnownField(name, type_) for name, type_ in FIELDS.items()}, lambda mailing_id: True)
FIELD_COLUMNS = [Column(name, Kind(type_.value), is_field=True) for name, type_ in FIELDS.items()]


@dataclass(frozen=True)
class Person:
    """What a query can ask of a client."""

    email: str
    name: str = ""
    comment: str = ""
    created_at: datetime = NOW
    consent_at: datetime | None = None
    tags: Sequence[str] = ()
    fields: Mapping[str, Any] | None = None
    got_at: Mapping[int, datetime] | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns of the client's row."""
        return {
            "email": self.email,
            "address_key": self.email.lower(),
            "name": self.name,
            "comment": self.comment,
            "created_at": self.created_at,
            "consent_at": self.consent_at,
            "fields": json.dumps(dict(self.fields or {}), ensure_ascii=False),
        }


def add_fields(db: Connection, owner_id: int, fields: Mapping[str, FieldType] = FIELDS) -> None:
    """Define the custom fields of a user's clients."""
    rows = [{"owner_id": owner_id, "key": folded(name), "name": name, "type": kind} for name, kind in fields.items()]
    db.execute(insert(ClientField), rows)


# Evaluation


def evaluate(node: Node, person: Person) -> bool | None:
    """Return whether a query chooses a client. None is SQL's NULL."""
    match node:
        case Negation(operand):
            chosen = evaluate(operand, person)
            return None if chosen is None else not chosen
        case Conjunction(operands) | Disjunction(operands):
            results = [evaluate(operand, person) for operand in operands]
            decisive = isinstance(node, Disjunction)
            return decisive if decisive in results else None if None in results else not decisive
        case Got(mailing_id, since):
            at = (person.got_at or {}).get(mailing_id)
            return at is not None and (since is None or at >= parse_time(since, TIMEZONE, NOW))
        case IsNull(Column(kind=Kind.TAG)):
            return not person.tags
        case IsNull(column):
            return value_of(column, person) is None
        case Like(Column(kind=Kind.TAG), pattern):
            return any(is_like(tag, pattern) for tag in person.tags)
        case Like(column, pattern):
            text = person.email if column.kind == Kind.ADDRESS else value_of(column, person)
            return None if text is None else is_like(text, pattern)
        case Comparison(Column(kind=Kind.TAG), _, wanted):
            return folded(str(wanted)) in map(folded, person.tags)
        case OneOf(Column(kind=Kind.TAG), wanted_tags):
            return bool({folded(str(tag)) for tag in wanted_tags} & set(map(folded, person.tags)))
        case Comparison(column, operator, wanted):
            value = value_of(column, person)
            return None if value is None else compare(value, operator, meant(column, wanted))
        case OneOf(column, wanted_values):
            value = value_of(column, person)
            return None if value is None else value in [meant(column, wanted) for wanted in wanted_values]


def value_of(column: Column, person: Person) -> Any:
    """Return a client's value, None if there is none or it is not of the column's kind."""
    if not column.is_field:
        value = person.email.lower() if column.kind == Kind.ADDRESS else getattr(person, column.name)
        return None if value == "" else value
    value = (person.fields or {}).get(column.name)
    is_of_kind = {
        Kind.TEXT: isinstance(value, str),
        Kind.NUMBER: isinstance(value, int | float) and not isinstance(value, bool),
        Kind.BOOLEAN: isinstance(value, bool),
        Kind.DATE: isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value) is not None,
    }[column.kind]
    if not is_of_kind:
        return None
    return Decimal(str(value)) if column.kind == Kind.NUMBER else value


def meant(column: Column, value: Value) -> Any:
    return parse_time(str(value), TIMEZONE, NOW) if column.kind == Kind.TIME else value


def compare(value: Any, operator: str, other: Any) -> bool:
    operators: dict[str, Callable[[Any, Any], bool]] = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}
    return operators[operator](value, other)


def is_like(text: str, pattern: str) -> bool:
    parts = {"%": ".*", "_": "."}
    regex = "".join(parts.get(character) or re.escape(character) for character in folded(pattern))
    return re.fullmatch(regex, folded(text), re.DOTALL) is not None


# Writing


def write_query(node: Node) -> str:
    """Return a query as text that is read as this node, with parentheses around every part."""
    match node:
        case Negation(operand):
            return f"(NOT {write_query(operand)})"
        case Conjunction(operands):
            return f"({' AND '.join(map(write_query, operands))})"
        case Disjunction(operands):
            return f"({' or '.join(map(write_query, operands))})"
        case Got(mailing_id, since):
            return f"got({mailing_id}{'' if since is None else f', {quoted(since)}'})"
        case IsNull(column):
            return f"{column} IS NULL"
        case Like(column, pattern):
            return f"{column} like {quoted(pattern)}"
        case OneOf(column, values):
            return f"{column} IN ({', '.join(map(quoted, values))})"
        case Comparison(column, operator, value):
            return f"{column}{operator}{quoted(value)}"


def quoted(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    return format(value, "f") if isinstance(value, Decimal) else "'" + value.replace("'", "''") + "'"


# Strategies

# Letters whose case both databases fold alike, and characters that have a meaning somewhere.
TEXTS = st.text("abAB éÉяЯσΣς'\"\\%_;-.$\n{}", max_size=5)
NUMBERS = st.decimals(-100, 100, places=1) | st.integers(-(10**15) + 1, 10**15 - 1).map(Decimal)
DATES = st.sampled_from(["2000-02-29", "2025-12-31", "2026-01-01"])
TIMES = st.sampled_from(["-1d", "-36h", "2026-03-01", "2026-03-02 11:00", "2026-03-02T09:00Z", "now"])
ADDRESSES = st.sampled_from(["ann@example.org", "ben@example.org", "zoë@example.org"])
TAGS = st.sampled_from(["vip", "VIP", "gold", "día", "x y"])

VALUES: dict[Kind, st.SearchStrategy[Value]] = {
    Kind.TEXT: TEXTS,
    Kind.NUMBER: NUMBERS,
    Kind.BOOLEAN: st.booleans(),
    Kind.DATE: DATES,
    Kind.TIME: TIMES,
    Kind.ADDRESS: ADDRESSES,
    Kind.TAG: TAGS,
}


@st.composite
def terms(draw: st.DrawFn) -> Node:
    """Draw a condition."""
    column = draw(st.sampled_from([*COLUMNS.values(), *FIELD_COLUMNS]))
    values = VALUES[column.kind]
    operators = ["="] if column.kind in (Kind.BOOLEAN, Kind.TAG) else ["=", "<", "<=", ">", ">="]
    kinds: list[st.SearchStrategy[Node]] = [
        st.builds(Comparison, st.just(column), st.sampled_from(operators), values),
        st.builds(OneOf, st.just(column), st.lists(values, min_size=1, max_size=3).map(tuple)),
        st.just(IsNull(column)),
        st.builds(Got, st.integers(1, 3), st.none() | TIMES),
    ]
    if column.kind in (Kind.TEXT, Kind.ADDRESS, Kind.TAG):
        kinds.append(st.builds(Like, st.just(column), TEXTS))
    return draw(st.one_of(kinds))


def queries() -> st.SearchStrategy[Node]:
    """Return queries of some depth."""
    return st.recursive(
        terms(),
        lambda inner: (
            st.builds(Negation, inner)
            | st.builds(Conjunction, st.lists(inner, min_size=2, max_size=3).map(tuple))
            | st.builds(Disjunction, st.lists(inner, min_size=2, max_size=3).map(tuple))
        ),
        max_leaves=8,
    )


def people() -> st.SearchStrategy[list[Person]]:
    """Return clients with different addresses, some of them with values of another kind than their fields'."""
    numbers = st.integers(-100, 100) | st.floats(-100, 100).map(lambda number: round(number, 1))
    any_value = st.one_of(TEXTS, st.booleans(), DATES, numbers)
    midnight = datetime(2026, 2, 28, 22, tzinfo=UTC)  # in TIMEZONE
    times = st.sampled_from([NOW, NOW - timedelta(days=1), NOW - timedelta(hours=40), midnight])
    return st.lists(
        st.builds(
            Person,
            email=ADDRESSES,
            name=TEXTS.map(lambda text: text.replace("\n", "")),
            comment=TEXTS,
            created_at=times,
            consent_at=st.none() | times,
            tags=st.lists(st.sampled_from(["vip", "gold", "día", "x y"]), unique=True, max_size=2),
            fields=st.dictionaries(st.sampled_from(list(FIELDS)), any_value),
        ),
        max_size=3,
        unique_by=lambda person: person.email,
    )

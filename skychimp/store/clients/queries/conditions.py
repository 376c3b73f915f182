"""Turn queries into conditions on clients, which mean the same on SQLite and PostgreSQL.

Values and names of fields are bound parameters. Nothing of a query becomes SQL text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from operator import eq, ge, gt, le, lt
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, exists, func, literal, not_, or_, select

from skychimp.models import (
    DeliveryState,
    FieldType,
    Outcome,
    tables,
)
from skychimp.models.base import has_state
from skychimp.store.clients import tags
from skychimp.store.clients.queries.parser import parse, parse_time
from skychimp.store.clients.queries.syntax import (
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
from skychimp.store.conditions import was_sent
from skychimp.store.sql import field_value, has_pattern, in_code_order, number
from skychimp.text import folded

_C = tables.client
_F = tables.client_field
_T = tables.client_tag
_M = tables.mailing
_O = tables.occurrence
_D = tables.delivery
_A = tables.attempt

_OPERATORS = {"=": eq, "<": lt, "<=": le, ">": gt, ">=": ge}


@dataclass(frozen=True)
class Evaluation:
    """Whose clients a query chooses from, and what its times refer to. `timezone` is of times without an offset."""

    db: Connection
    owner_id: int
    timezone: str
    now: datetime

    @cached_property
    def known(self) -> Known:
        """What queries may name."""
        fields = self.db.execute(select(_F.c.key, _F.c.name, _F.c.type).where(_F.c.owner_id == self.owner_id))
        return Known({row.key: KnownField(row.name, FieldType(row.type)) for row in fields}, self._is_mailing)

    def condition(self, query: str) -> ColumnElement[bool]:
        """Return the condition of a client that a query chooses. Raises InvalidQuery."""
        return self.compile(parse(query, self.known))

    def has_tag(self, tag: str) -> ColumnElement[bool]:
        """Return the condition of a client with a tag, in whatever spelling."""
        return self._has_one_of([tag])

    def compile(self, node: Node) -> ColumnElement[bool]:
        """Return the condition that a part of a query stands for. It is NULL where SQL's would be."""
        match node:
            case Conjunction(operands):
                return and_(*map(self.compile, operands))
            case Disjunction(operands):
                return or_(*map(self.compile, operands))
            case Negation(operand):
                return not_(self.compile(operand))
            case Got(mailing_id, since):
                return self._got(mailing_id, since)
            case IsNull(Column(kind=Kind.TAG)):
                return ~exists().where(_T.c.client_id == _C.c.id).correlate(_C)
            case IsNull(column):
                return _value(column).is_(None)
            case Like(Column(kind=Kind.TAG), pattern):
                return exists().where(_T.c.client_id == _C.c.id, has_pattern(_T.c.tag, pattern)).correlate(_C)
            case Like(column, pattern):
                return _is_like(column, pattern)
            case Comparison(Column(kind=Kind.TAG), _, value):
                return self._has_one_of([str(value)])
            case OneOf(Column(kind=Kind.TAG), values):
                return self._has_one_of([str(value) for value in values])
            case Comparison(column, operator, value):
                compared: ColumnElement[bool] = _OPERATORS[operator](_ordered(column), self._literal(column, value))
                return compared
            case OneOf(column, values):
                return _ordered(column).in_([self._literal(column, value) for value in values])

    def _literal(self, column: Column, value: Value) -> ColumnElement[Any]:
        if isinstance(value, Decimal):
            return number(format(value, "f"))
        if column.kind == Kind.TIME:
            return literal(parse_time(str(value), self.timezone, self.now), _C.c.created_at.type)
        return literal(value)

    def _has_one_of(self, wanted: Sequence[str]) -> ColumnElement[bool]:
        keys = set(map(folded, wanted))
        spellings = [tag for tag in self._tags if folded(tag) in keys]
        return exists().where(_T.c.client_id == _C.c.id, _T.c.tag.in_(spellings)).correlate(_C)

    def _got(self, mailing_id: int, since: str | None) -> ColumnElement[bool]:
        sent = (
            select(_D.c.id)
            .join_from(_O, _D, _D.c.occurrence_id == _O.c.id)
            .where(_O.c.mailing_id == mailing_id, _D.c.address_key == _C.c.address_key)
            .where(or_(has_state(_D.c.state, DeliveryState.SENT), was_sent()))
        )
        if since is not None:
            at = literal(parse_time(since, self.timezone, self.now), _O.c.opened_at.type)
            is_success = and_(_A.c.delivery_id == _D.c.id, _A.c.outcome == Outcome.SENT)
            sent_at = select(func.max(_A.c.finished_at)).where(is_success).correlate(_D).scalar_subquery()
            # Attempts may have been removed as they are old. Then nothing was sent after the occurrence was finished.
            sent = sent.where(func.coalesce(sent_at, _O.c.finished_at, literal(self.now, at.type)) >= at)
        return sent.correlate(_C).exists()

    def _is_mailing(self, mailing_id: int) -> bool:
        owner_id = self.db.scalar(select(_M.c.owner_id).where(_M.c.id == mailing_id))
        return bool(owner_id == self.owner_id)

    @cached_property
    def _tags(self) -> Sequence[str]:
        return tags.tags_of_clients(self.db)


def _is_like(column: Column, pattern: str) -> ColumnElement[bool]:
    if column.is_field:
        return has_pattern(_value(column), pattern)
    text = _C.c[column.name]
    return case((text != "", has_pattern(text, pattern)))


def _ordered(column: Column) -> ColumnElement[Any]:
    """Return what a column is compared by."""
    return in_code_order(_value(column)) if column.kind in (Kind.TEXT, Kind.ADDRESS, Kind.DATE) else _value(column)


def _value(column: Column) -> ColumnElement[Any]:
    """Return the expression for a client's value. It is NULL if the client has none."""
    if column.is_field:
        return field_value(_C.c.fields, column.name, FieldType(column.kind.value))
    if column.kind == Kind.ADDRESS:
        return _C.c.address_key
    return func.nullif(_C.c[column.name], "") if column.kind == Kind.TEXT else _C.c[column.name]

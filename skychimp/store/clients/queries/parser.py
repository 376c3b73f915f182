"""Read queries by recursive descent; pure.

    query       = conjunction { OR conjunction }
    conjunction = negation { AND negation }
    negation    = NOT negation | "(" query ")" | got | predicate
    got         = GOT "(" number [ "," text ] ")"
    predicate   = column ( operator value | IS [NOT] NULL
                         | [NOT] ( IN "(" value { "," value } ")" | LIKE text | BETWEEN value AND value ) )
    column      = email | name | comment | created_at | consent_at | tag | fields.NAME

Case does not matter in keywords and names.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal

from skychimp import addresses
from skychimp.delivery.scheduling import time_input
from skychimp.durations import is_duration, parse_duration
from skychimp.errors import InvalidQuery, InvalidValue
from skychimp.store.clients.queries.syntax import (
    COLUMNS,
    FIELD_PREFIX,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_TERMS,
    Column,
    Comparison,
    Conjunction,
    Disjunction,
    Got,
    IsNull,
    Kind,
    Known,
    Like,
    Negation,
    Node,
    OneOf,
    Value,
)
from skychimp.store.clients.queries.tokens import EXAMPLE, Token, split
from skychimp.text import NO_TEXT, close_matches, did_you_mean, folded, shortened
from skychimp.translation import Phrase, tr

COMPARISONS = ("=", "<>", "!=", "<", "<=", ">", ">=")
KEYWORDS = ("AND", "OR", "NOT", "IN", "LIKE", "IS", "NULL", "BETWEEN", "TRUE", "FALSE", "GOT")
PREDICATES = tr("=, <>, <, <=, >, >=, IN, LIKE, BETWEEN or IS NULL")

_MAX_ID = 2**63 - 1
_LIKE_KINDS = (Kind.TEXT, Kind.ADDRESS, Kind.TAG)
_LITERALS = {
    Kind.TEXT: tr("a text in quotes, such as 'Riga'"),
    Kind.ADDRESS: tr("an email address in quotes, such as 'ada@example.org'"),
    Kind.TAG: tr("a tag in quotes, such as 'vip'"),
    Kind.NUMBER: tr("a number, such as 42 or -1.5"),
    Kind.BOOLEAN: tr("TRUE or FALSE"),
    Kind.DATE: tr("a date in quotes, such as '2026-12-01'"),
    Kind.TIME: tr("a time in quotes: '2026-12-01', '2026-12-01 09:00' or '-30d'"),
}


_KINDS = {
    Kind.TEXT: tr("a text"),
    Kind.ADDRESS: tr("an email address"),
    Kind.TAG: tr("a tag"),
    Kind.NUMBER: tr("a number"),
    Kind.BOOLEAN: tr("true or false"),
    Kind.DATE: tr("a date"),
    Kind.TIME: tr("a time"),
}


def parse(query: str, known: Known) -> Node:
    """Return what a query means. Raises InvalidQuery."""
    return _Parser(query, known).parse()


def parse_time(text: str, timezone: str, now: datetime) -> datetime:
    """Return the instant that a time in a query means, in UTC: `-30d` is that long ago. Raises InvalidValue."""
    if text.startswith("-") and is_duration(text[1:]):
        return now - parse_duration(text[1:])
    return time_input.parse_when(text, timezone, now, is_past=True)


class _Parser:
    def __init__(self, query: str, known: Known) -> None:
        self._query = query
        self._known = known
        self._tokens = split(query)
        self._token = next(self._tokens)
        self._depth = self._terms = 0

    def parse(self) -> Node:
        if self._token.kind == "end":
            raise InvalidQuery(tr("it is empty"), EXAMPLE, self._query, 0)
        node = self._disjunction()
        if self._token.kind != "end":
            raise self._unexpected(tr("AND or OR"))
        return node

    # Operators

    def _disjunction(self) -> Node:
        return self._joined("OR", lambda: self._joined("AND", self._negation, Conjunction), Disjunction)

    def _joined(self, keyword: str, operand: Callable[[], Node], node: Callable[[tuple[Node, ...]], Node]) -> Node:
        operands = [operand()]
        while self._take(keyword):
            operands.append(operand())
        return operands[0] if len(operands) == 1 else node(tuple(operands))

    def _negation(self) -> Node:
        if self._token.keyword not in ("NOT", "("):
            return self._term()
        if self._depth == MAX_DEPTH:
            raise self._error(
                tr("more than {max_depth} levels of NOT and parentheses", max_depth=MAX_DEPTH),
                tr("write it with fewer levels"),
            )
        self._depth += 1
        start = self._advance()
        if start.keyword == "NOT":
            node: Node = Negation(self._negation())
        else:
            node = self._disjunction()
            self._expect(")", tr("the parenthesis of column {position} is not closed", position=start.position + 1))
        self._depth -= 1
        return node

    def _term(self) -> Node:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise self._error(
                tr("more than {max_terms} conditions", max_terms=MAX_TERMS),
                tr("use IN, or give the clients a tag instead"),
            )
        return self._got() if self._token.keyword == "GOT" else self._predicate()

    # Conditions

    def _got(self) -> Node:
        self._advance()
        self._expect("(", tr("got needs a mailing"), tr("write got(7), or got(7, '-30d')"))
        number = self._token
        mailing_id = int(number.value) if number.kind == "number" and number.value.isdecimal() else 0
        if not 0 < mailing_id <= _MAX_ID or not self._known.is_mailing(mailing_id):
            problem = (
                tr("mailing {mailing_id} not found", mailing_id=mailing_id)
                if mailing_id
                else tr("the ID of a mailing expected")
            )
            raise self._error(problem, tr('run "skychimp mailings list"'))
        self._advance()
        since = self._text(Kind.TIME, _checked_time) if self._take(",") else None
        self._expect(")", tr("got is not closed"))
        return Got(mailing_id, since)

    def _predicate(self) -> Node:
        column = self._column()
        operator = self._token
        is_negated = self._take("NOT")
        node = self._null_test(column, operator) if self._take("IS") else self._negatable(column)
        if node is None:
            if is_negated or self._token.keyword not in COMPARISONS:
                raise self._unexpected(tr("IN, LIKE or BETWEEN") if is_negated else PREDICATES)
            return self._comparison(column)
        return Negation(node) if is_negated else node

    def _null_test(self, column: Column, operator: Token) -> Node:
        if operator.keyword == "NOT":
            raise self._error(tr("NOT IS is not valid"), tr("write IS NOT NULL"), operator)
        is_negated = self._take("NOT")
        self._expect("NULL", tr("NULL expected"), tr("write {column} IS NULL or {column} IS NOT NULL", column=column))
        return Negation(IsNull(column)) if is_negated else IsNull(column)

    def _negatable(self, column: Column) -> Node | None:
        """Return the predicate whose keyword comes next, or None if it is none that NOT can be before."""
        operator = self._token
        if self._take("IN"):
            return OneOf(column, self._values(column))
        if self._take("LIKE"):
            self._require(column.kind in _LIKE_KINDS, column, operator)
            return Like(column, self._text(Kind.TEXT))
        if self._take("BETWEEN"):
            self._require(column.kind not in (Kind.BOOLEAN, Kind.TAG), column, operator)
            low = self._value(column, is_ordered=True)
            self._expect("AND", tr("AND expected"), tr("write {column} BETWEEN … AND …", column=column))
            return Conjunction((Comparison(column, ">=", low), Comparison(column, "<=", self._value(column, True))))
        return None

    def _comparison(self, column: Column) -> Node:
        operator = self._advance()
        is_ordered = operator.value[0] in "<>" and operator.value != "<>"
        self._require(not is_ordered or column.kind not in (Kind.BOOLEAN, Kind.TAG), column, operator)
        value = self._value(column, is_ordered)
        if operator.value in ("<>", "!="):
            return Negation(Comparison(column, "=", value))
        return Comparison(column, operator.value, value)

    def _require(self, is_possible: bool, column: Column, operator: Token) -> None:
        if not is_possible:
            problem = tr(
                "{keyword} cannot be used with {column}, which is {described}",
                keyword=operator.keyword,
                column=column,
                described=_KINDS[column.kind],
            )
            raise self._error(problem, tr("use =, <>, IN or IS NULL with {column}", column=column), operator)

    # Columns and values

    def _column(self) -> Column:
        token = self._token
        if token.kind != "word" or token.keyword in KEYWORDS:
            raise self._unexpected(tr("a column such as email, tag or fields.city"))
        self._advance()
        if folded(token.value).startswith(FIELD_PREFIX):
            name = token.value[len(FIELD_PREFIX) :]
            field = self._known.fields.get(folded(name))
            if field is None:
                raise self._unknown(token, tr("unknown field {name}", name=name), name)
            return Column(field.name, Kind(field.type.value), is_field=True)
        column = COLUMNS.get(folded(token.value))
        if column is None:
            raise self._unknown(token, tr("unknown column {name}", name=token.value), token.value)
        return column

    def _unknown(self, token: Token, problem: Phrase, name: str) -> InvalidQuery:
        fields = {field.name: FIELD_PREFIX + field.name for field in self._known.fields.values()}
        close = close_matches(name, fields, most=1) or close_matches(name, COLUMNS, most=1)
        if close:
            hint = tr("did you mean {words}?", words=fields.get(close[0], close[0]))
        else:
            hint = tr("choose one of: {choices}", choices=", ".join([*COLUMNS, *fields.values()][:20]))
        return self._error(problem, hint, token)

    def _values(self, column: Column) -> tuple[Value, ...]:
        self._expect("(", tr("( expected"), tr("write {column} IN (…, …)", column=column))
        values = [self._value(column)]
        while self._take(","):
            values.append(self._value(column))
        self._expect(")", tr("the list is not closed"))
        return tuple(values)

    def _value(self, column: Column, is_ordered: bool = False) -> Value:
        if self._token.keyword == "NULL":
            raise self._error(
                tr("nothing is equal to NULL"), tr("write {column} IS NULL or {column} IS NOT NULL", column=column)
            )
        if column.kind == Kind.NUMBER:
            return self._number(column)
        if column.kind == Kind.BOOLEAN:
            return self._boolean(column)
        checks: dict[Kind, Callable[[str], str]] = {
            Kind.DATE: _checked_date,
            Kind.TIME: _checked_time,
            Kind.ADDRESS: str.lower if is_ordered else _address_key,  # any text sorts addresses, such as 'm'
        }
        return self._text(column.kind, checks.get(column.kind, str), column)

    def _number(self, column: Column) -> Value:
        token = self._token
        if token.kind != "number":
            raise self._mismatch(column)
        if sum(map(str.isdigit, token.value)) > MAX_DIGITS:
            raise self._error(
                tr("the number has more than {max_digits} digits", max_digits=MAX_DIGITS), tr("use fewer digits")
            )
        self._advance()
        return Decimal(token.value)

    def _boolean(self, column: Column) -> Value:
        token = self._token
        if token.keyword not in ("TRUE", "FALSE"):
            raise self._mismatch(column)
        self._advance()
        return token.keyword == "TRUE"

    def _text(self, kind: Kind, check: Callable[[str], str] = str, column: Column | None = None) -> str:
        token = self._token
        if token.kind != "text":
            raise self._mismatch(column) if column else self._unexpected(_LITERALS[kind])
        try:
            value = check(token.value)
        except (InvalidValue, ValueError):
            raise self._invalid(kind, token.value) from None
        self._advance()
        return value

    def _invalid(self, kind: Kind, value: str) -> InvalidQuery:
        shown, literal = shortened(value), tr("write {literal}", literal=_LITERALS[kind])
        if kind == Kind.ADDRESS:
            return self._error(tr("invalid email address {value}", value=shown), tr("for a part of it, use LIKE"))
        if kind == Kind.DATE:
            return self._error(tr("invalid date {value}", value=shown), literal)
        return self._error(tr("invalid time {value}", value=shown), literal)

    # Tokens

    def _advance(self) -> Token:
        token, self._token = self._token, next(self._tokens, self._token)
        return token

    def _take(self, keyword: str) -> bool:
        """Pass over a keyword or sign. Return whether it came next."""
        is_next = self._token.keyword == keyword
        if is_next:
            self._advance()
        return is_next

    def _expect(self, keyword: str, problem: Phrase, hint: Phrase | None = None) -> None:
        if not self._take(keyword):
            raise self._error(problem, hint or tr("add {keyword}", keyword=keyword))

    def _mismatch(self, column: Column) -> InvalidQuery:
        return self._error(
            tr("{column} is {described}", column=column, described=_KINDS[column.kind]),
            tr("compare it with {literal}", literal=_LITERALS[column.kind]),
        )

    def _unexpected(self, expected: Phrase) -> InvalidQuery:
        token = self._token
        found = tr("the query ends") if token.kind == "end" else tr("unexpected {token}", token=_as_written(token))
        suggestion = did_you_mean(token.value, KEYWORDS) if token.kind == "word" else NO_TEXT
        return self._error(found, suggestion or tr("write {expected} here", expected=expected))

    def _error(self, problem: Phrase, hint: Phrase | None, token: Token | None = None) -> InvalidQuery:
        return InvalidQuery(problem, hint, self._query, (token or self._token).position)


def _as_written(token: Token) -> str:
    return shortened(token.value) if token.kind == "text" else token.value[:40]


def _checked_date(text: str) -> str:
    if len(text) != len("2026-12-01"):  # Python reads other ways to write a date, too
        raise ValueError
    return date.fromisoformat(text).isoformat()


def _checked_time(text: str) -> str:
    parse_time(text, "UTC", datetime(2000, 1, 1, tzinfo=UTC))
    return text


def _address_key(text: str) -> str:
    return addresses.parse(text.strip(), addresses.STORED).key

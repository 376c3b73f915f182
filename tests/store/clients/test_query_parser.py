"""Queries are read as SQL's, and whatever is wrong with one is shown at its place."""

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.client_queries import KNOWN, queries, write_query

from skychimp.errors import InvalidQuery
from skychimp.store.clients.queries import syntax
from skychimp.store.clients.queries.parser import parse
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
    Like,
    Negation,
    Node,
    OneOf,
)

NAME, EMAIL, TAG = COLUMNS["name"], COLUMNS["email"], COLUMNS["tag"]
CITY = Column("city", Kind.TEXT, is_field=True)
A, B, C = (Comparison(NAME, "=", letter) for letter in "abc")


@pytest.mark.parametrize(
    ("query", "node"),
    [
        ("name = 'a'", A),
        ("NAME='a'", A),
        ("\n name\t=\r\n'a' ", A),
        ("name <> 'a'", Negation(A)),
        ("name != 'a'", Negation(A)),
        ("name = 'It''s'", Comparison(NAME, "=", "It's")),
        ("name = ''", Comparison(NAME, "=", "")),
        ("name = 'a' OR name = 'b' AND name = 'c'", Disjunction((A, Conjunction((B, C))))),
        ("(name = 'a' or name = 'b') and name = 'c'", Conjunction((Disjunction((A, B)), C))),
        ("NOT name = 'a' AND name = 'b'", Conjunction((Negation(A), B))),
        ("NOT (name = 'a' AND name = 'b')", Negation(Conjunction((A, B)))),
        ("name = 'a' AND name = 'b' AND name = 'c'", Conjunction((A, B, C))),
        ("name IN ('a')", OneOf(NAME, ("a",))),
        ("name not in ('a', 'b')", Negation(OneOf(NAME, ("a", "b")))),
        ("name NOT LIKE 'a%'", Negation(Like(NAME, "a%"))),
        ("comment IS NULL", IsNull(COLUMNS["comment"])),
        ("tag IS NOT NULL", Negation(IsNull(TAG))),
        (
            "name BETWEEN 'a' AND 'b' OR name = 'c'",
            Disjunction((Conjunction((Comparison(NAME, ">=", "a"), Comparison(NAME, "<=", "b"))), C)),
        ),
        ("email = ' Ada@EXAMPLE.org'", Comparison(EMAIL, "=", "ada@example.org")),
        ("email IN ('ada@bücher.example')", OneOf(EMAIL, ("ada@xn--bcher-kva.example",))),
        ("email < 'M'", Comparison(EMAIL, "<", "m")),
        ("Fields.CITY = 'Riga'", Comparison(CITY, "=", "Riga")),
        ("got(7)", Got(7)),
        ("GOT ( 7 , '-30d' )", Got(7, "-30d")),
    ],
)
def test_query_is_read_as_in_sql(query: str, node: Node) -> None:
    assert parse(query, KNOWN) == node


@given(queries())
def test_written_query_is_read_as_it_was(node: Node) -> None:
    assert parse(write_query(node), KNOWN) == node


@pytest.mark.parametrize(
    ("query", "column", "problem", "hint"),
    [
        ("", 1, "it is empty", "write a query such as: fields.city = 'Riga' AND tag = 'vip'"),
        (" \n", 1, "it is empty", ""),
        ("fields.citty = 'Riga'", 1, "unknown field citty", "did you mean fields.city?"),
        ("NOT citty = 'Riga'", 5, "unknown column citty", "did you mean fields.city?"),
        ("nmae = 'a'", 1, "unknown column nmae", "did you mean name?"),
        ("fields.Größe > 'x'", 16, "fields.Größe is a number", "compare it with a number, such as 42 or -1.5"),
        ("fields.city = 5", 15, "fields.city is a text", "compare it with a text in quotes, such as 'Riga'"),
        ("fields.paid = 1", 15, "fields.paid is true or false", "compare it with TRUE or FALSE"),
        ("fields.paid > TRUE", 13, "> cannot be used with fields.paid, which is true or false", ""),
        ("fields.born = '2026-02-30'", 15, 'invalid date "2026-02-30"', ""),
        ("fields.born = '20260201'", 15, 'invalid date "20260201"', ""),
        ("created_at > 'soon'", 14, 'invalid time "soon"', ""),
        ("fields.born LIKE '2026%'", 13, "LIKE cannot be used with fields.born, which is a date", ""),
        ("tag > 'a'", 5, "> cannot be used with tag, which is a tag", ""),
        ("email = 'example.org'", 9, 'invalid email address "example.org"', "for a part of it, use LIKE"),
        ("name = NULL", 8, "nothing is equal to NULL", "write name IS NULL or name IS NOT NULL"),
        ("name = 'a", 8, "the text has no closing quote", "add ' at its end"),
        ('name = "a"', 8, "a text must be in single quotes", ""),
        ("name == 'a'", 6, "unknown operator ==", "use ="),
        ("name = 'a' name = 'b'", 12, "unexpected name", "write AND or OR here"),
        ("name = 'a' ADN name = 'b'", 12, "unexpected ADN", "did you mean AND?"),
        ("name = 'a' AND", 15, "the query ends", "write a column such as email, tag or fields.city here"),
        ("(name = 'a'", 12, "the parenthesis of column 1 is not closed", "add )"),
        ("name NOT = 'a'", 10, "unexpected =", "write IN, LIKE or BETWEEN here"),
        ("name NOT IS NULL", 6, "NOT IS is not valid", "write IS NOT NULL"),
        ("name IN ()", 10, "name is a text", ""),
        ("got(0)", 5, "the ID of a mailing expected", ""),
        ("got(99)", 5, "mailing 99 not found", 'run "skychimp mailings list"'),
        ("fields.Größe = 1234567890123456", 16, "the number has more than 15 digits", ""),
        ("fields.Größe = 1e9", 16, "invalid number", ""),
        ("name\u00a0= 'a'", 5, "unusual space U+00A0", "use an ordinary space"),
        ("name = 'a\0'", 10, "a control character is not allowed", "remove it"),
        ("name = 'a'; DROP TABLE client", 11, "unexpected ;", ""),
    ],
)
def test_problem_is_shown_at_its_column(query: str, column: int, problem: str, hint: str) -> None:
    known = Known(KNOWN.fields, lambda mailing_id: mailing_id < 99)
    with pytest.raises(InvalidQuery) as refused:
        parse(query, known)
    assert refused.value.message == f"the query, column {column}: {problem}"
    assert refused.value.position == column - 1
    assert not hint or refused.value.hint == hint


def test_problem_in_a_later_line_has_its_line() -> None:
    with pytest.raises(InvalidQuery, match=r"the query, line 2, column 5: unknown column nam"):
        parse("name = 'a'\nAND nam = 'b'", KNOWN)


@pytest.mark.parametrize(
    ("within", "beyond"),
    [
        ("(" * syntax.MAX_DEPTH + "tag = 'a'" + ")" * syntax.MAX_DEPTH, "(" * 33 + "tag = 'a'" + ")" * 33),
        ("NOT " * syntax.MAX_DEPTH + "tag = 'a'", "NOT " * 33 + "tag = 'a'"),
        (" OR ".join(["tag='a'"] * syntax.MAX_TERMS), " OR ".join(["tag='a'"] * 201)),
        (f"name = '{'a' * (syntax.MAX_BYTES - 9)}'", f"name = '{'a' * (syntax.MAX_BYTES - 8)}'"),
        (f"name = '{'é' * ((syntax.MAX_BYTES - 9) // 2)}'", f"name = '{'é' * (syntax.MAX_BYTES // 2 - 4)}'"),
        ("fields.Größe = -123456789012.345", "fields.Größe = -1234567890123.456"),
    ],
    ids=["parentheses", "NOT", "conditions", "bytes", "bytes of UTF-8", "digits"],
)
def test_limits(within: str, beyond: str) -> None:
    parse(within, KNOWN)
    with pytest.raises(InvalidQuery):
        parse(beyond, KNOWN)


HOSTILE_PARTS = [
    "(", ")", "NOT ", "'", "''", '"', "--", "/*", ";", "\\", "\0", "\x1b[2J", "\u202e", "\u00a0", "\u2028", "\ud800",
    "9" * 400, "-", "1e400", "0x10", "name", "fields.", "fields.x.y", "tag", "=", "<>", "IN (", "LIKE ", "BETWEEN ",
    "1=1", "' OR '1'='1", "UNION SELECT * FROM user", "{0}", "%s", ":name", "?", "$1", "got(", "e\u0301", "🦉" * 50,
]  # fmt: skip


def test_five_hundred_hostile_queries_are_refused_quickly() -> None:
    """None is a traceback, and none takes long. Doubled parts make some of them long and deep."""
    hostile = [first + second for first in HOSTILE_PARTS for second in HOSTILE_PARTS][:460]
    hostile += [part * (200_000 // len(part)) for part in HOSTILE_PARTS]
    assert len(hostile) >= 500
    started = time.process_time()
    for query in hostile:
        with pytest.raises(InvalidQuery):
            parse(query, KNOWN)
    assert time.process_time() - started < 5


@given(st.text(max_size=60) | st.lists(st.sampled_from(HOSTILE_PARTS), max_size=12).map(" ".join))
def test_any_text_is_read_or_refused(query: str) -> None:
    with suppress(InvalidQuery):
        parse(query, KNOWN)

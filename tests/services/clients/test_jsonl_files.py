"""Clients as JSON lines: what a line may be, and that a bad one costs only itself."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.services.clients import jsonl_files
from skychimp.services.clients.importing import BadRow, ClientRow


def read(text: str) -> list[object]:
    return list(jsonl_files.read(io.StringIO(text, newline="")).rows)


def test_each_line_is_a_client_and_a_bad_one_is_named() -> None:
    lines = [
        '{"email": "one@example.org", "name": "Zoë \\u0416", "comment": "a\\nb", "tags": ["vip", "b"]}',
        "",
        '{"tags": null, "comment": null, "name": "Two", "email": "two@example.org", "phone": 1}',
        "{not JSON",  # 4
        '["three@example.org"]',
        '{"email": "four@example.org", "name": "Four"}',  # 6: without --update it might do, with it two would go
        '{"email": "five@example.org", "name": 5, "comment": "", "tags": []}',
        '{"email": "six@example.org", "name": "", "comment": "", "tags": "vip"}',  # 8
        "[" * 100_000,
        '{"email": "seven@example.org", "name": "' + "x" * 2_000_000 + '"}',  # 10
        '{"email": "eight@example.org", "name": "", "comment": "", "tags": [1]}',
        '{"email": "nine@example.org", "name": "", "comment": "", "tags": []}',
    ]

    rows = read("\n".join(lines))

    assert [row for row in rows if isinstance(row, ClientRow)] == [
        ClientRow(1, "one@example.org", "Zoë Ж", "a\nb", ["vip", "b"]),
        ClientRow(3, "two@example.org", "Two", "", []),
        ClientRow(12, "nine@example.org", "", "", []),
    ]
    assert [row.line for row in rows if isinstance(row, BadRow)] == [4, 5, 6, 7, 8, 9, 10, 11]


def test_the_first_line_says_what_there_is() -> None:
    sheet = jsonl_files.read(io.StringIO('{"phone": 1, "tags": ["a"], "email": "x@example.org"}\n'))
    assert (sheet.columns, sheet.others) == (["email", "tags"], ["phone"])


def test_an_empty_file_is_an_export_of_nobody() -> None:
    assert read("") == read("\n \n") == []


@pytest.mark.parametrize("text", ["email,name\n", "[]", '{"name": "Ada"}', "{" * 3_000_000])
def test_a_file_whose_first_line_is_no_client_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        read(text)


@given(st.lists(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5), max_size=4))
def test_no_value_breaks_it(values: list[object]) -> None:
    lines = [json.dumps(dict(zip(("email", "name", "comment", "tags"), each, strict=False))) for each in [values] * 2]
    rows = read(
        '{"email": "x", "name": "", "comment": "", "tags": []}\n' + "\n".join([*lines, *map(json.dumps, values)])
    )
    assert all(isinstance(row, ClientRow | BadRow) for row in rows)

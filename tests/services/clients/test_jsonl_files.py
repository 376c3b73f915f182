"""Test clients as JSON lines: which lines are valid, and that an invalid one spoils only itself."""

import io
import json
import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.services.clients import jsonl_files
from skychimp.services.clients.importing import ImportedRow, InvalidRow


def read_rows(text: str) -> list[object]:
    return list(jsonl_files.read(io.StringIO(text, newline="")).rows)


def test_each_line_is_a_client_and_invalid_lines_are_reported() -> None:
    lines = [
        '{"email": "one@example.org", "name": "Zoë \\u0416", "comment": "a\\nb", "tags": ["vip", "b"]}',
        "",
        '{"tags": null, "comment": null, "name": "Two", "email": "two@example.org", "phone": 1}',
        "{not JSON",  # 4
        '["three@example.org"]',
        '{"email": "four@example.org", "name": "Four"}',  # 6: --update would erase comment and tags
        '{"email": "five@example.org", "name": 5, "comment": "", "tags": []}',
        '{"email": "six@example.org", "name": "", "comment": "", "tags": "vip"}',  # 8
        "[" * 100_000,
        '{"email": "seven@example.org", "name": "' + "x" * 2_000_000 + '"}',  # 10
        '{"email": "eight@example.org", "name": "", "comment": "", "tags": [1]}',
        '{"email": "nine@example.org", "name": "", "comment": "", "tags": []}',
    ]

    rows = read_rows("\n".join(lines))

    assert [row for row in rows if isinstance(row, ImportedRow)] == [
        ImportedRow(1, "one@example.org", "Zoë Ж", "a\nb", ["vip", "b"]),
        ImportedRow(3, "two@example.org", "Two", "", []),
        ImportedRow(12, "nine@example.org", "", "", []),
    ]
    assert [row.line for row in rows if isinstance(row, InvalidRow)] == [4, 5, 6, 7, 8, 9, 10, 11]


def test_first_line_names_the_columns() -> None:
    file = jsonl_files.read(io.StringIO('{"phone": 1, "tags": ["a"], "email": "x@example.org"}\n'))
    assert (file.columns, file.ignored_columns) == (["email", "tags"], ["phone"])


def test_empty_file_has_no_clients() -> None:
    assert read_rows("") == read_rows("\n \n") == []


@pytest.mark.parametrize("text", ["email,name\n", "[]", '{"name": "Ada"}', "{" * 3_000_000])
def test_file_whose_first_line_is_not_a_client_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        read_rows(text)


@given(st.lists(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5), max_size=4))
def test_no_value_breaks_the_reader(values: list[object]) -> None:
    lines = [json.dumps(dict(zip(("email", "name", "comment", "tags"), each, strict=False))) for each in [values] * 2]
    rows = read_rows(
        '{"email": "x", "name": "", "comment": "", "tags": []}\n' + "\n".join([*lines, *map(json.dumps, values)])
    )
    assert all(isinstance(row, ImportedRow | InvalidRow) for row in rows)


HEADER = '{"email": "ada@example.org"}\n'
DEPTH = 400_000


@pytest.mark.parametrize("first_line", ["", HEADER])
@pytest.mark.parametrize(
    "value",
    ["[" * DEPTH, "[" * DEPTH + "]" * DEPTH, '{"a":' * (DEPTH // 4), "9" * DEPTH, "1." + "9" * DEPTH,
     "1e" + "9" * DEPTH,
     "-" * DEPTH, '"' + "\\" * DEPTH + '"', '"' + "\\u0041" * (DEPTH // 6) + '"',
     '""' + "".join(f',"k{number}":1' for number in range(DEPTH // 12)), '"","email":' * (DEPTH // 12) + '""'],
    ids=range(11),
)  # fmt: skip
def test_hostile_line_is_read_in_linear_time(first_line: str, value: str) -> None:
    """Ten seconds are generous for a line of at most 1 MB, but not for quadratic time."""
    started = time.process_time()
    with suppress(InvalidValue):
        read_rows(f'{first_line}{{"email":{value}}}\n')
    assert time.process_time() - started < 10

"""Test clients as JSON lines: which lines are valid, and that an invalid one spoils only itself."""

import io
import json
import time
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.errors import InvalidValue
from skychimp.fields import Field
from skychimp.models import FieldType
from skychimp.services.clients.files import jsonl_files
from skychimp.services.clients.files.column_mapping import parse_choice
from skychimp.services.clients.files.csv_files import ClientFile
from skychimp.services.clients.importing import ImportedRow, InvalidRow, OptedOutRow
from skychimp.translation import verbatim


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
        '{"email": "six@example.org", "name": "", "comment": "", "tags": 8}',  # 8
        "[" * 100_000,
        '{"email": "seven@example.org", "name": "' + "x" * 2_000_000 + '"}',  # 10
        '{"email": "eight@example.org", "name": "", "comment": "", "tags": [1]}',
        '{"email": "nine@example.org", "name": "", "comment": "", "tags": []}',
    ]

    rows = read_rows("\n".join(lines))

    assert [row for row in rows if isinstance(row, ImportedRow)] == [
        ImportedRow(1, "one@example.org", "Zoë Ж", "a\nb", ["vip", "b"]),
        ImportedRow(3, "two@example.org", "Two", "", [], {"phone": 1}),
        ImportedRow(12, "nine@example.org", "", "", []),
    ]
    assert [row.line for row in rows if isinstance(row, InvalidRow)] == [4, 5, 6, 7, 8, 9, 10, 11]


def test_first_line_names_the_columns() -> None:
    file = jsonl_files.read(io.StringIO('{"phone": 1, "tags": ["a"], "email": "x@example.org"}\n'))
    assert (file.columns, file.ignored_columns) == (["email", "tags", "fields"], [])
    assert file.fields == {"phone": Field("phone", FieldType.NUMBER)}


def read(text: str, *, mapped: Sequence[str] = (), ignored: Sequence[str] = ()) -> ClientFile:
    return jsonl_files.read(io.StringIO(text, newline=""), parse_choice(mapped, ignored))


PERSON = (
    '{"email": "e@x.org", "Mail": "m@x.org", "name": "Ada", "given": "Augusta", "family": "King", "note": "hi",'
    ' "plan": "gold; eu", "tags": ["a"]}\n'
)


@pytest.mark.parametrize(
    ("mapped", "ignored", "row", "columns", "fields", "unused"),
    [
        (
            [],
            ["tags"],
            ("e@x.org", "Ada", "", []),
            ["email", "name", "fields"],
            ["Mail", "given", "family", "note", "plan"],
            [],
        ),
        (
            ["mail=email", "given=first_name", "family=last_name"],
            ["plan"],
            ("m@x.org", "Augusta King", "", ["a"]),
            ["email", "name", "tags", "fields"],
            ["note"],
            ["email", "name"],
        ),
        (
            ["note=comment", "plan=tags", "family=name"],
            ["Mail", "given"],
            ("e@x.org", "King", "hi", ["gold", "eu"]),
            ["email", "name", "comment", "tags"],
            [],
            ["name", "tags"],
        ),
    ],
)
def test_keys_are_mapped_and_ignored(
    mapped: Sequence[str],
    ignored: Sequence[str],
    row: tuple[str, str, str, Sequence[str]],
    columns: Sequence[str],
    fields: Sequence[str],
    unused: Sequence[str],
) -> None:
    file = read(PERSON * 2, mapped=mapped, ignored=ignored)

    values = {name: json.loads(PERSON)[name] for name in fields}
    assert list(file.rows) == [ImportedRow(1, *row, values), ImportedRow(2, *row, values)]
    assert (file.columns, list(file.fields), file.ignored_columns) == (columns, fields, unused)


def test_line_without_a_mapped_key_is_invalid() -> None:
    rows = list(read('{"email": "a@x.org", "plan": "b"}\n{"email": "b@x.org"}\n', mapped=["plan=tags"]).rows)

    assert rows == [
        ImportedRow(1, "a@x.org", "", "", ["b"]),
        InvalidRow(2, verbatim("the fields differ from those of the first line (plan, email)")),
    ]


@pytest.mark.parametrize(
    ("mapped", "ignored", "message"),
    [
        (["Emial=email"], [], 'unknown column "Emial"'),
        ([], ["Plna"], 'unknown column "Plna"'),
        (["plan=tags"], ["plan"], "a column is mapped twice, or mapped and ignored"),
        ([], ["email"], 'the first line is not a JSON object with "email"'),
        (["late=email"], [], 'the first line is not a JSON object with "late"'),
    ],
)
def test_wrong_choice_of_keys_is_refused(mapped: Sequence[str], ignored: Sequence[str], message: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        read('{"email": "a@x.org", "plan": "b"}\n{"email": "b@x.org", "late": "c"}\n', mapped=mapped, ignored=ignored)

    assert refused.value.message == message


def test_key_that_says_who_has_opted_out_can_be_ignored() -> None:
    text = '{"email": "a@x.org"}\n{"email": "b@x.org", "status": "unsubscribed"}\n{"email": "c", "status": "cleaned"}\n'

    assert [type(row) for row in read(text).rows] == [ImportedRow, OptedOutRow, OptedOutRow]
    assert [type(row) for row in read(text, ignored=["status"]).rows] == [ImportedRow] * 3


def test_lines_have_a_maximum_of_different_keys() -> None:
    line = '{{"email": "a@x.org", "k{}": 1}}\n'.format
    assert len(list(read("".join(map(line, range(999)))).rows)) == 999
    with pytest.raises(InvalidValue):
        read("".join(map(line, range(1000))))


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

"""Test how the values of custom fields are parsed, typed and printed, and which names fields can have."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp import fields
from skychimp.errors import InvalidValue
from skychimp.fields import TypeFinder, checked_name, fitted_name, format_value, parse_value
from skychimp.models import FieldType

TEXT, NUMBER, BOOLEAN, DATE = FieldType.TEXT, FieldType.NUMBER, FieldType.BOOLEAN, FieldType.DATE

TYPES = {
    "12": NUMBER, "-5": NUMBER, "0": NUMBER, "1.5": NUMBER, "0.00001": NUMBER, "9007199254740992": NUMBER,
    "007": TEXT, "+371": TEXT, "1.50": TEXT, "1e5": TEXT, "-0": TEXT, "9007199254740993": TEXT, "1,5": TEXT,
    "٣": TEXT, "0x10": TEXT, "NaN": TEXT, "Infinity": TEXT, "1" * 400: TEXT, ".5": TEXT, "5.": TEXT, "1_000": TEXT,
    "true": BOOLEAN, "false": BOOLEAN, "True": TEXT, "yes": TEXT, "1.0": TEXT,
    "2024-02-29": DATE, "2023-02-29": TEXT, "2024-1-1": TEXT, "20240101": NUMBER, "2024-01-01T00:00": TEXT,
    "0000-01-01": TEXT,
}  # fmt: skip


@pytest.mark.parametrize("text", TYPES)
def test_type_of_a_text(text: str) -> None:
    assert fields.type_of_text(text) == TYPES[text]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1", "2", ""], NUMBER),
        (["1", "007"], TEXT),
        (["true", " false "], BOOLEAN),
        (["2026-01-01", "12"], TEXT),
        (["x", "1", "2"], TEXT),
        (["", "  "], None),
    ],
)
def test_type_of_a_column(texts: list[str], expected: FieldType | None) -> None:
    finder = TypeFinder()
    for text in texts:
        finder.add_text(text)

    assert finder.type == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("12", TEXT), ("2026-01-01", DATE), (12, NUMBER), (12.0, NUMBER), (1e400, TEXT), (2**60, TEXT), (True, BOOLEAN),
        ([1], TEXT),
    ],
)  # fmt: skip
def test_type_of_a_json_value(value: object, expected: FieldType) -> None:
    assert fields.type_of_json(value) == expected


@pytest.mark.parametrize(
    ("text", "field_type", "value"),
    [
        (" Riga ", TEXT, "Riga"),
        ("  ", TEXT, None),
        ("", NUMBER, None),
        ("1.50", NUMBER, 1.5),
        ("2.0", NUMBER, 2),
        ("TRUE", BOOLEAN, True),
        ("2026-12-01", DATE, "2026-12-01"),
        ("a\r\nb", TEXT, "a\nb"),
    ],
)
def test_text_is_parsed_as_its_type(text: str, field_type: FieldType, value: Any) -> None:
    parsed = parse_value(text, field_type, "x")

    assert (type(parsed), parsed) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "field_type"),
    [
        ("007", NUMBER), ("1e5", NUMBER), ("9" * 20, NUMBER), ("0." + "0" * 39 + "1", NUMBER), ("yes", BOOLEAN),
        ("2026-02-30", DATE), ("tomorrow", DATE), ("x" * 1_001, TEXT), ("a\x00b", TEXT), ("\ud800", TEXT),
    ],
)  # fmt: skip
def test_text_that_does_not_fit_is_refused(text: str, field_type: FieldType) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_value(text, field_type, "visits")

    assert "field visits" in caught.value.message


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.decimals(), st.text()).map(str))
def test_what_has_a_type_is_printed_as_it_was_written(text: str) -> None:
    text = text.strip()
    found = fields.type_of_text(text) if text else TEXT
    if found != TEXT:
        value = parse_value(text, found, "x")
        assert value is not None
        assert format_value(value) == text
        assert json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("name", ["city", "_x", "Größe", "имя", "नाम", "a1", "x" * 50, "class"])
def test_valid_names(name: str) -> None:
    assert checked_name(f" {name} ") == name


@pytest.mark.parametrize("name", ["", "1a", "a b", "a.b", "a-b", "x" * 51, "a\n", "a:text", '"', "a'", "😀"])
def test_invalid_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        checked_name(f"{name}x" if name.endswith("\n") else name)


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        ("Postal code", "Postal_code"), ("  Straße / Nr. ", "Straße_Nr"), ("1. Ort", "_1_Ort"), ("---", None),
        ("", None), ("x" * 60, "x" * 50), ("Phone 1 - Value", "Phone_1_Value"), ("e\u0301t", "ét"),
    ],
)  # fmt: skip
def test_headings_are_made_to_fit(heading: str, name: str | None) -> None:
    assert fitted_name(heading) == name


@given(st.text(max_size=60))
def test_every_fitted_name_is_valid(heading: str) -> None:
    name = fitted_name(heading)
    assert name is None or checked_name(name) == name

"""Test that JSON keeps its values, and shows a terminal nothing that it obeys or hides."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp import safe_json

UNSAFE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def test_every_unsafe_character_is_escaped_and_kept() -> None:
    unsafe = [chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)) in UNSAFE_CATEGORIES]
    assert len(unsafe) > 2_000
    for character in unsafe:
        text = safe_json.dumps({character: character})
        assert text.isascii(), f"U+{ord(character):04X}"
        assert text.isprintable(), f"U+{ord(character):04X}"
        assert json.loads(text) == {character: character}


@pytest.mark.parametrize("text", ["Наталья 吳健雄 — “é” 👍🏽", "हिन्दी", "שלום", "مرحبا", "ไทย"])
def test_letters_stay_readable(text: str) -> None:
    assert safe_json.dumps({"name": text}) == f'{{"name": "{text}"}}'


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters()), st.lists), st.booleans())
def test_value_is_kept(value: object, is_indented: bool) -> None:
    text = safe_json.dumps(value, indent=2 if is_indented else None)
    assert json.loads(text) == value
    assert not {unicodedata.category(character) for character in text.replace("\n", "")} & UNSAFE_CATEGORIES


def test_surrogate_pair_is_two_escapes() -> None:
    assert safe_json.dumps("\U000e0041\x9b\u202e") == '"\\udb40\\udc41\\u009b\\u202e"'


def test_other_types_are_converted() -> None:
    assert safe_json.dumps([{1}], default=lambda value: f"{value}\u202e") == '["{1}\\u202e"]'

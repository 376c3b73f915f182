"""Test the tokens that name a delivery."""

import base64
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey

KEYS = {1: b"one" * 11, 2: b"two" * 11}
IDS = st.integers(1, 2**63 - 1)
PURPOSES = st.sampled_from(Purpose)


def make(delivery_id: int, number: int = 1, purpose: Purpose = Purpose.UNSUBSCRIBE) -> str:
    return tokens.make(TokenKey(number, KEYS[number]), purpose, delivery_id)


@given(IDS, st.sampled_from([1, 2]), PURPOSES)
def test_token_names_its_delivery_whatever_its_case(delivery_id: int, number: int, purpose: Purpose) -> None:
    token = make(delivery_id, number, purpose)
    assert tokens.read(KEYS, purpose, token) == tokens.read(KEYS, purpose, token.upper()) == delivery_id
    assert set(token) <= {*string.ascii_lowercase, *string.digits}
    assert len(token) <= 40  # so that a local part has room for it


@given(IDS)
def test_token_of_another_purpose_or_key_is_refused(delivery_id: int) -> None:
    token = make(delivery_id)
    assert tokens.read(KEYS, Purpose.BOUNCE, token) is None
    assert tokens.read({2: KEYS[2]}, Purpose.UNSUBSCRIBE, token) is None
    assert tokens.read({1: KEYS[2]}, Purpose.UNSUBSCRIBE, token) is None


@given(IDS, st.integers(0, 33), st.sampled_from(string.digits + "abcdefghijklmnopqrstuv"))
def test_changed_token_is_refused(delivery_id: int, place: int, character: str) -> None:
    """The last letter has bits that carry nothing. All its spellings are of the same delivery."""
    token = make(delivery_id)
    changed = token[:place] + character + token[place + 1 :]
    is_last = place >= len(token) - 1
    assert tokens.read(KEYS, Purpose.UNSUBSCRIBE, changed) in (
        [delivery_id, None] if is_last or changed == token else [None]
    )


@given(st.text() | st.text(string.ascii_letters + string.digits + "="))
def test_other_text_is_refused(text: str) -> None:
    assert tokens.read(KEYS, Purpose.UNSUBSCRIBE, text) is None


@pytest.mark.parametrize("text", ["", "=", "a" * 10_000, "\0", "0" * 34, "v" * 34, make(1)[:-1], make(1) + "0" * 8])
def test_text_at_the_limits_is_refused(text: str) -> None:
    assert tokens.read(KEYS, Purpose.UNSUBSCRIBE, text) is None


@given(st.binary(min_size=1, max_size=100), PURPOSES, st.integers(1, 255), IDS)
def test_token_is_an_hmac_in_base32hex(key: bytes, purpose: Purpose, number: int, delivery_id: int) -> None:
    named = bytes([number]) + delivery_id.to_bytes((delivery_id.bit_length() + 7) // 8)
    mac = hmac.digest(key, purpose.encode() + b"\0" + named, "sha256")[:16]
    expected = base64.b32hexencode(named + mac).decode().rstrip("=").lower()
    assert tokens.make(TokenKey(number, key), purpose, delivery_id) == expected

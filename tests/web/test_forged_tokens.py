"""Forged tokens are never accepted, and reading one takes no time."""

import random
import string
import time

import pytest

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey

KEYS = {number: random.Random(number).randbytes(32) for number in (1, 2)}
LETTERS = string.digits + "abcdefghijklmnopqrstuv"
GENUINE = [
    tokens.make(TokenKey(number, KEYS[number]), Purpose.UNSUBSCRIBE, delivery_id)
    for number in KEYS
    for delivery_id in (1, 255, 256, 1_234_567, 2**40)
]


@pytest.mark.parametrize("number", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_forged_tokens_are_not_accepted(number: int) -> None:
    chance = random.Random(number)
    forged = [forge(chance) for _ in range(number)]
    began = time.process_time()
    accepted = [token for token in forged if tokens.read(KEYS, Purpose.UNSUBSCRIBE, token) is not None]
    assert accepted == []
    assert time.process_time() - began < number * 1e-3  # it takes some microseconds, but machines differ


def forge(chance: random.Random) -> str:
    """Return a token with a changed, missing, added or swapped part, or one that is invented."""
    genuine, other = chance.choice(GENUINE), chance.choice(GENUINE)
    at = chance.randrange(len(genuine))
    letter = chance.choice(LETTERS)
    forged: str = chance.choice([
        genuine[:at] + letter + genuine[at + 1 :],
        genuine[:at] + genuine[at + 1 :],
        genuine[:at] + letter + genuine[at:],
        genuine[:at] + other[at:],
        "".join(chance.choices(LETTERS, k=len(genuine))),
        genuine[:2] + "".join(chance.choices(LETTERS, k=len(genuine) - 2)),
    ])  # fmt: skip
    return forged if forged not in GENUINE else "0" * len(genuine)

"""Passwords: which are refused, how they are hashed, and how much work a comparison is."""

import contextlib
import time

import argon2
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type
from hypothesis import given
from hypothesis import strategies as st
from support.argon import CALLS, FastHasher, fast_argon2  # noqa: F401

from skychimp.errors import InvalidValue
from skychimp.services.accounts import passwords


def test_hash_is_argon2id_with_at_least_the_parameters_of_owasp() -> None:
    parameters = extract_parameters(passwords.hash_password("correct horse battery"))
    assert parameters.type == Type.ID
    assert parameters.memory_cost >= 19 * 1024
    assert parameters.time_cost >= 2
    assert parameters.salt_len >= 16
    assert parameters == extract_parameters(PasswordHasher().hash("x"))  # the work without a password hash is the same


@pytest.mark.usefixtures("fast_argon2")
@pytest.mark.parametrize(
    "password", ["tr0ub4dor&3xyz", "пароль-из-слов", "four words " * 90, "  more spaces  ", "0xk4u2m9q7w1"]
)
def test_valid_passwords(password: str) -> None:
    password_hash = passwords.hash_password(password)
    assert passwords.is_right(password, password_hash)
    assert not passwords.is_right(password + "x", password_hash)
    assert password_hash != passwords.hash_password(password)
    assert PasswordHasher().verify(password_hash, password)


@pytest.mark.parametrize("password", ["", "x", "0xk4u2m9q7w", "four words " * 91, "\udcff" * 12])
def test_invalid_passwords(password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        passwords.hash_password(password)
    assert len(password) < 2 or password not in caught.value.message


COMMON = [
    *("password1234", "Password1234", "PASSWORD1234", "passwordpassword", "p4ssw0rd1234", "drowssapdrowssap"),
    *("123456789012", "1234567890123", "000000000000", "aaaaaaaaaaaa", "abababababab", "abcdefghijkl", "121212121212"),
    *("qwertyuiop12", "qwertyuiopas", "qwerty123456", "1q2w3e4r5t6y", "1qaz2wsx3edc", "asdfghjkl;'#"),
    *("iloveyou1234", "letmeinletmein", "trustno1trustno1", "administrator", "unbelievable", "basketball123"),
    *("changeme1234", "monkeymonkey", "dragondragon", "welcome12345", "   password   "),
    *("x" * 1000, "ab" * 500, "password" * 100, "passw0rd!" * 100),
    *("iloveyou2024!", "letmein12345!", "Summer2024!!", "!!2024Summer", "P4ssw0rd2024!", "monkey!!!!!!!!!!!!!!"),
    *("qwertyuiop2024!", "iloveyou2024!" * 5),
]


@pytest.mark.parametrize("password", COMMON)
def test_common_passwords_and_patterns_are_refused(password: str) -> None:
    with pytest.raises(InvalidValue, match="is too common or too easy to guess"):
        passwords.validate(password)


@pytest.mark.parametrize(
    "password",
    ["password" * 3 + "X7#kd92ls0vvq1", "a" * 200 + "X7#kd92ls0vvq1", "monkey7392581044671823", "kxqzvw2024!!"],
)
def test_strong_passwords_may_contain_common_ones(password: str) -> None:
    passwords.validate(password)


OWNER = ("Ada.Lovelace+news@Example.org", "Ada  King, Countess")


@pytest.mark.parametrize(
    "password",
    [
        "Ada.Lovelace+news@Example.org", "ada.lovelace+news@example.org", "ada.lovelace+news", "ADA.LOVELACE",
        "ada.lovelace", "ada_lovelace_1815", "1815 Ada Lovelace", "Ada King, Countess", "adakingcountess",
        "ada-king-countess-99!",
    ],
)  # fmt: skip
def test_address_or_name_is_no_password(password: str) -> None:
    with pytest.raises(InvalidValue, match="is your email address or your name"):
        passwords.validate(password, *OWNER)


@pytest.mark.parametrize("password", ["ada.lovelace likes engines", "7392-5810-4467", "countess of numbers"])
def test_password_may_contain_more_than_the_address_or_name(password: str) -> None:
    for owner in (OWNER, ("a@b", ""), ("", "12"), ()):
        passwords.validate(password, *owner)


@given(st.text(max_size=1100), st.text(max_size=300), st.text(max_size=100))
def test_any_text_is_valid_or_refused(password: str, email: str, name: str) -> None:
    with contextlib.suppress(InvalidValue):
        passwords.validate(password, email, name)


@pytest.mark.parametrize("unit", ["@8({[<369$!|1%05+72", "a1", "1900-", "@", "zxcvbnm,./", "passw0rd!"])
def test_estimate_of_a_long_password_ends_soon(unit: str) -> None:
    """An estimate of all 1000 characters would take hours."""
    start = time.monotonic()
    with contextlib.suppress(InvalidValue):
        passwords.validate((unit * 1000)[:1000])
        passwords.validate("".join(f"{unit[number % len(unit) :]}{unit}" for number in range(1000))[:1000])
    assert time.monotonic() - start < 20


@pytest.mark.usefixtures("fast_argon2")
def test_composed_and_decomposed_characters_are_the_same() -> None:
    assert passwords.is_right(
        "pa\N{COMBINING DIAERESIS}ss wo\N{COMBINING DIAERESIS}rd and more",
        passwords.hash_password("päss wörd and more"),
    )


@pytest.mark.usefixtures("fast_argon2")
@pytest.mark.parametrize(
    "password_hash",
    [None, "", "x", "$argon2id$v=19$m=65536", pytest.param(FastHasher().hash("another one"), id="of another password")],
)
@pytest.mark.parametrize("password", ["", "a password", "\udcff\ud800", "x" * 10_000])
def test_wrong_password_takes_as_much_work(password: str, password_hash: str | None) -> None:
    assert not passwords.is_right(password, password_hash)
    assert len(CALLS) == 1


def test_hash_with_other_parameters_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FastHasher().hash("a password")
    new = passwords.rehash_if_outdated("a password", old)
    assert extract_parameters(new) != extract_parameters(old)
    assert passwords.is_right("a password", new)
    assert passwords.rehash_if_outdated("a password", new) == new
    monkeypatch.setattr(argon2, "PasswordHasher", FastHasher)
    assert passwords.rehash_if_outdated("a password", old) == old

"""Passwords: how they are hashed, and how much work a comparison is."""

import argon2
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type
from support.argon import CALLS, FastHasher, fast_argon2  # noqa: F401

from skychimp.errors import InvalidValue
from skychimp.services.accounts import passwords


def test_hash_is_argon2id_with_at_least_the_parameters_of_owasp() -> None:
    parameters = extract_parameters(passwords.hash_password("correct horse"))
    assert parameters.type == Type.ID
    assert parameters.memory_cost >= 19 * 1024
    assert parameters.time_cost >= 2
    assert parameters.salt_len >= 16
    assert parameters == extract_parameters(PasswordHasher().hash("x"))  # the work without a password hash is the same


@pytest.mark.usefixtures("fast_argon2")
@pytest.mark.parametrize("password", ["12345678", "пароль-из-слов", "x" * 1000, "  spaces  "])
def test_valid_passwords(password: str) -> None:
    password_hash = passwords.hash_password(password)
    assert passwords.is_right(password, password_hash)
    assert not passwords.is_right(password + "x", password_hash)
    assert password_hash != passwords.hash_password(password)
    assert PasswordHasher().verify(password_hash, password)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1001, "\udcff" * 8])
def test_invalid_passwords(password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        passwords.hash_password(password)
    assert not password or password not in caught.value.message


@pytest.mark.usefixtures("fast_argon2")
def test_composed_and_decomposed_characters_are_the_same() -> None:
    assert passwords.is_right(
        "pa\N{COMBINING DIAERESIS}ss wo\N{COMBINING DIAERESIS}rd", passwords.hash_password("päss wörd")
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

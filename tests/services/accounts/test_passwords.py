"""Passwords: how they are kept, and how much work it is to compare one."""

import argon2
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type
from support.argon import WORK, Cheap, cheap_argon  # noqa: F401

from skychimp.errors import InvalidValue
from skychimp.services.accounts import passwords


def test_the_hash_is_argon2id_and_no_cheaper_than_owasp_asks() -> None:
    found = extract_parameters(passwords.hashed("correct horse"))
    assert found.type == Type.ID
    assert found.memory_cost >= 19 * 1024
    assert found.time_cost >= 2
    assert found.salt_len >= 16
    assert found == extract_parameters(PasswordHasher().hash("x"))  # what is asked for where there is no password


@pytest.mark.usefixtures("cheap_argon")
@pytest.mark.parametrize("password", ["12345678", "пароль-из-слов", "x" * 1000, "  spaces  "])
def test_what_can_be_a_password(password: str) -> None:
    password_hash = passwords.hashed(password)
    assert passwords.is_right(password, password_hash)
    assert not passwords.is_right(password + "x", password_hash)
    assert password_hash != passwords.hashed(password)
    assert PasswordHasher().verify(password_hash, password)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1001, "\udcff" * 8])
def test_what_can_not_be_one(password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        passwords.hashed(password)
    assert not password or password not in caught.value.message


@pytest.mark.usefixtures("cheap_argon")
def test_a_character_is_the_same_however_it_is_composed() -> None:
    assert passwords.is_right("pa\N{COMBINING DIAERESIS}ss wo\N{COMBINING DIAERESIS}rd", passwords.hashed("päss wörd"))


@pytest.mark.usefixtures("cheap_argon")
@pytest.mark.parametrize(
    "password_hash",
    [None, "", "x", "$argon2id$v=19$m=65536", pytest.param(Cheap().hash("another one"), id="of another one")],
)
@pytest.mark.parametrize("password", ["", "a password", "\udcff\ud800", "x" * 10_000])
def test_what_is_not_right(password: str, password_hash: str | None) -> None:
    assert not passwords.is_right(password, password_hash)
    assert len(WORK) == 1  # without a password it is as much work as with one


def test_a_hash_of_other_parameters_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Cheap().hash("a password")
    new = passwords.renewed("a password", old)
    assert extract_parameters(new) != extract_parameters(old)
    assert passwords.is_right("a password", new)
    assert passwords.renewed("a password", new) == new
    monkeypatch.setattr(argon2, "PasswordHasher", Cheap)
    assert passwords.renewed("a password", old) == old

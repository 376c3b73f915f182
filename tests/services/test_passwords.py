"""Passwords: how they are kept, and how much work it is to compare one."""

from typing import Literal

import argon2
import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from skychimp.errors import InvalidValue
from skychimp.services import passwords

WEAK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)


def test_the_hash_is_argon2id_and_no_cheaper_than_owasp_asks() -> None:
    found = extract_parameters(passwords.hashed("correct horse"))
    assert found.type == Type.ID
    assert found.memory_cost >= 19 * 1024
    assert found.time_cost >= 2
    assert found.salt_len >= 16
    assert passwords.hashed("correct horse") != passwords.hashed("correct horse")


@pytest.mark.parametrize("password", ["12345678", "пароль-из-слов", "x" * 1000, "  spaces  "])
def test_what_can_be_a_password(password: str) -> None:
    password_hash = passwords.hashed(password)
    assert passwords.is_right(password, password_hash)
    assert not passwords.is_right(password + "x", password_hash)
    assert PasswordHasher().verify(password_hash, password)


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1001, "\udcff" * 8])
def test_what_can_not_be_one(password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        passwords.hashed(password)
    assert not password or password not in caught.value.message


def test_a_character_is_the_same_however_it_is_composed() -> None:
    assert passwords.is_right("pa\N{COMBINING DIAERESIS}ss wo\N{COMBINING DIAERESIS}rd", passwords.hashed("päss wörd"))


@pytest.mark.parametrize("password_hash", [None, "", "x", "$argon2id$v=19$m=65536", WEAK.hash("another one")])
@pytest.mark.parametrize("password", ["", "a password", "\udcff\ud800", "x" * 10_000])
def test_what_is_not_right(password: str, password_hash: str | None) -> None:
    assert not passwords.is_right(password, password_hash)


def test_without_a_password_it_is_as_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both come down to one call of the library with the same parameters."""
    work: list[tuple[int, int, int]] = []

    class Counting(PasswordHasher):
        def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
            work.append((self.time_cost, self.memory_cost, self.parallelism))
            return super().hash(password, salt=salt)

        def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
            found = extract_parameters(str(hash))
            work.append((found.time_cost, found.memory_cost, found.parallelism))
            return super().verify(hash, password)

    password_hash = passwords.hashed("a password")
    monkeypatch.setattr(argon2, "PasswordHasher", Counting)
    for kept in (None, password_hash):
        assert not passwords.is_right("another one", kept)
    assert len(work) == 2
    assert work[0] == work[1]


def test_a_hash_of_other_parameters_is_renewed() -> None:
    old = WEAK.hash("a password")
    new = passwords.renewed("a password", old)
    assert extract_parameters(new).memory_cost > extract_parameters(old).memory_cost
    assert passwords.is_right("a password", new)
    assert passwords.renewed("a password", new) == new

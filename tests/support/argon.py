"""Argon2 with parameters that take no time, and a record of the calls to it."""

from typing import Literal

import argon2
import pytest
from argon2 import PasswordHasher

CALLS: list[str] = []
"""The calls since the test began: "hash" or "verify"."""


class FastHasher(PasswordHasher):
    """A password hasher with the smallest parameters, which records its calls."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        CALLS.append("hash")
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        CALLS.append("verify")
        return super().verify(hash, password)


@pytest.fixture
def fast_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use FastHasher for all passwords in this process."""
    CALLS.clear()
    monkeypatch.setattr(argon2, "PasswordHasher", FastHasher)

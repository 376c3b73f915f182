"""Argon2 with parameters that cost a test no time, and a list of what was asked of it."""

from typing import Literal

import argon2
import pytest
from argon2 import PasswordHasher

WORK: list[str] = []
"""What was asked since the test began: "hash" or "verify"."""


class Cheap(PasswordHasher):
    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        WORK.append("hash")
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002
        WORK.append("verify")
        return super().verify(hash, password)


@pytest.fixture
def cheap_argon(monkeypatch: pytest.MonkeyPatch) -> None:
    WORK.clear()
    monkeypatch.setattr(argon2, "PasswordHasher", Cheap)

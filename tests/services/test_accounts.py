"""The first administrator, and who a token stands for."""

from datetime import UTC, datetime, timedelta

import pytest
from argon2 import PasswordHasher
from sqlmodel import select

from skychimp.access import GUEST, Actor
from skychimp.errors import ConfigError, Conflict, InvalidValue
from skychimp.models import Login, Role, User
from skychimp.services import accounts
from skychimp.store.engine import Store

PASSWORD = "correct horse battery"


def first_admin(store: Store, email: str = "Ada@Example.org", password: str | None = PASSWORD) -> str:
    """Make the first administrator; that person's token."""
    tokens: list[str] = []
    accounts.create_first_admin(store, email=email, password=password, keep=tokens.append)
    return tokens[0]


def the_user(store: Store) -> User:
    with store.read() as session:
        return session.exec(select(User)).one()


def test_the_first_administrator_is_logged_in(store: Store) -> None:
    token = first_admin(store)
    user = the_user(store)
    assert (user.email, user.address_key, user.role) == ("Ada@example.org", "ada@example.org", Role.ADMIN)
    assert user.verified_at is not None
    assert accounts.actor(store, token) == Actor(user.id or 0, "Ada@example.org", Role.ADMIN)


def test_there_is_no_second_one(store: Store) -> None:
    accounts.check_is_new(store)
    token = first_admin(store)
    with pytest.raises(Conflict):
        accounts.check_is_new(store)
    with pytest.raises(Conflict):
        first_admin(store, "bob@example.org")
    assert the_user(store).email == "Ada@example.org"
    assert accounts.actor(store, token).role == Role.ADMIN


def test_without_a_session_there_is_no_user_either(store: Store) -> None:
    def fail(token: str) -> None:
        raise ConfigError("the session can't be kept")

    with pytest.raises(ConfigError):
        accounts.create_first_admin(store, email="ada@example.org", password=None, keep=fail)
    accounts.check_is_new(store)
    first_admin(store)


def test_neither_token_nor_password_lies_in_the_store(store: Store) -> None:
    token = first_admin(store)
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir() if path.is_file())
    assert token.encode() not in held
    assert PASSWORD.encode() not in held
    password_hash = the_user(store).password_hash
    assert password_hash is not None
    assert password_hash.startswith("$argon2id$")
    assert PasswordHasher().verify(password_hash, PASSWORD)


def test_a_password_can_be_left_for_later(store: Store) -> None:
    first_admin(store, password=None)
    assert the_user(store).password_hash is None


@pytest.mark.parametrize("password", ["", "1234567", "x" * 1001, "\udcff" * 8])
def test_what_can_not_be_a_password(store: Store, password: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        first_admin(store, password=password)
    assert "x" * 1001 not in caught.value.message
    accounts.check_is_new(store)


@pytest.mark.parametrize("password", ["12345678", "пароль-из-слов", "x" * 1000])
def test_what_can_be_a_password(password: str) -> None:
    assert PasswordHasher().verify(accounts.hash_password(password), password)


@pytest.mark.parametrize("token", [None, "", "nobody's", "\udcff"])
def test_no_token_or_an_unknown_one_is_a_guest(store: Store, token: str | None) -> None:
    first_admin(store)
    assert accounts.actor(store, token) == GUEST


@pytest.mark.parametrize("change", ["expired", "blocked", "unverified", "logged out"])
def test_a_session_that_has_ended(store: Store, change: str) -> None:
    token, now = first_admin(store), datetime.now(UTC)
    with store.write() as session:
        user, login = session.exec(select(User)).one(), session.exec(select(Login)).one()
        assert timedelta(days=29) < login.expires_at - now < timedelta(days=31)
        if change == "expired":
            login.expires_at = now
        elif change == "blocked":
            user.blocked_at = now
        elif change == "unverified":
            user.verified_at = None
        else:
            session.delete(login)
    assert accounts.actor(store, token) == GUEST


def test_a_role_counts_from_the_next_command(store: Store) -> None:
    token = first_admin(store)
    with store.write() as session:
        session.exec(select(User)).one().role = Role.EDITOR
    assert accounts.actor(store, token).role == Role.EDITOR

"""Who is here: the first administrator, and sessions."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlmodel import Session, select

from skychimp import addresses
from skychimp.access import GUEST, Actor
from skychimp.errors import Conflict, InvalidValue
from skychimp.models import Login, Role, User
from skychimp.store.engine import Store

SESSION_LIFE = timedelta(days=30)
SHORTEST_PASSWORD = 8
LONGEST_PASSWORD = 1000


@dataclass(frozen=True)
class Account:
    id: int
    email: str
    name: str
    role: Role


def check_is_new(store: Store) -> None:
    """Raise Conflict where the store has a user already."""
    with store.read() as session:
        _refuse_a_second(session)


def create_first_admin(store: Store, *, email: str, password: str | None, keep: Callable[[str], None]) -> Account:
    """Make the store's first user, an administrator whose mailbox needs no proof, and log that person in.

    `keep` is given the session's token before anything is committed: where it raises, there is no user either.
    Raises Conflict where the store has a user already, InvalidValue for the address or the password.
    """
    address = addresses.parse(email)
    password_hash = None if password is None else hash_password(password)
    now = datetime.now(UTC)
    with store.write() as session:
        _refuse_a_second(session)
        user = User(
            email=address.email,
            address_key=address.key,
            password_hash=password_hash,
            role=Role.ADMIN,
            created_at=now,
            verified_at=now,
        )
        session.add(user)
        session.flush()
        assert user.id is not None
        keep(_start_session(session, user.id, now))
        return Account(user.id, user.email, user.name, user.role)


def actor(store: Store, token: str | None) -> Actor:
    """Who a token stands for; a guest where it stands for nobody any more."""
    if not token:
        return GUEST
    with store.read() as session:
        row = session.exec(
            select(User.id, User.email, User.role)
            .join(Login, Login.user_id == User.id)  # type: ignore[arg-type]
            .where(Login.token_hash == _hash(token), Login.expires_at > datetime.now(UTC))
            .where(User.blocked_at == None, User.verified_at != None)  # noqa: E711
        ).first()
    return Actor(row[0] or 0, row[1], Role(row[2])) if row else GUEST


def hash_password(password: str) -> str:
    """Argon2id, with the library's current parameters. Raises InvalidValue for one that can't be a password."""
    from argon2 import PasswordHasher

    check_password(password)
    return PasswordHasher().hash(password)


def check_password(password: str) -> None:
    """Raise InvalidValue for what can't be a password; its text stays out of the message."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise InvalidValue(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    if any("\ud800" <= character <= "\udfff" for character in password):
        raise InvalidValue("the password is not UTF-8 text")


def _refuse_a_second(session: Session) -> None:
    if session.exec(select(User.id)).first() is not None:
        raise Conflict("this store has its first administrator already", "log in, or ask that person for an account")


def _start_session(session: Session, user_id: int, now: datetime) -> str:
    """Log a user in; the token is given once and kept only as a hash."""
    token = secrets.token_urlsafe(32)
    session.add(
        Login(user_id=user_id, token_hash=_hash(token), created_at=now, seen_at=now, expires_at=now + SESSION_LIFE)
    )
    session.flush()
    return token


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()

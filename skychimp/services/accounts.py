"""Who is here: the first administrator, and sessions."""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlmodel import select

from skychimp import addresses
from skychimp.access import GUEST, Actor
from skychimp.errors import Conflict, InvalidValue
from skychimp.models import Login, Role, User
from skychimp.store.engine import Store

SESSION_LIFE = timedelta(days=30)
SHORTEST_PASSWORD = 8


@dataclass(frozen=True)
class Account:
    id: int
    email: str
    name: str
    role: Role


def create_first_admin(store: Store, *, email: str, password: str | None) -> Account:
    """Make the store's first user, an administrator whose mailbox needs no proof. Raises Conflict where there is one."""
    address = addresses.parse(email)
    password_hash = hash_password(password) if password is not None else None
    now = datetime.now(UTC)
    with store.write() as session:
        if session.exec(select(User.id)).first() is not None:
            raise Conflict("this store has its first administrator already", "ask that person for an account")
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
        return Account(user.id, user.email, user.name, user.role)


def start_session(store: Store, user_id: int) -> str:
    """Log a user in; the token is given once and kept only as a hash."""
    token = secrets.token_urlsafe(32)
    now = datetime.now(UTC)
    with store.write() as session:
        session.add(Login(user_id=user_id, token_hash=_hash(token), created_at=now, expires_at=now + SESSION_LIFE))
    return token


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
    """Argon2id, with the library's current parameters. Raises InvalidValue for one that is too short."""
    from argon2 import PasswordHasher

    if len(password) < SHORTEST_PASSWORD:
        raise InvalidValue(f"a password has at least {SHORTEST_PASSWORD} characters")
    return PasswordHasher().hash(password)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()

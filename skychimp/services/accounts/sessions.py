"""Sessions: a token that its owner keeps, and of which the store has only a hash."""

import hashlib
import secrets
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from sqlmodel import Session, col, delete, select, update

from skychimp.errors import StoreFailed
from skychimp.models import Login, Role, User
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.store.database import Store

LIFE = timedelta(days=30)
IDLE = timedelta(days=14)
"""A session that has not been used for so long has ended."""
SEEN_EVERY = timedelta(hours=1)
"""How exactly a session's last use is known: a command that only reads is not to write each time."""


def actor(store: Store, token: str | None) -> Actor:
    """Who a token stands for; a guest where it stands for nobody any more."""
    if not token:
        return ANONYMOUS
    now = datetime.now(UTC)
    with store.read() as db:
        row = db.exec(
            select(User.id, User.email, User.role, Login.id, Login.seen_at)  # type: ignore[call-overload]
            .join(Login, Login.user_id == User.id)
            .where(Login.token_hash == hashed(token), Login.expires_at > now, Login.seen_at > now - IDLE)
            .where(col(User.blocked_at).is_(None), col(User.verified_at).is_not(None))
        ).first()
    if row is None:
        return ANONYMOUS
    user_id, email, role, login_id, seen_at = row
    if now - seen_at >= SEEN_EVERY:
        with suppress(StoreFailed), store.write() as db:  # a full disk is no reason not to be let in
            db.exec(update(Login).where(col(Login.id) == login_id).values(seen_at=now))
    return Actor(user_id, email, Role(role))


def start(db: Session, user_id: int, now: datetime) -> str:
    """Log a user in; the token is given once and kept only as a hash."""
    token = secrets.token_urlsafe(32)
    db.add(Login(user_id=user_id, token_hash=hashed(token), created_at=now, seen_at=now, expires_at=now + LIFE))
    db.flush()
    return token


def find(db: Session, token: str) -> Login | None:
    """A token's session, whatever its age."""
    return db.exec(select(Login).where(Login.token_hash == hashed(token))).first()


def end_all(db: Session, user_id: int) -> None:
    """Log a user out everywhere."""
    db.exec(delete(Login).where(col(Login.user_id) == user_id))


def forget(db: Session, now: datetime) -> None:
    """Delete the sessions that have ended by themselves."""
    db.exec(delete(Login).where((col(Login.expires_at) <= now) | (col(Login.seen_at) <= now - IDLE)))


def hashed(token: str) -> str:
    """What the store keeps of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()

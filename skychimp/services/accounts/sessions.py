"""Find, start and end login sessions.

A session is a random token. Only its owner has the token, the store has its hash.
"""

import secrets
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, insert, text, update

from skychimp.errors import StoreFailed
from skychimp.models import tables
from skychimp.permissions import ANONYMOUS, Actor
from skychimp.roles import Role
from skychimp.services.accounts.session_rule import FIND_USER, IDLE_LIMIT, LIFETIME, hash_token, parameters
from skychimp.store.database import Store
from skychimp.store.session import Session

if TYPE_CHECKING:
    from skychimp.models import Login

LAST_USE_INTERVAL = timedelta(hours=1)
"""How often the last use is recorded, so that a command that only reads does not write each time."""

_L = tables.login
_U = tables.user
_FIND_USER = (
    text(FIND_USER)
    .bindparams(bindparam("now", type_=_L.c.expires_at.type), bindparam("idle_since", type_=_L.c.seen_at.type))
    .columns(_U.c.id, _U.c.email, _U.c.role, _L.c.id, _L.c.seen_at)
)


def find_actor(store: Store, token: str | None) -> Actor:
    """Return the user that a token belongs to, or ANONYMOUS.

    A session is valid until it expires or has been idle for IDLE_LIMIT, and while its user is verified and not blocked.
    """
    if not token:
        return ANONYMOUS
    now = store.now()
    with store.read() as db:
        row = db.execute(_FIND_USER, parameters(token, now)).first()
    if row is None:
        return ANONYMOUS
    user_id, email, role, login_id, seen_at = row
    if now - seen_at >= LAST_USE_INTERVAL:
        with suppress(StoreFailed), store.write() as db:  # a full disk must not lock anybody out
            db.execute(update(_L).where(_L.c.id == login_id).values(seen_at=now))
    return Actor(user_id, email, Role(role))


def start(db: Session, user_id: int, now: datetime) -> str:
    """Start a session for a user and return its token, which is not stored."""
    token = secrets.token_urlsafe(32)
    times = {"created_at": now, "seen_at": now, "expires_at": now + LIFETIME}
    db.execute(insert(_L).values(user_id=user_id, token_hash=hash_token(token), **times))
    return token


def find(db: Session, token: str) -> "Login | None":
    """Return a token's session, even if it has expired."""
    from sqlmodel import select

    from skychimp.models import Login

    return db.exec(select(Login).where(Login.token_hash == hash_token(token))).first()


def end_all(db: Session, user_id: int) -> None:
    """End all sessions of a user."""
    db.execute(delete(_L).where(_L.c.user_id == user_id))


def delete_expired(db: Session, now: datetime) -> None:
    """Delete the sessions that have expired or were idle for too long."""
    db.execute(delete(_L).where((_L.c.expires_at <= now) | (_L.c.seen_at <= now - IDLE_LIMIT)))

"""List and end one's own login sessions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlmodel import col, delete, select

from skychimp.models import Login
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.accounts.session_rule import IDLE_LIMIT, hash_token
from skychimp.services.listing import not_found
from skychimp.store.database import Store
from skychimp.store.session import Session


@dataclass(frozen=True)
class SessionInfo:
    """A login session. `last_used_at` is exact to an hour, and the session ends at `ends_at` if it is not used."""

    id: int
    created_at: datetime
    last_used_at: datetime
    ends_at: datetime
    current: bool


def list_sessions(store: Store, actor: Actor, token: str | None) -> list[SessionInfo]:
    """Return the actor's valid sessions, the oldest first. `token` is the current one's. Raises NotLoggedIn."""
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    with store.read() as db:
        return _own(db, actor, token, store.now())


def end(
    store: Store, actor: Actor, token: str | None, ids: Sequence[str], *, everything: bool = False
) -> list[SessionInfo]:
    """End some of the actor's sessions, or all of them with the current one, and return those that ended.

    Nothing is ended unless all the ids are those of valid sessions. Raises NotLoggedIn and NotFound.
    """
    authorize(actor, Action.CHANGE_OWN_ACCOUNT)
    with store.write() as db:
        own = {str(session.id): session for session in _own(db, actor, token, store.now())}
        for session_id in ids:
            if session_id not in own:
                raise not_found("session", session_id)
        ended = list(own.values()) if everything else [own[session_id] for session_id in dict.fromkeys(ids)]
        db.exec(delete(Login).where(col(Login.id).in_([session.id for session in ended])))
        for session in ended:
            audit.record(db, actor, "session end", "login", session.id)
    return ended


def _own(db: Session, actor: Actor, token: str | None, now: datetime) -> list[SessionInfo]:
    valid = select(Login).where(
        Login.user_id == actor.user_id, Login.expires_at > now, Login.seen_at > now - IDLE_LIMIT
    )
    current_hash = hash_token(token or "")
    return [
        SessionInfo(
            login.id or 0,
            login.created_at,
            login.seen_at,
            min(login.expires_at, login.seen_at + IDLE_LIMIT),
            login.token_hash == current_hash,
        )
        for login in db.exec(valid.order_by(col(Login.id)))
    ]

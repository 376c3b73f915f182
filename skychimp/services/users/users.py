"""Users: who has an account, who is kept out, and who may do what."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlmodel import Session

from skychimp.errors import Denied, NotFound
from skychimp.models import Role, User
from skychimp.permissions import OVERSEEN, Action, Actor, authorize, authorize_over
from skychimp.services import audit
from skychimp.services.accounts import sessions
from skychimp.services.listing import ListOptions, apply, is_named
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.text import one_line

_U = User.__table__

LONGEST_REASON = 1_000

SORTED_BY = {
    "id": _U.c.id,
    "email": _U.c.address_key,
    "name": _U.c.name,
    "role": _U.c.role,
    "created_at": _U.c.created_at,
}


@dataclass(frozen=True)
class UserInfo:
    id: int
    email: str
    name: str
    role: Role
    verified_at: datetime | None
    blocked_at: datetime | None
    created_at: datetime


def list_users(store: Store, actor: Actor, page: ListOptions, role: Role | None = None) -> Iterator[UserInfo]:
    """The users that the actor oversees, as they are read."""
    authorize(actor, Action.SEE_USERS)
    assert actor.role is not None
    query = apply(_everybody(), page, searched=(_U.c.email, _U.c.name), sorted_by=SORTED_BY)
    query = query.where(_U.c.role.in_(OVERSEEN[actor.role] if role is None else OVERSEEN[actor.role] & {role}))
    with store.read() as db:
        yield from map(_info, db.execute(query.execution_options(yield_per=1000)))


def show(store: Store, actor: Actor, user: str) -> UserInfo:
    """One user, by id or e-mail. Raises NotFound, and Denied where the actor does not oversee that one."""
    authorize(actor, Action.SEE_USERS)
    with store.read() as db:
        found = _get(db, user)
    authorize_over(actor, Action.SEE_USERS, found.id, found.role)
    return found


def own(store: Store, actor: Actor) -> UserInfo:
    """The actor's own account."""
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    with store.read() as db:
        return _get(db, str(actor.user_id))


def block(store: Store, actor: Actor, user: str, reason: str = "") -> UserInfo:
    """Keep a user out, and stop all that one's mailings; what is in flight ends as it does.

    Raises NotFound, Denied, InvalidValue.
    """
    authorize(actor, Action.BLOCK_USERS)
    reason = one_line(reason, "reason", LONGEST_REASON)
    with store.write() as db:
        found = _overseen(db, actor, Action.BLOCK_USERS, user)
        sessions.end_all(db, found.id)
        if found.blocked_at is None:
            db.execute(update(_U).where(_U.c.id == found.id).values(blocked_at=datetime.now(UTC)))
            queue.requeue_for_owner(db.connection(), found.id)
            audit.record(db, actor, "block", "user", found.id, reason)
        return _get(db, str(found.id))


def unblock(store: Store, actor: Actor, user: str) -> UserInfo:
    """Let a user in again; the mailings go on, and catch up as each says. Raises NotFound, Denied."""
    authorize(actor, Action.BLOCK_USERS)
    with store.write() as db:
        found = _overseen(db, actor, Action.BLOCK_USERS, user)
        if found.blocked_at is not None:
            db.execute(update(_U).where(_U.c.id == found.id).values(blocked_at=None))
            audit.record(db, actor, "unblock", "user", found.id)
        return _get(db, str(found.id))


def give_role(store: Store, actor: Actor, user: str, role: Role) -> UserInfo:
    """Give a user another role; it counts from the next command on. Raises NotFound, Denied."""
    authorize(actor, Action.GIVE_ROLES)
    with store.write() as db:
        found = _overseen(db, actor, Action.GIVE_ROLES, user)
        if found.role != role:
            db.execute(update(_U).where(_U.c.id == found.id).values(role=role))
            audit.record(db, actor, "role", "user", found.id, f"{found.role} to {role}")
        return _get(db, str(found.id))


def _overseen(db: Session, actor: Actor, action: Action, user: str) -> UserInfo:
    """The user that an action is about, once the actor is known to have the right still.

    Whoever acts is an administrator, or a manager, in this very transaction, and acts on another one: so two
    administrators who demote or block each other at the same moment can't both succeed, and one is always left.
    """
    now = db.execute(select(_U.c.role, _U.c.blocked_at).where(_U.c.id == actor.user_id)).one()
    if now.role != actor.role or now.blocked_at is not None:
        raise Denied("your role was changed just now", "see what it is: skychimp whoami")
    found = _get(db, user)
    authorize_over(actor, action, found.id, found.role)
    return found


def _everybody() -> Select[tuple[Any, ...]]:
    return select(*(_U.c[name] for name in UserInfo.__dataclass_fields__))


def _get(db: Session, user: str) -> UserInfo:
    row = db.execute(_everybody().where(is_named(_U, user))).one_or_none()
    if row is None:
        raise NotFound(f"there is no user {user[:40]!r}", "see them: skychimp users list")
    return _info(row)


def _info(row: Row[tuple[Any, ...]]) -> UserInfo:
    return UserInfo(**{**row._mapping, "role": Role(row.role)})

"""Users: who has an account, who is kept out, and who may do what."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, Select, select, update
from sqlmodel import Session

from skychimp.access import OVERSEEN, Actor, reach, require_over
from skychimp.errors import Denied, NotFound
from skychimp.models import Role, User
from skychimp.services import audit, sessions
from skychimp.services.clients import one_line
from skychimp.services.listing import Page, is_named, narrow
from skychimp.store import queue
from skychimp.store.engine import Store

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


def list_users(store: Store, actor: Actor, page: Page, role: Role | None = None) -> Iterator[UserInfo]:
    """The users that the actor oversees, as they are read."""
    reach(actor, "see users")
    assert actor.role is not None
    query = narrow(_everybody(), page, searched=(_U.c.email, _U.c.name), sorted_by=SORTED_BY)
    query = query.where(_U.c.role.in_(OVERSEEN[actor.role] if role is None else OVERSEEN[actor.role] & {role}))
    with store.read() as session:
        yield from map(_info, session.execute(query.execution_options(yield_per=1000)))


def show(store: Store, actor: Actor, user: str) -> UserInfo:
    """One user, by id or e-mail. Raises NotFound, and Denied where the actor does not oversee that one."""
    reach(actor, "see users")
    with store.read() as session:
        found = _get(session, user)
    require_over(actor, "see users", found.id, found.role)
    return found


def own(store: Store, actor: Actor) -> UserInfo:
    """The actor's own account."""
    reach(actor, "see one's own account")
    with store.read() as session:
        return _get(session, str(actor.user_id))


def block(store: Store, actor: Actor, user: str, reason: str = "") -> UserInfo:
    """Keep a user out, and stop all that one's mailings; what is in flight ends as it does.

    Raises NotFound, Denied, InvalidValue.
    """
    reach(actor, "block users")
    reason = one_line(reason, "reason", LONGEST_REASON)
    with store.write() as session:
        found = _overseen(session, actor, "block users", user)
        sessions.end_all(session, found.id)
        if found.blocked_at is None:
            session.execute(update(_U).where(_U.c.id == found.id).values(blocked_at=datetime.now(UTC)))
            queue.take_back_of(session.connection(), found.id)
            audit.record(session, actor, "block", "user", found.id, reason)
        return _get(session, str(found.id))


def unblock(store: Store, actor: Actor, user: str) -> UserInfo:
    """Let a user in again; the mailings go on, and catch up as each says. Raises NotFound, Denied."""
    reach(actor, "block users")
    with store.write() as session:
        found = _overseen(session, actor, "block users", user)
        if found.blocked_at is not None:
            session.execute(update(_U).where(_U.c.id == found.id).values(blocked_at=None))
            audit.record(session, actor, "unblock", "user", found.id)
        return _get(session, str(found.id))


def give_role(store: Store, actor: Actor, user: str, role: Role) -> UserInfo:
    """Give a user another role; it counts from the next command on. Raises NotFound, Denied."""
    reach(actor, "give roles")
    with store.write() as session:
        found = _overseen(session, actor, "give roles", user)
        if found.role != role:
            session.execute(update(_U).where(_U.c.id == found.id).values(role=role))
            audit.record(session, actor, "role", "user", found.id, f"{found.role} to {role}")
        return _get(session, str(found.id))


def _overseen(session: Session, actor: Actor, action: str, user: str) -> UserInfo:
    """The user that an action is about, once the actor is known to have the right still.

    Whoever acts is an administrator, or a manager, in this very transaction, and acts on another one: so two
    administrators who demote or block each other at the same moment can't both succeed, and one is always left.
    """
    now = session.execute(select(_U.c.role, _U.c.blocked_at).where(_U.c.id == actor.user_id)).one()
    if now.role != actor.role or now.blocked_at is not None:
        raise Denied("your role was changed just now", "see what it is: skychimp whoami")
    found = _get(session, user)
    require_over(actor, action, found.id, found.role)
    return found


def _everybody() -> Select[tuple[Any, ...]]:
    return select(*(_U.c[name] for name in UserInfo.__dataclass_fields__))


def _get(session: Session, user: str) -> UserInfo:
    row = session.execute(_everybody().where(is_named(_U, user))).one_or_none()
    if row is None:
        raise NotFound(f"there is no user {user[:40]!r}", "see them: skychimp users list")
    return _info(row)


def _info(row: Row[tuple[Any, ...]]) -> UserInfo:
    return UserInfo(**{**row._mapping, "role": Role(row.role)})

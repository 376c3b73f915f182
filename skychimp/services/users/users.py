"""List users, block and unblock them, and change their roles."""

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Row, Select, and_, select, update

from skychimp.errors import Denied
from skychimp.listed import Listed
from skychimp.models import Role, tables
from skychimp.permissions import MANAGED_ROLES, Action, Actor, authorize, authorize_over
from skychimp.services import audit, paging
from skychimp.services.accounts import sessions
from skychimp.services.listing import ListOptions, apply, matches_id_or_email, not_found
from skychimp.store import holds
from skychimp.store.conditions import has_more_to_send
from skychimp.store.database import Store
from skychimp.store.session import Session
from skychimp.text import one_line
from skychimp.translation import tr

_U = tables.user
_M = tables.mailing
_O = tables.occurrence

MAX_REASON_LENGTH = 1_000

SORTED_BY = {
    "id": _U.c.id,
    "email": _U.c.address_key,
    "name": _U.c.name,
    "role": _U.c.role,
    "created_at": _U.c.created_at,
}


@dataclass(frozen=True)
class UserInfo:
    """A user as shown to whoever may see users. Times are in UTC; `blocked_at` is None unless the user is blocked."""

    id: int
    email: str
    name: str
    role: Role
    verified_at: datetime | None
    blocked_at: datetime | None
    created_at: datetime


def list_users(store: Store, actor: Actor, options: ListOptions, role: Role | None = None) -> Listed[UserInfo]:
    """Return the users that the actor manages. Raises Denied, and InvalidValue for the options."""
    authorize(actor, Action.SEE_USERS)
    assert actor.role is not None
    roles = MANAGED_ROLES[actor.role]
    rows = _select_users().where(_U.c.role.in_(roles if role is None else roles & {role}))
    found = apply(rows, options, searched=(_U.c.email, _U.c.name), sorted_by=SORTED_BY)
    return paging.read_list(store, rows, found, options, partial(map, _user_info))


def show(store: Store, actor: Actor, user: str) -> UserInfo:
    """Return one user by id or email address. Raises Denied, and NotFound also for users the actor may not see."""
    authorize(actor, Action.SEE_USERS)
    with store.read() as db:
        target = _get_user_for(db, actor, Action.SEE_USERS, user)
    if target.id != actor.user_id:
        audit.record_view(store, actor, "user", target.id)
    return target


def show_own(store: Store, actor: Actor) -> UserInfo:
    """Return the actor's own account. Raises NotLoggedIn."""
    authorize(actor, Action.SEE_OWN_ACCOUNT)
    with store.read() as db:
        return _get_user(db, str(actor.user_id))


def block(store: Store, actor: Actor, user: str, reason: str = "") -> UserInfo:
    """Block a user: end all of the user's sessions and stop the user's mailings. Emails being sent are finished.

    `reason` is for the audit trail. Raises NotFound, Denied, InvalidValue.
    """
    authorize(actor, Action.BLOCK_USERS)
    reason = one_line(reason, "reason", MAX_REASON_LENGTH)
    with store.write() as db:
        target = _get_managed_user(db, actor, Action.BLOCK_USERS, user)
        sessions.end_all(db, target.id)
        if target.blocked_at is None:
            db.execute(update(_U).where(_U.c.id == target.id).values(blocked_at=store.now()))
            audit.record(db, actor, "block", "user", target.id, reason)
        return _get_user(db, str(target.id))


def unblock(store: Store, actor: Actor, user: str) -> UserInfo:
    """Unblock a user. The user's mailings go on, and catch up as each is set to. Raises NotFound, Denied."""
    authorize(actor, Action.BLOCK_USERS)
    with store.write() as db:
        target = _get_managed_user(db, actor, Action.BLOCK_USERS, user)
        if target.blocked_at is not None:
            mailings = select(_M.c.id).where(_M.c.owner_id == target.id)
            holds.add_time_held_up(db.connection(), _O.c.mailing_id.in_(mailings), target.blocked_at, store.now())
            db.execute(update(_U).where(_U.c.id == target.id).values(blocked_at=None))
            audit.record(db, actor, "unblock", "user", target.id)
        return _get_user(db, str(target.id))


def set_role(store: Store, actor: Actor, user: str, role: Role) -> tuple[Role, UserInfo]:
    """Change a user's role, from the user's next command on. Return the old role and the user.

    Raises NotFound, Denied.
    """
    authorize(actor, Action.GIVE_ROLES)
    with store.write() as db:
        target = _get_managed_user(db, actor, Action.GIVE_ROLES, user)
        if target.role != role:
            db.execute(update(_U).where(_U.c.id == target.id).values(role=role))
            audit.record(db, actor, "role", "user", target.id, f"{target.role} to {role}")
        return target.role, _get_user(db, str(target.id))


def mailings_of(store: Store, user_id: int) -> list[int]:
    """Return the ids of a user's mailings that send emails, or would if the user were not blocked."""
    is_sent = and_(_M.c.disabled_at.is_(None), _M.c.deleted_at.is_(None), has_more_to_send(store.now()))
    with store.read() as db:
        return list(db.scalars(select(_M.c.id).where(_M.c.owner_id == user_id, is_sent).order_by(_M.c.id)))


def _get_managed_user(db: Session, actor: Actor, action: Action, user: str) -> UserInfo:
    """Return the user that the actor may perform an action on.

    The actor's role is read again in this transaction. So if two administrators demote or block each other at the same
    moment, only one of them succeeds, and an administrator is left. Raises NotFound, Denied.
    """
    current = db.execute(select(_U.c.role, _U.c.blocked_at).where(_U.c.id == actor.user_id)).one()
    if current.role != actor.role or current.blocked_at is not None:
        raise Denied(tr("your role has just been changed"), tr('run "skychimp whoami"'))
    return _get_user_for(db, actor, action, user)


def _get_user_for(db: Session, actor: Actor, action: Action, user: str) -> UserInfo:
    """Return a user if the actor may perform an action on them. Any other user is not found, as if there were none."""
    target = _get_user(db, user)
    if not authorize_over(actor, action, target.id, target.role):
        raise not_found("user", user)
    return target


def _select_users() -> Select[tuple[Any, ...]]:
    return select(*(_U.c[name] for name in UserInfo.__dataclass_fields__))


def _get_user(db: Session, user: str) -> UserInfo:
    row = db.execute(_select_users().where(matches_id_or_email(_U, user))).one_or_none()
    if row is None:
        raise not_found("user", user)
    return _user_info(row)


def _user_info(row: Row[tuple[Any, ...]]) -> UserInfo:
    return UserInfo(**{**row._mapping, "role": Role(row.role)})

"""Who may do what: one table of actions and roles; pure.

A service asks for the actor's reach before it does anything, and its query filters by the answer.
"""

from dataclasses import dataclass
from enum import StrEnum

from skychimp.errors import Denied, NotLoggedIn
from skychimp.models import Role


class Scope(StrEnum):
    """How far an action goes: over one's own objects, or over everybody's."""

    OWN = "own"
    ALL = "all"


@dataclass(frozen=True)
class Actor:
    """Who acts: a user with a role, or nobody in particular (`role` None: a guest)."""

    user_id: int = 0
    email: str = ""
    role: Role | None = None


ANONYMOUS = Actor()
OPERATOR = Actor(role=Role.ADMIN)
"""Whoever runs the service, by the store's file mode and not by a login."""

_OWNERS = {Role.USER: Scope.OWN, Role.ADMIN: Scope.OWN}
_OVERSEERS = {Role.USER: Scope.OWN, Role.MANAGER: Scope.ALL, Role.ADMIN: Scope.ALL}
_EDITORS = {Role.EDITOR: Scope.ALL, Role.ADMIN: Scope.ALL}
_ADMINS = {Role.ADMIN: Scope.ALL}

TABLE: dict[str, dict[Role, Scope]] = {
    "see clients": _OWNERS,
    "change clients": _OWNERS,
    "see messages": _OVERSEERS,
    "change messages": _OWNERS,
    "see mailings": _OVERSEERS,
    "change mailings": _OWNERS,
    "disable mailings": _OVERSEERS,
    "see reports": _OVERSEERS,
    "resolve deliveries": {Role.USER: Scope.OWN, Role.ADMIN: Scope.ALL},
    "see one's own account": dict.fromkeys(Role, Scope.OWN),
    "change one's own account": dict.fromkeys(Role, Scope.OWN),
    "see users": {Role.MANAGER: Scope.ALL, Role.ADMIN: Scope.ALL},
    "block users": {Role.MANAGER: Scope.ALL, Role.ADMIN: Scope.ALL},
    "give roles": _ADMINS,
    "forget people everywhere": _ADMINS,
    "see the audit trail": _ADMINS,
    "write posts": _EDITORS,
    "back up or restore the store": {Role.ADMIN: Scope.ALL},
}

OVERSEEN = {Role.MANAGER: frozenset({Role.USER, Role.EDITOR}), Role.ADMIN: frozenset(Role)}
"""The roles of those whom a role oversees, where it sees, blocks or promotes users."""


def authorize(actor: Actor, action: str) -> Scope:
    """How far this actor's action goes. Raises NotLoggedIn for a guest, Denied where the role may not do it at all."""
    if actor.role is None:
        raise NotLoggedIn("you are not logged in", "log in: skychimp login --email YOU@EXAMPLE.ORG")
    allowed = TABLE[action].get(actor.role)
    if allowed is None:
        raise Denied(f"{_a(actor.role)} may not {action}")
    return allowed


def require_over(actor: Actor, action: str, user_id: int, role: Role) -> None:
    """Raise Denied unless this actor's action on users may concern that one, whose role this is."""
    authorize(actor, action)
    if user_id == actor.user_id and action != "see users":
        raise Denied("you can't do that to your own account", "ask another administrator")
    assert actor.role is not None
    if role not in OVERSEEN[actor.role]:
        raise Denied(f"{_a(actor.role)} oversees no {role}s")


def _a(role: Role) -> str:
    return f"{'an' if role[0] in 'ae' else 'a'} {role}"

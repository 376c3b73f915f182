"""Who may do what: one table of actions and roles; pure.

A service asks for the actor's reach before it does anything, and its query filters by the answer.
"""

from dataclasses import dataclass
from enum import StrEnum

from skychimp.errors import Denied, NotLoggedIn
from skychimp.models import Role


class Reach(StrEnum):
    """How far an action goes: over one's own objects, or over everybody's."""

    OWN = "own"
    ALL = "all"


@dataclass(frozen=True)
class Actor:
    """Who acts: a user with a role, or nobody in particular (`role` None: a guest)."""

    user_id: int = 0
    email: str = ""
    role: Role | None = None


GUEST = Actor()
OPERATOR = Actor(role=Role.ADMIN)
"""Whoever runs the service, by the store's file mode and not by a login."""

_OWNERS = {Role.USER: Reach.OWN, Role.ADMIN: Reach.OWN}
_OVERSEERS = {Role.USER: Reach.OWN, Role.MANAGER: Reach.ALL, Role.ADMIN: Reach.ALL}

TABLE: dict[str, dict[Role, Reach]] = {
    "see clients": _OWNERS,
    "change clients": _OWNERS,
    "see messages": _OVERSEERS,
    "change messages": _OWNERS,
    "see mailings": _OVERSEERS,
    "change mailings": _OWNERS,
    "disable mailings": _OVERSEERS,
    "see reports": _OVERSEERS,
    "resolve deliveries": {Role.USER: Reach.OWN, Role.ADMIN: Reach.ALL},
    "back up or restore the store": {Role.ADMIN: Reach.ALL},
}


def reach(actor: Actor, action: str) -> Reach:
    """How far this actor's action goes. Raises NotLoggedIn for a guest, Denied where the role may not do it at all."""
    if actor.role is None:
        raise NotLoggedIn("you are not logged in", "log in: skychimp login --email YOU@EXAMPLE.ORG")
    allowed = TABLE[action].get(actor.role)
    if allowed is None:
        article = "an" if actor.role[0] in "ae" else "a"
        raise Denied(f"{article} {actor.role} may not {action}")
    return allowed

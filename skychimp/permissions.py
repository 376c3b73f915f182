"""Decide who may do what, by one table of actions and roles; pure.

A service calls `authorize` before it does anything, and limits its query to the scope that it gets back.
"""

from dataclasses import dataclass
from enum import StrEnum

from skychimp.errors import Denied, NotLoggedIn
from skychimp.roles import Role
from skychimp.translation import Phrase, tr


class Scope(StrEnum):
    """Whose objects an action may touch: the actor's own, or all users'."""

    OWN = "own"
    ALL = "all"


class Action(StrEnum):
    """Something that a role may or may not do. The value completes the sentence "a user may not ..."."""

    SEE_CLIENTS = tr("see clients")
    CHANGE_CLIENTS = tr("change clients")
    SEE_MESSAGES = tr("see messages")
    CHANGE_MESSAGES = tr("change messages")
    SEE_MAILINGS = tr("see mailings")
    CHANGE_MAILINGS = tr("change mailings")
    DISABLE_MAILINGS = tr("disable mailings")
    SEE_REPORTS = tr("see reports")
    RESOLVE_DELIVERIES = tr("resolve deliveries")
    SEE_OWN_ACCOUNT = tr("see their own account")
    CHANGE_OWN_ACCOUNT = tr("change their own account")
    SEE_USERS = tr("see users")
    BLOCK_USERS = tr("block users")
    GIVE_ROLES = tr("change roles")
    FORGET_EVERYWHERE = tr("erase people from all users' data")
    SUPPRESS_EVERYWHERE = tr("see or change suppressions of all users' mail")
    SEE_AUDIT_TRAIL = tr("see the audit trail")
    WRITE_POSTS = tr("write posts")
    BACK_UP_STORE = tr("back up the store")
    RESTORE_STORE = tr("restore the store")
    RESUME_SENDING = tr("resume sending after a restore")
    ACCEPT_CLOCK = tr("accept the clock")
    ROTATE_LINK_KEY = tr("replace the key of unsubscribe links")


@dataclass(frozen=True)
class Actor:
    """The user who runs a command, with a role; ANONYMOUS, without a role, if nobody is logged in."""

    user_id: int = 0
    email: str = ""
    role: Role | None = None


ANONYMOUS = Actor()
OPERATOR = Actor(role=Role.ADMIN)
"""The account that runs the service. It is trusted because it can write the store's file, and needs no login."""

_OWNERS = {Role.USER: Scope.OWN, Role.ADMIN: Scope.OWN}
_OVERSEERS = {Role.USER: Scope.OWN, Role.MANAGER: Scope.ALL, Role.ADMIN: Scope.ALL}
_MANAGERS = {Role.MANAGER: Scope.ALL, Role.ADMIN: Scope.ALL}
_EDITORS = {Role.EDITOR: Scope.ALL, Role.ADMIN: Scope.ALL}
_ADMINS = {Role.ADMIN: Scope.ALL}

TABLE: dict[Action, dict[Role, Scope]] = {
    Action.SEE_CLIENTS: _OWNERS,
    Action.CHANGE_CLIENTS: _OWNERS,
    Action.SEE_MESSAGES: _OVERSEERS,
    Action.CHANGE_MESSAGES: _OWNERS,
    Action.SEE_MAILINGS: _OVERSEERS,
    Action.CHANGE_MAILINGS: _OWNERS,
    Action.DISABLE_MAILINGS: _OVERSEERS,
    Action.SEE_REPORTS: _OVERSEERS,
    Action.RESOLVE_DELIVERIES: {Role.USER: Scope.OWN, Role.ADMIN: Scope.ALL},
    Action.SEE_OWN_ACCOUNT: dict.fromkeys(Role, Scope.OWN),
    Action.CHANGE_OWN_ACCOUNT: dict.fromkeys(Role, Scope.OWN),
    Action.SEE_USERS: _MANAGERS,
    Action.BLOCK_USERS: _MANAGERS,
    Action.GIVE_ROLES: _ADMINS,
    Action.FORGET_EVERYWHERE: _ADMINS,
    Action.SUPPRESS_EVERYWHERE: _ADMINS,
    Action.SEE_AUDIT_TRAIL: _ADMINS,
    Action.WRITE_POSTS: _EDITORS,
    Action.BACK_UP_STORE: _ADMINS,
    Action.RESTORE_STORE: _ADMINS,
    Action.RESUME_SENDING: _ADMINS,
    Action.ACCEPT_CLOCK: _ADMINS,
    Action.ROTATE_LINK_KEY: _ADMINS,
}

MANAGED_ROLES = {Role.MANAGER: frozenset({Role.USER, Role.EDITOR}), Role.ADMIN: frozenset(Role)}
"""The roles of the users that a manager or an administrator may see, block and promote."""


def authorize(actor: Actor, action: Action) -> Scope:
    """Return whose objects the actor's action may touch.

    Raises NotLoggedIn if nobody is logged in, and Denied if the actor's role does not allow the action at all.
    """
    if actor.role is None:
        raise NotLoggedIn(tr("you are not logged in"), tr('run "skychimp login --email YOU@EXAMPLE.ORG"'))
    scope = TABLE[action].get(actor.role)
    if scope is None:
        raise Denied(tr("{actor} may not {action}", actor=_with_article(actor.role), action=tr(action.value)))
    return scope


def scope_of(actor: Actor, action: Action) -> Scope | None:
    """Return whose objects the actor's action may touch, or None if the action is not allowed."""
    try:
        return authorize(actor, action)
    except Denied:
        return None


def authorize_over(actor: Actor, action: Action, user_id: int, role: Role) -> bool:
    """Return whether the actor may perform the action on the user with this id and role.

    If not, that user must look like one that does not exist. Raises NotLoggedIn, and Denied if the actor may not
    perform the action on anybody, or not on the own account.
    """
    authorize(actor, action)
    assert actor.role is not None
    is_self, is_managed = user_id == actor.user_id, role in MANAGED_ROLES[actor.role]
    if is_self and action != Action.SEE_USERS:
        raise Denied(tr("you cannot do that to your own account"), tr("ask another administrator"))
    if is_self and not is_managed:
        raise Denied(
            tr(
                "{actor} may not {action} with the role {role}",
                actor=_with_article(actor.role),
                action=tr(action.value),
                role=role,
            )
        )
    return is_managed


def _with_article(role: Role) -> Phrase:
    return tr("an {role}", role=role) if role[0] in "ae" else tr("a {role}", role=role)

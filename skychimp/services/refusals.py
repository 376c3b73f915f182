"""Record refused attempts in the audit trail: actions that a role may not do, and other users' objects.

Other users' objects answer as if they did not exist. So an attempt at an object that does not exist is recorded, too:
otherwise the time that a command takes would tell which of them exist.
"""

from contextlib import suppress
from typing import Any

from sqlalchemy import Select, select, true

from skychimp.errors import Denied, NotFound, SkychimpError
from skychimp.models import tables
from skychimp.permissions import Actor
from skychimp.services import audit
from skychimp.services.listing import matches_id_or_email
from skychimp.store.database import Store

REFUSED, NOT_FOUND = "refused", "not found"

_C = tables.client
_D = tables.delivery
_L = tables.login
_M = tables.mailing
_MSG = tables.message
_O = tables.occurrence
_U = tables.user

_OWNED = {
    "client": (_C, _C.c.owner_id),
    "delivery": (_D, _M.c.owner_id),
    "mailing": (_M, _M.c.owner_id),
    "message": (_MSG, _MSG.c.owner_id),
    "session": (_L, _L.c.user_id),
    "user": (_U, _U.c.id),
}
"""The table of each kind of object that belongs to a user, and the column with its owner."""

_BY_EMAIL = ("client", "user")


def record_denied(store: Store | None, actor: Actor, command: str, error: Denied) -> None:
    """Record that a command was denied. Without a store, only the system log has it. Never fails."""
    detail = f"{command}: {error.message}"
    if store is None:
        audit.record_in_log(actor, REFUSED, "command", None, detail)
    else:
        audit.record_if_possible(store, actor, REFUSED, "command", None, detail)


def record_not_found(store: Store, actor: Actor, command: str, error: NotFound) -> None:
    """Record that a user asked for an object that is another user's, or does not exist. Never fails.

    An address by which it was asked for is not recorded.
    """
    if error.kind not in _OWNED or error.name is None or actor.role is None:
        return
    others_id = None
    with suppress(SkychimpError), store.read() as db:
        others_id = db.scalars(_others_objects(actor, error.kind, error.name).limit(1)).first()
    action = NOT_FOUND if others_id is None else REFUSED
    audit.record_if_possible(store, actor, action, error.kind, others_id or _id(error.name), command)


def _others_objects(actor: Actor, kind: str, name: str) -> Select[Any]:
    """Return the query for the id of an object with this name that is not the actor's."""
    table, owner = _OWNED[kind]
    is_named = matches_id_or_email(table, name) if kind in _BY_EMAIL else table.c.id == _id(name)
    exists = table.c.deleted_at.is_(None) if "deleted_at" in table.c else true()
    query = select(table.c.id).where(is_named, exists, owner != actor.user_id)
    if kind == "delivery":
        query = query.join(_O, _O.c.id == _D.c.occurrence_id).join(_M, _M.c.id == _O.c.mailing_id)
    return query


def _id(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and len(name) <= 18 else None

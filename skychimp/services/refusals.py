"""Record refused attempts in the audit trail: actions that a role may not do, and other users' objects.

Other users' objects answer as if they did not exist. So an attempt at an object that does not exist is recorded, too:
otherwise the time that a command takes would tell which of them exist.
"""

from contextlib import suppress
from typing import Any

from sqlalchemy import Select, select, true

from skychimp.errors import SkychimpError
from skychimp.models import Client, Mailing, Message, Post, User
from skychimp.permissions import Actor
from skychimp.services import audit
from skychimp.services.listing import matches_id_or_email
from skychimp.store.database import Store

REFUSED, NOT_FOUND = "refused", "not found"

_TABLES = {table.__tablename__: table.__table__ for table in (Client, Mailing, Message, Post, User)}
_OWNERS = {"post": "author_id", "user": "id"}
_BY_EMAIL = ("client", "user")


def record_denied(store: Store | None, actor: Actor, command: str, reason: str) -> None:
    """Record that a command was denied. Without a store, only the system log has it. Never fails."""
    if store is None:
        audit.record_in_log(actor, REFUSED, "command", None, f"{command}: {reason}")
    else:
        audit.record_if_possible(store, actor, REFUSED, "command", None, f"{command}: {reason}")


def record_not_found(store: Store, actor: Actor, command: str, kind: str, name: str) -> None:
    """Record that an actor asked for an object that is another user's, or does not exist. Never fails.

    `kind` is the table of the object, and `name` is its id, or an email address, which is not recorded.
    """
    others_id = None
    with suppress(SkychimpError):
        others_id = _find_others_object(store, actor, kind, name)
    action = NOT_FOUND if others_id is None else REFUSED
    audit.record_if_possible(store, actor, action, kind, others_id or _id(name), command)


def _find_others_object(store: Store, actor: Actor, kind: str, name: str) -> int | None:
    """Return the id of an object that is not the actor's, None if there is none."""
    with store.read() as db:
        return db.scalars(_others_objects(actor, kind, name).limit(1)).first()


def _others_objects(actor: Actor, kind: str, name: str) -> Select[Any]:
    table = _TABLES[kind]
    is_named = matches_id_or_email(table, name) if kind in _BY_EMAIL else table.c.id == _id(name)
    exists = table.c.deleted_at.is_(None) if "deleted_at" in table.c else true()
    return select(table.c.id).where(is_named, exists, table.c[_OWNERS.get(kind, "owner_id")] != actor.user_id)


def _id(name: str) -> int | None:
    return int(name) if name.isascii() and name.isdigit() and len(name) <= 18 else None

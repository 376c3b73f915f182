"""Record and list the audit trail: who did what to which object, and when.

Every entry goes to the system log as well, which a restore of the store does not bring back to an older state.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Row, insert, select
from sqlalchemy.exc import IntegrityError

from skychimp.config import shared
from skychimp.errors import SkychimpError
from skychimp.listed import Listed
from skychimp.models import tables
from skychimp.permissions import ANONYMOUS, Action, Actor, Scope, authorize
from skychimp.services import paging, system_log
from skychimp.services.listing import ListOptions, apply, checked_search, matches_id_or_email
from skychimp.store.database import Store
from skychimp.store.session import Session, call_after_commit
from skychimp.store.sql import Nullable

_A = tables.audit_entry
_U = tables.user

_views: WeakKeyDictionary[Store, set[tuple[int, str, int | None, str]]] = WeakKeyDictionary()
"""The views of others' objects that are recorded already: a command reads some objects more than once."""

SORTED_BY = {
    "id": _A.c.id,
    "at": _A.c.at,
    "actor": Nullable(_U.c.address_key),
    "action": _A.c.action,
    "object": _A.c.object,
}


@dataclass(frozen=True)
class AuditInfo:
    """An entry of the audit trail. `actor` is an email address, or None if it was done without a login."""

    id: int
    at: datetime
    actor: str | None
    action: str
    object: str
    object_id: int | None
    detail: str


def record(db: Session, actor: Actor, action: str, kind: str, object_id: int | None = None, detail: str = "") -> None:
    """Record an action in the caller's transaction, so that an action that is rolled back leaves no entry.

    `kind` is the object's table. `detail` must contain no secret and no address of a client.
    """
    entry = _new_entry(actor, action, kind, object_id, detail)
    db.execute(insert(_A).values(entry))
    line = _log_line(entry, actor)
    call_after_commit(db, lambda: system_log.write(line))


def record_if_possible(
    store: Store, actor: Actor, action: str, kind: str, object_id: int | None = None, detail: str = ""
) -> None:
    """Record something that changes nothing else, in a transaction of its own.

    It never fails, and never waits long. If the store cannot be written now, only the system log has the entry.
    """
    try:
        with store.write_soon() as db:
            record(db, actor, action, kind, object_id, detail)
    except (SkychimpError, IntegrityError):
        record_in_log(actor, action, kind, object_id, detail)


def record_in_log(actor: Actor, action: str, kind: str, object_id: int | None = None, detail: str = "") -> None:
    """Record an action in the system log alone, because there is no store that can be written. Never fails."""
    system_log.write(_log_line(_new_entry(actor, action, kind, object_id, detail), actor))


def record_view(store: Store, actor: Actor, kind: str, object_id: int | None = None, detail: str = "") -> None:
    """Record that the actor sees another user's object, once for as long as the store is open."""
    views = _views.setdefault(store, set())
    view = (actor.user_id, kind, object_id, detail)
    if view not in views:
        views.add(view)
        record_if_possible(store, actor, "see", kind, object_id, detail)


def record_list(store: Store, actor: Actor, action: Action, kind: str) -> None:
    """Record that the actor lists objects of a kind, if that shows other users' objects. Raises Denied."""
    if authorize(actor, action) == Scope.ALL:
        record_view(store, actor, kind, None, "list")


def record_without_login(store: Store, action: str, kind: str) -> None:
    """Record an action of the account that runs the service, in a transaction of its own."""
    with store.write() as db:
        record(db, ANONYMOUS, action, kind)


def list_entries(
    store: Store,
    actor: Actor,
    options: ListOptions,
    *,
    by: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
) -> Listed[AuditInfo]:
    """Return the entries of the audit trail, the oldest first.

    `by` is a user's id or email address, `since` the time of the first entry. Raises Denied, InvalidValue.
    """
    authorize(actor, Action.SEE_AUDIT_TRAIL)
    rows = select(_A, _U.c.email).outerjoin(_U, _U.c.id == _A.c.actor_id)
    found = apply(rows, options, searched=(_U.c.email, _A.c.action, _A.c.object, _A.c.detail), sorted_by=SORTED_BY)
    if by is not None:
        found = found.where(matches_id_or_email(_U, by))
    if action is not None:
        found = found.where(_A.c.action == checked_search(action))
    if since is not None:
        found = found.where(_A.c.at >= since)
    return paging.read_list(store, rows, found, options, partial(map, _audit_info))


def _audit_info(row: Row[Any]) -> AuditInfo:
    return AuditInfo(row.id, row.at, row.email, row.action, row.object, row.object_id, row.detail)


def _new_entry(actor: Actor, action: str, kind: str, object_id: int | None, detail: str) -> dict[str, Any]:
    """Return the values of a new row."""
    return {
        "at": datetime.now(UTC),
        "actor_id": actor.user_id or None,
        "action": action,
        "object": kind,
        "object_id": object_id,
        "detail": _with_caller(detail),
    }


def _with_caller(detail: str) -> str:
    """Return a detail with the name of the person who runs this with sudo, if anybody does."""
    caller = shared.find_caller()
    return detail if caller is None else ", ".join(filter(None, (detail, f"sudo: {caller.name[:100]}")))


def _log_line(entry: dict[str, Any], actor: Actor) -> str:
    at = entry["at"].isoformat(timespec="milliseconds")
    described = {name: entry[name] for name in ("action", "object", "object_id", "detail")}
    return system_log.format_line(at=at, actor=actor.email or None, **described)

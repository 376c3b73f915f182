"""Record and list the audit trail: who did what to which object, and when."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlmodel import Session

from skychimp.models import AuditEntry, User
from skychimp.permissions import ANONYMOUS, Action, Actor, authorize
from skychimp.services.listing import ListOptions, apply, matches_id_or_email
from skychimp.store.database import Store

_A = AuditEntry.__table__
_U = User.__table__

SORTED_BY = {"id": _A.c.id, "at": _A.c.at, "actor": _U.c.address_key, "action": _A.c.action, "object": _A.c.object}


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
    db.add(
        AuditEntry(
            at=datetime.now(UTC),
            actor_id=actor.user_id or None,
            action=action,
            object=kind,
            object_id=object_id,
            detail=detail,
        )
    )


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
) -> Iterator[AuditInfo]:
    """Yield the entries of the audit trail, the oldest first, while they are read.

    `by` is a user's id or email address, `since` the time of the first entry. Raises Denied, InvalidValue.
    """
    authorize(actor, Action.SEE_AUDIT_TRAIL)
    query = select(_A, _U.c.email).outerjoin(_U, _U.c.id == _A.c.actor_id)
    query = apply(query, options, searched=(_U.c.email, _A.c.action, _A.c.object, _A.c.detail), sorted_by=SORTED_BY)
    if by is not None:
        query = query.where(matches_id_or_email(_U, by))
    if action is not None:
        query = query.where(_A.c.action == action)
    if since is not None:
        query = query.where(_A.c.at >= since)
    with store.read() as db:
        for row in db.execute(query.execution_options(yield_per=1000)):
            yield AuditInfo(row.id, row.at, row.email, row.action, row.object, row.object_id, row.detail)

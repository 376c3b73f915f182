"""The audit trail: who did what to which object, and when."""

from datetime import UTC, datetime

from sqlmodel import Session

from skychimp.access import Actor
from skychimp.models import Audit


def record(
    session: Session, actor: Actor, action: str, kind: str, object_id: int | None = None, detail: str = ""
) -> None:
    """Add to the trail, in the caller's transaction: what was not done is not in it, either.

    `kind` is the object's table. No address of a client and no secret belongs into `detail`.
    """
    session.add(
        Audit(
            at=datetime.now(UTC),
            actor_id=actor.user_id or None,
            action=action,
            object=kind,
            object_id=object_id,
            detail=detail,
        )
    )

"""Delete the accounts that were not verified in time, so that their addresses are free again."""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Column, delete, exists, select

from skychimp.models import tables
from skychimp.models.base import metadata
from skychimp.permissions import ANONYMOUS
from skychimp.services import audit
from skychimp.store.session import Session

LIFETIME = timedelta(days=7)
"""How long an account may stay unverified after its address was last registered."""

_C = tables.code
_U = tables.user


def delete_expired(db: Session, now: datetime) -> None:
    """Delete the accounts that were not verified within LIFETIME.

    One that was blocked stays, so that it cannot be registered again. So does one that anything refers to.
    """
    is_unused = [~exists().where(column == _U.c.id) for column in _references()]
    expired = select(_U.c.id).where(
        _U.c.verified_at.is_(None), _U.c.blocked_at.is_(None), _U.c.created_at <= now - LIFETIME, *is_unused
    )
    for user_id in db.scalars(expired).all():
        db.execute(delete(_C).where(_C.c.user_id == user_id))
        db.execute(delete(_U).where(_U.c.id == user_id))
        audit.record(db, ANONYMOUS, "expire", "user", user_id)


def _references() -> list[Column[Any]]:
    """Return the columns that refer to a user, except those of codes."""
    keys = (key for table in metadata.tables.values() if table is not _C for key in table.foreign_keys)
    return [key.parent for key in keys if key.column is _U.c.id]

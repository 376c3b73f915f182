"""Mark clients whose address does not exist. Part of the caller's transaction."""

from datetime import datetime

from sqlalchemy import Connection, select, update

from skychimp.models import Client, SuppressionSource
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression

_C = Client.__table__


def mark(db: Connection, client_id: int, address: str, reason: str, now: datetime) -> bool:
    """Mark a client's address as bad and suppress it. Return whether it was marked.

    It is not if it was marked before, or if the client has another address by now.
    """
    client = db.execute(select(_C).where(_C.c.id == client_id)).one_or_none()
    if client is None or client.bad_at is not None or client.email != address:
        return False
    db.execute(update(_C).where(_C.c.id == client.id).values(bad_at=now, bad_reason=reason))
    remembered = NewSuppression(client.email, client.address_key, suppressions.BOUNCE, reason)
    suppressions.add(db, [remembered], Holds(client.owner_id), SuppressionSource.BOUNCE, now)
    return True

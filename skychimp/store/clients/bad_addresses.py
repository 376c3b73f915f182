"""Mark clients whose address does not exist, or does after all. Part of the caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select, update

from skychimp.models import SuppressionSource, tables
from skychimp.store.clients import suppressions
from skychimp.store.clients.suppressions import Holds, NewSuppression
from skychimp.store.sql import id_list

_C = tables.client


class BadAddress(NamedTuple):
    """A client's address as an email was sent to it, and why it is bad."""

    client_id: int
    address: str
    reason: str


def mark(db: Connection, bad: Sequence[BadAddress], now: datetime) -> int:
    """Mark the addresses of clients as bad and suppress them. Return how many were marked.

    A client that was marked before, or has another address by now, stays as it is.
    """
    by_client = {each.client_id: each for each in reversed(bad)}
    found = select(_C).where(_C.c.id.in_(id_list(list(by_client))), _C.c.bad_at.is_(None))
    rows = db.execute(found.order_by(_C.c.owner_id, _C.c.id)).all()
    clients = [client for client in rows if client.email == by_client[client.id].address]
    if not clients:
        return 0
    marked = update(_C).where(_C.c.id == bindparam("client")).values(bad_at=now, bad_reason=bindparam("reason"))
    db.execute(marked, [{"client": client.id, "reason": by_client[client.id].reason} for client in clients])
    for owner_id, owned in groupby(clients, lambda client: client.owner_id):
        remembered = [
            NewSuppression(client.email, client.address_key, suppressions.BOUNCE, by_client[client.id].reason)
            for client in owned
        ]
        suppressions.add(db, remembered, Holds(owner_id), SuppressionSource.BOUNCE, now)
    return len(clients)


def make_good(now: datetime) -> Mapping[str, object]:
    """Return the columns of a client whose address is good, as a person says. What bounced before does not count."""
    return {"bad_at": None, "bad_reason": None, "good_at": now}

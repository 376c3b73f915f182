"""Keep the suppressions that a replaced store has and its restored backup lacks.

Whoever has unsubscribed since the backup was made must get no email from the restored store either.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, CursorResult

from skychimp.models import EVERYBODY
from skychimp.store import queue
from skychimp.store.clients import suppressions

# Those of users that the backup lacks are not needed: a user's id may be given to somebody else. An address that only
# the backup knows stays known, as the backup's clients may have it.
_ADD = f"""
    INSERT INTO suppression (owner_id, topic, address_hash, address, address_key, reason, source, at, note, until)
    SELECT n.owner_id, n.topic, n.address_hash, n.address, n.address_key, n.reason, n.source, n.at, n.note, n.until
    FROM newer.suppression AS n
    LEFT JOIN newer.user AS owner ON owner.id = n.owner_id
    LEFT JOIN user AS same ON (same.id, same.created_at) = (owner.id, owner.created_at)
    WHERE (n.owner_id = {EVERYBODY} OR same.id IS NOT NULL)
        AND NOT EXISTS (
            SELECT 1 FROM suppression AS s
            WHERE (s.address_hash, s.owner_id, s.topic) = (n.address_hash, n.owner_id, n.topic) AND s.at >= n.at)
    ORDER BY n.id
    ON CONFLICT (address_hash, owner_id, topic) DO UPDATE
        SET reason = excluded.reason, source = excluded.source, at = excluded.at, note = excluded.note,
            until = excluded.until"""  # noqa: S608


def add(execute: Callable[..., CursorResult[Any]]) -> int:
    """Add the suppressions of a newer copy of a store, attached as `newer`. Return how many.

    A newer reason of the same suppression is taken, too. A copy of an older version has none.
    """
    if not execute("SELECT 1 FROM newer.sqlite_master WHERE name = 'suppression'").scalar():
        return 0
    return execute(_ADD).rowcount


def apply(db: Connection) -> None:
    """Let the suppressions hold for the clients and the waiting emails of the restored store."""
    suppressions.recall_clients(db)
    queue.cancel_suppressed(db)

"""Add and update many clients in a few statements. Part of the caller's transaction."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, String, cast, func, literal, select

from skychimp.models import Client

_C = Client.__table__


class NewClient(NamedTuple):
    """A client to add: the values of its columns as they are stored, and its tags."""

    email: str
    address_key: str
    name: str
    comment: str
    tags: Sequence[str]


# These go to the driver directly: with SQLAlchemy's executemany a batch took half as long again.
_INSERT_CLIENTS = """
    INSERT INTO client (owner_id, created_at, email, address_key, name, comment) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (owner_id, address_key) DO """
_DELETE_TAGS = "DELETE FROM client_tag WHERE client_id = (SELECT id FROM client WHERE owner_id = ? AND address_key = ?)"
_INSERT_TAG = """
    INSERT INTO client_tag (client_id, tag)
    SELECT id, ? FROM client WHERE owner_id = ? AND address_key = ? AND id > ?"""


def add_clients(db: Connection, owner_id: int, clients: Collection[NewClient], update_columns: Sequence[str]) -> int:
    """Add clients with different addresses, and update those that exist. Return the number of new ones.

    `update_columns` names what is updated (email, name, comment, tags). If it is empty, existing clients stay as they
    are.
    """
    newest_id = db.scalar(select(func.coalesce(func.max(_C.c.id), 0))) or 0
    updates = ", ".join(f"{column} = excluded.{column}" for column in update_columns if column != "tags")
    now = literal(datetime.now(UTC), _C.c.created_at.type)
    stored_now = db.scalar(select(cast(now, String)))
    rows = [(owner_id, stored_now, *client[:4]) for client in clients]
    db.exec_driver_sql(_INSERT_CLIENTS + (f"UPDATE SET {updates}" if updates else "NOTHING"), rows)
    if "tags" in update_columns:
        db.exec_driver_sql(_DELETE_TAGS, [(owner_id, client.address_key) for client in clients])
    tagged_after = 0 if "tags" in update_columns else newest_id  # otherwise only new clients get their tags
    tags = [(tag, owner_id, client.address_key, tagged_after) for client in clients for tag in client.tags]
    if tags:
        db.exec_driver_sql(_INSERT_TAG, tags)
    return db.scalar(select(func.count()).where(_C.c.owner_id == owner_id, _C.c.id > newest_id)) or 0

"""Clients by the thousand, a batch in a few statements; a part of its caller's transaction."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from sqlalchemy import Connection, String, cast, func, literal, select

from skychimp.models import Client

_C = Client.__table__


class NewClient(NamedTuple):
    """A client that may be kept: its columns as they are stored, and its tags."""

    email: str
    address_key: str
    name: str
    comment: str
    tags: Sequence[str]


# In the driver's own words: by SQLAlchemy's executemany a batch cost half as much again.
_ADD = """
    INSERT INTO client (owner_id, created_at, email, address_key, name, comment) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (owner_id, address_key) DO """
_UNTAG = "DELETE FROM client_tag WHERE client_id = (SELECT id FROM client WHERE owner_id = ? AND address_key = ?)"
_TAG = """
    INSERT INTO client_tag (client_id, tag)
    SELECT id, ? FROM client WHERE owner_id = ? AND address_key = ? AND id > ?"""


def add(db: Connection, owner_id: int, people: Collection[NewClient], change_known: Sequence[str]) -> int:
    """Add clients, each address once, and change those that are known; how many are new.

    `change_known` names what is changed (email, name, comment, tags); where it names nothing, they stay as they are.
    """
    newest = db.scalar(select(func.coalesce(func.max(_C.c.id), 0))) or 0
    changed = ", ".join(f"{column} = excluded.{column}" for column in change_known if column != "tags")
    now = literal(datetime.now(UTC), _C.c.created_at.type)
    as_stored = db.scalar(select(cast(now, String)))
    rows = [(owner_id, as_stored, *person[:4]) for person in people]
    db.exec_driver_sql(_ADD + (f"UPDATE SET {changed}" if changed else "NOTHING"), rows)
    since = newest
    if "tags" in change_known:
        since = 0
        db.exec_driver_sql(_UNTAG, [(owner_id, person.address_key) for person in people])
    tags = [(tag, owner_id, person.address_key, since) for person in people for tag in person.tags]
    if tags:
        db.exec_driver_sql(_TAG, tags)
    return db.scalar(select(func.count()).where(_C.c.owner_id == owner_id, _C.c.id > newest)) or 0

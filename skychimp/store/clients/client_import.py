"""Add and update many clients in a few statements. Part of the caller's transaction."""

import json
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import NamedTuple

from sqlalchemy import Connection, String, cast, func, literal, select

from skychimp.models import tables
from skychimp.store.clients.tags import client_tags, spell
from skychimp.store.database import SQLITE

_C = tables.client
_T = tables.client_tag


_AT_ONCE = 1_000
"""How many addresses are looked for in one statement."""


class NewClient(NamedTuple):
    """A client to add: the values of its columns as they are stored, and its tags."""

    email: str
    address_key: str
    name: str
    comment: str
    tags: Sequence[str]
    fields: str = "{}"
    """A JSON object. Where a client is updated, null removes a value, and other values are kept."""


def add_clients(db: Connection, owner_id: int, clients: Collection[NewClient], update_columns: Sequence[str]) -> int:
    """Add clients with different addresses, and update those that exist. Return the number of new ones.

    `update_columns` names what is updated (email, name, comment, tags, fields). If it is empty, existing clients stay
    as they are. If it does not name the tags, those of an existing client stay, too, and the given ones are added.
    """
    clients = _with_known_spellings(db, owner_id, clients)
    newest_id = db.scalar(select(func.coalesce(func.max(_C.c.id), 0))) or 0
    add = _add_to_sqlite if db.dialect.name == SQLITE else _add_to_postgresql
    add(db, owner_id, clients, update_columns, newest_id)
    return db.scalar(select(func.count()).where(_C.c.owner_id == owner_id, _C.c.id > newest_id)) or 0


def known_keys(db: Connection, owner_id: int, keys: Collection[str]) -> set[str]:
    """Return those of the address keys that clients of a user have."""
    known: set[str] = set()
    remaining = iter(keys)
    while some := list(islice(remaining, _AT_ONCE)):
        known.update(db.scalars(select(_C.c.address_key).where(_C.c.owner_id == owner_id, _C.c.address_key.in_(some))))
    return known


def clients_with_many_tags(db: Connection, owner_id: int, more_than: int) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the address key and the tags of each client of a user who has more tags than that."""
    having = select(_T.c.client_id).group_by(_T.c.client_id).having(func.count() > more_than)
    query = select(_C.c.address_key, client_tags()).where(_C.c.owner_id == owner_id, _C.c.id.in_(having))
    for key, tags in db.execute(query):
        yield key, json.loads(tags)


def _own(update_columns: Sequence[str]) -> list[str]:
    """Return the columns that are in the table of clients."""
    return [column for column in update_columns if column != "tags"]


def _with_known_spellings(db: Connection, owner_id: int, clients: Collection[NewClient]) -> Collection[NewClient]:
    """Return the clients with their tags as the owner spells them."""
    given = dict.fromkeys(tag for client in clients for tag in client.tags)
    spelled = spell(db, owner_id, given) if given else {}
    if all(tag == spelling for tag, spelling in spelled.items()):
        return clients
    return [client._replace(tags=[spelled[tag] for tag in client.tags]) for client in clients]


# SQLite. These go to the driver directly: with SQLAlchemy's executemany a batch took half as long again.

_INSERT_CLIENTS = """
    INSERT INTO client (owner_id, created_at, email, address_key, name, comment, fields)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, json_patch('{}', ?7))
    ON CONFLICT (owner_id, address_key) DO """
_UPDATES = {"fields": "fields = json_patch(client.fields, ?7)"}
_DELETE_TAGS = "DELETE FROM client_tag WHERE client_id = (SELECT id FROM client WHERE owner_id = ? AND address_key = ?)"
_INSERT_TAG = """
    INSERT INTO client_tag (client_id, tag)
    SELECT id, ? FROM client WHERE owner_id = ? AND address_key = ? AND id > ? ON CONFLICT DO NOTHING"""


def _add_to_sqlite(
    db: Connection, owner_id: int, clients: Collection[NewClient], update_columns: Sequence[str], newest_id: int
) -> None:
    updates = ", ".join(_UPDATES.get(column, f"{column} = excluded.{column}") for column in _own(update_columns))
    now = literal(datetime.now(UTC), _C.c.created_at.type)
    stored_now = db.scalar(select(cast(now, String)))
    rows = [(owner_id, stored_now, *client[:4], client.fields) for client in clients]
    db.exec_driver_sql(_INSERT_CLIENTS + (f"UPDATE SET {updates}" if updates else "NOTHING"), rows)
    if "tags" in update_columns:
        db.exec_driver_sql(_DELETE_TAGS, [(owner_id, client.address_key) for client in clients])
    tagged_after = 0 if update_columns else newest_id  # otherwise only new clients get their tags
    tags = [(tag, owner_id, client.address_key, tagged_after) for client in clients for tag in client.tags]
    if tags:
        db.exec_driver_sql(_INSERT_TAG, tags)


# PostgreSQL. Each statement has a list for each column, and nothing is sent row by row. ON CONFLICT would use up an id
# for each client that exists.

_ROWS = (
    "unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])"
    " WITH ORDINALITY AS row (email, address_key, name, comment, fields, number)"
)
_MERGED_FIELDS = "fields = jsonb_strip_nulls(client.fields::jsonb || row.fields::jsonb)::text"
_UPDATE_ROWS = f"UPDATE client SET {{}} FROM {_ROWS} WHERE owner_id = %s AND client.address_key = row.address_key"  # noqa: S608
_INSERT_ROWS = f"""
    INSERT INTO client (owner_id, created_at, email, address_key, name, comment, fields)
    SELECT %s, %s, email, address_key, name, comment,
        CASE fields WHEN '{{}}' THEN fields ELSE jsonb_strip_nulls(fields::jsonb)::text END FROM {_ROWS}
    WHERE NOT EXISTS (SELECT FROM client AS known WHERE known.owner_id = %s AND known.address_key = row.address_key)
    ORDER BY number"""  # noqa: S608
_DELETE_TAGS_OF_ROWS = """
    DELETE FROM client_tag USING client WHERE client.id = client_id AND owner_id = %s AND address_key = ANY(%s)"""
_INSERT_TAGS_OF_ROWS = """
    INSERT INTO client_tag (client_id, tag) SELECT client.id, row.tag
    FROM unnest(%s::text[], %s::text[]) AS row (address_key, tag) JOIN client USING (address_key)
    WHERE owner_id = %s AND client.id > %s ON CONFLICT DO NOTHING"""


def _add_to_postgresql(
    db: Connection, owner_id: int, clients: Collection[NewClient], update_columns: Sequence[str], newest_id: int
) -> None:
    rows = ((*client[:4], client.fields) for client in clients)
    columns = list(map(list, zip(*rows, strict=True)))
    updates = ", ".join(_MERGED_FIELDS if name == "fields" else f"{name} = row.{name}" for name in _own(update_columns))
    if updates:
        db.exec_driver_sql(_UPDATE_ROWS.format(updates), (*columns, owner_id))
    db.exec_driver_sql(_INSERT_ROWS, (owner_id, datetime.now(UTC), *columns, owner_id))
    if "tags" in update_columns:
        db.exec_driver_sql(_DELETE_TAGS_OF_ROWS, (owner_id, [client.address_key for client in clients]))
    tagged_after = 0 if update_columns else newest_id
    tags = [(client.address_key, tag) for client in clients for tag in client.tags]
    if tags:
        keys, names = zip(*tags, strict=True)
        db.exec_driver_sql(_INSERT_TAGS_OF_ROWS, (list(keys), list(names), owner_id, tagged_after))

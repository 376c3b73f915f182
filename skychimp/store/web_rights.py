"""Restrict what the web server may do with a store, as it talks to anybody.

It reads the deliveries that tokens name and what it counts, and writes suppressions and what they cancel. Of clients it
reads only the addresses, to find who was forgotten and is a client again. On SQLite, each connection refuses everything
else. On PostgreSQL, a role of its own with the rights from `grants` does that.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import event

from skychimp.models import tables
from skychimp.store.database import SQLITE, Store

_SUPPRESSION_COLUMNS = frozenset(tables.suppression.c.keys())

_DELIVERY_COLUMNS = frozenset({
    "id", "occurrence_id", "client_id", "address", "address_key", "address_hash", "state", "attempts", "next_try_at",
})  # fmt: skip

READ: Mapping[str, frozenset[str]] = {
    "alembic_version": frozenset({"version_num"}),
    "attempt": frozenset({"delivery_id", "number", "outcome"}),
    "client": frozenset({"owner_id", "email", "address_key"}),
    "delivery": frozenset(
        [
            "id",
            "occurrence_id",
            "client_id",
            "address",
            "address_key",
            "address_hash",
            "state",
            "attempts",
            "next_try_at",
        ]
    ),
    "intent": frozenset({"delivery_id", "lease_id"}),
    "lease": frozenset({"delivery_ids"}),
    "mailing": frozenset({"id", "owner_id", "topic", "deleted_at"}),
    "occurrence": frozenset({"id", "mailing_id", "state"}),
    "run": frozenset({"heartbeat_at"}),
    "store_info": frozenset({"secret"}),
    "suppression": _SUPPRESSION_COLUMNS,
    "token_key": frozenset({"number", "key", "replaced_at"}),
}
"""The columns of each table that are read."""

UPDATE: Mapping[str, frozenset[str]] = {
    "delivery": frozenset({"state", "next_try_at"}),
    "suppression": _SUPPRESSION_COLUMNS - {"id"},
}
INSERT_AND_DELETE = frozenset({"suppression"})

# The actions of SQLite's authorizer (https://sqlite.org/c3ref/c_alter_table.html).
_DELETE, _INSERT, _READ, _SELECT, _TRANSACTION, _UPDATE, _FUNCTION = 9, 18, 20, 21, 22, 23, 31
_OK, _DENY = 0, 1
_JSON_TABLE = "json_each"


def restrict(store: Store) -> bool:
    """Let all further connections do only what the web server needs. Return whether that is so.

    On PostgreSQL it depends on the role. The store must be of the newest revision.
    """
    if store.dialect == SQLITE:
        event.listen(store.engine, "connect", _set_authorizer)
        store.engine.dispose()
        return True
    with store.read() as db:
        return not db.connection().exec_driver_sql("SELECT has_table_privilege('client', 'SELECT')").scalar()


def grants(role: str) -> list[str]:
    """Return the statements that give a role of PostgreSQL the rights of the web server."""
    name = '"' + role.replace('"', '""') + '"'
    rights = [f"SELECT ({_listed(columns)}) ON {table}" for table, columns in READ.items()]
    rights += [f"UPDATE ({_listed(columns)}) ON {table}" for table, columns in UPDATE.items()]
    rights += [f"INSERT, DELETE ON {table}" for table in sorted(INSERT_AND_DELETE)]
    rights += [f"USAGE ON SEQUENCE {table}_id_seq" for table in sorted(INSERT_AND_DELETE)]
    return [f"GRANT {right} TO {name};" for right in rights]


def _listed(columns: frozenset[str]) -> str:
    return ", ".join(sorted(columns))


def _set_authorizer(connection: Any, _record: object) -> None:
    connection.set_authorizer(_authorize)


def _authorize(action: int, first: str | None, second: str | None, _database: str | None, _inner: str | None) -> int:
    return _OK if _is_allowed(action, first or "", second or "") else _DENY


def _is_allowed(action: int, name: str, column: str) -> bool:
    if action == _READ:  # without a column, it is only counted
        return name == _JSON_TABLE or (name in READ and (not column or column in READ[name]))
    if action == _UPDATE:
        return column in UPDATE.get(name, ())
    if action in (_INSERT, _DELETE):
        return name in INSERT_AND_DELETE
    return action in (_SELECT, _TRANSACTION, _FUNCTION)

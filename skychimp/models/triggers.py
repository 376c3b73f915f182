"""Add what SQLAlchemy does not know to the tables: triggers that keep versions and refuse changes, and a function.

Only who creates tables needs this module.
"""

from sqlalchemy import Table as CoreTable

from skychimp.models import tables
from skychimp.models.base import add_ddl

_WATCHED_COLUMNS: dict[str, dict[CoreTable, tuple[str, ...]]] = {
    "audience_version": {
        tables.client: ("owner_id", "address_key"),
        tables.client_tag: ("client_id", "tag"),
        tables.mailing: ("owner_id", "all_clients", "status", "end_at", "disabled_at", "deleted_at"),
        tables.mailing_client: ("mailing_id", "client_id"),
        tables.mailing_tag: ("mailing_id", "tag"),
        tables.user: ("blocked_at",),
    },
    "posts_version": {tables.post: ("published_at",)},
}
"""The tables and columns whose changes renew a version of StoreInfo. Triggers do it, so no writer can forget to."""

_UNWATCHED_CHANGES = {
    # It would make a large import slower by a third. A new client is noticed by its id, which is never reused.
    (tables.client, "added"),
    # A user without clients and mailings changes no figure.
    (tables.user, "added"),
    (tables.user, "gone"),
}


def _sqlite_trigger(table: CoreTable, change: str, version: str, columns: tuple[str, ...]) -> str:
    name = table.name
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("old", "new"))
    when = {
        "added": f"INSERT ON {name}",
        "changed": f"UPDATE OF {', '.join(columns)} ON {name} WHEN ({old}) IS NOT ({new})",
        "gone": f"DELETE ON {name}",
    }[change]
    renewal = f"BEGIN UPDATE store_info SET {version} = random(); END"  # noqa: S608
    return f"CREATE TRIGGER {name}_{change} AFTER {when} {renewal}"


def _postgresql_trigger(table: CoreTable, change: str, version: str, columns: tuple[str, ...]) -> str:
    """Return the SQL of a trigger that renews a version once per statement, however many rows that changes."""
    name = table.name
    named = ", ".join(columns)
    rows, condition = {
        "added": ("NEW TABLE AS added", "EXISTS (SELECT FROM added)"),
        "changed": (
            "OLD TABLE AS old_rows NEW TABLE AS new_rows",
            f"EXISTS (SELECT {named} FROM new_rows EXCEPT ALL SELECT {named} FROM old_rows)",  # noqa: S608
        ),
        "gone": ("OLD TABLE AS gone", "EXISTS (SELECT FROM gone)"),
    }[change]
    event_name = {"added": "INSERT", "changed": "UPDATE", "gone": "DELETE"}[change]
    body = f"IF {condition} THEN UPDATE store_info SET {version} = {_RANDOM}; END IF; RETURN NULL;"  # noqa: S608
    return (
        f"CREATE FUNCTION {name}_{change}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
        f' CREATE TRIGGER {name}_{change} AFTER {event_name} ON "{name}" REFERENCING {rows}'
        f" FOR EACH STATEMENT EXECUTE FUNCTION {name}_{change}()"
    )


_RANDOM = "('x' || substr(md5(gen_random_uuid()::text), 1, 16))::bit(64)::bigint"
"""A random number of 64 bits on PostgreSQL."""

for _version, _tables in _WATCHED_COLUMNS.items():
    for _table, _columns in _tables.items():
        for _change in ("added", "changed", "gone"):
            if (_table, _change) not in _UNWATCHED_CHANGES:
                _parameters = (_table, _change, _version, _columns)
                add_ddl(_table, _sqlite_trigger(*_parameters), "sqlite")
                add_ddl(_table, _postgresql_trigger(*_parameters), "postgresql")


_REFUSAL = "the audit trail is only added to"

for _change in ("UPDATE", "DELETE"):
    _trigger = f"CREATE TRIGGER audit_no_{_change.lower()} BEFORE {_change} ON audit"
    add_ddl(
        tables.audit_entry,
        f"""{_trigger}
        BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
        "sqlite",
    )
    add_ddl(
        tables.audit_entry,
        f"CREATE FUNCTION audit_no_{_change.lower()}() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'"
        " USING ERRCODE = 'integrity_constraint_violation'; END $$;"
        f" {_trigger} FOR EACH ROW EXECUTE FUNCTION audit_no_{_change.lower()}()",
        "postgresql",
    )


# What `json_each` is on SQLite. STRICT keeps the planner from looking into the function, so that it expects few rows:
# otherwise it would read all deliveries rather than look up the named ones.
add_ddl(
    tables.lease,
    "CREATE FUNCTION json_ids(list text) RETURNS TABLE (value bigint)"
    " LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 10"
    " AS $$ SELECT jsonb_array_elements_text(list::jsonb)::bigint $$",
    "postgresql",
)

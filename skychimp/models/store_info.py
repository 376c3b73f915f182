"""Define the store's row about itself, and the triggers that keep its versions up to date."""

from datetime import datetime

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from skychimp.models.base import Table, add_ddl, version_column
from skychimp.models.blog import Post
from skychimp.models.clients import Client, ClientTag
from skychimp.models.mailings import Mailing, MailingClient, MailingTag
from skychimp.models.users import User


class StoreInfo(Table, table=True):
    """The only row of its table: what the store knows about itself."""

    __tablename__ = "store_info"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    secret: bytes
    """The key that every Message-ID is made with."""
    created_at: datetime
    held_at: datetime | None = None
    """Set in a store that may lack what was sent from it: nothing is sent until a person releases it."""
    counted_to: int | None = None
    """The id of the last attempt that is counted in `pace`."""
    audience_version: int = Field(default=0, sa_column=version_column())
    """A new random number whenever mailings, audiences or blocked users change. New clients are not included."""
    posts_version: int = Field(default=0, sa_column=version_column())
    """A new random number whenever a post is added, deleted, or published at another time."""
    held_blind: bool | None = None
    """In a held store: whether it is not known what was sent after the backup was made."""
    zone_rules: str | None = None
    """The time zone rules that the next due times were computed with: see tzdata_changes."""
    held_reason: str | None = None
    """In a held store: when it was put on hold, such as "after a restore"."""
    database_id: str | None = None
    """On PostgreSQL: the server and the database that the store was last in. A copy and a fail-over change it."""
    waits_for_standby: bool | None = None
    """On PostgreSQL: whether each commit waited for a standby server then, so that a fail-over loses none."""


class TokenKey(Table, table=True):
    """A key that the tokens of deliveries are made with."""

    __tablename__ = "token_key"
    number: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    key: bytes
    created_at: datetime
    replaced_at: datetime | None = None


_WATCHED_COLUMNS: dict[str, dict[type[Table], tuple[str, ...]]] = {
    "audience_version": {
        Client: ("owner_id", "address_key"),
        ClientTag: ("client_id", "tag"),
        Mailing: ("owner_id", "all_clients", "status", "end_at", "disabled_at", "deleted_at"),
        MailingClient: ("mailing_id", "client_id"),
        MailingTag: ("mailing_id", "tag"),
        User: ("blocked_at",),
    },
    "posts_version": {Post: ("published_at",)},
}
"""The tables and columns whose changes renew a version of StoreInfo. Triggers do it, so no writer can forget to."""

_UNWATCHED_CHANGES = {
    # It would make a large import slower by a third. A new client is noticed by its id, which is never reused.
    (Client, "added"),
    # A user without clients and mailings changes no figure.
    (User, "added"),
    (User, "gone"),
}


def _sqlite_trigger(table: type[Table], change: str, version: str, columns: tuple[str, ...]) -> str:
    name = table.__table__.name
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("old", "new"))
    when = {
        "added": f"INSERT ON {name}",
        "changed": f"UPDATE OF {', '.join(columns)} ON {name} WHEN ({old}) IS NOT ({new})",
        "gone": f"DELETE ON {name}",
    }[change]
    renewal = f"BEGIN UPDATE store_info SET {version} = random(); END"  # noqa: S608
    return f"CREATE TRIGGER {name}_{change} AFTER {when} {renewal}"


def _postgresql_trigger(table: type[Table], change: str, version: str, columns: tuple[str, ...]) -> str:
    """Return the SQL of a trigger that renews a version once per statement, however many rows that changes."""
    name = table.__table__.name
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
                add_ddl(_table.__table__, _sqlite_trigger(*_parameters), "sqlite")
                add_ddl(_table.__table__, _postgresql_trigger(*_parameters), "postgresql")

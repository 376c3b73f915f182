"""Define the store's row about itself, and the triggers that keep its versions up to date."""

from datetime import datetime

from sqlalchemy import DDL, CheckConstraint, event
from sqlmodel import Field

from skychimp.models.base import Table, version_column
from skychimp.models.blog import Post
from skychimp.models.clients import Client, ClientTag
from skychimp.models.mailings import Mailing, MailingClient, MailingTag
from skychimp.models.users import User


class StoreInfo(Table, table=True):
    """The only row of its table: what the store knows about itself."""

    __tablename__ = "store_info"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(default=1, primary_key=True)
    secret: bytes
    """The key that every Message-ID is made with."""
    created_at: datetime
    held_at: datetime | None = None
    """Set in a restored store: nothing is sent until a person releases it."""
    counted_to: int | None = None
    """The id of the last attempt that is counted in `pace`."""
    audience_version: int = Field(default=0, sa_column=version_column())
    """A new random number whenever mailings, audiences or blocked users change. New clients are not included."""
    posts_version: int = Field(default=0, sa_column=version_column())
    """A new random number whenever a post is added, deleted, or published at another time."""
    held_blind: bool | None = None
    """In a held store: whether it is not known what was sent after the backup was made."""
    zone_rules: str | None = None
    """A hash of the time zone rules that the next due times were computed with."""


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


def _trigger(table: type[Table], change: str, version: str, columns: tuple[str, ...]) -> str:
    name = table.__table__.name
    old, new = (", ".join(f"{row}.{column}" for column in columns) for row in ("old", "new"))
    when = {
        "added": f"INSERT ON {name}",
        "changed": f"UPDATE OF {', '.join(columns)} ON {name} WHEN ({old}) IS NOT ({new})",
        "gone": f"DELETE ON {name}",
    }[change]
    renewal = f"BEGIN UPDATE store_info SET {version} = random(); END"  # noqa: S608
    return f"CREATE TRIGGER {name}_{change} AFTER {when} {renewal}"


for _version, _tables in _WATCHED_COLUMNS.items():
    for _table, _columns in _tables.items():
        for _change in ("added", "changed", "gone"):
            if (_table, _change) not in _UNWATCHED_CHANGES:
                _ddl = DDL(_trigger(_table, _change, _version, _columns))  # type: ignore[no-untyped-call]
                event.listen(_table.__table__, "after_create", _ddl)

"""What the store knows of itself, and what keeps that true."""

from datetime import datetime

from sqlalchemy import DDL, CheckConstraint, event
from sqlmodel import Field

from skychimp.models.base import Table, version_column
from skychimp.models.blog import Post
from skychimp.models.clients import Client, ClientTag
from skychimp.models.mailings import Mailing, MailingClient, MailingTag


class StoreInfo(Table, table=True):
    """One row: what the store knows of itself."""

    __tablename__ = "store_info"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(default=1, primary_key=True)
    secret: bytes
    """The key of every Message-ID."""
    created_at: datetime
    held_at: datetime | None = None
    """Set in a restored store: nothing is sent until a person lets it go on."""
    counted_to: int | None = None
    """The id of the last attempt that is counted in `pace`."""
    audience_version: int = Field(default=0, sa_column=version_column())
    """Another random number whenever mailings and audiences change; a new client is told by its id (_CHANGES)."""
    posts_version: int = Field(default=0, sa_column=version_column())
    """Another random number whenever a post comes, goes, or is published at another time."""
    held_blind: bool | None = None
    """Of one that is held: nothing is known of what was sent since the copy was made."""
    zone_rules: str | None = None
    """A hash of the time zones' rules that the next due times were computed by."""


_CHANGES: dict[str, dict[type[Table], tuple[str, ...]]] = {
    "audience_version": {
        Client: ("owner_id", "address_key"),
        ClientTag: ("client_id", "tag"),
        Mailing: ("owner_id", "all_clients", "status", "end_at", "disabled_at", "deleted_at"),
        MailingClient: ("mailing_id", "client_id"),
        MailingTag: ("mailing_id", "tag"),
    },
    "posts_version": {Post: ("published_at",)},
}
"""What the versions of StoreInfo stand for: tables, and their columns that count.

Triggers renew them, so that no writer can forget to. A new client has none: it would make a large import slower by a
third, and its id, which no other client ever had, tells as much.
"""

for _version, _tables in _CHANGES.items():
    for _table, _columns in _tables.items():
        _name = _table.__table__.name
        _old, _new = (", ".join(f"{row}.{column}" for column in _columns) for row in ("old", "new"))
        _changed = f"UPDATE OF {', '.join(_columns)} ON {_name} WHEN ({_old}) IS NOT ({_new})"
        for _what, _when in (("added", f"INSERT ON {_name}"), ("changed", _changed), ("gone", f"DELETE ON {_name}")):
            if (_table, _what) != (Client, "added"):
                _renewal = f"BEGIN UPDATE store_info SET {_version} = random(); END"  # noqa: S608
                _ddl = DDL(f"CREATE TRIGGER {_name}_{_what} AFTER {_when} {_renewal}")  # type: ignore[no-untyped-call]
                event.listen(_table.__table__, "after_create", _ddl)

"""Describe the store's row about itself, and its keys."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.objects import Table


class StoreInfo(Table, table=True):
    """The only row of its table: what the store knows about itself."""

    __table__ = tables.store_info
    id: int = 1
    secret: bytes
    """The key that every Message-ID is made with."""
    created_at: datetime
    held_at: datetime | None = None
    """Set in a store that may lack what was sent from it: nothing is sent until a person releases it."""
    counted_to: int | None = None
    """The id of the last attempt that is counted in `pace`."""
    audience_version: int = 0
    """A new random number whenever mailings, audiences or blocked users change. New clients are not included."""
    posts_version: int = 0
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

    __table__ = tables.token_key
    number: int
    key: bytes
    created_at: datetime
    replaced_at: datetime | None = None

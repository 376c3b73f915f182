"""Define the table of suppressions."""

from datetime import datetime

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import SuppressionSource

EVERYBODY = 0
"""The owner of a suppression that holds for the mail of all users."""


class Suppression(Table, table=True):
    """An address or domain that must not get mail, whatever happens to the clients with it.

    A domain is kept like an address, with an empty local part: `@example.org`.
    """

    __tablename__ = "suppression"
    __table_args__ = (UniqueConstraint("address_hash", "owner_id", "topic"), Index(None, "address_key"))
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int
    """Whose mail it holds for: a user's, or EVERYBODY."""
    topic: str = ""
    """The topic of the mailings that it holds for, "" for all."""
    address_hash: str
    """The keyed hash of `address_key`. It stays when a person is forgotten."""
    address: str | None = None
    address_key: str | None = None
    """None once the person was forgotten. It is known again as soon as a client has the address."""
    reason: str
    """`unsubscribed`, `complaint`, `bounce`, or a text."""
    source: SuppressionSource = Field(sa_column=enum_column(SuppressionSource, "source"))
    at: datetime
    note: str = ""
    until: datetime | None = None
    """When it ends, as the person has only paused the mail. None if it holds for good."""

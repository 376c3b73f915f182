"""Describe suppressions."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.enums import SuppressionSource
from skychimp.models.objects import Table


class Suppression(Table, table=True):
    """An address or domain that must not get mail, whatever happens to the clients with it.

    A domain is kept like an address, with an empty local part: `@example.org`.
    """

    __table__ = tables.suppression
    id: int | None = None
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
    source: SuppressionSource
    at: datetime
    note: str = ""
    until: datetime | None = None
    """When it ends, as the person has only paused the mail. None if it holds for good."""

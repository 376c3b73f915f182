"""Describe clients, with their tags, fields, consents and segments."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.enums import ConsentSource, FieldType
from skychimp.models.objects import Table


class Client(Table, table=True):
    """A recipient. It belongs to one user, who has each address at most once."""

    __table__ = tables.client
    id: int | None = None
    owner_id: int
    email: str
    address_key: str
    """The normalised address, by which addresses are compared."""
    name: str = ""
    comment: str = ""
    created_at: datetime
    bad_at: datetime | None = None
    """When a server refused the address for good. Nothing is sent to it until a person changes that."""
    bad_reason: str | None = None
    fields: str = "{}"
    """A JSON object of the custom fields that have a value, by their names: see ClientField."""
    consent_at: datetime | None = None
    """When the client agreed to get mail, by the newest consent that was recorded."""
    good_at: datetime | None = None
    """When a person last said that the address is good. What bounced before does not count against it."""


class ClientTag(Table, table=True):
    """A tag of a client."""

    __table__ = tables.client_tag
    client_id: int
    tag: str


class ClientField(Table, table=True):
    """A custom field of a user's clients, and the type of its values."""

    __table__ = tables.client_field
    owner_id: int
    key: str
    """The folded name, by which names are compared."""
    name: str
    type: FieldType


class Consent(Table, table=True):
    """A client's agreement to get a user's mail. Rows are only added: they are the history and the proof.

    It belongs to an address, so that it outlives the client.
    """

    __table__ = tables.consent
    id: int | None = None
    owner_id: int
    address_hash: str
    """The keyed hash of the address, as suppressions have it. It stays when a person is forgotten."""
    at: datetime
    """When the client agreed."""
    wording: str
    """What the client agreed to, or the name of that text."""
    source: ConsentSource
    proof: str = ""
    """A file or URL that proves it, "" if there is none."""
    recorded_at: datetime
    forgotten_at: datetime | None = None
    """Since then it proves that mail was sent rightly, and allows no more."""


class Segment(Table, table=True):
    """A saved query over a user's clients."""

    __table__ = tables.segment
    id: int | None = None
    owner_id: int
    key: str
    """The folded name, by which names are compared."""
    name: str
    expression: str
    """The query as the user wrote it."""
    created_at: datetime
    updated_at: datetime

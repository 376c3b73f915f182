"""Define the tables of clients, with their tags, fields, consents and segments."""

from datetime import datetime

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint, text
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import ConsentSource, FieldType


class Client(Table, table=True):
    """A recipient. It belongs to one user, who has each address at most once."""

    __tablename__ = "client"
    __table_args__ = (
        UniqueConstraint("owner_id", "address_key"),
        Index(None, "owner_id", "id"),
        # Deliveries refer to a client's id without a foreign key, so an id must never be reused.
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id")
    email: str
    address_key: str
    """The normalised address, by which addresses are compared."""
    name: str = ""
    comment: str = ""
    created_at: datetime
    bad_at: datetime | None = None
    """When a server refused the address for good. Nothing is sent to it until a person changes that."""
    bad_reason: str | None = None
    fields: str = Field(default="{}", sa_column_kwargs={"server_default": text("'{}'")})
    """A JSON object of the custom fields that have a value, by their names: see ClientField."""
    consent_at: datetime | None = None
    """When the client agreed to get mail, by the newest consent that was recorded."""
    good_at: datetime | None = None
    """When a person last said that the address is good. What bounced before does not count against it."""


class ClientTag(Table, table=True):
    """A tag of a client."""

    __tablename__ = "client_tag"
    __table_args__ = (Index(None, "tag", "client_id"),)
    client_id: int = Field(sa_column=Column(ForeignKey("client.id", ondelete="CASCADE"), primary_key=True))
    tag: str = Field(primary_key=True)


class ClientField(Table, table=True):
    """A custom field of a user's clients, and the type of its values."""

    __tablename__ = "client_field"
    owner_id: int = Field(foreign_key="user.id", primary_key=True)
    key: str = Field(primary_key=True)
    """The folded name, by which names are compared."""
    name: str
    type: FieldType = Field(sa_column=enum_column(FieldType, "type"))


class Consent(Table, table=True):
    """A client's agreement to get a user's mail. Rows are only added: they are the history and the proof.

    It belongs to an address, so that it outlives the client.
    """

    __tablename__ = "consent"
    __table_args__ = (Index(None, "owner_id", "address_hash"),)
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id")
    address_hash: str
    """The keyed hash of the address, as suppressions have it. It stays when a person is forgotten."""
    at: datetime
    """When the client agreed."""
    wording: str
    """What the client agreed to, or the name of that text."""
    source: ConsentSource = Field(sa_column=enum_column(ConsentSource, "source"))
    proof: str = ""
    """A file or URL that proves it, "" if there is none."""
    recorded_at: datetime
    forgotten_at: datetime | None = None
    """Since then it proves that mail was sent rightly, and allows no more."""


class Segment(Table, table=True):
    """A saved query over a user's clients."""

    __tablename__ = "segment"
    __table_args__ = (UniqueConstraint("owner_id", "key"),)
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id")
    key: str
    """The folded name, by which names are compared."""
    name: str
    expression: str
    """The query as the user wrote it."""
    created_at: datetime
    updated_at: datetime

"""Define the tables of clients and their tags."""

from datetime import datetime

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint
from sqlmodel import Field

from skychimp.models.base import Table


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


class ClientTag(Table, table=True):
    """A tag of a client."""

    __tablename__ = "client_tag"
    __table_args__ = (Index(None, "tag", "client_id"),)
    client_id: int = Field(sa_column=Column(ForeignKey("client.id", ondelete="CASCADE"), primary_key=True))
    tag: str = Field(primary_key=True)

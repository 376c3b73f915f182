"""Clients and their tags."""

from datetime import datetime

from sqlalchemy import Column, ForeignKey, Index, UniqueConstraint
from sqlmodel import Field

from skychimp.models.base import Table


class Client(Table, table=True):
    __tablename__ = "client"
    __table_args__ = (
        UniqueConstraint("owner_id", "address_key"),
        Index(None, "owner_id", "id"),
        # Deliveries remember a client's id without a foreign key, so that an id must never come back.
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id")
    email: str
    address_key: str
    name: str = ""
    comment: str = ""
    created_at: datetime
    bad_at: datetime | None = None
    bad_reason: str | None = None


class ClientTag(Table, table=True):
    __tablename__ = "client_tag"
    __table_args__ = (Index(None, "tag", "client_id"),)
    client_id: int = Field(sa_column=Column(ForeignKey("client.id", ondelete="CASCADE"), primary_key=True))
    tag: str = Field(primary_key=True)

"""Define the tables of messages and mailings."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, column, false, text
from sqlmodel import Field

from skychimp.models.base import Table, enum_column, has_state, partial_index
from skychimp.models.enums import CatchUp, Every, Format, MailingStatus


class Message(Table, table=True):
    """A subject and a body. It belongs to one user."""

    __tablename__ = "message"
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id", index=True)
    subject: str
    body: str
    format: Format = Field(sa_column=enum_column(Format, "format"))
    html: str | None = None
    """The HTML part, if the user wrote one. A Markdown body is rendered when it is sent."""
    digest: bool = False
    """Whether its emails list the posts that were published since the mailing's last occurrence."""
    attachments: str = Field(default="[]", sa_column_kwargs={"server_default": text("'[]'")})
    """A JSON list of its attachments and inline pictures (attachments.listing)."""
    created_at: datetime
    updated_at: datetime


class StoredFile(Table, table=True):
    """The content of attachments and inline pictures. The same content is kept once, by its hash."""

    __tablename__ = "stored_file"
    sha256: str = Field(primary_key=True)
    content: bytes


class Mailing(Table, table=True):
    """A message, an audience (see store.clients.audience), a schedule and a status."""

    __tablename__ = "mailing"
    __table_args__ = (
        CheckConstraint("end_at > start_at", name="window"),
        partial_index("ix_mailing_held", "id", where=column("held_at").is_not(None)),
        partial_index("ix_mailing_running", "next_at", where=has_state(column("status"), MailingStatus.RUNNING)),
    )
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id", index=True)
    message_id: int | None = Field(default=None, foreign_key="message.id", index=True)
    """None only in a deleted mailing."""
    name: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    """What its owner calls it, "" if it has no name of its own."""
    all_clients: bool = False
    topic: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    """What a client can unsubscribe from, "" if that is all mail of the owner."""
    start_local: str
    """ISO 8601 local time in `timezone`, without an offset. Every due time is computed from it."""
    timezone: str
    start_at: datetime
    end_at: datetime | None = Field(default=None, index=True)
    every: Every = Field(sa_column=enum_column(Every, "every"))
    catch_up: CatchUp = Field(default=CatchUp.LATEST, sa_column=enum_column(CatchUp, "catch_up"))
    grace: int | None = None
    """How many seconds late an occurrence may still be sent. None is the period's default (recurrence.GRACE)."""
    status: MailingStatus = Field(sa_column=enum_column(MailingStatus, "status"))
    next_at: datetime | None = Field(default=None, index=True)
    """The next due time that has no occurrence yet."""
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_by_id: int | None = Field(default=None, foreign_key="user.id")
    """None if the system disabled it."""
    disabled_reason: str | None = None
    deleted_at: datetime | None = None
    held_at: datetime | None = None
    """Since when nothing is sent, because the mail server refuses the sender or each of its emails."""
    held_reason: str | None = None
    held_settings: str | None = None
    """A hash of the settings that were refused. With others, the mailing goes on."""
    transactional: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """Whether its emails do not say that they are bulk mail, and have no unsubscribe headers."""
    canary: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    """How many of its clients get each occurrence first, as a number or `1%`. "" if all get it at once."""
    canary_wait_s: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """For how many seconds the others wait."""


class MailingClient(Table, table=True):
    """A client that a mailing names."""

    __tablename__ = "mailing_client"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    client_id: int = Field(sa_column=Column(ForeignKey("client.id", ondelete="CASCADE"), primary_key=True, index=True))


class MailingTag(Table, table=True):
    """A tag whose clients a mailing is sent to."""

    __tablename__ = "mailing_tag"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    tag: str = Field(primary_key=True)


class MailingFilter(Table, table=True):
    """A segment or query whose clients a mailing is sent to; or a tag, segment or query whose clients it leaves out.

    It has a tag, a segment or an expression.
    """

    __tablename__ = "mailing_filter"
    id: int | None = Field(default=None, primary_key=True)
    mailing_id: int = Field(foreign_key="mailing.id", index=True)
    leaves_out: bool
    tag: str | None = None
    segment_id: int | None = Field(default=None, foreign_key="segment.id", index=True)
    expression: str | None = None

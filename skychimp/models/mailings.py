"""What users keep: clients, messages and mailings."""

from datetime import datetime

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, text
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import RUNNING_SQL, CatchUp, Every, Format, MailingStatus


class Message(Table, table=True):
    __tablename__ = "message"
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id", index=True)
    subject: str
    body: str
    format: Format = Field(sa_column=enum_column(Format, "format"))
    html: str | None = None
    """The HTML part where it is given; a Markdown body makes its own."""
    digest: bool = False
    """Its words go with the posts that were published since the mailing's last occurrence."""
    created_at: datetime
    updated_at: datetime


class Mailing(Table, table=True):
    __tablename__ = "mailing"
    __table_args__ = (
        CheckConstraint("end_at > start_at", name="window"),
        Index("ix_mailing_running", "next_at", sqlite_where=text(RUNNING_SQL)),
    )
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id", index=True)
    message_id: int | None = Field(default=None, foreign_key="message.id", index=True)
    """None only once the mailing is deleted."""
    all_clients: bool = False
    start_local: str
    """ISO 8601 local time in `timezone`, without an offset: what every due time is computed from."""
    timezone: str
    start_at: datetime
    end_at: datetime | None = Field(default=None, index=True)
    every: Every = Field(sa_column=enum_column(Every, "every"))
    catch_up: CatchUp = Field(default=CatchUp.LATEST, sa_column=enum_column(CatchUp, "catch_up"))
    grace: int | None = None
    """Seconds that a due time may be late and still be sent; None is the period's own (recurrence.GRACE)."""
    status: MailingStatus = Field(sa_column=enum_column(MailingStatus, "status"))
    next_at: datetime | None = Field(default=None, index=True)
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_by_id: int | None = Field(default=None, foreign_key="user.id")
    """None with `disabled_at` set: the system."""
    disabled_reason: str | None = None
    deleted_at: datetime | None = None


class MailingClient(Table, table=True):
    __tablename__ = "mailing_client"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    client_id: int = Field(sa_column=Column(ForeignKey("client.id", ondelete="CASCADE"), primary_key=True, index=True))


class MailingTag(Table, table=True):
    __tablename__ = "mailing_tag"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    tag: str = Field(primary_key=True)

"""Define the tables of the totals that reports read instead of the whole ledger."""

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import DeliveryState, Outcome


class ReplyKind(Table, table=True):
    """A kind of reply: its outcome, codes, and wording without what varies from email to email (replies.pattern)."""

    __tablename__ = "cause"
    __table_args__ = (UniqueConstraint("outcome", "phase", "code", "enhanced", "words"),)
    id: int | None = Field(default=None, primary_key=True)
    outcome: Outcome = Field(sa_column=enum_column(Outcome, "outcome"))
    phase: str
    code: int
    """0 if there was no reply."""
    enhanced: str
    words: str


class AttemptRollup(Table, table=True):
    """The number of attempts of an occurrence with one kind of reply in one time slot. Counted once, never changed."""

    __tablename__ = "pace"
    __table_args__ = (Index(None, "slot"), {"sqlite_with_rowid": False})
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    slot: int = Field(primary_key=True)
    """Seconds since 1970, divided by rollups.SLOT."""
    cause_id: int = Field(foreign_key="cause.id", primary_key=True)
    attempts: int


class DeliveryRollup(Table, table=True):
    """The number of deliveries of a finished occurrence by domain, state, and number of attempts."""

    __tablename__ = "result"
    __table_args__ = ({"sqlite_with_rowid": False},)
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    domain: str = Field(primary_key=True)
    """"" is the total of all smaller domains."""
    state: DeliveryState = Field(sa_column=enum_column(DeliveryState, "state", primary_key=True))
    attempts: int = Field(primary_key=True)
    deliveries: int

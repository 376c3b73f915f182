"""What the ledger adds up to, for reports."""

from sqlalchemy import Index, UniqueConstraint
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import DeliveryState, Outcome


class ReplyKind(Table, table=True):
    """One kind of answer: what servers said, with what varies from letter to letter left out (replies.pattern)."""

    __tablename__ = "cause"
    __table_args__ = (UniqueConstraint("outcome", "phase", "code", "enhanced", "words"),)
    id: int | None = Field(default=None, primary_key=True)
    outcome: Outcome = Field(sa_column=enum_column(Outcome, "outcome"))
    phase: str
    code: int
    """0 where there was no reply."""
    enhanced: str
    words: str


class AttemptRollup(Table, table=True):
    """How many attempts of an occurrence came to one cause in one slot of time; counted from the log, never changed."""

    __tablename__ = "pace"
    __table_args__ = (Index(None, "slot"), {"sqlite_with_rowid": False})
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    slot: int = Field(primary_key=True)
    """Seconds since 1970, by figures.SLOT."""
    cause_id: int = Field(foreign_key="cause.id", primary_key=True)
    attempts: int


class DeliveryRollup(Table, table=True):
    """How many deliveries of a finished occurrence ended in one state, by domain and by attempts made."""

    __tablename__ = "result"
    __table_args__ = ({"sqlite_with_rowid": False},)
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    domain: str = Field(primary_key=True)
    """"" stands for all of the smaller ones together."""
    state: DeliveryState = Field(sa_column=enum_column(DeliveryState, "state", primary_key=True))
    attempts: int = Field(primary_key=True)
    deliveries: int

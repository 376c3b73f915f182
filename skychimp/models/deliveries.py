"""What goes out and what came of it.

Indexes with a condition hold only what is waiting or under way, so that they stay small however long the ledger grows.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, Index, UniqueConstraint, text
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import (
    IN_FLIGHT_SQL,
    UNFINISHED_SQL,
    UNKNOWN_SQL,
    WAITING_SQL,
    DeliveryState,
    Format,
    OccurrenceState,
    Outcome,
)


class Occurrence(Table, table=True):
    """One due time of one mailing, with all that its letters need as it was at opening."""

    __tablename__ = "occurrence"
    __table_args__ = (
        UniqueConstraint("mailing_id", "due_local"),
        Index("ix_occurrence_unfinished", "id", sqlite_where=text(UNFINISHED_SQL)),
    )
    id: int | None = Field(default=None, primary_key=True)
    mailing_id: int = Field(foreign_key="mailing.id")
    due_local: str
    due_at: datetime
    state: OccurrenceState = Field(sa_column=enum_column(OccurrenceState, "state"))
    opened_at: datetime
    """Also the Date of its letters, the same at every attempt."""
    deadline: datetime
    finished_at: datetime | None = None
    cursor: int = 0
    """The last client id whose delivery is made, while opening."""
    subject: str = ""
    body: str = ""
    format: Format = Field(sa_column=enum_column(Format, "format"))
    html: str | None = None
    sender: str = ""
    return_path: str = ""
    timezone: str = "UTC"
    results_of: datetime | None = None
    """The `finished_at` for which its figures stand in `result`."""


class Delivery(Table, table=True):
    """One client in one occurrence. Its Message-ID is not kept: it is a keyed hash of `id` (compose.message_id)."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("occurrence_id", "address_key"),
        CheckConstraint(f"NOT ({WAITING_SQL}) OR next_try_at IS NOT NULL", name="waits_until"),
        CheckConstraint(f"NOT ({IN_FLIGHT_SQL}) OR (run_id IS NOT NULL AND token IS NOT NULL)", name="held_by"),
        Index("ix_delivery_waiting", "occurrence_id", "next_try_at", sqlite_where=text(WAITING_SQL)),
        Index("ix_delivery_unknown", "occurrence_id", "next_try_at", sqlite_where=text(UNKNOWN_SQL)),
        Index("ix_delivery_held", "occurrence_id", "run_id", sqlite_where=text(IN_FLIGHT_SQL)),
        # Its letter's Message-ID is made of its id, so that an id must never come back.
        {"sqlite_autoincrement": True},
    )
    id: int | None = Field(default=None, primary_key=True)
    occurrence_id: int = Field(foreign_key="occurrence.id")
    client_id: int
    address: str
    address_key: str
    name: str = ""
    comment: str = ""
    tags: str = "[]"
    """A JSON list, sorted."""
    state: DeliveryState = Field(sa_column=enum_column(DeliveryState, "state"))
    attempts: int = 0
    given_back: int = 0
    """How many of the attempts were given back."""
    next_try_at: datetime | None = None
    """None in an unknown one that a person decides about, and in one that is done."""
    run_id: int | None = None
    token: int | None = None
    """Of the claim: an UPDATE that names another token finds no row. Stays after an outcome, goes with a rescue."""


class Attempt(Table, table=True):
    """One try at one delivery, with the server's reply. Append-only."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("delivery_id", "number"),)
    id: int | None = Field(default=None, primary_key=True)
    delivery_id: int = Field(foreign_key="delivery.id")
    number: int
    started_at: datetime
    finished_at: datetime
    outcome: Outcome = Field(sa_column=enum_column(Outcome, "outcome"))
    phase: str = ""
    code: int | None = None
    enhanced: str = ""
    reply: str = ""
    """The server's whole reply with its codes, or what came instead of one."""
    relay: str = ""


class Run(Table, table=True):
    """One sending process."""

    __tablename__ = "run"
    id: int | None = Field(default=None, primary_key=True)
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime = Field(index=True)
    ended_at: datetime | None = Field(default=None, index=True)
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0


class RelayState(Table, table=True):
    """A relay that needs a person: nothing is sent through it until its settings change or the next probe."""

    __tablename__ = "relay_state"
    relay: str = Field(primary_key=True)
    paused_at: datetime
    reason: str
    settings_hash: str
    next_probe_at: datetime
    probes: int = 0

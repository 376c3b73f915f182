"""Define the tables of the ledger: occurrences, deliveries and attempts, and the runs and mail servers behind them.

The indexes with a condition contain only what is waiting or being sent. They stay small however long the ledger grows.
"""

from datetime import datetime

from sqlalchemy import CheckConstraint, UniqueConstraint, column, text
from sqlmodel import Field

from skychimp.models.base import Table, add_ddl, enum_column, has_state, partial_index
from skychimp.models.enums import (
    LEASED_STATES,
    UNFINISHED_STATES,
    WAITING_STATES,
    DeliveryState,
    Format,
    OccurrenceState,
    Outcome,
    ReturnedKind,
)

_IS_UNFINISHED = has_state(column("state"), *UNFINISHED_STATES)
_IS_WAITING = has_state(column("state"), *WAITING_STATES)
_IS_LEASED = has_state(column("state"), *LEASED_STATES)
_IS_UNKNOWN = has_state(column("state"), DeliveryState.UNKNOWN)


class Occurrence(Table, table=True):
    """One due time of one mailing, with everything that its emails need as it was when the occurrence was opened."""

    __tablename__ = "occurrence"
    __table_args__ = (
        UniqueConstraint("mailing_id", "due_local"),
        partial_index("ix_occurrence_unfinished", "id", where=_IS_UNFINISHED),
    )
    id: int | None = Field(default=None, primary_key=True)
    mailing_id: int = Field(foreign_key="mailing.id")
    due_local: str
    due_at: datetime
    state: OccurrenceState = Field(sa_column=enum_column(OccurrenceState, "state"))
    opened_at: datetime
    finished_at: datetime | None = None
    cursor: int = 0
    """While the occurrence is opening: the id of the last client whose turn has come."""
    subject: str = ""
    body: str = ""
    format: Format = Field(sa_column=enum_column(Format, "format"))
    html: str | None = None
    sender: str = ""
    return_path: str = ""
    extras: str = Field(default="{}", sa_column_kwargs={"server_default": text("'{}'")})
    """A JSON object of what else is in its emails, from the settings: headers, links (composing.extras)."""
    timezone: str = "UTC"
    results_of: datetime | None = None
    """The `finished_at` for which the table `result` has this occurrence's figures."""
    held_up_s: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    """For how many seconds it could not be sent, because a person or the mail server held it up."""
    fields: str = Field(default="[]", sa_column_kwargs={"server_default": text("'[]'")})
    """A JSON list of the custom fields that its content uses."""
    attachments: str = Field(default="[]", sa_column_kwargs={"server_default": text("'[]'")})
    canary_until: datetime | None = None
    """Until when only a sample of the clients gets it. None if there is no such sample, or it has been judged."""


class Content(Table, table=True):
    """The content that an occurrence had before it was changed, for emails that may have been sent with it."""

    __tablename__ = "content"
    id: int | None = Field(default=None, primary_key=True)
    occurrence_id: int = Field(foreign_key="occurrence.id", index=True)
    subject: str
    body: str
    format: Format = Field(sa_column=enum_column(Format, "format"))
    html: str | None = None
    sender: str
    return_path: str
    extras: str = Field(default="{}", sa_column_kwargs={"server_default": text("'{}'")})
    attachments: str = Field(default="[]", sa_column_kwargs={"server_default": text("'[]'")})


class Delivery(Table, table=True):
    """One client in one occurrence. The Message-ID is not stored: it is a keyed hash of `id` (compose.message_id).

    While a run sends it, its row stays as it was when the run took it: see `Lease` and `conditions.current_state`.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("occurrence_id", "address_key"),
        CheckConstraint(f"NOT ({_IS_LEASED})", name="stored_state"),
        CheckConstraint(f"NOT ({_IS_WAITING}) OR next_try_at IS NOT NULL", name="waits_until"),
        partial_index("ix_delivery_waiting", "occurrence_id", "next_try_at", where=_IS_WAITING),
        partial_index("ix_delivery_unknown", "occurrence_id", "next_try_at", where=_IS_UNKNOWN),
        # The Message-ID is made of the id, so an id must never be reused.
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
    """A sorted JSON list."""
    state: DeliveryState = Field(sa_column=enum_column(DeliveryState, "state"))
    attempts: int = 0
    given_back: int = 0
    """The number of attempts that do not count as a try, such as one that met a limit of the mail server."""
    next_try_at: datetime | None = None
    """None if there is no further try: the delivery is done, or unknown and waiting for a person's decision."""
    give_up_at: datetime | None = None
    """When it expires, on a clock that stands still for the occurrence's `held_up_s`. None until it is deferred."""
    dated_at: datetime | None = None
    """The Date header of its email that may have arrived, which a resend repeats. None if there is no such email."""
    content_id: int | None = Field(default=None, foreign_key="content.id")
    """The content that a resend repeats, None if that is the occurrence's."""
    fields: str | None = None
    """A JSON object of the client's fields that the occurrence's content uses, None if it uses none."""
    address_hash: str | None = None
    """The keyed hash of the address, once the person was forgotten. The email's unsubscribe link needs it."""
    files_hash: str | None = None
    """A hash of the client's own files in its email that may have arrived, None without any. A resend has the same."""


class ReturnedMail(Table, table=True):
    """A bounce or complaint that came back for a delivery. Rows are only added."""

    __tablename__ = "returned_mail"
    id: int | None = Field(default=None, primary_key=True)
    digest: str = Field(unique=True)
    """A hash of the report, by which it is counted once."""
    delivery_id: int = Field(foreign_key="delivery.id", index=True)
    address_hash: str = Field(index=True)
    """The keyed hash of the delivery's address, as suppressions have it. It stays when a person is forgotten."""
    kind: ReturnedKind = Field(sa_column=enum_column(ReturnedKind, "kind"))
    at: datetime
    reply: str = ""
    """What the mail server said."""
    has_token: bool
    """Whether it named the delivery by a token. Otherwise anybody may have written it."""


class Lease(Table, table=True):
    """Deliveries of one occurrence that only one run may send.

    A write under a lease that does not exist any more changes nothing. An id is never used again.
    """

    __tablename__ = "lease"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: int | None = Field(default=None, primary_key=True)
    run_id: int
    occurrence_id: int = Field(foreign_key="occurrence.id")
    delivery_ids: str
    """A JSON list."""
    leased_at: datetime | None = None
    """The Date header of its emails. A lease of an older version has none."""


# What `json_each` is on SQLite. STRICT keeps the planner from looking into the function, so that it expects few rows:
# otherwise it would read all deliveries rather than look up the named ones.
add_ddl(
    Lease.__table__,
    "CREATE FUNCTION json_ids(list text) RETURNS TABLE (value bigint)"
    " LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE ROWS 10"
    " AS $$ SELECT jsonb_array_elements_text(list::jsonb)::bigint $$",
    "postgresql",
)


class Intent(Table, table=True):
    """A delivery whose final dot is about to be written, or was. Its lease's end removes the row."""

    __tablename__ = "intent"
    delivery_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    lease_id: int
    files_hash: str | None = None
    """A hash of the client's own files in the email, None without any."""


class Attempt(Table, table=True):
    """One attempt at one delivery, with the server's reply. Rows are only added."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("delivery_id", "number"),)
    id: int | None = Field(default=None, primary_key=True)
    delivery_id: int = Field(foreign_key="delivery.id")
    number: int
    """The attempt's number within its delivery, from 1."""
    started_at: datetime
    finished_at: datetime
    outcome: Outcome = Field(sa_column=enum_column(Outcome, "outcome"))
    phase: str = ""
    code: int | None = None
    enhanced: str = ""
    reply: str = ""
    """The server's whole reply with its codes, or the error that came instead of a reply."""
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
    host_id: str = Field(default="", sa_column_kwargs={"server_default": text("''")})
    """A random id of the host, as two may have the same name. "" on SQLite, where all runs are on one host."""
    mailing_id: int | None = None
    """The only mailing that it sends, None if it sends all."""


class RelayState(Table, table=True):
    """A paused mail server: nothing is sent through it until its settings change or the next probe is due."""

    __tablename__ = "relay_state"
    relay: str = Field(primary_key=True)
    paused_at: datetime
    reason: str
    settings_hash: str
    next_probe_at: datetime
    probes: int = 0


class RateSlot(Table, table=True):
    """The only row of its table: when the next email may be sent by the rates that are spaced evenly."""

    __tablename__ = "rate_slot"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(default=1, primary_key=True, sa_column_kwargs={"autoincrement": False})
    next_at: datetime


class RateCount(Table, table=True):
    """How many emails of a minute count in the rolling windows of the rates per hour and day."""

    __tablename__ = "rate_count"
    minute: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    """The number of minutes since 1970 UTC."""
    emails: int

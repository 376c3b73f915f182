"""Describe the ledger: occurrences, deliveries and attempts, and the runs and mail servers behind them."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.enums import DeliveryState, Format, OccurrenceState, Outcome, ReturnedKind
from skychimp.models.objects import Table


class Occurrence(Table, table=True):
    """One due time of one mailing, with everything that its emails need as it was when the occurrence was opened."""

    __table__ = tables.occurrence
    id: int | None = None
    mailing_id: int
    due_local: str
    due_at: datetime
    state: OccurrenceState
    opened_at: datetime
    finished_at: datetime | None = None
    cursor: int = 0
    """While the occurrence is opening: the id of the last client whose turn has come."""
    subject: str = ""
    body: str = ""
    format: Format
    html: str | None = None
    sender: str = ""
    return_path: str = ""
    extras: str = "{}"
    """A JSON object of what else is in its emails, from the settings: headers, links (composing.extras)."""
    timezone: str = "UTC"
    results_of: datetime | None = None
    """The `finished_at` for which the table `result` has this occurrence's figures."""
    held_up_s: int = 0
    """For how many seconds it could not be sent, because a person or the mail server held it up."""
    fields: str = "[]"
    """A JSON list of the custom fields that its content uses."""
    attachments: str = "[]"
    canary_until: datetime | None = None
    """Until when only a sample of the clients gets it. None if there is no such sample, or it has been judged."""
    variants: str = ""
    """A JSON object of the variants of its content, and the field that chooses (composing.variants). "" without any."""


class Content(Table, table=True):
    """The content that an occurrence had before it was changed, for emails that may have been sent with it."""

    __table__ = tables.content
    id: int | None = None
    occurrence_id: int
    subject: str
    body: str
    format: Format
    html: str | None = None
    sender: str
    return_path: str
    extras: str = "{}"
    attachments: str = "[]"
    variants: str = ""


class Delivery(Table, table=True):
    """One client in one occurrence. The Message-ID is not stored: it is a keyed hash of `id` (compose.message_id).

    While a run sends it, its row stays as it was when the run took it: see `Lease` and `conditions.current_state`.
    """

    __table__ = tables.delivery
    id: int | None = None
    occurrence_id: int
    client_id: int
    address: str
    address_key: str
    name: str = ""
    comment: str = ""
    tags: str = "[]"
    """A sorted JSON list."""
    state: DeliveryState
    attempts: int = 0
    given_back: int = 0
    """The number of attempts that do not count as a try, such as one that met a limit of the mail server."""
    next_try_at: datetime | None = None
    """None if there is no further try: the delivery is done, or unknown and waiting for a person's decision."""
    give_up_at: datetime | None = None
    """When it expires, on a clock that stands still for the occurrence's `held_up_s`. None until it is deferred."""
    dated_at: datetime | None = None
    """The Date header of its email that may have arrived, which a resend repeats. None if there is no such email."""
    content_id: int | None = None
    """The content that a resend repeats, None if that is the occurrence's."""
    fields: str | None = None
    """A JSON object of the client's fields that the occurrence's content uses, None if it uses none."""
    address_hash: str | None = None
    """The keyed hash of the address, once the person was forgotten. The email's unsubscribe link needs it."""
    files_hash: str | None = None
    """A hash of the client's own files in its email that may have arrived, None without any. A resend has the same."""


class ReturnedMail(Table, table=True):
    """A bounce or complaint that came back for a delivery. Rows are only added, and removed once they are old."""

    __table__ = tables.returned_mail
    id: int | None = None
    digest: str
    """A hash of the report, by which it is counted once."""
    delivery_id: int
    address_hash: str
    """The keyed hash of the delivery's address, as suppressions have it. It stays when a person is forgotten."""
    kind: ReturnedKind
    at: datetime
    reply: str = ""
    """What the mail server said."""
    has_token: bool
    """Whether it named the delivery by a token. Otherwise anybody may have written it."""


class ReturnCount(Table, table=True):
    """How many emails of an occurrence were refused as the address is wrong, or came back. Without a row, none.

    What came back counts if it named its delivery by a token, and once for a delivery and kind.
    """

    __table__ = tables.return_count
    occurrence_id: int
    refused: int = 0
    bounced: int = 0
    soft_bounce: int = 0
    policy_bounce: int = 0
    complaint: int = 0
    held_for_bounces: bool = False
    """Whether its mailing was held for the bounces. It is not held for them again."""
    held_for_complaints: bool = False


class Lease(Table, table=True):
    """Deliveries of one occurrence that only one run may send.

    A write under a lease that does not exist any more changes nothing. An id is never used again.
    """

    __table__ = tables.lease
    id: int | None = None
    run_id: int
    occurrence_id: int
    delivery_ids: str
    """A JSON list."""
    leased_at: datetime | None = None
    """The Date header of its emails. A lease of an older version has none."""


class Intent(Table, table=True):
    """A delivery whose final dot is about to be written, or was. Its lease's end removes the row."""

    __table__ = tables.intent
    delivery_id: int
    lease_id: int
    files_hash: str | None = None
    """A hash of the client's own files in the email, None without any."""


class Attempt(Table, table=True):
    """One attempt at one delivery, with the server's reply. Rows are only added."""

    __table__ = tables.attempt
    id: int | None = None
    delivery_id: int
    number: int
    """The attempt's number within its delivery, from 1."""
    started_at: datetime
    finished_at: datetime
    outcome: Outcome
    phase: str = ""
    code: int | None = None
    enhanced: str = ""
    reply: str = ""
    """The server's whole reply with its codes, or the error that came instead of a reply."""
    relay: str = ""


class Run(Table, table=True):
    """One sending process."""

    __table__ = tables.run
    id: int | None = None
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None = None
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    host_id: str = ""
    """A random id of the host, as two may have the same name. "" on SQLite, where all runs are on one host."""
    mailing_id: int | None = None
    """The only mailing that it sends, None if it sends all."""
    outbox: int = 0
    relay: str = ""
    """What it sends through, as attempts name it. "" if an older version has started it."""


class RelayState(Table, table=True):
    """A paused mail server: nothing is sent through it until its settings change or the next probe is due."""

    __table__ = tables.relay_state
    relay: str
    paused_at: datetime
    reason: str
    settings_hash: str
    next_probe_at: datetime
    probes: int = 0


class RateSlot(Table, table=True):
    """The only row of its table: when the next email may be sent by the rates that are spaced evenly."""

    __table__ = tables.rate_slot
    id: int = 1
    next_at: datetime


class RateCount(Table, table=True):
    """How many emails of a minute count in the rolling windows of the rates per hour and day."""

    __table__ = tables.rate_count
    minute: int
    """The number of minutes since 1970 UTC."""
    emails: int

"""Describe messages and mailings."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.enums import CatchUp, Every, Format, LayoutKind, MailingStatus
from skychimp.models.objects import Table


class Layout(Table, table=True):
    """An HTML template around the content of messages. It belongs to one user."""

    __table__ = tables.layout
    id: int | None = None
    owner_id: int
    key: str
    """The folded name, by which names are compared."""
    name: str
    html: str
    created_at: datetime
    updated_at: datetime


class Message(Table, table=True):
    """A subject and a body. It belongs to one user."""

    __table__ = tables.message
    id: int | None = None
    owner_id: int
    subject: str
    body: str
    format: Format
    html: str | None = None
    """The HTML part, if the user wrote one. A Markdown body is rendered when it is sent."""
    digest: bool = False
    """Whether its emails list the posts that were published since the mailing's last occurrence."""
    attachments: str = "[]"
    """A JSON list of its attachments and inline pictures (attachments.listing)."""
    created_at: datetime
    updated_at: datetime
    variant_by: str | None = None
    """The custom field by which clients get a variant of it, None if all get the same."""


class MessageVariant(Table, table=True):
    """What clients get instead of a message if their field has this value. The digest and the schedule are the same."""

    __table__ = tables.message_variant
    id: int | None = None
    message_id: int
    key: str
    """The folded value, by which values are compared."""
    value: str
    subject: str
    body: str
    format: Format
    html: str | None = None
    attachments: str = "[]"
    """Its own files. Clients get those of the message, too."""
    layout_kind: LayoutKind | None = None
    layout_id: int | None = None
    preheader: str = ""
    updated_at: datetime


class MessageLayout(Table, table=True):
    """The layout of a message. A plain text has none. Without this row, content is sent as older versions send it."""

    __table__ = tables.message_layout
    message_id: int
    kind: LayoutKind
    layout_id: int | None = None
    preheader: str = ""
    """What mail programs show beside the subject, "" if that is the beginning of the content."""


class StoredFile(Table, table=True):
    """The content of attachments and inline pictures. The same content is kept once, by its hash."""

    __table__ = tables.stored_file
    sha256: str
    content: bytes


class Mailing(Table, table=True):
    """A message, an audience (see store.clients.audience), a schedule and a status."""

    __table__ = tables.mailing
    id: int | None = None
    owner_id: int
    message_id: int | None = None
    """None only in a deleted mailing."""
    name: str = ""
    """What its owner calls it, "" if it has no name of its own."""
    all_clients: bool = False
    topic: str = ""
    """What a client can unsubscribe from, "" if that is all mail of the owner."""
    start_local: str
    """ISO 8601 local time in `timezone`, without an offset. Every due time is computed from it."""
    timezone: str
    start_at: datetime
    end_at: datetime | None = None
    every: Every
    catch_up: CatchUp = CatchUp.LATEST
    grace: int | None = None
    """How many seconds late an occurrence may still be sent. None is the period's default (recurrence.GRACE)."""
    status: MailingStatus
    next_at: datetime | None = None
    """The next due time that has no occurrence yet."""
    created_at: datetime
    disabled_at: datetime | None = None
    disabled_by_id: int | None = None
    """None if the system disabled it."""
    disabled_reason: str | None = None
    deleted_at: datetime | None = None
    held_at: datetime | None = None
    """Since when nothing is sent, because of what the mail server or the recipients say to its emails."""
    held_reason: str | None = None
    held_settings: str | None = None
    """A hash of the settings that were refused. With others, the mailing goes on."""
    transactional: bool = False
    """Whether its emails do not say that they are bulk mail, and have no unsubscribe headers."""
    canary: str = ""
    """How many of its clients get each occurrence first, as a number or `1%`. "" if all get it at once."""
    canary_wait_s: int = 0
    """For how many seconds the others wait."""


class MailingClient(Table, table=True):
    """A client that a mailing names."""

    __table__ = tables.mailing_client
    mailing_id: int
    client_id: int


class MailingTag(Table, table=True):
    """A tag whose clients a mailing is sent to."""

    __table__ = tables.mailing_tag
    mailing_id: int
    tag: str


class MailingFilter(Table, table=True):
    """A segment or query whose clients a mailing is sent to; or a tag, segment or query whose clients it leaves out.

    It has a tag, a segment or an expression.
    """

    __table__ = tables.mailing_filter
    id: int | None = None
    mailing_id: int
    leaves_out: bool
    tag: str | None = None
    segment_id: int | None = None
    expression: str | None = None

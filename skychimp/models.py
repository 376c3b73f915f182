"""Every table and every state, nothing else. The words are those of the design; times are aware UTC.

Uniqueness and allowed values are constraints of the database. Indexes with a condition hold only what is waiting or
under way, so that they stay small however long the ledger grows.
"""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from sqlalchemy import (
    DDL,
    BigInteger,
    CheckConstraint,
    Column,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy import Table as CoreTable
from sqlmodel import Field, SQLModel


class Role(StrEnum):
    USER = "user"
    MANAGER = "manager"
    EDITOR = "editor"
    ADMIN = "admin"


class Purpose(StrEnum):
    """What a mailed code is for."""

    VERIFY = "verify"
    RESET = "reset"


class Format(StrEnum):
    """How a message's body is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


class Every(StrEnum):
    """A mailing's period."""

    ONCE = "once"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class CatchUp(StrEnum):
    """What is done about due times that nobody was there to send."""

    LATEST = "latest"
    ALL = "all"
    SKIP = "skip"


class MailingStatus(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"


class OccurrenceState(StrEnum):
    OPENING = "opening"
    OPEN = "open"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    MISSED = "missed"
    SKIPPED = "skipped"
    """A digest's, when there was no new post."""


class DeliveryState(StrEnum):
    QUEUED = "queued"
    CLAIMED = "claimed"
    SENDING = "sending"
    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """What an attempt came to."""

    SENT = "sent"
    DEFERRED = "deferred"
    FAILED = "failed"
    UNKNOWN = "unknown"
    GIVEN_BACK = "given_back"


# SQLite uses an index with a condition only where a query repeats the condition to the letter.
UNFINISHED_SQL = "state IN ('opening', 'open')"
WAITING_SQL = "state IN ('queued', 'deferred')"
UNKNOWN_SQL = "state = 'unknown'"
HELD_SQL = "state IN ('claimed', 'sending')"
RUNNING_SQL = "status = 'running'"

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Table(SQLModel):
    """The base of every table. Pydantic's validators are built only when used: a list never needs them."""

    metadata = metadata
    model_config = {"defer_build": True}
    __table__: ClassVar[CoreTable]


def _one_of(states: type[StrEnum], name: str, *, nullable: bool = False, primary_key: bool = False) -> Column[str]:
    kind = Enum(
        states,
        name=name,
        native_enum=False,
        create_constraint=True,
        length=16,
        values_callable=lambda members: [member.value for member in members],
    )
    return Column(kind, nullable=nullable, primary_key=primary_key)


def _version_column() -> Column[int]:
    return Column(BigInteger, nullable=False, server_default=text("0"))


class StoreInfo(Table, table=True):
    """One row: what the store knows of itself."""

    __tablename__ = "store_info"
    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)
    id: int = Field(default=1, primary_key=True)
    secret: bytes
    """The key of every Message-ID."""
    created_at: datetime
    held_at: datetime | None = None
    """Set in a restored store: nothing is sent until a person lets it go on."""
    counted_to: int | None = None
    """The id of the last attempt that is counted in `pace`."""
    audience_version: int = Field(default=0, sa_column=_version_column())
    """Another random number whenever mailings and audiences change; a new client is told by its id (_CHANGES)."""
    posts_version: int = Field(default=0, sa_column=_version_column())
    """Another random number whenever a post comes, goes, or is published at another time."""
    held_blind: bool | None = None
    """Of one that is held: nothing is known of what was sent since the copy was made."""
    zone_rules: str | None = None
    """A hash of the time zones' rules that the next due times were computed by."""


class User(Table, table=True):
    __tablename__ = "user"
    id: int | None = Field(default=None, primary_key=True)
    email: str
    address_key: str = Field(unique=True)
    name: str = ""
    password_hash: str | None = None
    role: Role = Field(sa_column=_one_of(Role, "role"))
    created_at: datetime
    verified_at: datetime | None = None
    blocked_at: datetime | None = None


class Login(Table, table=True):
    """A session: the token itself is only with its owner."""

    __tablename__ = "login"
    id: int | None = Field(default=None, primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    token_hash: str = Field(unique=True)
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class Code(Table, table=True):
    """A code that was mailed: the code itself is only in the letter."""

    __tablename__ = "code"
    id: int | None = Field(default=None, primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    purpose: Purpose = Field(sa_column=_one_of(Purpose, "purpose"))
    code_hash: str
    created_at: datetime
    expires_at: datetime
    tries: int = 0
    used_at: datetime | None = None


class LoginFailure(Table, table=True):
    """Wrong passwords in a row for one address, whether or not it is a user's: the more, the longer the delay."""

    __tablename__ = "login_failure"
    address_key: str = Field(primary_key=True)
    failures: int
    failed_at: datetime


class Audit(Table, table=True):
    """Who did what to which object. Append-only: triggers refuse any change."""

    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    actor_id: int | None = Field(default=None, foreign_key="user.id", index=True)
    """None: nobody who is logged in, as whoever runs the service."""
    action: str
    object: str
    """The kind of thing it was done to: a table's name."""
    object_id: int | None = None
    detail: str = ""


for _change in ("UPDATE", "DELETE"):
    _refusal = f"""CREATE TRIGGER audit_no_{_change.lower()} BEFORE {_change} ON audit
        BEGIN SELECT RAISE(ABORT, 'the audit trail is only added to'); END"""
    event.listen(Audit.__table__, "after_create", DDL(_refusal))  # type: ignore[no-untyped-call]


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


class Message(Table, table=True):
    __tablename__ = "message"
    id: int | None = Field(default=None, primary_key=True)
    owner_id: int = Field(foreign_key="user.id", index=True)
    subject: str
    body: str
    format: Format = Field(sa_column=_one_of(Format, "format"))
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
    every: Every = Field(sa_column=_one_of(Every, "every"))
    catch_up: CatchUp = Field(default=CatchUp.LATEST, sa_column=_one_of(CatchUp, "catch_up"))
    grace: int | None = None
    """Seconds that a due time may be late and still be sent; None is the period's own (recurrence.GRACE)."""
    status: MailingStatus = Field(sa_column=_one_of(MailingStatus, "status"))
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
    state: OccurrenceState = Field(sa_column=_one_of(OccurrenceState, "state"))
    opened_at: datetime
    """Also the Date of its letters, the same at every attempt."""
    deadline: datetime
    finished_at: datetime | None = None
    cursor: int = 0
    """The last client id whose delivery is made, while opening."""
    subject: str = ""
    body: str = ""
    format: Format = Field(sa_column=_one_of(Format, "format"))
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
        CheckConstraint(f"NOT ({HELD_SQL}) OR (run_id IS NOT NULL AND token IS NOT NULL)", name="held_by"),
        Index("ix_delivery_waiting", "occurrence_id", "next_try_at", sqlite_where=text(WAITING_SQL)),
        Index("ix_delivery_unknown", "occurrence_id", "next_try_at", sqlite_where=text(UNKNOWN_SQL)),
        Index("ix_delivery_held", "occurrence_id", "run_id", sqlite_where=text(HELD_SQL)),
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
    state: DeliveryState = Field(sa_column=_one_of(DeliveryState, "state"))
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
    outcome: Outcome = Field(sa_column=_one_of(Outcome, "outcome"))
    phase: str = ""
    code: int | None = None
    enhanced: str = ""
    reply: str = ""
    """The server's whole reply with its codes, or what came instead of one."""
    relay: str = ""


class Cause(Table, table=True):
    """One kind of answer: what servers said, with what varies from letter to letter left out (replies.pattern)."""

    __tablename__ = "cause"
    __table_args__ = (UniqueConstraint("outcome", "phase", "code", "enhanced", "words"),)
    id: int | None = Field(default=None, primary_key=True)
    outcome: Outcome = Field(sa_column=_one_of(Outcome, "outcome"))
    phase: str
    code: int
    """0 where there was no reply."""
    enhanced: str
    words: str


class Pace(Table, table=True):
    """How many attempts of an occurrence came to one cause in one slot of time; counted from the log, never changed."""

    __tablename__ = "pace"
    __table_args__ = (Index(None, "slot"), {"sqlite_with_rowid": False})
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    slot: int = Field(primary_key=True)
    """Seconds since 1970, by figures.SLOT."""
    cause_id: int = Field(foreign_key="cause.id", primary_key=True)
    attempts: int


class Result(Table, table=True):
    """How many deliveries of a finished occurrence ended in one state, by domain and by attempts made."""

    __tablename__ = "result"
    __table_args__ = ({"sqlite_with_rowid": False},)
    occurrence_id: int = Field(foreign_key="occurrence.id", primary_key=True)
    domain: str = Field(primary_key=True)
    """"" stands for all of the smaller ones together."""
    state: DeliveryState = Field(sa_column=_one_of(DeliveryState, "state", primary_key=True))
    attempts: int = Field(primary_key=True)
    deliveries: int


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


class Post(Table, table=True):
    """A blog article; published from `published_at` on, a draft without it."""

    __tablename__ = "post"
    id: int | None = Field(default=None, primary_key=True)
    author_id: int = Field(foreign_key="user.id", index=True)
    slug: str = Field(unique=True)
    title: str
    content: str
    image: str | None = Field(default=None, index=True)
    """The file's name in the folder of images: its content's hash."""
    views: int = 0
    revision: int = 1
    """Counts the changes of title, content and image."""
    created_at: datetime
    updated_at: datetime
    published_at: datetime | None = Field(default=None, index=True)


class DigestPost(Table, table=True):
    """A post that a digest need not tell of: that occurrence of the mailing told of it, or it is too old for any."""

    __tablename__ = "digest_post"
    mailing_id: int = Field(foreign_key="mailing.id", primary_key=True)
    post_id: int = Field(sa_column=Column(ForeignKey("post.id", ondelete="CASCADE"), primary_key=True, index=True))
    occurrence_id: int | None = Field(default=None, foreign_key="occurrence.id")


_CHANGES: dict[str, dict[type[Table], tuple[str, ...]]] = {
    "audience_version": {
        Client: ("owner_id", "address_key"),
        ClientTag: ("client_id", "tag"),
        Mailing: ("owner_id", "all_clients", "status", "end_at", "disabled_at", "deleted_at"),
        MailingClient: ("mailing_id", "client_id"),
        MailingTag: ("mailing_id", "tag"),
    },
    "posts_version": {Post: ("published_at",)},
}
"""What the versions of StoreInfo stand for: tables, and their columns that count.

Triggers renew them, so that no writer can forget to. A new client has none: it would make a large import slower by a
third, and its id, which no other client ever had, tells as much.
"""

for _version, _tables in _CHANGES.items():
    for _table, _columns in _tables.items():
        _name = _table.__table__.name
        _old, _new = (", ".join(f"{row}.{column}" for column in _columns) for row in ("old", "new"))
        _changed = f"UPDATE OF {', '.join(_columns)} ON {_name} WHEN ({_old}) IS NOT ({_new})"
        for _what, _when in (("added", f"INSERT ON {_name}"), ("changed", _changed), ("gone", f"DELETE ON {_name}")):
            if (_table, _what) != (Client, "added"):
                _renewal = f"BEGIN UPDATE store_info SET {_version} = random(); END"  # noqa: S608
                _ddl = DDL(f"CREATE TRIGGER {_name}_{_what} AFTER {_when} {_renewal}")  # type: ignore[no-untyped-call]
                event.listen(_table.__table__, "after_create", _ddl)

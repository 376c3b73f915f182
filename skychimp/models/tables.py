"""Define every table. The classes of the same names say what the columns mean: `client` is described by `Client`.

Most commands read and write rows with these tables alone. The classes make objects of rows. They need SQLModel and
SQLAlchemy's ORM, which take a third of the start-up time.

The indexes with a condition contain only what is waiting or being sent. They stay small however long the ledger grows.
"""

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    column,
    false,
    text,
)

from skychimp.models.base import (
    UtcDateTime,
    enum_column,
    has_state,
    metadata,
    partial_index,
    use_large_integers,
    version_column,
)
from skychimp.models.enums import (
    LEASED_STATES,
    UNFINISHED_STATES,
    WAITING_STATES,
    CatchUp,
    CodePurpose,
    ConsentSource,
    DeliveryState,
    Every,
    FieldType,
    Format,
    LayoutKind,
    MailingStatus,
    OccurrenceState,
    Outcome,
    ReturnedKind,
    SuppressionSource,
)
from skychimp.roles import Role

user = Table(
    "user",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("email", String, nullable=False),
    Column("address_key", String, nullable=False, unique=True),
    Column("name", String, nullable=False, default=""),
    Column("password_hash", String),
    enum_column(Role, "role"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("verified_at", UtcDateTime),
    Column("blocked_at", UtcDateTime),
    Column("registered_again", Boolean, nullable=False, default=False, server_default=false()),
    sqlite_autoincrement=True,
)

login = Table(
    "login",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("user.id"), nullable=False, index=True),
    Column("token_hash", String, nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

code = Table(
    "code",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user_id", Integer, ForeignKey("user.id"), nullable=False, index=True),
    enum_column(CodePurpose, "purpose"),
    Column("code_hash", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("tries", Integer, nullable=False, default=0),
    Column("used_at", UtcDateTime),
)

account_email = Table(
    "account_email",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("mailbox_hash", String, nullable=False),
    enum_column(CodePurpose, "purpose"),
    Column("sent_at", UtcDateTime, nullable=False),
)

login_failure = Table(
    "login_failure",
    metadata,
    Column("address_key", String, primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("failed_at", UtcDateTime, nullable=False),
)

audit_entry = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor_id", Integer, ForeignKey("user.id"), index=True),
    Column("action", String, nullable=False),
    Column("object", String, nullable=False),
    Column("object_id", Integer),
    Column("detail", String, nullable=False, default=""),
)

store_info = Table(
    "store_info",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, default=1),
    Column("secret", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("held_at", UtcDateTime),
    Column("counted_to", Integer),
    version_column("audience_version"),
    version_column("posts_version"),
    Column("held_blind", Boolean),
    Column("zone_rules", String),
    Column("held_reason", String),
    Column("database_id", String),
    Column("waits_for_standby", Boolean),
    CheckConstraint("id = 1", name="one_row"),
)

token_key = Table(
    "token_key",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("key", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("replaced_at", UtcDateTime),
)

# An id that SQLite makes with autoincrement is never reused. Deliveries refer to a client's id without a foreign key,
# and a Message-ID is made of a delivery's id.

client = Table(
    "client",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False),
    Column("email", String, nullable=False),
    Column("address_key", String, nullable=False),
    Column("name", String, nullable=False, default=""),
    Column("comment", String, nullable=False, default=""),
    Column("created_at", UtcDateTime, nullable=False),
    Column("bad_at", UtcDateTime),
    Column("bad_reason", String),
    Column("fields", String, nullable=False, default="{}", server_default=text("'{}'")),
    Column("consent_at", UtcDateTime),
    Column("good_at", UtcDateTime),
    UniqueConstraint("owner_id", "address_key"),
    Index(None, "owner_id", "id"),
    sqlite_autoincrement=True,
)

client_tag = Table(
    "client_tag",
    metadata,
    Column("client_id", ForeignKey("client.id", ondelete="CASCADE"), primary_key=True),
    Column("tag", String, primary_key=True),
    Index(None, "tag", "client_id"),
)

client_field = Table(
    "client_field",
    metadata,
    Column("owner_id", Integer, ForeignKey("user.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("name", String, nullable=False),
    enum_column(FieldType, "type"),
)

consent = Table(
    "consent",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False),
    Column("address_hash", String, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("wording", String, nullable=False),
    enum_column(ConsentSource, "source"),
    Column("proof", String, nullable=False, default=""),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("forgotten_at", UtcDateTime),
    Index(None, "owner_id", "address_hash"),
)

segment = Table(
    "segment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("expression", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner_id", "key"),
)

suppression = Table(
    "suppression",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, nullable=False),
    Column("topic", String, nullable=False, default=""),
    Column("address_hash", String, nullable=False),
    Column("address", String),
    Column("address_key", String),
    Column("reason", String, nullable=False),
    enum_column(SuppressionSource, "source"),
    Column("at", UtcDateTime, nullable=False),
    Column("note", String, nullable=False, default=""),
    Column("until", UtcDateTime),
    UniqueConstraint("address_hash", "owner_id", "topic"),
    Index(None, "address_key"),
)

layout = Table(
    "layout",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False),
    Column("key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("html", String, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("owner_id", "key"),
)

message = Table(
    "message",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False, index=True),
    Column("subject", String, nullable=False),
    Column("body", String, nullable=False),
    enum_column(Format, "format"),
    Column("html", String),
    Column("digest", Boolean, nullable=False, default=False),
    Column("attachments", String, nullable=False, default="[]", server_default=text("'[]'")),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("variant_by", String),
)

message_variant = Table(
    "message_variant",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), nullable=False),
    Column("key", String, nullable=False),
    Column("value", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("body", String, nullable=False),
    enum_column(Format, "format"),
    Column("html", String),
    Column("attachments", String, nullable=False, default="[]"),
    enum_column(LayoutKind, "layout_kind", nullable=True),
    Column("layout_id", Integer, ForeignKey("layout.id"), index=True),
    Column("preheader", String, nullable=False, default=""),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("message_id", "key"),
    CheckConstraint("(layout_kind = 'own') = (layout_id IS NOT NULL)", name="own_layout"),
)

message_layout = Table(
    "message_layout",
    metadata,
    Column("message_id", ForeignKey("message.id", ondelete="CASCADE"), primary_key=True, autoincrement=False),
    enum_column(LayoutKind, "kind"),
    Column("layout_id", Integer, ForeignKey("layout.id"), index=True),
    Column("preheader", String, nullable=False, default=""),
    CheckConstraint("(kind = 'own') = (layout_id IS NOT NULL)", name="own_layout"),
)

stored_file = Table(
    "stored_file",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

mailing = Table(
    "mailing",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("user.id"), nullable=False, index=True),
    Column("message_id", Integer, ForeignKey("message.id"), index=True),
    Column("name", String, nullable=False, default="", server_default=text("''")),
    Column("all_clients", Boolean, nullable=False, default=False),
    Column("topic", String, nullable=False, default="", server_default=text("''")),
    Column("start_local", String, nullable=False),
    Column("timezone", String, nullable=False),
    Column("start_at", UtcDateTime, nullable=False),
    Column("end_at", UtcDateTime, index=True),
    enum_column(Every, "every"),
    enum_column(CatchUp, "catch_up"),
    Column("grace", Integer),
    enum_column(MailingStatus, "status"),
    Column("next_at", UtcDateTime, index=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("disabled_at", UtcDateTime),
    Column("disabled_by_id", Integer, ForeignKey("user.id")),
    Column("disabled_reason", String),
    Column("deleted_at", UtcDateTime),
    Column("held_at", UtcDateTime),
    Column("held_reason", String),
    Column("held_settings", String),
    Column("transactional", Boolean, nullable=False, default=False, server_default=false()),
    Column("canary", String, nullable=False, default="", server_default=text("''")),
    Column("canary_wait_s", Integer, nullable=False, default=0, server_default=text("0")),
    CheckConstraint("end_at > start_at", name="window"),
    partial_index("ix_mailing_held", "id", where=column("held_at").is_not(None)),
    partial_index("ix_mailing_running", "next_at", where=has_state(column("status"), MailingStatus.RUNNING)),
)

mailing_client = Table(
    "mailing_client",
    metadata,
    Column("mailing_id", Integer, ForeignKey("mailing.id"), primary_key=True),
    Column("client_id", ForeignKey("client.id", ondelete="CASCADE"), primary_key=True, index=True),
)

mailing_tag = Table(
    "mailing_tag",
    metadata,
    Column("mailing_id", Integer, ForeignKey("mailing.id"), primary_key=True),
    Column("tag", String, primary_key=True),
)

mailing_filter = Table(
    "mailing_filter",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("mailing_id", Integer, ForeignKey("mailing.id"), nullable=False, index=True),
    Column("leaves_out", Boolean, nullable=False),
    Column("tag", String),
    Column("segment_id", Integer, ForeignKey("segment.id"), index=True),
    Column("expression", String),
)

_IS_UNFINISHED = has_state(column("state"), *UNFINISHED_STATES)
_IS_WAITING = has_state(column("state"), *WAITING_STATES)
_IS_LEASED = has_state(column("state"), *LEASED_STATES)
_IS_UNKNOWN = has_state(column("state"), DeliveryState.UNKNOWN)
_IS_IN_OUTBOX = has_state(column("state"), DeliveryState.OUTBOX)

occurrence = Table(
    "occurrence",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("mailing_id", Integer, ForeignKey("mailing.id"), nullable=False),
    Column("due_local", String, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    enum_column(OccurrenceState, "state"),
    Column("opened_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    Column("cursor", Integer, nullable=False, default=0),
    Column("subject", String, nullable=False, default=""),
    Column("body", String, nullable=False, default=""),
    enum_column(Format, "format"),
    Column("html", String),
    Column("sender", String, nullable=False, default=""),
    Column("return_path", String, nullable=False, default=""),
    Column("extras", String, nullable=False, default="{}", server_default=text("'{}'")),
    Column("timezone", String, nullable=False, default="UTC"),
    Column("results_of", UtcDateTime),
    Column("held_up_s", Integer, nullable=False, default=0, server_default=text("0")),
    Column("fields", String, nullable=False, default="[]", server_default=text("'[]'")),
    Column("attachments", String, nullable=False, default="[]", server_default=text("'[]'")),
    Column("canary_until", UtcDateTime),
    Column("variants", String, nullable=False, default="", server_default=text("''")),
    UniqueConstraint("mailing_id", "due_local"),
    partial_index("ix_occurrence_unfinished", "id", where=_IS_UNFINISHED),
)

content = Table(
    "content",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), nullable=False, index=True),
    Column("subject", String, nullable=False),
    Column("body", String, nullable=False),
    enum_column(Format, "format"),
    Column("html", String),
    Column("sender", String, nullable=False),
    Column("return_path", String, nullable=False),
    Column("extras", String, nullable=False, default="{}", server_default=text("'{}'")),
    Column("attachments", String, nullable=False, default="[]", server_default=text("'[]'")),
    Column("variants", String, nullable=False, default="", server_default=text("''")),
)

delivery = Table(
    "delivery",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), nullable=False),
    Column("client_id", Integer, nullable=False),
    Column("address", String, nullable=False),
    Column("address_key", String, nullable=False),
    Column("name", String, nullable=False, default=""),
    Column("comment", String, nullable=False, default=""),
    Column("tags", String, nullable=False, default="[]"),
    enum_column(DeliveryState, "state"),
    Column("attempts", Integer, nullable=False, default=0),
    Column("given_back", Integer, nullable=False, default=0),
    Column("next_try_at", UtcDateTime),
    Column("give_up_at", UtcDateTime),
    Column("dated_at", UtcDateTime),
    Column("content_id", Integer, ForeignKey("content.id")),
    Column("fields", String),
    Column("address_hash", String),
    Column("files_hash", String),
    UniqueConstraint("occurrence_id", "address_key"),
    CheckConstraint(f"NOT ({_IS_LEASED})", name="stored_state"),
    CheckConstraint(f"NOT ({_IS_WAITING}) OR next_try_at IS NOT NULL", name="waits_until"),
    partial_index("ix_delivery_waiting", "occurrence_id", "next_try_at", where=_IS_WAITING),
    partial_index("ix_delivery_unknown", "occurrence_id", "next_try_at", where=_IS_UNKNOWN),
    partial_index("ix_delivery_outbox", "occurrence_id", where=_IS_IN_OUTBOX),
    sqlite_autoincrement=True,
)

returned_mail = Table(
    "returned_mail",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("delivery_id", Integer, ForeignKey("delivery.id"), nullable=False, index=True),
    Column("address_hash", String, nullable=False, index=True),
    enum_column(ReturnedKind, "kind"),
    Column("at", UtcDateTime, nullable=False),
    Column("reply", String, nullable=False, default=""),
    Column("has_token", Boolean, nullable=False),
)

return_count = Table(
    "return_count",
    metadata,
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), primary_key=True, autoincrement=False),
    Column("refused", Integer, nullable=False, default=0, server_default=text("0")),
    Column("bounced", Integer, nullable=False, default=0, server_default=text("0")),
    Column("soft_bounce", Integer, nullable=False, default=0, server_default=text("0")),
    Column("policy_bounce", Integer, nullable=False, default=0, server_default=text("0")),
    Column("complaint", Integer, nullable=False, default=0, server_default=text("0")),
    Column("held_for_bounces", Boolean, nullable=False, default=False, server_default=false()),
    Column("held_for_complaints", Boolean, nullable=False, default=False, server_default=false()),
)

lease = Table(
    "lease",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("run_id", Integer, nullable=False),
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), nullable=False),
    Column("delivery_ids", String, nullable=False),
    Column("leased_at", UtcDateTime),
    sqlite_autoincrement=True,
)

intent = Table(
    "intent",
    metadata,
    Column("delivery_id", Integer, primary_key=True, autoincrement=False),
    Column("lease_id", Integer, nullable=False),
    Column("files_hash", String),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("delivery_id", Integer, ForeignKey("delivery.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime, nullable=False),
    enum_column(Outcome, "outcome"),
    Column("phase", String, nullable=False, default=""),
    Column("code", Integer),
    Column("enhanced", String, nullable=False, default=""),
    Column("reply", String, nullable=False, default=""),
    Column("relay", String, nullable=False, default=""),
    UniqueConstraint("delivery_id", "number"),
)

run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("heartbeat_at", UtcDateTime, nullable=False, index=True),
    Column("ended_at", UtcDateTime, index=True),
    Column("sent", Integer, nullable=False, default=0),
    Column("deferred", Integer, nullable=False, default=0),
    Column("failed", Integer, nullable=False, default=0),
    Column("unknown", Integer, nullable=False, default=0),
    Column("host_id", String, nullable=False, default="", server_default=text("''")),
    Column("mailing_id", Integer),
    Column("outbox", Integer, nullable=False, default=0, server_default=text("0")),
    Column("relay", String, nullable=False, default="", server_default=text("''")),
)

relay_state = Table(
    "relay_state",
    metadata,
    Column("relay", String, primary_key=True),
    Column("paused_at", UtcDateTime, nullable=False),
    Column("reason", String, nullable=False),
    Column("settings_hash", String, nullable=False),
    Column("next_probe_at", UtcDateTime, nullable=False),
    Column("probes", Integer, nullable=False, default=0),
)

rate_slot = Table(
    "rate_slot",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False, default=1),
    Column("next_at", UtcDateTime, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)

rate_count = Table(
    "rate_count",
    metadata,
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("emails", Integer, nullable=False),
)

reply_kind = Table(
    "cause",
    metadata,
    Column("id", Integer, primary_key=True),
    enum_column(Outcome, "outcome"),
    Column("phase", String, nullable=False),
    Column("code", Integer, nullable=False),
    Column("enhanced", String, nullable=False),
    Column("words", String, nullable=False),
    UniqueConstraint("outcome", "phase", "code", "enhanced", "words"),
)

attempt_rollup = Table(
    "pace",
    metadata,
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("cause_id", Integer, ForeignKey("cause.id"), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Index(None, "slot"),
    sqlite_with_rowid=False,
)

delivery_rollup = Table(
    "result",
    metadata,
    Column("occurrence_id", Integer, ForeignKey("occurrence.id"), primary_key=True),
    Column("domain", String, primary_key=True),
    enum_column(DeliveryState, "state", primary_key=True),
    Column("attempts", Integer, primary_key=True),
    Column("deliveries", Integer, nullable=False),
    sqlite_with_rowid=False,
)

post = Table(
    "post",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("author_id", Integer, ForeignKey("user.id"), nullable=False, index=True),
    Column("slug", String, nullable=False, unique=True),
    Column("title", String, nullable=False),
    Column("content", String, nullable=False),
    Column("image", String, index=True),
    Column("views", Integer, nullable=False, default=0),
    Column("revision", Integer, nullable=False, default=1),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("published_at", UtcDateTime, index=True),
)

digest_post = Table(
    "digest_post",
    metadata,
    Column("mailing_id", Integer, ForeignKey("mailing.id"), primary_key=True),
    Column("post_id", ForeignKey("post.id", ondelete="CASCADE"), primary_key=True, index=True),
    Column("occurrence_id", Integer, ForeignKey("occurrence.id")),
)

use_large_integers()

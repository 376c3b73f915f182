"""List the values of every column that has a fixed set of them. Imports nothing from SQLAlchemy."""

from enum import StrEnum


class CodePurpose(StrEnum):
    """What an emailed code is for."""

    VERIFY = "verify"
    RESET = "reset"


class Format(StrEnum):
    """How a message's body is written."""

    TEXT = "text"
    MARKDOWN = "markdown"
    HTML = "html"


class EmailLanguage(StrEnum):
    """A language that the words of Skychimp's own in emails have."""

    EN = "en"
    RU = "ru"


class LayoutKind(StrEnum):
    """Where the layout of a message comes from."""

    NONE = "none"
    """The message has none, but its CSS is inlined, and its text part is made to be read."""
    DEFAULT = "default"
    """The built-in one."""
    OWN = "own"
    """The user has made it."""


class Every(StrEnum):
    """A mailing's period."""

    ONCE = "once"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class CatchUp(StrEnum):
    """Which missed due times are still sent, after a time without a run."""

    LATEST = "latest"
    ALL = "all"
    SKIP = "skip"


class MailingStatus(StrEnum):
    """How far a mailing is: no occurrence opened yet, some opened, or nothing left to send."""

    CREATED = "created"
    RUNNING = "running"
    COMPLETED = "completed"


class OccurrenceState(StrEnum):
    """How far an occurrence is. Its deliveries are created while it is opening."""

    OPENING = "opening"
    OPEN = "open"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    MISSED = "missed"
    """Its due time passed without a run, and it was too late to send."""
    SKIPPED = "skipped"
    """A digest without a new post."""


class DeliveryState(StrEnum):
    """What happened to a delivery so far."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    """A run has leased it."""
    SENDING = "sending"
    """A run is about to end its data with the final dot, or has done so."""
    SENT = "sent"
    OUTBOX = "outbox"
    """It was only written to the outbox, and has not left the machine. There is no further try."""
    DEFERRED = "deferred"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """The final dot was written, and the server's reply was not recorded."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REPLACED = "replaced"
    """It was not sent before its mailing was due again, and the client gets the newer email."""


class Outcome(StrEnum):
    """The result of one attempt."""

    SENT = "sent"
    OUTBOX = "outbox"
    """The email was only written to the outbox."""
    DEFERRED = "deferred"
    FAILED = "failed"
    UNKNOWN = "unknown"
    GIVEN_BACK = "given_back"
    """It does not count as a try, and the delivery is queued again."""


class FieldType(StrEnum):
    """What the values of a field are."""

    TEXT = "text"
    NUMBER = "number"
    BOOLEAN = "boolean"
    DATE = "date"


class ConsentSource(StrEnum):
    """How a consent was recorded."""

    COMMAND = "command"
    IMPORT = "import"


class SuppressionSource(StrEnum):
    """How a suppression came about."""

    COMMAND = "command"
    IMPORT = "import"
    BOUNCE = "bounce"
    """A server has said that the address does not exist."""
    COMPLAINT = "complaint"
    """The recipient's provider has reported that the email was marked as spam."""
    MAIL = "mail"
    """The recipient has unsubscribed by email."""
    WEB = "web"
    """The recipient has unsubscribed by the link."""


class ReturnedKind(StrEnum):
    """What mail that came back says about a delivery."""

    BOUNCED = "bounced"
    """The address does not exist."""
    SOFT_BOUNCE = "soft_bounce"
    """The mailbox could not take the email."""
    POLICY_BOUNCE = "policy_bounce"
    """The email was refused, and the address may be good."""
    COMPLAINT = "complaint"
    """The recipient has marked the email as spam."""


UNFINISHED_STATES = (OccurrenceState.OPENING, OccurrenceState.OPEN)
WAITING_STATES = (DeliveryState.QUEUED, DeliveryState.DEFERRED)
SUCCESSES = (Outcome.SENT, Outcome.OUTBOX)
"""The outcomes after which there is no further try. A delivery's state is called the same then."""
LEASED_STATES = (DeliveryState.CLAIMED, DeliveryState.SENDING)
"""They are not stored: see `store.conditions.current_state`."""

EVERYBODY = 0
"""The owner of a suppression that holds for the mail of all users."""

"""Every state and other choice; what is said of them in SQL, too."""

from enum import StrEnum


class Role(StrEnum):
    USER = "user"
    MANAGER = "manager"
    EDITOR = "editor"
    ADMIN = "admin"


class CodePurpose(StrEnum):
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
IN_FLIGHT_SQL = "state IN ('claimed', 'sending')"
RUNNING_SQL = "status = 'running'"

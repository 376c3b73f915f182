"""Every table and every state, nothing else. The words are those of the design; times are aware UTC.

Uniqueness and allowed values are constraints of the database.
"""

from skychimp.models.base import Table, metadata
from skychimp.models.blog import DigestPost, Post
from skychimp.models.figures import Cause, Pace, Result
from skychimp.models.info import StoreInfo
from skychimp.models.ledger import Attempt, Delivery, Occurrence, RelayState, Run
from skychimp.models.mail import Client, ClientTag, Mailing, MailingClient, MailingTag, Message
from skychimp.models.people import Audit, Code, Login, LoginFailure, User
from skychimp.models.states import (
    HELD_SQL,
    RUNNING_SQL,
    UNFINISHED_SQL,
    UNKNOWN_SQL,
    WAITING_SQL,
    CatchUp,
    DeliveryState,
    Every,
    Format,
    MailingStatus,
    OccurrenceState,
    Outcome,
    Purpose,
    Role,
)

__all__ = [
    "HELD_SQL",
    "RUNNING_SQL",
    "UNFINISHED_SQL",
    "UNKNOWN_SQL",
    "WAITING_SQL",
    "Attempt",
    "Audit",
    "CatchUp",
    "Cause",
    "Client",
    "ClientTag",
    "Code",
    "Delivery",
    "DeliveryState",
    "DigestPost",
    "Every",
    "Format",
    "Login",
    "LoginFailure",
    "Mailing",
    "MailingClient",
    "MailingStatus",
    "MailingTag",
    "Message",
    "Occurrence",
    "OccurrenceState",
    "Outcome",
    "Pace",
    "Post",
    "Purpose",
    "RelayState",
    "Result",
    "Role",
    "Run",
    "StoreInfo",
    "Table",
    "User",
    "metadata",
]

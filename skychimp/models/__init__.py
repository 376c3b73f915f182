"""Every table and every state, nothing else. The words are those of the design; times are aware UTC.

Uniqueness and allowed values are constraints of the database.
"""

from skychimp.models.base import Table, metadata
from skychimp.models.blog import DigestPost, Post
from skychimp.models.clients import Client, ClientTag
from skychimp.models.deliveries import Attempt, Delivery, Occurrence, RelayState, Run
from skychimp.models.enums import (
    IN_FLIGHT_SQL,
    RUNNING_SQL,
    UNFINISHED_SQL,
    UNKNOWN_SQL,
    WAITING_SQL,
    CatchUp,
    CodePurpose,
    DeliveryState,
    Every,
    Format,
    MailingStatus,
    OccurrenceState,
    Outcome,
    Role,
)
from skychimp.models.mailings import Mailing, MailingClient, MailingTag, Message
from skychimp.models.rollups import AttemptRollup, DeliveryRollup, ReplyKind
from skychimp.models.store_info import StoreInfo
from skychimp.models.users import AuditEntry, Code, Login, LoginFailure, User

__all__ = [
    "IN_FLIGHT_SQL",
    "RUNNING_SQL",
    "UNFINISHED_SQL",
    "UNKNOWN_SQL",
    "WAITING_SQL",
    "Attempt",
    "AttemptRollup",
    "AuditEntry",
    "CatchUp",
    "Client",
    "ClientTag",
    "Code",
    "CodePurpose",
    "Delivery",
    "DeliveryRollup",
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
    "Post",
    "RelayState",
    "ReplyKind",
    "Role",
    "Run",
    "StoreInfo",
    "Table",
    "User",
    "metadata",
]

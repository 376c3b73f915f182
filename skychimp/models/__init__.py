"""Define every table, its constraints and the values that its columns may have.

Times are aware and in UTC. Uniqueness and allowed values are constraints of the database.
"""

from skychimp.models.base import Table, has_state, metadata, use_large_integers
from skychimp.models.blog import DigestPost, Post
from skychimp.models.clients import Client, ClientField, ClientTag, Consent, Segment
from skychimp.models.deliveries import (
    Attempt,
    Content,
    Delivery,
    Intent,
    Lease,
    Occurrence,
    RateCount,
    RateSlot,
    RelayState,
    ReturnedMail,
    Run,
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
    MailingStatus,
    OccurrenceState,
    Outcome,
    ReturnedKind,
    SuppressionSource,
)
from skychimp.models.mailings import Mailing, MailingClient, MailingFilter, MailingTag, Message, StoredFile
from skychimp.models.rollups import AttemptRollup, DeliveryRollup, ReplyKind
from skychimp.models.store_info import StoreInfo, TokenKey
from skychimp.models.suppressions import EVERYBODY, Suppression
from skychimp.models.users import AccountEmail, AuditEntry, Code, Login, LoginFailure, User
from skychimp.roles import Role

use_large_integers()

__all__ = [
    "EVERYBODY",
    "LEASED_STATES",
    "UNFINISHED_STATES",
    "WAITING_STATES",
    "AccountEmail",
    "Attempt",
    "AttemptRollup",
    "AuditEntry",
    "CatchUp",
    "Client",
    "ClientField",
    "ClientTag",
    "Code",
    "CodePurpose",
    "Consent",
    "ConsentSource",
    "Content",
    "Delivery",
    "DeliveryRollup",
    "DeliveryState",
    "DigestPost",
    "Every",
    "FieldType",
    "Format",
    "Intent",
    "Lease",
    "Login",
    "LoginFailure",
    "Mailing",
    "MailingClient",
    "MailingFilter",
    "MailingStatus",
    "MailingTag",
    "Message",
    "Occurrence",
    "OccurrenceState",
    "Outcome",
    "Post",
    "RateCount",
    "RateSlot",
    "RelayState",
    "ReplyKind",
    "ReturnedKind",
    "ReturnedMail",
    "Role",
    "Run",
    "Segment",
    "StoreInfo",
    "StoredFile",
    "Suppression",
    "SuppressionSource",
    "Table",
    "TokenKey",
    "User",
    "has_state",
    "metadata",
]

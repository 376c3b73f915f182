"""Define every table, its constraints and the values that its columns may have.

Times are aware and in UTC. Uniqueness and allowed values are constraints of the database.

`tables` has the tables themselves. The classes here make objects of their rows. They are imported when the first one is
used, because they need SQLModel, which takes long to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skychimp.models.enums import (
    EVERYBODY,
    LEASED_STATES,
    SUCCESSES,
    UNFINISHED_STATES,
    WAITING_STATES,
    CatchUp,
    CodePurpose,
    ConsentSource,
    DeliveryState,
    EmailLanguage,
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

if TYPE_CHECKING:
    from skychimp.models.base import has_state, metadata
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
        ReturnCount,
        ReturnedMail,
        Run,
    )
    from skychimp.models.mailings import (
        Layout,
        Mailing,
        MailingClient,
        MailingFilter,
        MailingTag,
        Message,
        MessageLayout,
        MessageVariant,
        StoredFile,
    )
    from skychimp.models.objects import Table
    from skychimp.models.rollups import AttemptRollup, DeliveryRollup, ReplyKind
    from skychimp.models.store_info import StoreInfo, TokenKey
    from skychimp.models.suppressions import Suppression
    from skychimp.models.users import AccountEmail, AuditEntry, Code, Login, LoginFailure, User

__all__ = [
    "EVERYBODY",
    "LEASED_STATES",
    "SUCCESSES",
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
    "EmailLanguage",
    "Every",
    "FieldType",
    "Format",
    "Intent",
    "Layout",
    "LayoutKind",
    "Lease",
    "Login",
    "LoginFailure",
    "Mailing",
    "MailingClient",
    "MailingFilter",
    "MailingStatus",
    "MailingTag",
    "Message",
    "MessageLayout",
    "MessageVariant",
    "Occurrence",
    "OccurrenceState",
    "Outcome",
    "Post",
    "RateCount",
    "RateSlot",
    "RelayState",
    "ReplyKind",
    "ReturnCount",
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

_MODULES = (
    "base",
    "triggers",
    "blog",
    "clients",
    "deliveries",
    "mailings",
    "objects",
    "rollups",
    "store_info",
    "suppressions",
    "users",
)
"""Where the other names are. All are imported together, so that `metadata` always has all tables and triggers."""


def __getattr__(name: str) -> Any:
    """Return a class, or another of the names that are imported later."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in [import_module(f"{__name__}.{module}") for module in _MODULES]:
        globals().update({each: value for each, value in vars(module).items() if each in __all__})
    return globals()[name]

"""Describe users, their logins and codes, the emails about accounts, and the audit trail."""

from datetime import datetime

from skychimp.models import tables
from skychimp.models.enums import CodePurpose
from skychimp.models.objects import Table
from skychimp.roles import Role


class User(Table, table=True):
    """An account. Clients, messages and mailings belong to one.

    An id is never used again: the audit trail also has the ids of accounts that were never verified and have ended.
    """

    __table__ = tables.user
    id: int | None = None
    email: str
    address_key: str
    """The normalised address, by which addresses are compared."""
    name: str = ""
    password_hash: str | None = None
    role: Role
    created_at: datetime
    """When the account was created. Before the address is verified: when it was last registered."""
    verified_at: datetime | None = None
    blocked_at: datetime | None = None
    registered_again: bool = False
    """Whether the address was registered more than once before it was verified, maybe by several people."""


class Login(Table, table=True):
    """A login session. Only a hash of its token is stored."""

    __table__ = tables.login
    id: int | None = None
    user_id: int
    token_hash: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class Code(Table, table=True):
    """A code that was emailed to a user. Only a hash of it is stored."""

    __table__ = tables.code
    id: int | None = None
    user_id: int
    purpose: CodePurpose
    code_hash: str
    created_at: datetime
    expires_at: datetime
    tries: int = 0
    used_at: datetime | None = None


class AccountEmail(Table, table=True):
    """An email that somebody asked for, such as one with a code. It counts towards the limits for an hour."""

    __table__ = tables.account_email
    id: int | None = None
    mailbox_hash: str
    """A keyed hash, because anybody can type any address here."""
    purpose: CodePurpose
    sent_at: datetime


class LoginFailure(Table, table=True):
    """The number of wrong passwords in a row for an address, registered or not. It sets the login delay."""

    __table__ = tables.login_failure
    address_key: str
    failures: int
    failed_at: datetime


class AuditEntry(Table, table=True):
    """An entry of the audit trail: who did what to which object. Triggers refuse every change of a row."""

    __table__ = tables.audit_entry
    id: int | None = None
    at: datetime
    actor_id: int | None = None
    """None for the operator, and for anybody who is not logged in."""
    action: str
    object: str
    """The kind of object: the name of its table."""
    object_id: int | None = None
    detail: str = ""

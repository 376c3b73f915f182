"""Users, how they get in, and what is kept of what they did."""

from datetime import datetime

from sqlalchemy import DDL, event
from sqlmodel import Field

from skychimp.models.base import Table, enum_column
from skychimp.models.enums import CodePurpose, Role


class User(Table, table=True):
    __tablename__ = "user"
    id: int | None = Field(default=None, primary_key=True)
    email: str
    address_key: str = Field(unique=True)
    name: str = ""
    password_hash: str | None = None
    role: Role = Field(sa_column=enum_column(Role, "role"))
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
    purpose: CodePurpose = Field(sa_column=enum_column(CodePurpose, "purpose"))
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


class AuditEntry(Table, table=True):
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
    event.listen(AuditEntry.__table__, "after_create", DDL(_refusal))  # type: ignore[no-untyped-call]

"""Define the tables of users, their logins and codes, the emails about accounts, and the audit trail."""

from datetime import datetime

from sqlalchemy import false
from sqlmodel import Field

from skychimp.models.base import Table, add_ddl, enum_column
from skychimp.models.enums import CodePurpose
from skychimp.roles import Role


class User(Table, table=True):
    """An account. Clients, messages and mailings belong to one.

    An id is never used again: the audit trail also has the ids of accounts that were never verified and have ended.
    """

    __tablename__ = "user"
    __table_args__ = ({"sqlite_autoincrement": True},)
    id: int | None = Field(default=None, primary_key=True)
    email: str
    address_key: str = Field(unique=True)
    """The normalised address, by which addresses are compared."""
    name: str = ""
    password_hash: str | None = None
    role: Role = Field(sa_column=enum_column(Role, "role"))
    created_at: datetime
    """When the account was created. Before the address is verified: when it was last registered."""
    verified_at: datetime | None = None
    blocked_at: datetime | None = None
    registered_again: bool = Field(default=False, sa_column_kwargs={"server_default": false()})
    """Whether the address was registered more than once before it was verified, maybe by several people."""


class Login(Table, table=True):
    """A login session. Only a hash of its token is stored."""

    __tablename__ = "login"
    id: int | None = Field(default=None, primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    token_hash: str = Field(unique=True)
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


class Code(Table, table=True):
    """A code that was emailed to a user. Only a hash of it is stored."""

    __tablename__ = "code"
    id: int | None = Field(default=None, primary_key=True)
    user_id: int = Field(foreign_key="user.id", index=True)
    purpose: CodePurpose = Field(sa_column=enum_column(CodePurpose, "purpose"))
    code_hash: str
    created_at: datetime
    expires_at: datetime
    tries: int = 0
    used_at: datetime | None = None


class AccountEmail(Table, table=True):
    """An email that somebody asked for, such as one with a code. It counts towards the limits for an hour."""

    __tablename__ = "account_email"
    id: int | None = Field(default=None, primary_key=True)
    mailbox_hash: str
    """A keyed hash, because anybody can type any address here."""
    purpose: CodePurpose = Field(sa_column=enum_column(CodePurpose, "purpose"))
    sent_at: datetime


class LoginFailure(Table, table=True):
    """The number of wrong passwords in a row for an address, registered or not. It sets the login delay."""

    __tablename__ = "login_failure"
    address_key: str = Field(primary_key=True)
    failures: int
    failed_at: datetime


class AuditEntry(Table, table=True):
    """An entry of the audit trail: who did what to which object. Triggers refuse every change of a row."""

    __tablename__ = "audit"
    id: int | None = Field(default=None, primary_key=True)
    at: datetime
    actor_id: int | None = Field(default=None, foreign_key="user.id", index=True)
    """None for the operator, and for anybody who is not logged in."""
    action: str
    object: str
    """The kind of object: the name of its table."""
    object_id: int | None = None
    detail: str = ""


_REFUSAL = "the audit trail is only added to"

for _change in ("UPDATE", "DELETE"):
    _trigger = f"CREATE TRIGGER audit_no_{_change.lower()} BEFORE {_change} ON audit"
    add_ddl(
        AuditEntry.__table__,
        f"""{_trigger}
        BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END""",
        "sqlite",
    )
    add_ddl(
        AuditEntry.__table__,
        f"CREATE FUNCTION audit_no_{_change.lower()}() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'"
        " USING ERRCODE = 'integrity_constraint_violation'; END $$;"
        f" {_trigger} FOR EACH ROW EXECUTE FUNCTION audit_no_{_change.lower()}()",
        "postgresql",
    )

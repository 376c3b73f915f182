"""Decide which email about an account a person gets; pure."""

from enum import StrEnum

from skychimp.models import CodePurpose, User


class EmailKind(StrEnum):
    """What an email about an account says. Its templates, text and HTML, have the same name."""

    VERIFY = "verify"
    """A code that verifies the address."""
    RESET = "reset"
    """A code that sets a new password."""
    TAKEN = "taken"
    """The address has an account that is verified already."""
    NO_ACCOUNT = "no_account"
    BLOCKED = "blocked"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105
    ROLE_CHANGED = "role_changed"


KINDS_WITH_CODE = {EmailKind.VERIFY, EmailKind.RESET}


def kind_of_answer(user: User | None, purpose: CodePurpose) -> EmailKind:
    """Return which email answers somebody who asks for a code.

    Only the mailbox learns whether the address has an account, and in which state: each address is sent one email.
    """
    if user is None:
        return EmailKind.NO_ACCOUNT
    if user.blocked_at is not None:
        return EmailKind.BLOCKED
    if purpose == CodePurpose.RESET:
        return EmailKind.RESET
    return EmailKind.VERIFY if user.verified_at is None else EmailKind.TAKEN

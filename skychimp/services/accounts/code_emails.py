"""Send an email to everybody who asks for a code: the code, or the reason why there is none.

So a known and an unknown address take the same way, and only the mailbox learns more. An email is prepared in the
transaction that decides what it says, and sent after that.
"""

from dataclasses import dataclass
from datetime import datetime

from skychimp.addresses import Address
from skychimp.config.settings import Settings
from skychimp.errors import RelayError
from skychimp.models import CodePurpose, User
from skychimp.services.accounts import codes, email_limits
from skychimp.services.accounts.email_kinds import KINDS_WITH_CODE, EmailKind, kind_of_answer
from skychimp.store.database import Store
from skychimp.store.session import Session


@dataclass(frozen=True)
class PreparedEmail:
    """An email that is about to be sent. It has the id of its count, and a code if its kind has one."""

    kind: EmailKind
    to: str
    count_id: int
    code: codes.IssuedCode | None


def reserve(db: Session, settings: Settings, address: Address, purpose: CodePurpose, now: datetime) -> int | None:
    """Count an email, and return the id of the count, or None if its mailbox has been sent enough.

    Raises Denied if all mailboxes together have been sent enough.
    """
    return email_limits.reserve(db, address.key, purpose, settings.mail.account_emails_per_hour, now)


def prepare(
    db: Session, user: User | None, address: Address, purpose: CodePurpose, count_id: int | None, now: datetime
) -> PreparedEmail | None:
    """Return the email for somebody who asked for a code, or None if it was not counted and must not be sent."""
    if count_id is None:
        return None
    kind = kind_of_answer(user, purpose)
    if user is None or user.id is None:
        return PreparedEmail(kind, address.email, count_id, None)
    code = codes.issue(db, user.id, purpose, now) if kind in KINDS_WITH_CODE else None
    # Never to the address as typed: the same address to us may be somebody else's mailbox on another server.
    return PreparedEmail(kind, user.email, count_id, code)


def send(store: Store, settings: Settings, email: PreparedEmail | None) -> None:
    """Send a prepared email, if there is one.

    Raises RelayError if it was certainly not sent. Then it is not counted, and its code is withdrawn.
    """
    if email is None:
        return
    # Imported here: composing takes time to import, and login does not need it.
    from skychimp.services.accounts import account_mail

    code = email.code.text if email.code is not None else ""
    try:
        account_mail.send(settings, store, email.kind, to=email.to, code=code)
    except RelayError:
        with store.write() as db:
            email_limits.release(db, email.count_id)
            if email.code is not None:
                codes.withdraw(db, email.code.id)
        raise

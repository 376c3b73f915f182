"""Limit the emails about accounts that anybody can ask for, so that nobody is flooded.

The emails of the last hour are counted for each mailbox, and for all mailboxes together. It makes no difference whether
an address has an account. So a limit does not reveal accounts, but at most that somebody has just asked for an email.
"""

import hashlib
from datetime import datetime, timedelta

from sqlmodel import col, delete, func, or_, select

from skychimp.errors import Denied
from skychimp.models import AccountEmail, CodePurpose, StoreInfo
from skychimp.store.session import Session
from skychimp.translation import tr

MAX_PER_MAILBOX = 3
"""Emails per hour to one mailbox, for each purpose."""

_PERIOD = timedelta(hours=1)


def reserve(db: Session, address_key: str, purpose: CodePurpose, max_per_hour: int, now: datetime) -> int | None:
    """Count an email that is about to be sent, and return its id, or None if its mailbox has been sent enough.

    `max_per_hour` is the limit for all mailboxes together. Raises Denied if it is reached.
    """
    _delete_old(db, now)
    if db.exec(select(func.count()).select_from(AccountEmail)).one() >= max_per_hour:
        raise Denied(
            tr("too many emails about accounts were sent in the last hour"),
            tr("try again later, or raise mail.account_emails_per_hour"),
        )
    mailbox_hash = _hash(db, mailbox(address_key))
    sent = select(func.count()).where(AccountEmail.mailbox_hash == mailbox_hash, AccountEmail.purpose == purpose)
    if db.exec(sent).one() >= MAX_PER_MAILBOX:
        return None
    email = AccountEmail(mailbox_hash=mailbox_hash, purpose=purpose, sent_at=now)
    db.add(email)
    db.flush()
    return email.id


def release(db: Session, email_id: int) -> None:
    """Stop counting an email that was not sent."""
    db.exec(delete(AccountEmail).where(col(AccountEmail.id) == email_id))


def mailbox(address_key: str) -> str:
    """Return the address key of the mailbox that an address belongs to: the address without its `+tag`."""
    local, _, domain = address_key.rpartition("@")
    return f"{local.partition('+')[0] or local}@{domain}"


def _delete_old(db: Session, now: datetime) -> None:
    """Delete what is older than an hour, or was written while the clock was ahead."""
    sent_at = col(AccountEmail.sent_at)
    db.exec(delete(AccountEmail).where(or_(sent_at <= now - _PERIOD, sent_at > now + _PERIOD)))


def _hash(db: Session, text: str) -> str:
    key = db.exec(select(StoreInfo.secret)).one()[:64]
    return hashlib.blake2b(text.encode(), key=key, person=b"skychimp mailbox", digest_size=32).hexdigest()

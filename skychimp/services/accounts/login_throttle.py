"""Delays after wrong passwords: by address, whether or not it is a user's, so that a delay tells nothing.

A login that comes too early is refused, and neither counts nor makes the delay longer: who keeps on guessing for
somebody else keeps that person out for minutes, not for ever, and never from a session or a reset by mail.
"""

from datetime import datetime, timedelta
from math import ceil

from sqlmodel import Session, col, delete

from skychimp.errors import Denied
from skychimp.models import LoginFailure

FREE = 2
"""How many wrong passwords cost nothing."""
LONGEST = timedelta(minutes=5)
FORGOTTEN = timedelta(days=1)
"""Wrong passwords that are so old count no more."""


def delay(failures: int) -> timedelta:
    """How long to wait after so many wrong passwords in a row: 1 s after the third, then twice as long each time."""
    if failures <= FREE:
        return timedelta()
    return min(LONGEST, timedelta(seconds=2 ** min(failures - FREE - 1, 10)))


def check(db: Session, address_key: str, now: datetime) -> None:
    """Raise Denied while this address has to wait."""
    row = db.get(LoginFailure, address_key)
    # A time far ahead was written by a clock that was wrong; one a little ahead by who was quicker to get the store.
    if row is None or row.failures <= FREE or now <= row.failed_at - LONGEST:
        return
    seconds = ceil((row.failed_at + delay(row.failures) - now).total_seconds())
    if seconds > 0:
        raise Denied(
            f"too many wrong passwords; try again in {seconds} s",
            "or set another one by mail: skychimp password reset --email YOU@EXAMPLE.ORG",
        )


def count(db: Session, address_key: str, now: datetime) -> None:
    """One more wrong password."""
    row = db.get(LoginFailure, address_key)
    failures = row.failures + 1 if row is not None and row.failed_at > now - FORGOTTEN else 1
    db.merge(LoginFailure(address_key=address_key, failures=failures, failed_at=now))


def clear(db: Session, address_key: str) -> None:
    """Forget this address's wrong passwords."""
    db.exec(delete(LoginFailure).where(col(LoginFailure.address_key) == address_key))


def forget(db: Session, now: datetime) -> None:
    """Delete what counts no more."""
    db.exec(delete(LoginFailure).where(col(LoginFailure.failed_at) <= now - FORGOTTEN))

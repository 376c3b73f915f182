"""Delay logins after wrong passwords.

Delays are kept by address, whether or not it has an account, so that a delay does not reveal an account. A login that
comes too early is refused and not counted. So whoever guesses somebody else's password can lock that person out for
minutes only, and never out of a running session or a password reset.
"""

from datetime import datetime, timedelta
from math import ceil
from typing import Any

from sqlalchemy import Row, delete, select

from skychimp.errors import Denied
from skychimp.models import tables
from skychimp.store.session import Session
from skychimp.store.sql import insert_or
from skychimp.translation import tr

_F = tables.login_failure

FREE_FAILURES = 2
"""How many wrong passwords in a row cause no delay."""
LONGEST_DELAY = timedelta(minutes=5)
FAILURE_LIFETIME = timedelta(days=1)
"""When a wrong password no longer counts."""


def delay(failures: int) -> timedelta:
    """Return how long to wait after a number of wrong passwords in a row: 1 s after the third, then doubling."""
    if failures <= FREE_FAILURES:
        return timedelta()
    return min(LONGEST_DELAY, timedelta(seconds=2 ** min(failures - FREE_FAILURES - 1, 10)))


def require_no_delay(db: Session, address_key: str, now: datetime) -> None:
    """Raise Denied while logins to this address are delayed."""
    row = _find(db, address_key)
    # A time far in the future was written while the clock was wrong. One slightly in the future was written by a
    # process that got hold of the store before us.
    if row is None or row.failures <= FREE_FAILURES or now <= row.failed_at - LONGEST_DELAY:
        return
    seconds = ceil((row.failed_at + delay(row.failures) - now).total_seconds())
    if seconds > 0:
        raise Denied(
            tr("too many wrong passwords; try again in {seconds} s", seconds=seconds),
            tr('wait, or run "skychimp password reset --email YOU@EXAMPLE.ORG"'),
        )


def record_failure(db: Session, address_key: str, now: datetime) -> None:
    """Record a wrong password."""
    row = _find(db, address_key)
    failures = row.failures + 1 if row is not None and row.failed_at > now - FAILURE_LIFETIME else 1
    new = {"failures": failures, "failed_at": now}
    row_or_change = insert_or(_F).values(address_key=address_key, **new)
    db.execute(row_or_change.on_conflict_do_update(index_elements=[_F.c.address_key], set_=new))


def clear(db: Session, address_key: str) -> None:
    """Delete the wrong passwords recorded for an address."""
    db.execute(delete(_F).where(_F.c.address_key == address_key))


def delete_expired(db: Session, now: datetime) -> None:
    """Delete the wrong passwords that no longer count."""
    db.execute(delete(_F).where(_F.c.failed_at <= now - FAILURE_LIFETIME))


def _find(db: Session, address_key: str) -> Row[Any] | None:
    return db.execute(select(_F).where(_F.c.address_key == address_key)).first()

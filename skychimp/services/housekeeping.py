"""Housekeeping: what a long-running service puts in order once an hour."""

from datetime import UTC, datetime, timedelta

from sqlmodel import col, delete

from skychimp.delivery import zones
from skychimp.models import Login
from skychimp.store import ledger, runs
from skychimp.store.engine import Store

RUNS_KEPT = timedelta(days=90)


def tidy(store: Store, *, keep_attempts: timedelta | None = None) -> None:
    """Forget expired logins, runs that are long over and attempts older than `keep_attempts`; empty the WAL.

    Where time zones have new rules since, the coming due times follow them.

    Each step is a short transaction of its own.
    """
    now = datetime.now(UTC)
    with store.write() as session:
        session.execute(delete(Login).where(col(Login.expires_at) <= now))
        runs.forget(session.connection(), now - RUNS_KEPT)
        zones.follow(session.connection())
    more = keep_attempts is not None
    while more:
        with store.write() as session:
            more = ledger.forget_attempts(session.connection(), now - (keep_attempts or timedelta()))
    store.checkpoint()

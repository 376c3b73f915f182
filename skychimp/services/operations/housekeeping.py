"""Housekeeping: what a long-running service puts in order once an hour."""

from datetime import UTC, datetime, timedelta

from skychimp.delivery.scheduling import tzdata_changes
from skychimp.services.accounts import codes, login_throttle, sessions
from skychimp.services.blog import images
from skychimp.services.reporting import rollups
from skychimp.store import ledger, runs
from skychimp.store.database import Store

RUNS_KEPT = timedelta(days=90)


def tidy(store: Store, *, keep_attempts: timedelta | None = None) -> None:
    """Forget sessions, codes, wrong passwords and runs of long ago, images without a post and, once counted, old
    attempts; empty the WAL.

    Old is what is older than `keep_attempts`. Where time zones have new rules since, the coming due times follow them.
    Each step is a short transaction of its own.
    """
    now = datetime.now(UTC)
    with store.write() as db:
        sessions.forget(db, now)
        codes.forget(db, now)
        login_throttle.forget(db, now)
        runs.forget(db.connection(), now - RUNS_KEPT)
        tzdata_changes.update_due_times(db.connection())
    rollups.add_up(store)
    more = keep_attempts is not None
    while more:
        with store.write() as db:
            more = ledger.forget_attempts(db.connection(), now - (keep_attempts or timedelta()))
    images.sweep(store)
    store.checkpoint()

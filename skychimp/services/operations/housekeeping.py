"""Remove what has expired and update sums, once an hour."""

from datetime import timedelta

from skychimp.delivery.scheduling import tzdata_changes
from skychimp.services.accounts import codes, login_throttle, sessions, unverified
from skychimp.services.blog import images
from skychimp.services.reporting import rollups
from skychimp.store import ledger, runs
from skychimp.store.database import Store

RUNS_KEPT = timedelta(days=90)


def tidy(store: Store, *, keep_attempts: timedelta | None = None) -> None:
    """Remove what is no longer needed, and truncate the write-ahead log.

    That is old sessions, codes, unverified accounts, login failures, runs and unused images. Attempts older than
    `keep_attempts` are added up and removed; None keeps them all. If the rules of time zones have changed, future due
    times are updated. Each step is a short transaction of its own.
    """
    now = store.now()
    with store.write() as db:
        sessions.delete_expired(db, now)
        codes.delete_expired(db, now)
        unverified.delete_expired(db, now)
        login_throttle.delete_expired(db, now)
        runs.delete_ended(db.connection(), now - RUNS_KEPT)
        tzdata_changes.update_due_times(db.connection())
    rollups.count_new_attempts(store)
    more = keep_attempts is not None
    while more:
        with store.write() as db:
            more = ledger.delete_old_attempts(db.connection(), now - (keep_attempts or timedelta()))
    images.remove_unused(store)
    store.checkpoint()

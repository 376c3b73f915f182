"""Housekeeping: what a long-running service puts in order once an hour."""

from datetime import UTC, datetime, timedelta

from skychimp.delivery import zones
from skychimp.services import codes, delays, figures, images, sessions
from skychimp.store import ledger, runs
from skychimp.store.engine import Store

RUNS_KEPT = timedelta(days=90)


def tidy(store: Store, *, keep_attempts: timedelta | None = None) -> None:
    """Forget sessions, codes, wrong passwords and runs of long ago, images without a post and, once counted, old
    attempts; empty the WAL.

    Old is what is older than `keep_attempts`. Where time zones have new rules since, the coming due times follow them.
    Each step is a short transaction of its own.
    """
    now = datetime.now(UTC)
    with store.write() as session:
        sessions.forget(session, now)
        codes.forget(session, now)
        delays.forget(session, now)
        runs.forget(session.connection(), now - RUNS_KEPT)
        zones.follow(session.connection())
    figures.add_up(store)
    more = keep_attempts is not None
    while more:
        with store.write() as session:
            more = ledger.forget_attempts(session.connection(), now - (keep_attempts or timedelta()))
    images.sweep(store)
    store.checkpoint()

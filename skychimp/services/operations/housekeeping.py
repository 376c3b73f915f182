"""Remove what has expired and update sums: by a daemon once an hour, by `run` at its end."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from skychimp.config.settings import InboundSettings
from skychimp.delivery.scheduling import tzdata_changes
from skychimp.services.accounts import codes, login_throttle, sessions, unverified
from skychimp.services.blog import images
from skychimp.services.reporting import rollups
from skychimp.store import ledger, returned_mail, runs
from skychimp.store.database import BATCH_PAUSE_S, Store

RUNS_KEPT = timedelta(days=90)
SCORE_PERIOD = InboundSettings().soft_bounce_period
AFTER_RUN_S = 1.0
"""How long the housekeeping of a `run` may take. The next one continues."""


def tidy(
    store: Store,
    *,
    keep_attempts: timedelta | None = None,
    score_period: timedelta = SCORE_PERIOD,
    may_continue: Callable[[], bool] = lambda: True,
) -> None:
    """Remove what is no longer needed, and truncate the write-ahead log.

    That is old sessions, codes, unverified accounts, login failures, runs and unused images. Attempts older than
    `keep_attempts` are added up and removed; None keeps them all. Bounces and complaints are kept as long as attempts,
    and at least for `score_period`. Those without a token are kept no longer than that. If the rules of time zones have
    changed, future due times are updated.

    Each step is a short transaction, so that nobody who sends waits for long. `may_continue` is called after each one,
    and may sleep. What is left when it returns False is done the next time.
    """
    steps = _steps(store, keep_attempts, score_period)
    while next(steps, _DONE) is not _DONE and may_continue():
        pass


def tidy_after_run(
    store: Store, *, keep_attempts: timedelta | None = None, score_period: timedelta = SCORE_PERIOD
) -> None:
    """Do at most about a second of the housekeeping, if it is due, as nobody does it where no daemon runs.

    It is due at the first run of an hour, and while attempts are older than `keep_attempts`.
    """
    now = store.now()
    with store.read() as transaction:
        db = transaction.connection()
        is_due = runs.is_first_of_hour(db, now) or (
            keep_attempts is not None and ledger.has_old_attempts(db, now - keep_attempts)
        )
    if is_due:
        ends_at = time.monotonic() + AFTER_RUN_S
        tidy(
            store,
            keep_attempts=keep_attempts,
            score_period=score_period,
            may_continue=lambda: time.monotonic() < ends_at,
        )


_DONE = object()


def _steps(store: Store, keep_attempts: timedelta | None, score_period: timedelta) -> Iterator[None]:
    """Yield after each step."""
    now = store.now()
    with store.write() as db:
        sessions.delete_expired(db, now)
        codes.delete_expired(db, now)
        unverified.delete_expired(db, now)
        login_throttle.delete_expired(db, now)
        runs.delete_ended(db.connection(), now - RUNS_KEPT)
        tzdata_changes.update_due_times(db.connection())
    yield
    for _ in rollups.count_in_batches(store):
        yield
    more = keep_attempts is not None
    while more:
        with store.write() as db:
            more = ledger.delete_old_attempts(db.connection(), now - (keep_attempts or timedelta()))
        yield
        if more:
            time.sleep(BATCH_PAUSE_S)
    logged_before = None if keep_attempts is None else now - keep_attempts
    more = True
    while more:
        with store.write() as db:
            more = returned_mail.delete_old(db.connection(), now - score_period, logged_before)
        yield
        if more:
            time.sleep(BATCH_PAUSE_S)
    images.remove_unused(store)
    store.checkpoint()

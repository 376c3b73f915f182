"""Find what a run has to send: recover dead runs, end what is over, and open what is due, in one transaction."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from sqlalchemy import Connection, select

from skychimp.config.settings import Settings
from skychimp.delivery.scheduling import planner
from skychimp.models import DeliveryState, StoreInfo
from skychimp.store import ledger, queue, runs
from skychimp.store.postgres import failover

log = logging.getLogger("skychimp")

HEARTBEAT_DELAY = timedelta(seconds=10)
"""How much later than the newest heartbeat the present time may be, when other machines are judged by theirs."""


class DueWork(NamedTuple):
    """What is due.

    `opened` counts the occurrences opened now. `finished` has those finished now, with their deliveries by state.
    `pause_reason` says why the relay is paused, None if it is not. `occurrences` can be sent. `secret` is the store's.
    """

    opened: int = 0
    finished: Mapping[int, Mapping[DeliveryState, int]] = MappingProxyType({})
    pause_reason: str | None = None
    occurrences: Sequence[int] = ()
    secret: bytes = b""


def find_due_work(
    db: Connection,
    now: datetime,
    *,
    store_file: Path,
    settings: Settings,
    mailing_id: int | None,
    unknown_after: timedelta | None,
    relay: str,
    read_pause: Callable[[Connection, bytes], str | None],
) -> DueWork:
    """Return what is due now, of all mailings or of one. Nothing is due if the clock is behind the last run's.

    `read_pause` returns why the relay is paused; it gets the store's secret. `relay` is the name for the attempts of
    dead runs, `unknown_after` the time after which their unknown deliveries are sent again.
    """
    clock_error = runs.clock_behind(db, now)
    if clock_error is not None:  # only in a daemon, because a run would not have started
        log.error(clock_error.message, extra={"hint": clock_error.hint})
        return DueWork()
    failover.check(db, store_file, now)
    _recover_dead_runs(db, now, store_file, unknown_after, relay)
    finished = {occurrence_id: ledger.count_by_state(db, occurrence_id) for occurrence_id in queue.sweep(db, now)}
    opened = planner.open_due(
        db,
        now,
        sender=settings.mail.sender or "",
        return_path=settings.mail.return_path or "",
        give_up_after=settings.delivery.give_up_after,
        mailing_id=mailing_id,
        blog_url=settings.blog.url,
    )
    secret = db.scalar(select(StoreInfo.__table__.c.secret)) or b""
    pause_reason = read_pause(db, secret)
    occurrences = [] if pause_reason else queue.due_occurrences(db, now, mailing_id)
    return DueWork(opened, finished, pause_reason, occurrences, secret)


def _recover_dead_runs(
    db: Connection, now: datetime, store_file: Path, unknown_after: timedelta | None, relay: str
) -> None:
    # If no run could write for a while, not even a heartbeat, that tells nothing about the others.
    newest = runs.newest_heartbeat(db) or now
    for run_id in runs.dead_runs(db, store_file, min(now, newest + HEARTBEAT_DELAY)):
        unknown = queue.rescue(db, run_id, now, unknown_after, relay)
        runs.end(db, run_id, now)
        log.warning("recovered a dead run", extra={"run": run_id, "unknown": unknown})

"""Find what a run has to send: recover dead runs, end what is over, and open what is due, in one transaction."""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, Select, and_, case, exists, func, select

from skychimp.config.settings import Settings
from skychimp.delivery.composing import extras, settings_extras
from skychimp.delivery.composing.settings_extras import MailingTraits
from skychimp.delivery.scheduling import planner
from skychimp.errors import ClockBehind
from skychimp.models import OccurrenceState, tables
from skychimp.store import holds, queue, runs, token_keys
from skychimp.store.conditions import has_waiting_state, is_sendable, is_unfinished, is_unknown
from skychimp.store.occurrences import canary, sweeping
from skychimp.store.occurrences.canary import NOT_COUNTED, Judged, Results
from skychimp.store.occurrences.progress import NOTHING_READ, Progress
from skychimp.store.occurrences.sweeping import NOTHING_LOOKED, Looked, Swept
from skychimp.store.postgres import failover

log = logging.getLogger("skychimp")

_M = tables.mailing
_O = tables.occurrence
_D = tables.delivery

HEARTBEAT_DELAY = timedelta(seconds=10)
"""How much later than the newest heartbeat the present time may be, when other machines are judged by theirs."""

LONGEST_QUIET = timedelta(minutes=1)
"""After this time, look again for what is due even if the store is unchanged: a file of the settings may not be."""


class DueWork(NamedTuple):
    """What is due.

    `opened` counts the occurrences opened now. `swept` says what has ended now.
    `pause_reason` says why the relay is paused, None if it is not. `occurrences` can be sent. `secret` is the store's.
    `clock_error` says that the clock is behind the last run's, and that nothing else is known. `judged` says which
    canaries were judged now.
    """

    opened: int = 0
    swept: Swept = Swept()
    pause_reason: str | None = None
    occurrences: Sequence[int] = ()
    secret: bytes = b""
    clock_error: ClockBehind | None = None
    judged: Sequence[Judged] = ()


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
    settings_hash: Callable[[], str],
    progress: Progress = NOTHING_READ,
    looked: Looked = NOTHING_LOOKED,
    canaries: Mapping[int, Results] = NOT_COUNTED,
) -> DueWork:
    """Return what is due now, of all mailings or of one. Nothing is due if the clock is behind the last run's.

    `read_pause` returns why the relay is paused; it gets the store's secret. `settings_hash` is called after it, and
    returns the hash of the settings that a mailing can be held for. `relay` is the name for the attempts of
    dead runs, `unknown_after` the time after which their unknown deliveries are sent again. `progress` is what
    `planner.read_progress` has read, `looked` what earlier sweeps have looked at, and `canaries` what
    `canary.count_results` has counted.
    """
    clock_error = runs.clock_behind(db, now)
    if clock_error is not None:  # only in a daemon, because a run would not have started
        return DueWork(clock_error=clock_error)
    failover.check(db, store_file, now)
    recover_dead_runs(db, now, store_file, unknown_after, relay)
    secret = db.scalar(select(tables.store_info.c.secret)) or b""
    pause_reason = read_pause(db, secret)
    holds.release_mailings(db, settings_hash(), now)
    judged = canary.judge(db, now, canaries, settings.delivery.canary_failure_rate) if canaries else ()
    swept = sweeping.sweep(db, now, looked=looked)
    opened = planner.open_due(
        db,
        now,
        sender=settings.mail.sender or "",
        return_path=settings.mail.return_path or "",
        extras=lambda mailing: _extras(db, now, settings, mailing),
        mailing_id=mailing_id,
        blog_url=settings.blog.url,
        known=progress,
        language=settings.mail.language,
    )
    occurrences = [] if pause_reason else queue.due_occurrences(db, now, mailing_id)
    ended = swept._replace(
        replaced=swept.replaced + opened.replaced,
        is_complete=swept.is_complete and opened.replaced < sweeping.SWEEP_BATCH,
    )
    return DueWork(opened.occurrences, ended, pause_reason, occurrences, secret, judged=judged)


def _extras(db: Connection, now: datetime, settings: Settings, mailing: MailingTraits) -> str:
    """Return what else is in the emails of a mailing, as an occurrence keeps it."""
    return extras.dump(settings_extras.make(settings, mailing, token_keys.newest(token_keys.read(db, now))))


def next_due_at(db: Connection, now: datetime) -> datetime:
    """Return when `find_due_work` may find something if nothing is committed until then, `now` if it may already.

    It is at most LONGEST_QUIET later.
    """
    is_sending = select(exists().select_from(tables.lease))  # or it has died: only its lock tells that
    if db.scalar(is_sending) or runs.clock_behind(db, now) is not None:
        return now
    latest = now + LONGEST_QUIET
    if holds.is_held(db):
        return latest
    next_at = db.scalar(select(func.min(_M.c.next_at)).where(_M.c.next_at <= latest, is_sendable()))
    times: list[datetime | None] = [next_at, *db.execute(_times_of_unfinished()).one()]
    return max(now, min(time for time in (latest, *times) if time is not None))


def _times_of_unfinished() -> Select[datetime | None, datetime | None, datetime | None]:
    """Return the query for when unfinished occurrences end, send something, and have to resend something unknown."""
    in_occurrence = select(func.min(_D.c.next_try_at)).where(_D.c.occurrence_id == _O.c.id)
    waits_until = in_occurrence.where(has_waiting_state()).scalar_subquery()
    unknown_until = in_occurrence.where(is_unknown()).scalar_subquery()
    is_opening = and_(is_sendable(), _O.c.state == OccurrenceState.OPENING)
    sends_at = case((is_opening, _O.c.due_at), (is_sendable(), waits_until))
    times = select(func.min(_M.c.end_at), func.min(sends_at), func.min(unknown_until))
    return times.select_from(_O).join(_M, _M.c.id == _O.c.mailing_id).where(is_unfinished())


def recover_dead_runs(
    db: Connection, now: datetime, store_file: Path, unknown_after: timedelta | None, relay: str
) -> None:
    """Take back the deliveries of dead runs. `unknown_after` and `relay` are as in `find_due_work`."""
    # If no run could write for a while, not even a heartbeat, that tells nothing about the others.
    newest = runs.newest_heartbeat(db) or now
    for run_id in runs.dead_runs(db, store_file, min(now, newest + HEARTBEAT_DELAY)):
        unknown = queue.rescue(db, run_id, now, unknown_after, relay)
        runs.end(db, run_id, now)
        log.warning("recovered a dead run", extra={"run": run_id, "unknown": unknown})

"""Send what is due in one run, over several connections, and record each result.

Each connection has a worker. The recorder writes to the store. The intent to send a delivery is committed before its
final dot is written, in one commit with the previous result on the same connection.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending.claims import Claims
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.due_work import DueWork, find_due_work
from skychimp.delivery.sending.occurrence_emails import (
    OccurrenceEmails,
    keep_sent_content,
    load_occurrence_emails,
)
from skychimp.delivery.sending.outcomes import Outcomes, RunStats
from skychimp.delivery.sending.pacing.rate_limiter import RateLimiter
from skychimp.delivery.sending.pacing.slow_domains import SlowDomains
from skychimp.delivery.sending.pacing.throttle import Throttle
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import RetryPolicy
from skychimp.delivery.sending.worker import Worker
from skychimp.errors import ClockBehind, SkychimpError, StoreFailed
from skychimp.models import DeliveryState
from skychimp.store import holds, ledger, queue, runs
from skychimp.store.database import BATCH_PAUSE_S, Store
from skychimp.store.ledger import ResultCounts
from skychimp.store.limits.connections import ConnectionSlots
from skychimp.store.occurrences import canary, sweeping
from skychimp.store.occurrences.canary import NOT_COUNTED, Judged
from skychimp.store.occurrences.progress import NOTHING_READ
from skychimp.store.occurrences.sweeping import NOTHING_LOOKED, Swept
from skychimp.store.runs import RunLock
from skychimp.translation import Phrase
from skychimp.transport.interfaces import Transport

log = logging.getLogger("skychimp")

TICK_INTERVAL_S = 0.2
HEARTBEAT_INTERVAL_S = 5.0

IDLE_TICK_INTERVAL_S = 5.0
IDLE_HEARTBEAT_INTERVAL_S = 30.0  # each one is a commit, which wakes up a disk
"""While a daemon has nothing to send."""


@dataclass
class RunOptions:
    """What a run may send: everything that is due or one mailing, and at most `limit` emails.

    With `join`, it also sends what another run of this host is sending.
    """

    mailing_id: int | None = None
    limit: int | None = None
    join: bool = True


@dataclass
class Dispatcher:
    """Sends what is due.

    `now` returns the time (default: the store's). `report` is called with the stats several times a second. With
    `keeps_polling`, the dispatcher goes on until it is stopped, and each `poll` adds what has become due.
    """

    store: Store
    settings: Settings
    transport: Transport
    run: RunLock
    options: RunOptions = field(default_factory=RunOptions)
    now: Callable[[], datetime] | None = None
    report: Callable[[RunStats], None] = lambda stats: None
    keeps_polling: bool = False
    stats: RunStats = field(default_factory=RunStats)

    def __post_init__(self) -> None:
        self._now = self.now or self.store.now
        self._started_at = self._now()
        self._policy = retry_policy_from(self.settings)
        self._relay_name = self.transport.relay
        self._worker_count = 0
        self._secret = b""
        self._is_clock_behind = False
        self._progress, self._looked, self._canaries = NOTHING_READ, NOTHING_LOOKED, NOT_COUNTED
        self._looked_to: dict[int, int | None] = {}
        self._sweeping: asyncio.Task[None] | None = None
        self._stoppable: tuple[ConnectionPool | Claims | Recorder, ...] = ()

    def stop(self, reason: str, hint: Phrase = "") -> None:
        """Start no more emails. Those in progress are finished."""
        if not self.stats.stopped:
            self.stats.stopped, self.stats.hint = reason, hint
            for part in self._stoppable:
                part.stop()

    async def send(self, keep_polling: Callable[[], Awaitable[None]] | None = None) -> RunStats:
        """Poll once, or as often as `keep_polling` does, and send until nothing is left.

        What could not be sent is released. Raises StoreFailed if an attempt cannot be recorded.
        """
        async with self._recording():
            try:
                async with asyncio.TaskGroup() as group:
                    self._set_up(group)
                    background = [group.create_task(self._tick()), group.create_task(self._recorder.watch())]
                    await (keep_polling or self.poll)()
                    await self._wait_for_workers()
                    for task in background:
                        task.cancel()
            except BaseExceptionGroup as errors:
                raise _first_error(errors) from None
            self._pool.close_slots()
            await self._rate_limiter.close()
            await asyncio.to_thread(self._look_ahead)
            swept = await self._recorder.submit(self._end_run)
            self._note_swept(swept)
            if not swept.is_complete:
                await self._sweep_rest(self._now())
        await asyncio.to_thread(self._count_pending)
        return self.stats

    async def poll(self) -> None:
        """Open what is due and send it. Everything up to the opening is one transaction.

        If very many deliveries have expired or are to be cancelled, that goes on in further ones, beside the sending.
        """
        await asyncio.to_thread(self._prepare_poll)
        work = await self._recorder.submit(self._find_due)
        self._report_clock(work.clock_error)
        self.stats.opened += work.opened
        if work.opened:
            log.info("mailings due", extra={"occurrences": work.opened})
        for judged in work.judged:
            self._log_judged(judged)
        self._secret = work.secret or self._secret
        self._pool.apply_pause(work.pause_reason)
        self._claims.add(work.occurrences)
        self._add_worker()
        for occurrence_id in self._note_swept(work.swept):
            await asyncio.to_thread(self._log_finished, occurrence_id)
        if not work.swept.is_complete and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = self._group.create_task(self._sweep_rest(self._due_by()))

    async def _sweep_rest(self, now: datetime) -> None:
        """Sweep until nothing is left to change. When a daemon is stopped, the next run goes on."""
        is_complete = False
        while not (is_complete or (self.keeps_polling and self.stats.stopped)):
            await asyncio.sleep(BATCH_PAUSE_S)
            await asyncio.to_thread(self._look_ahead)
            swept = await self._recorder.submit(lambda db: sweeping.sweep(db, now, looked=self._looked))
            is_complete = swept.is_complete
            for occurrence_id in self._note_swept(swept):
                await asyncio.to_thread(self._log_finished, occurrence_id)

    def _note_swept(self, swept: Swept) -> Sequence[int]:
        """Count what a sweep has ended, and return the occurrences that are finished."""
        self._looked = swept.looked or self._looked
        self.stats.expired += swept.expired
        self.stats.replaced += swept.replaced
        return swept.finished

    def _log_finished(self, occurrence_id: int) -> None:
        with self.store.read() as db:
            counts = ledger.count_by_state(db.connection(), occurrence_id)
        by_state = {str(state): number for state, number in counts.items()}
        log.info("occurrence finished", extra={"occurrence": occurrence_id, **by_state})

    def _log_judged(self, judged: Judged) -> None:
        if judged.held_reason is None:
            log.info("canary done, the other clients get it now", extra={"mailing": judged.mailing_id})
        else:
            log.error("mailing held", extra={"mailing": judged.mailing_id, "reason": judged.held_reason})

    def _report_clock(self, error: ClockBehind | None) -> None:
        """Log that the clock is behind, once until it is right again."""
        if error is not None and not self._is_clock_behind:
            log.error(error.message, extra={"hint": error.hint})
        self._is_clock_behind = error is not None

    def _prepare_poll(self) -> None:
        """Read what takes too long for a transaction that others wait for."""
        self._pool.read_settings()
        self.store.read_clock()
        self._look_ahead()
        try:
            with self.store.read() as transaction:
                db = transaction.connection()
                self._progress = planner.read_progress(db, self._due_by(), self.options.mailing_id, self._progress)
                self._canaries = canary.count_results(db, self._due_by())
        except StoreFailed:  # the transaction waits for the store, and reads what is not known
            self._progress, self._canaries = NOTHING_READ, NOT_COUNTED

    def _look_ahead(self) -> None:
        with contextlib.suppress(StoreFailed):  # the sweep waits for the store, and looks itself
            self._looked = sweeping.look_ahead(self.store, self._looked)

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when the dispatcher is stopped."""
        await self._pool.sleep(seconds)

    def _give_up(self, reason: str, hint: Phrase) -> None:
        """Handle that nothing can be sent now: a run ends, a daemon releases what it has claimed."""
        if not self.keeps_polling:
            self.stop(reason, hint)
            return
        log.warning(reason, extra={"hint": hint})
        self._claims.discard_all()

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        self._recorder = Recorder(
            self.store,
            self.run.run_id,
            now=self._now,
            patience=None if self.keeps_polling else self.settings.run.patience,
        )
        try:
            yield
        finally:
            await self._recorder.close()

    def _set_up(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._worker_ended = asyncio.Event()
        self._work_added = asyncio.Event()
        self._pool = ConnectionPool(
            self.transport,
            self.settings,
            self._recorder,
            ConnectionSlots(self.store.path, self.settings.smtp.connections),
            now=self._now,
            give_up=self._give_up,
            waits_forever=self.keeps_polling,
        )
        self._rate_limiter = RateLimiter(
            self.settings,
            self._recorder,
            self._pool,
            now=self._now,
            give_up=self._give_up,
            waits_forever=self.keeps_polling,
        )
        self._throttle = Throttle(self._pool.sleep)
        slow_domains = SlowDomains()
        self._claims = Claims(
            self._recorder,
            self.run.run_id,
            group,
            now=self._now,
            due_by=self._due_by,
            count=lambda occurrence_id: asyncio.to_thread(self._count_results, occurrence_id),
            load=self._load_emails,
            connections=lambda: self._pool.limit,
            slow_domains=slow_domains,
            limit=self.options.limit,
            require_consent=self.settings.delivery.require_consent,
        )
        self._outcomes = Outcomes(
            self._recorder,
            self._claims,
            self._pool,
            self._throttle,
            slow_domains,
            self.stats,
            self._policy,
            relay=self._relay_name,
            now=self._now,
            run_started_at=self._started_at,
        )
        self._stoppable = (self._pool, self._claims, self._recorder)
        if self.stats.stopped:  # stopped before these existed
            for part in self._stoppable:
                part.stop()

    # Finding what is due

    def _due_by(self) -> datetime:
        """Return the time up to which a try is due. A run leaves what becomes due after its start to the next run."""
        return self._now() if self.keeps_polling else self._started_at

    def _find_due(self, db: StoreConnection) -> DueWork:
        return find_due_work(
            db,
            self._due_by(),
            store_file=self.store.path,
            settings=self.settings,
            mailing_id=self.options.mailing_id,
            unknown_after=self._policy.unknown_after,
            relay=self._relay_name,
            read_pause=self._pool.read_pause,
            settings_hash=lambda: self._pool.settings_hash,
            progress=self._progress,
            looked=self._looked,
            canaries=self._canaries,
        )

    # Sending

    def _count_results(self, occurrence_id: int) -> ResultCounts:
        """Count an occurrence's results, and do what else takes long before `_load_emails`."""
        self._looked_to[occurrence_id] = keep_sent_content(self.store, occurrence_id, self.settings)
        with self.store.read() as db:
            return ledger.count_results(db.connection(), occurrence_id)

    def _load_emails(self, db: StoreConnection, occurrence_id: int, counts: ResultCounts) -> OccurrenceEmails | None:
        """Read what is needed to compose an occurrence's emails. Hold its mailing if none of them can be sent."""
        looked_to, now = self._looked_to[occurrence_id], self._now()
        emails = load_occurrence_emails(db, occurrence_id, counts, self.settings, now, looked_to=looked_to)
        if emails.problem is None:
            return emails
        reason, hint = emails.problem
        log.error("mailing held", extra={"mailing": emails.mailing_id, "reason": reason, "hint": hint})
        holds.hold_mailing(db, emails.mailing_id, reason, self._pool.settings_hash, now)
        return None

    def _add_worker(self) -> None:
        """Start one more worker, with its own connection, if there is work for it."""
        if self._worker_count < self._pool.limit and self._claims.has_work:
            self._worker_count += 1
            self._work_added.set()
            self._group.create_task(self._run_worker())

    def _add_workers(self) -> None:
        """Start two more workers, as one has connected: their number doubles as long as the mail server takes them."""
        self._add_worker()
        self._add_worker()

    async def _wait_for_workers(self) -> None:
        while self._worker_count:
            self._worker_ended.clear()
            await self._worker_ended.wait()

    async def _run_worker(self) -> None:
        worker = Worker(
            self._claims,
            self._pool,
            self._rate_limiter,
            self._throttle,
            self._recorder,
            self._outcomes,
            self.stats,
            now=self._now,
            secret=lambda: self._secret,
            on_connected=self._add_workers,
        )
        try:
            await worker.run()
        finally:
            self._worker_count -= 1
            self._worker_ended.set()

    # Progress and the end

    async def _tick(self) -> None:
        """Report progress, grow the pool and write heartbeats until cancelled. Raises StoreFailed."""
        last_heartbeat = time.monotonic()
        while True:
            await self._sleep_until_tick()
            self.report(self.stats)
            self.store.check_file()
            self._pool.grow()
            self._add_worker()
            interval_s = IDLE_HEARTBEAT_INTERVAL_S if self._is_idle else HEARTBEAT_INTERVAL_S
            if time.monotonic() - last_heartbeat >= interval_s and not self.is_waiting_for_store:
                last_heartbeat = time.monotonic()
                now, run_id, counts = self._now(), self.run.run_id, self._counts()
                self._recorder.submit(lambda db: runs.heartbeat(db, run_id, now, counts), is_quick=True)  # noqa: B023

    @property
    def is_waiting_for_store(self) -> bool:
        """Whether the store cannot be written for now."""
        return self._recorder.is_waiting

    @property
    def _is_idle(self) -> bool:
        return self.keeps_polling and not self._worker_count and not self.stats.stopped

    async def _sleep_until_tick(self) -> None:
        """Sleep until the next tick. An idle daemon ticks seldom, until it has something to send."""
        if self._is_idle:
            self._work_added.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._work_added.wait(), IDLE_TICK_INTERVAL_S)
        else:
            await asyncio.sleep(TICK_INTERVAL_S)

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.stats, name) for name in runs.COUNTS}

    def _end_run(self, db: StoreConnection) -> Swept:
        now = self._now()
        queue.close_leases(db, self.run.run_id)
        swept = sweeping.sweep(db, now, looked=self._looked)
        runs.heartbeat(db, self.run.run_id, now, self._counts())
        runs.end(db, self.run.run_id, now)
        return swept

    def _count_pending(self) -> None:
        """Note what is left for the next run, why some of it is held, and what has expired after a try."""
        self.stats.expired += self._recorder.expired
        with self.store.read() as transaction:
            db, mailing_id = transaction.connection(), self.options.mailing_id
            pending = Counter(ledger.count_pending_by_state(db, mailing_id))
            held = holds.held_mailings(db, mailing_id)
            waiting = canary.list_waiting(db, mailing_id)
        self.stats.held = tuple(mailing for mailing in held if mailing.since < self._started_at or mailing.is_opening)
        self.stats.deferred = pending[DeliveryState.DEFERRED]
        self.stats.waiting = sum(each.emails for each in waiting if each.until > self._started_at)
        self.stats.queued = sum(pending.values()) - self.stats.deferred - self.stats.waiting


def retry_policy_from(settings: Settings) -> RetryPolicy:
    """Return the retry policy in the settings."""
    delivery = settings.delivery
    return RetryPolicy(
        retry_after=tuple(delivery.retry_after),
        give_up_after=delivery.give_up_after,
        unknown_after=delivery.unknown_after if delivery.unknown == "resend" else None,
        disable_failures=delivery.disable_failures,
        disable_failure_rate=delivery.disable_failure_rate,
        bounce_rate=delivery.bounce_rate,
    )


def _first_error(errors: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first SkychimpError in a group, or its first error of any kind."""
    ours, _ = errors.split(SkychimpError)
    chosen: BaseException = ours or errors
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen

"""Send what is due in one run, over several connections, and record each result.

Each connection has a worker. The recorder writes to the store. The intent to send a delivery is committed before its
final dot is written, in one commit with the previous result on the same connection.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.sending.claims import Claims
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.due_work import DueWork, find_due_work
from skychimp.delivery.sending.occurrence_emails import load_occurrence_emails
from skychimp.delivery.sending.outcomes import Outcomes, RunStats
from skychimp.delivery.sending.rate_limiter import RateLimiter
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import RetryPolicy
from skychimp.delivery.sending.worker import Worker
from skychimp.errors import SkychimpError
from skychimp.models import DeliveryState
from skychimp.store import ledger, queue, runs
from skychimp.store.database import Store
from skychimp.store.runs import RunLock
from skychimp.transport.interfaces import Transport

log = logging.getLogger("skychimp")

TICK_INTERVAL_S = 0.2
HEARTBEAT_INTERVAL_S = 5.0


@dataclass
class RunOptions:
    """What a run may send: everything that is due or one mailing, and at most `limit` emails."""

    mailing_id: int | None = None
    limit: int | None = None


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
        self._stoppable: tuple[ConnectionPool | Claims, ...] = ()

    def stop(self, reason: str, hint: str = "") -> None:
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
            await self._recorder.submit(self._end_run)
        return self.stats

    async def poll(self) -> None:
        """Open what is due and send it. Everything up to the opening is one transaction."""
        await asyncio.to_thread(self._read_settings_and_clock)
        work = await self._recorder.submit(self._find_due)
        self.stats.opened += work.opened
        if work.opened:
            log.info("mailings due", extra={"occurrences": work.opened})
        for occurrence_id, counts in work.finished.items():
            by_state = {str(state): number for state, number in counts.items()}
            log.info("occurrence finished", extra={"occurrence": occurrence_id, **by_state})
        self._secret = work.secret or self._secret
        self._pool.apply_pause(work.pause_reason)
        self._claims.add(work.occurrences)
        self._add_worker()

    def _read_settings_and_clock(self) -> None:
        self._pool.read_settings()
        self.store.read_clock()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when the dispatcher is stopped."""
        await self._pool.sleep(seconds)

    def _give_up(self, reason: str, hint: str) -> None:
        """Handle that nothing can be sent now: a run ends, a daemon releases what it has claimed."""
        if not self.keeps_polling:
            self.stop(reason, hint)
            return
        log.warning(reason, extra={"hint": hint})
        self._claims.discard_all()

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        self._recorder = Recorder(self.store, self.run.run_id, now=self._now)
        try:
            yield
        finally:
            await self._recorder.close()

    def _set_up(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._worker_ended = asyncio.Event()
        self._pool = ConnectionPool(
            self.transport,
            self.settings,
            self._recorder,
            now=self._now,
            give_up=self._give_up,
            waits_forever=self.keeps_polling,
        )
        self._rate_limiter = RateLimiter(self.settings.smtp.rate, self._pool.sleep)
        self._claims = Claims(
            self._recorder,
            self.run.run_id,
            group,
            now=self._now,
            due_by=self._due_by,
            load=load_occurrence_emails,
            connections=lambda: self._pool.limit,
            limit=self.options.limit,
        )
        self._outcomes = Outcomes(
            self._recorder,
            self._claims,
            self._pool,
            self.stats,
            self._policy,
            relay=self._relay_name,
            now=self._now,
            run_started_at=self._started_at,
        )
        self._stoppable = (self._pool, self._claims)
        if self.stats.stopped:  # stopped before these existed
            self._pool.stop()
            self._claims.stop()

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
        )

    # Sending

    def _add_worker(self) -> None:
        """Start one more worker, with its own connection, if there is work for it."""
        if self._worker_count < self._pool.limit and self._claims.has_work:
            self._worker_count += 1
            self._group.create_task(self._run_worker())

    async def _wait_for_workers(self) -> None:
        while self._worker_count:
            self._worker_ended.clear()
            await self._worker_ended.wait()

    async def _run_worker(self) -> None:
        worker = Worker(
            self._claims,
            self._pool,
            self._rate_limiter,
            self._recorder,
            self._outcomes,
            self.stats,
            now=self._now,
            secret=lambda: self._secret,
            on_connected=self._add_worker,
        )
        try:
            await worker.run()
        finally:
            self._worker_count -= 1
            self._worker_ended.set()

    # Progress and the end

    async def _tick(self) -> None:
        """Report progress, grow the pool and write heartbeats until cancelled."""
        last_heartbeat = time.monotonic()
        while True:
            await asyncio.sleep(TICK_INTERVAL_S)
            self.report(self.stats)
            self._pool.grow()
            self._add_worker()
            if time.monotonic() - last_heartbeat >= HEARTBEAT_INTERVAL_S:
                last_heartbeat = time.monotonic()
                now, run_id, counts = self._now(), self.run.run_id, self._counts()
                self._recorder.submit(lambda db: runs.heartbeat(db, run_id, now, counts), is_quick=True)  # noqa: B023

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.stats, name) for name in ("sent", "deferred", "failed", "unknown")}

    def _end_run(self, db: StoreConnection) -> None:
        now = self._now()
        queue.close_leases(db, self.run.run_id)
        queue.sweep(db, now)
        runs.heartbeat(db, self.run.run_id, now, self._counts())
        runs.end(db, self.run.run_id, now)
        pending = Counter(ledger.count_pending_by_state(db, self.options.mailing_id))
        self.stats.deferred = pending[DeliveryState.DEFERRED]
        self.stats.queued = sum(pending.values()) - self.stats.deferred


def retry_policy_from(settings: Settings) -> RetryPolicy:
    """Return the retry policy in the settings."""
    delivery = settings.delivery
    return RetryPolicy(
        retry_after=tuple(delivery.retry_after),
        unknown_after=delivery.unknown_after if delivery.unknown == "resend" else None,
        disable_failures=delivery.disable_failures,
        disable_failure_rate=delivery.disable_failure_rate,
    )


def _first_error(errors: BaseExceptionGroup[Any]) -> BaseException:
    """Return the first SkychimpError in a group, or its first error of any kind."""
    ours, _ = errors.split(SkychimpError)
    chosen: BaseException = ours or errors
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen

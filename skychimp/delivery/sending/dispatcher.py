"""Send what is due in one run, over several connections, and record each result.

The event loop composes emails and talks to the mail server. The recorder writes to the store. The intent to send a
delivery is submitted together with the previous result on the same connection, so that both are in one commit. It is
committed before the final dot is written.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.sending import retry_policy
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.due_work import DueWork, find_due_work
from skychimp.delivery.sending.intents import IntentCommit
from skychimp.delivery.sending.occurrence_emails import OccurrenceEmails, load_occurrence_emails
from skychimp.delivery.sending.rate_limiter import RateLimiter
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import Decision, RetryPolicy
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.models import DeliveryState, Outcome
from skychimp.store import ledger, queue, runs
from skychimp.store.database import Store
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.runs import RunLock
from skychimp.transport.interfaces import (
    Connection,
    NotStartedError,
    OutgoingEmail,
    Phase,
    SendResult,
    TakeNext,
    Transport,
)

log = logging.getLogger("skychimp")

TICK_INTERVAL_S = 0.2
HEARTBEAT_INTERVAL_S = 5.0


@dataclass
class RunStats:
    """What a run did. `queued` and `deferred` count what is still waiting at its end.

    `opened` counts occurrences, the other numbers count deliveries. `stopped` is the reason why the run ended early, ""
    if it did not.
    """

    opened: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    given_back: int = 0
    queued: int = 0
    stopped: str = ""
    hint: str = ""


@dataclass
class RunOptions:
    """What a run may send: everything that is due or one mailing, and at most `limit` emails."""

    mailing_id: int | None = None
    limit: int | None = None


class _Sending(NamedTuple):
    """A delivery and its email. If the email cannot be composed, it is None and `error` says why."""

    claimed: ClaimedDelivery
    occurrence: OpenOccurrence
    email: OutgoingEmail | None
    error: str


@dataclass
class Dispatcher:
    """Sends what is due.

    `now` returns the time. `report` is called with the stats several times a second. With `keeps_polling`, the
    dispatcher goes on until it is stopped, and each `poll` adds what has become due.
    """

    store: Store
    settings: Settings
    transport: Transport
    run: RunLock
    options: RunOptions = field(default_factory=RunOptions)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    report: Callable[[RunStats], None] = lambda stats: None
    keeps_polling: bool = False
    stats: RunStats = field(default_factory=RunStats)

    def __post_init__(self) -> None:
        self._started_at = self.now()
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
                    ticking = group.create_task(self._tick())
                    await (keep_polling or self.poll)()
                    await self._wait_for_workers()
                    ticking.cancel()
            except BaseExceptionGroup as errors:
                raise _first_error(errors) from None
            await self._recorder.submit(self._end_run)
        return self.stats

    async def poll(self) -> None:
        """Open what is due and send it. Everything up to the opening is one transaction."""
        await asyncio.to_thread(self._pool.read_settings)
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
        self._recorder.submit(lambda db: queue.release(db, self.run.run_id))

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        self._recorder = Recorder(self.store, self.run.run_id)
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
            now=self.now,
            give_up=self._give_up,
            waits_forever=self.keeps_polling,
        )
        self._rate_limiter = RateLimiter(self.settings.smtp.rate, self._pool.sleep)
        self._claims = Claims(
            self._recorder,
            self.run.run_id,
            group,
            now=self.now,
            due_by=self._due_by,
            load=load_occurrence_emails,
            connections=lambda: self._pool.limit,
            limit=self.options.limit,
        )
        self._stoppable = (self._pool, self._claims)
        if self.stats.stopped:  # stopped before these existed
            self._pool.stop()
            self._claims.stop()

    # Finding what is due

    def _due_by(self) -> datetime:
        """Return the time up to which a try is due. A run leaves what becomes due after its start to the next run."""
        return self.now() if self.keeps_polling else self._started_at

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
        """Send one delivery after another over one connection, until none is left."""
        connection: Connection | None = None
        started: _Sending | None = None
        try:
            while (sending := started or await self._next()) is not None:
                is_started, started = started is not None, None
                if connection is None or not connection.is_usable:
                    is_started = False
                    connection = await self._pool.replace(connection)
                    self._add_worker()
                if connection is None or self.stats.stopped:
                    self._claims.return_untried(sending.claimed, sending.occurrence)
                    return
                started = await self._send(sending, connection, is_started=is_started)
                if self._pool.is_over_limit and started is None:
                    return
        finally:
            await self._pool.close(connection)
            self._worker_count -= 1
            self._worker_ended.set()

    async def _next(self) -> "_Sending | None":
        delivery = await self._claims.next()
        if delivery is None:
            return None
        await self._rate_limiter.wait()
        return self._prepare(*delivery)

    def _prepare(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> "_Sending":
        assert occurrence.emails is not None
        try:
            return _Sending(claimed, occurrence, occurrence.emails.compose(claimed, self._secret), "")
        except InvalidValue as error:
            return _Sending(claimed, occurrence, None, error.message)

    async def _send(self, sending: "_Sending", connection: Connection, *, is_started: bool) -> "_Sending | None":
        """Send one delivery, and record the result. Return the one that is to be sent next over the connection."""
        occurrence, emails = sending.occurrence, sending.occurrence.emails
        assert emails is not None
        started_at = self.now()
        following: _Sending | None = None

        def take_next() -> OutgoingEmail | None:
            nonlocal following
            if self.stats.stopped or self._pool.is_over_limit:
                return None
            delivery = self._claims.take_another(occurrence)
            if delivery is None:
                return None
            if not self._rate_limiter.take_slot():
                self._claims.return_untried(*delivery)
                return None
            following = self._prepare(*delivery)
            return following.email

        if sending.email is None:
            result, decision = SendResult(Phase.MAIL, None, sending.error), Decision(Outcome.FAILED)
            self._record(sending.claimed, emails, result, decision, started_at)
            self._disable_if_failing(occurrence, emails, result, decision)
            await asyncio.sleep(0)  # nothing else lets other emails and signals have their turn
        else:
            commit_intent = IntentCommit(self._recorder, sending.claimed, starts_at_once=not is_started)
            try:
                await self._deliver(sending, sending.email, connection, commit_intent, take_next, started_at)
            except NotStartedError:
                self._claims.return_untried(sending.claimed, occurrence)
                return None
        self._claims.finish(occurrence)
        return following

    async def _deliver(
        self,
        sending: "_Sending",
        email: OutgoingEmail,
        connection: Connection,
        commit_intent: IntentCommit,
        take_next: TakeNext,
        started_at: datetime,
    ) -> None:
        claimed, occurrence, emails = sending.claimed, sending.occurrence, sending.occurrence.emails
        assert emails is not None
        try:
            result = await connection.send(email, commit_intent, take_next)
            if result is None:  # the intent was refused, because the delivery is no longer ours
                self._claims.reclaim(occurrence)
                return
            decision = self._decide(claimed, result)
        except (SkychimpError, NotStartedError):
            raise
        except Exception as error:
            result, decision = self._handle_defect(claimed, error, dot_written=commit_intent.is_granted)
        if decision.fewer_connections:
            self._pool.reduce_limit()
        if decision.outcome is None:
            await self._release_and_pause(claimed, result)
            return
        if decision.outcome == Outcome.GIVEN_BACK:
            decision = decision._replace(next_try_at=self._started_at)
        self._record(claimed, emails, result, decision, started_at)
        if decision.outcome == Outcome.SENT:
            self._pool.record_success()
        elif decision.outcome == Outcome.GIVEN_BACK:
            self._claims.refresh(occurrence)
        self._disable_if_failing(occurrence, emails, result, decision)

    def _decide(self, claimed: ClaimedDelivery, result: SendResult) -> Decision:
        return retry_policy.decide(
            result,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=self.now(),
            chance=random.random(),  # noqa: S311
        )

    def _handle_defect(
        self, claimed: ClaimedDelivery, error: Exception, *, dot_written: bool
    ) -> tuple[SendResult, Decision]:
        """Return the result and the decision for an unexpected exception, so that the run can go on."""
        phase = Phase.DOT if dot_written else Phase.DATA
        decision = retry_policy.decide_after_defect(
            dot_written=dot_written,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=self.now(),
        )
        return SendResult(phase, None, f"unexpected error: {error!r}"), decision

    def _record(
        self,
        claimed: ClaimedDelivery,
        emails: OccurrenceEmails,
        result: SendResult,
        decision: Decision,
        started_at: datetime,
    ) -> None:
        assert decision.outcome is not None
        reply = result.reply
        self._recorder.record(
            AttemptRecord(
                claimed,
                started_at,
                self.now(),
                decision.outcome,
                result.phase,
                reply.code if reply else None,
                reply.enhanced if reply else "",
                reply.text if reply else result.error,
                self._relay_name,
                decision.next_try_at,
                decision.bad_address,
            )
        )
        setattr(self.stats, decision.outcome, getattr(self.stats, decision.outcome) + 1)
        emails.tried += claimed.attempts == 0

    async def _release_and_pause(self, claimed: ClaimedDelivery, result: SendResult) -> None:
        """Pause the relay, which now requires a login, and release the delivery without counting an attempt."""
        run_id = self.run.run_id
        await self._recorder.submit(lambda db: queue.release(db, run_id, [claimed.id]))
        await self._pool.pause(result.reply.text if result.reply else result.error)

    def _disable_if_failing(
        self, occurrence: OpenOccurrence, emails: OccurrenceEmails, result: SendResult, decision: Decision
    ) -> None:
        reason = emails.count_result(result, is_failed=decision.outcome == Outcome.FAILED, policy=self._policy)
        if reason is None:
            return
        mailing_id, now = emails.mailing_id, self.now()
        log.error("mailing disabled", extra={"mailing": mailing_id, "reason": reason})
        self._recorder.submit(lambda db: queue.disable_mailing(db, mailing_id, reason, now))
        self._claims.discard(occurrence)

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
                now, run_id, counts = self.now(), self.run.run_id, self._counts()
                self._recorder.submit(lambda db: runs.heartbeat(db, run_id, now, counts))  # noqa: B023

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.stats, name) for name in ("sent", "deferred", "failed", "unknown")}

    def _end_run(self, db: StoreConnection) -> None:
        now = self.now()
        queue.release(db, self.run.run_id)
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

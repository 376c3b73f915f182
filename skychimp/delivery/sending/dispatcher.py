"""One run: takes what is due, hands it to the relay over several connections, and records what came of it.

The event loop composes and talks to the relay; the recorder's thread writes. A delivery's intent is asked for together
with the outcome before it on the same connection, so that both go into one commit, and it is committed before the
final dot is written.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection as StoreConnection
from sqlalchemy import select

from skychimp.config.settings import Settings
from skychimp.delivery.composing import compose
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import retry_policy
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import Decision, RetryPolicy
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.models import DeliveryState, Occurrence, Outcome, StoreInfo
from skychimp.store import ledger, queue, runs
from skychimp.store.database import Store
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.runs import RunLock
from skychimp.transport.interfaces import Connection, OutgoingEmail, Phase, SendResult, Transport

log = logging.getLogger("skychimp")

_O = Occurrence.__table__

INTENT_AGE = 30.0  # s; DESIGN 4: an older intent may belong to somebody else by now
TICK = 0.2  # s between two looks of whoever shows progress
HEARTBEAT = 5.0  # s


@dataclass
class RunStats:
    """What a run did, and what it left: `queued` and `deferred` count what still waits at its end."""

    opened: int = 0
    sent: int = 0
    deferred: int = 0
    failed: int = 0
    unknown: int = 0
    given_back: int = 0
    queued: int = 0
    stopped: str = ""
    """Why it ended before its time, "" where it did not."""
    hint: str = ""


@dataclass
class _Letters:
    """How an occurrence's letters are made; `composer` is None where its words can't be used, and `fault` says why."""

    mailing_id: int
    return_path: str
    composer: Composer | None
    fault: str
    failed: int
    tried: int
    sender_refusals: int = 0


class _Due(NamedTuple):
    """What a look finds: how many occurrences it opened, which are finished and how many letters of each are in which
    state, why the relay is paused, and what there is to send."""

    opened: int = 0
    finished: Mapping[int, Mapping[DeliveryState, int]] = MappingProxyType({})
    pause: str | None = None
    occurrences: Sequence[int] = ()


@dataclass
class RunOptions:
    """What a run is to do: everything that is due, or one mailing; at most `limit` letters."""

    mailing_id: int | None = None
    limit: int | None = None


@dataclass
class Dispatcher:
    """Sends what is due. `now` is its clock; `report` is told of progress several times a second.

    With `keeps_looking` it goes on until it is stopped: `look` then finds what has fallen due since.
    """

    store: Store
    settings: Settings
    transport: Transport
    run: RunLock
    options: RunOptions = field(default_factory=RunOptions)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    report: Callable[[RunStats], None] = lambda stats: None
    keeps_looking: bool = False
    stats: RunStats = field(default_factory=RunStats)

    def __post_init__(self) -> None:
        self._started = self.now()
        self._policy = policy(self.settings)
        self._relay_name = self.transport.relay
        self._workers = 0
        self._next_slot = 0.0
        self._parts: tuple[ConnectionPool | Claims, ...] = ()

    def stop(self, reason: str, hint: str = "") -> None:
        """Take nothing new; what is in flight ends as it does."""
        if not self.stats.stopped:
            self.stats.stopped, self.stats.hint = reason, hint
            for part in self._parts:
                part.stop()

    async def send(self, clockwork: Callable[[], Awaitable[None]] | None = None) -> RunStats:
        """Look, send and record, until there is nothing more, or as long as `clockwork` goes on calling `look`.

        What could not go is released. Raises StoreFailed where the ledger can't be written.
        """
        async with self._recording():
            try:
                async with asyncio.TaskGroup() as group:
                    self._begin(group)
                    beat = group.create_task(self._beat())
                    await (clockwork or self.poll)()
                    await self._all_sent()
                    beat.cancel()
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
            await self._recorder.submit(self._end)
        return self.stats

    async def poll(self) -> None:
        """Rescue, sweep and open in one transaction, so that whoever looks sees all of it or nothing; then send."""
        due = await self._recorder.submit(self._due)
        self.stats.opened += due.opened
        if due.opened:
            log.info("mail is due", extra={"occurrences": due.opened})
        for occurrence_id, counts in due.finished.items():
            log.info("finished", extra={"occurrence": occurrence_id, **{str(state): n for state, n in counts.items()}})
        self._relay.apply_pause(due.pause)
        self._claims.add(due.occurrences)
        self._hire()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        await self._relay.sleep(seconds)

    def _give_up(self, reason: str, hint: str) -> None:
        """No letter can go now: a run ends, one that keeps looking lets go of what it has claimed."""
        if not self.keeps_looking:
            self.stop(reason, hint)
            return
        log.warning(reason, extra={"hint": hint})
        self._claims.drop_all()
        self._recorder.submit(lambda db: queue.release(db, self.run.run_id))

    # What is due

    @contextlib.asynccontextmanager
    async def _recording(self) -> AsyncIterator[None]:
        self._recorder = Recorder(self.store, self.run.run_id)
        try:
            yield
        finally:
            await self._recorder.close()

    def _begin(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._idle = asyncio.Event()
        self._relay = ConnectionPool(
            self.transport, self.settings, self._recorder, now=self.now, give_up=self._give_up, waits=self.keeps_looking
        )
        self._claims = Claims(
            self._recorder,
            self.run.run_id,
            group,
            now=self.now,
            due=self._due_by,
            load=self._load,
            connections=lambda: self._relay.allowed,
            budget=self.options.limit,
        )
        self._parts = (self._relay, self._claims)
        if self.stats.stopped:  # before there was anything to stop
            self._relay.stop()
            self._claims.stop()

    def _due_by(self) -> datetime:
        """A run takes the tries that were due when it started; what falls due meanwhile is for the next one."""
        return self.now() if self.keeps_looking else self._started

    def _due(self, db: StoreConnection) -> _Due:
        now = self._due_by()
        behind = runs.clock_behind(db, now)
        if behind is not None:  # a daemon's clock went back; a run would not have begun
            log.error(behind.message, extra={"hint": behind.hint})
            return _Due()
        for run_id in runs.dead(db, self.store.path):
            unknown = queue.rescue(db, run_id, now, self._policy.unknown_after, self.transport.relay)
            runs.end(db, run_id, now)
            log.warning("a dead run was rescued", extra={"run": run_id, "unknown": unknown})
        finished = {one: ledger.counts(db, one) for one in queue.sweep(db, now)}
        opened = planner.open_due(
            db,
            now,
            sender=self.settings.mail.sender or "",
            return_path=self.settings.mail.return_path or "",
            give_up_after=self.settings.delivery.give_up_after,
            mailing_id=self.options.mailing_id,
            blog_url=self.settings.blog.url,
        )
        self._secret = db.scalar(select(StoreInfo.__table__.c.secret)) or b""
        pause = self._relay.read_pause(db, self._secret)
        return _Due(opened, finished, pause, [] if pause else queue.due(db, now, self.options.mailing_id))

    def _load(self, db: StoreConnection, occurrence_id: int) -> _Letters:
        row = db.execute(select(_O).where(_O.c.id == occurrence_id)).one()
        counts = ledger.counts(db, occurrence_id)
        composer, fault = None, ""
        try:
            composer = Composer(
                MessageContent(row.subject, row.body, row.format, row.html),
                sender=row.sender,
                date=row.opened_at,
                mailing_id=row.mailing_id,
                due_at=planner.due_in_zone(row.due_at, row.timezone),
            )
        except InvalidValue as error:
            fault = error.message
        except Exception as error:
            fault = f"unexpected: {error!r}"
        failed = counts.get(DeliveryState.FAILED, 0)
        tried = failed + counts.get(DeliveryState.SENT, 0) + counts.get(DeliveryState.DEFERRED, 0)
        return _Letters(row.mailing_id, row.return_path, composer, fault, failed, tried)

    # Sending

    def _hire(self) -> None:
        """One more worker, where there is work for it: each brings its own connection."""
        if self._workers < self._relay.allowed and self._claims.has_work:
            self._workers += 1
            self._group.create_task(self._work())

    async def _all_sent(self) -> None:
        while self._workers:
            self._idle.clear()
            await self._idle.wait()

    async def _work(self) -> None:
        """One connection's life: it takes the next delivery as long as there is one."""
        connection: Connection | None = None
        try:
            while (chosen := await self._claims.next()) is not None:
                await self._pace()
                if self.stats.stopped:
                    self._claims.put_back(*chosen)
                    return
                if connection is None or not connection.usable:
                    connection = await self._relay.exchange(connection)
                    self._hire()
                if connection is None:
                    self._claims.put_back(*chosen)
                    return
                await self._send(*chosen, connection)
                if self._relay.is_crowded:
                    return
        finally:
            await self._relay.hang_up(connection)
            self._workers -= 1
            self._idle.set()

    async def _send(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence, connection: Connection) -> None:
        """One letter, whatever becomes of it."""
        letters: _Letters = occurrence.letters
        started = self.now()
        letter = self._compose(claimed, letters)
        if isinstance(letter, str):
            self._record(claimed, letters, SendResult(Phase.MAIL, None, letter), Decision(Outcome.FAILED), started)
            self._watch_failures(occurrence, None, Decision(Outcome.FAILED))
        else:
            await self._deliver(claimed, occurrence, letter, connection, started)
        self._claims.off_the_wire(occurrence)

    def _compose(self, claimed: ClaimedDelivery, letters: _Letters) -> OutgoingEmail | str:
        """The letter, or why there can't be one."""
        if letters.composer is None:
            return letters.fault
        try:
            to = Recipient(claimed.address, claimed.name, claimed.comment, _tags(claimed.tags))
            name = compose.message_id(self._secret, claimed.id, letters.return_path.rpartition("@")[2])
            return OutgoingEmail(letters.return_path, claimed.address, letters.composer.compose(to, name))
        except InvalidValue as error:
            return error.message
        except Exception as error:
            return f"it can't be composed: {error!r}"

    async def _deliver(
        self,
        claimed: ClaimedDelivery,
        occurrence: OpenOccurrence,
        letter: OutgoingEmail,
        connection: Connection,
        started: datetime,
    ) -> None:
        commit_intent = _IntentCommit(self._recorder, claimed)
        try:
            answer = await connection.send(letter, commit_intent)
            if answer is None:  # the intent was refused: it is not ours any more
                self._claims.start_over(occurrence)
                return
            decision = self._decide(claimed, answer)
        except SkychimpError:
            raise
        except Exception as error:
            answer = SendResult(Phase.DOT if commit_intent.granted else Phase.DATA, None, f"unexpected: {error!r}")
            decision = retry_policy.crash(
                dot_written=commit_intent.granted,
                attempts=claimed.attempts,
                given_back=claimed.given_back,
                policy=self._policy,
                now=self.now(),
            )
        if decision.fewer_connections:
            self._relay.take_fewer()
        if decision.outcome is None:
            await self._refused(claimed, answer)
            return
        if decision.outcome == Outcome.GIVEN_BACK:
            decision = decision._replace(next_try_at=self._started)
        self._record(claimed, occurrence.letters, answer, decision, started)
        if decision.outcome == Outcome.SENT:
            self._relay.took_mail()
        elif decision.outcome == Outcome.GIVEN_BACK:
            self._claims.recheck(occurrence)
        self._watch_failures(occurrence, answer, decision)

    def _decide(self, claimed: ClaimedDelivery, answer: SendResult) -> Decision:
        return retry_policy.decide(
            answer,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=self.now(),
            chance=random.random(),  # noqa: S311
        )

    def _record(
        self, claimed: ClaimedDelivery, letters: _Letters, answer: SendResult, decision: Decision, started: datetime
    ) -> None:
        assert decision.outcome is not None
        reply = answer.reply
        self._recorder.record(
            AttemptRecord(
                claimed,
                started,
                self.now(),
                decision.outcome,
                answer.phase,
                reply.code if reply else None,
                reply.enhanced if reply else "",
                reply.text if reply else answer.fault,
                self._relay_name,
                decision.next_try_at,
                decision.bad_address,
            )
        )
        setattr(self.stats, decision.outcome, getattr(self.stats, decision.outcome) + 1)
        letters.tried += claimed.attempts == 0

    async def _refused(self, claimed: ClaimedDelivery, answer: SendResult) -> None:
        """The relay wants a login that it did not ask for before: nothing is spent."""
        run_id = self.run.run_id
        await self._recorder.submit(lambda db: queue.release(db, run_id, [claimed.id]))
        await self._relay.pause(answer.reply.text if answer.reply else answer.fault)

    def _watch_failures(self, occurrence: OpenOccurrence, answer: SendResult | None, decision: Decision) -> None:
        letters: _Letters = occurrence.letters
        if decision.outcome != Outcome.FAILED:
            letters.sender_refusals = 0
            return
        letters.failed += 1
        at_mail = answer is not None and answer.phase == Phase.MAIL
        letters.sender_refusals = letters.sender_refusals + 1 if at_mail else 0
        if letters.sender_refusals == retry_policy.SENDER_REFUSALS and answer and answer.reply:
            self._disable(occurrence, f"the relay refuses the sender: {answer.reply.text}")
        elif retry_policy.too_many_failures(letters.failed, letters.tried, self._policy):
            self._disable(occurrence, f"{letters.failed} of {letters.tried} letters failed")

    def _disable(self, occurrence: OpenOccurrence, reason: str) -> None:
        mailing_id, now = occurrence.letters.mailing_id, self.now()
        log.error("mailing disabled by the system", extra={"mailing": mailing_id, "reason": reason})
        self._recorder.submit(lambda db: queue.disable(db, mailing_id, reason, now))
        self._claims.drop(occurrence)

    async def _pace(self) -> None:
        rate = self.settings.smtp.rate
        if rate is None:
            return
        slot = max(self._next_slot, time.monotonic())
        self._next_slot = slot + 1 / rate.per_second
        await self._relay.sleep(slot - time.monotonic())

    # Around it

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            self.report(self.stats)
            self._relay.grow()
            self._hire()
            if time.monotonic() - last >= HEARTBEAT:
                last = time.monotonic()
                now, run_id, counts = self.now(), self.run.run_id, self._counts()
                self._recorder.submit(lambda c: runs.heartbeat(c, run_id, now, counts))  # noqa: B023

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.stats, name) for name in ("sent", "deferred", "failed", "unknown")}

    def _end(self, db: StoreConnection) -> None:
        now = self.now()
        queue.release(db, self.run.run_id)
        queue.sweep(db, now)
        runs.heartbeat(db, self.run.run_id, now, self._counts())
        runs.end(db, self.run.run_id, now)
        waiting = Counter(ledger.left(db, self.options.mailing_id))
        self.stats.deferred = waiting[DeliveryState.DEFERRED]
        self.stats.queued = sum(waiting.values()) - self.stats.deferred


class _IntentCommit:
    """Commits the intent to send a delivery. Awaiting it returns whether the delivery may be sent."""

    def __init__(self, recorder: Recorder, claimed: ClaimedDelivery) -> None:
        self._recorder = recorder
        self._claimed = claimed
        self._asked = _boottime()
        self._intent = recorder.intend(claimed)
        self.granted = False

    async def __call__(self) -> bool:
        ours = await self._intent
        while ours and _boottime() - self._asked > INTENT_AGE:
            self._asked = _boottime()
            ours = await self._recorder.intend(self._claimed)
        self.granted = ours
        return ours


def policy(settings: Settings) -> RetryPolicy:
    """What the config says about trying again."""
    chosen = settings.delivery
    return RetryPolicy(
        retry_after=tuple(chosen.retry_after),
        unknown_after=chosen.unknown_after if chosen.unknown == "resend" else None,
        disable_failures=chosen.disable_failures,
        disable_failure_rate=chosen.disable_failure_rate,
    )


@lru_cache(maxsize=1024)  # most clients have the same few, or none
def _tags(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # counts sleep too


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    known, _ = errors.split(SkychimpError)
    chosen: BaseException = known or errors
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen

"""One run: takes what is due, hands it to the relay over several connections, and records what came of it.

The event loop composes and talks to the relay; the recorder's thread writes. A delivery's intent is asked for together
with the outcome before it on the same connection, so that both go into one commit, and it is committed before the
final dot is written.
"""

import asyncio
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection as StoreConnection
from sqlalchemy import select

from skychimp.config import Settings
from skychimp.delivery import compose, outcome, planner
from skychimp.delivery.compose import Composer, Recipient, Words
from skychimp.delivery.outcome import Decision, Policy
from skychimp.delivery.recorder import Recorder
from skychimp.errors import InvalidValue, RelayAway, RelayRefuses, SkychimpError
from skychimp.models import DeliveryState, Occurrence, Outcome, StoreInfo
from skychimp.store import ledger, queue, relays, runs
from skychimp.store.engine import Store
from skychimp.store.ledger import Entry
from skychimp.store.queue import Claimed
from skychimp.store.runs import RunLock
from skychimp.transport.exchange import Answer, Connection, Letter, Transport

_O = Occurrence.__table__

MOST_CLAIMED = 500
INTENT_AGE = 30.0  # s; DESIGN 4: an older intent may belong to somebody else by now
TICK = 0.2  # s between two looks of whoever shows progress
HEARTBEAT = 5.0  # s


@dataclass
class Tally:
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
class _Open:
    """An occurrence that this run sends; `composer` is None where its words can't be used, and `fault` says why."""

    id: int
    mailing_id: int
    return_path: str
    composer: Composer | None
    fault: str
    failed: int
    tried: int
    sender_refusals: int = 0


@dataclass
class Scope:
    """What a run is to do: everything that is due, or one mailing; at most `limit` letters."""

    mailing_id: int | None = None
    limit: int | None = None


@dataclass
class Dispatcher:
    """Sends what is due when it starts. `now` is its clock; `report` is told of progress several times a second."""

    store: Store
    settings: Settings
    transport: Transport
    run: RunLock
    scope: Scope = field(default_factory=Scope)
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    report: Callable[[Tally, int], None] = lambda tally, total: None
    tally: Tally = field(default_factory=Tally)

    def stop(self, reason: str, hint: str = "") -> None:
        """Take nothing new; what is in flight ends as it does."""
        if not self.tally.stopped:
            self.tally.stopped, self.tally.hint = reason, hint
            self._stopping.set()

    async def send(self) -> Tally:
        """Open, send, record; release what could not go. Raises StoreFailed where the ledger can't be written."""
        self._prepare()
        self._recorder = Recorder(self.store, self.run.run_id)
        try:
            await self._begin()
            if not self.tally.stopped:
                await self._send_all()
            await self._recorder.submit(self._end)
        finally:
            await self._recorder.close()
        return self.tally

    def _prepare(self) -> None:
        self._started = self.now()
        self._policy = policy(self.settings)
        self._stopping = asyncio.Event()
        self._door = asyncio.Lock()
        self._ready: deque[tuple[Claimed, _Open]] = deque()
        self._rotation: deque[int] = deque()
        self._opening: set[int] = set()
        self._filled = asyncio.Event()
        self._occurrences: dict[int, _Open] = {}
        self._refilling: asyncio.Task[None] | None = None
        self._claims = 0
        self._claim_size = 2 * self.settings.smtp.connections
        self._claimed_at = 0.0
        self._budget = self.scope.limit
        self._connections = 0
        self._allowed = self.settings.smtp.connections
        self._next_slot = 0.0

    # What is due

    async def _begin(self) -> None:
        """Rescue, sweep and open in one transaction, so that whoever looks sees all of it or nothing."""
        reason = await self._recorder.submit(self._open)
        if reason is not None:
            self.stop(*reason)

    def _open(self, connection: StoreConnection) -> tuple[str, str] | None:
        now = self._started
        for run_id in runs.dead(connection, self.store.path):
            queue.rescue(connection, run_id, now, self._policy.unknown_after, self.transport.relay)
            runs.end(connection, run_id, now)
        queue.sweep(connection, now)
        self.tally.opened = planner.open_due(
            connection,
            now,
            sender=self.settings.mail.sender or "",
            return_path=self.settings.mail.return_path or "",
            give_up_after=self.settings.delivery.give_up_after,
            mailing_id=self.scope.mailing_id,
        )
        info = connection.execute(select(StoreInfo.__table__)).one()
        self._secret = info.secret
        self._settings_hash = _settings_hash(self.settings, info.secret)
        self._rotation.extend(queue.unfinished(connection, now, self.scope.mailing_id))
        self._opening.update(self._rotation)
        reason = relays.paused(connection, self.transport.relay, self._settings_hash, now)
        return None if reason is None else (f"the relay is paused: {reason}", "mend its settings, then run again")

    async def _fill_all(self) -> None:
        """Make the deliveries of each occurrence that is being opened; the first batch is sent meanwhile."""
        for occurrence_id in list(self._rotation):
            while not await self._recorder.submit(lambda c, i=occurrence_id: queue.fill(c, i)):  # type: ignore[misc]
                self._wake_up()
            self._opening.discard(occurrence_id)
            self._wake_up()

    def _wake_up(self) -> None:
        self._filled.set()
        self._filled = asyncio.Event()

    async def _next(self) -> tuple[Claimed, _Open] | None:
        """The next delivery to send; None once there is nothing more for this run."""
        while not self._stopping.is_set():
            if self._ready:
                chosen = self._ready.popleft()
                if len(self._ready) < self._claim_size // 2:
                    self._refill()
                return chosen
            if not self._rotation and not self._refilling:
                return None
            await asyncio.shield(self._refill())
        return None

    def _refill(self) -> "asyncio.Task[None]":
        if self._refilling is None:
            self._refilling = asyncio.create_task(self._claim())
            self._refilling.add_done_callback(self._refilled)
        return self._refilling

    def _refilled(self, _task: "asyncio.Task[None]") -> None:
        self._refilling = None

    async def _claim(self) -> None:
        """Claim from the occurrences in turn until there is something, or nothing is left to come."""
        for _ in range(len(self._rotation)):
            limit = self._claim_limit()
            if limit == 0:
                self._rotation.clear()
                return
            occurrence_id, filled = self._rotation[0], self._filled
            self._rotation.rotate(-1)
            self._claims += 1
            claimed = await self._recorder.submit(lambda c: self._take(c, occurrence_id, limit))  # noqa: B023
            if claimed:
                occurrence = self._occurrences[occurrence_id]
                self._ready.extend((one, occurrence) for one in claimed)
                if self._budget is not None:
                    self._budget -= len(claimed)
                return
            if occurrence_id not in self._opening:
                self._rotation.remove(occurrence_id)
                self._occurrences.pop(occurrence_id, None)
        if self._rotation:
            await filled.wait()

    def _take(self, connection: StoreConnection, occurrence_id: int, limit: int) -> list[Claimed]:
        now = self.now()
        claimed = queue.claim(connection, occurrence_id, self.run.run_id, self._claims, now, self._started, limit)
        if claimed and occurrence_id not in self._occurrences:
            self._occurrences[occurrence_id] = self._load(connection, occurrence_id)
        return claimed

    def _claim_limit(self) -> int:
        """As many as are sent in about half a second: few where the relay is slow, so that a stop is quick."""
        elapsed, self._claimed_at = time.monotonic() - self._claimed_at, time.monotonic()
        if elapsed < 0.25:
            self._claim_size = min(2 * self._claim_size, MOST_CLAIMED)
        elif elapsed > 1:
            self._claim_size = max(self._claim_size // 2, 2 * self.settings.smtp.connections)
        return self._claim_size if self._budget is None else min(self._claim_size, self._budget)

    def _load(self, connection: StoreConnection, occurrence_id: int) -> _Open:
        row = connection.execute(select(_O).where(_O.c.id == occurrence_id)).one()
        counts = ledger.counts(connection, occurrence_id)
        composer, fault = None, ""
        try:
            composer = Composer(
                Words(row.subject, row.body, row.format, row.html),
                sender=row.sender,
                date=row.opened_at,
                mailing_id=row.mailing_id,
                due_at=planner.due_in_zone(row.due_at, row.timezone),
            )
        except InvalidValue as error:
            fault = error.message
        failed = counts.get(DeliveryState.FAILED, 0)
        tried = failed + counts.get(DeliveryState.SENT, 0) + counts.get(DeliveryState.DEFERRED, 0)
        return _Open(row.id, row.mailing_id, row.return_path, composer, fault, failed, tried)

    # Sending

    async def _send_all(self) -> None:
        beat = asyncio.create_task(self._beat())
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self._fill_all())
                group.create_task(self._work())
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            beat.cancel()

    async def _work(self) -> None:
        """One connection's life: it takes the next delivery as long as there is one."""
        connection: Connection | None = None
        try:
            while (chosen := await self._next()) is not None:
                await self._pace()
                claimed, occurrence = chosen
                letter = self._compose(claimed, occurrence)
                if letter is None:
                    continue
                connection = await self._usable(connection)
                if connection is None:
                    self._ready.appendleft(chosen)
                    return
                await self._deliver(claimed, occurrence, letter, connection)
                if self._connections > self._allowed:
                    return
        finally:
            if connection is not None:
                self._connections -= 1
                await connection.close()

    def _compose(self, claimed: Claimed, occurrence: _Open) -> Letter | None:
        if occurrence.composer is None:
            self._fail(claimed, occurrence, occurrence.fault)
            return None
        to = Recipient(claimed.address, claimed.name, claimed.comment, json.loads(claimed.tags))
        return_path = occurrence.return_path
        name = compose.message_id(self._secret, claimed.id, return_path.rpartition("@")[2])
        try:
            return Letter(return_path, claimed.address, occurrence.composer.compose(to, name))
        except InvalidValue as error:
            self._fail(claimed, occurrence, error.message)
        except Exception as error:
            self._fail(claimed, occurrence, f"it can't be composed: {error!r}")
        return None

    async def _deliver(self, claimed: Claimed, occurrence: _Open, letter: Letter, connection: Connection) -> None:
        permit = _Permit(self._recorder, claimed)
        started = self.now()
        try:
            answer = await connection.send(letter, permit)
        except SkychimpError:
            raise
        except Exception as error:
            answer = Answer(outcome.Phase.DOT, None, f"unexpected: {error!r}", dot_written=permit.granted)
        if answer is None:  # the intent was refused: it is not ours any more
            return
        now = self.now()
        decision = outcome.decide(
            answer,
            attempts=claimed.attempts,
            given_back=claimed.given_back,
            policy=self._policy,
            now=now,
            chance=random.random(),  # noqa: S311
        )
        if decision.fewer_connections:
            self._allowed = max(1, self._connections - 1)
        if decision.outcome is None:
            await self._refused(claimed, answer)
            return
        if decision.outcome == Outcome.GIVEN_BACK:
            decision = decision._replace(next_try_at=self._started)
            if claimed.occurrence_id not in self._rotation:
                self._rotation.append(claimed.occurrence_id)
        self._record(claimed, occurrence, answer, decision, started, now)
        self._watch_failures(occurrence, answer, decision)

    def _record(
        self,
        claimed: Claimed,
        occurrence: _Open,
        answer: Answer,
        decision: Decision,
        started: datetime,
        now: datetime,
    ) -> None:
        assert decision.outcome is not None
        reply = answer.reply
        self._recorder.record(
            Entry(
                claimed,
                started,
                now,
                decision.outcome,
                answer.phase,
                reply.code if reply else None,
                reply.enhanced if reply else "",
                reply.text if reply else answer.fault,
                self.transport.relay,
                decision.next_try_at,
                decision.bad_address,
            )
        )
        setattr(self.tally, decision.outcome, getattr(self.tally, decision.outcome) + 1)
        occurrence.tried += 1

    def _fail(self, claimed: Claimed, occurrence: _Open, reason: str) -> None:
        """Record one that can't even be composed."""
        now = self.now()
        self._record(claimed, occurrence, Answer(outcome.Phase.MAIL, None, reason), Decision(Outcome.FAILED), now, now)
        self._watch_failures(occurrence, None, Decision(Outcome.FAILED))

    def _watch_failures(self, occurrence: _Open, answer: Answer | None, decision: Decision) -> None:
        if decision.outcome != Outcome.FAILED:
            occurrence.sender_refusals = 0
            return
        occurrence.failed += 1
        at_mail = answer is not None and answer.phase == outcome.Phase.MAIL
        occurrence.sender_refusals = occurrence.sender_refusals + 1 if at_mail else 0
        if occurrence.sender_refusals == outcome.SENDER_REFUSALS and answer and answer.reply:
            self._disable(occurrence, f"the relay refuses the sender: {answer.reply.text}")
        elif outcome.too_many_failures(occurrence.failed, occurrence.tried, self._policy):
            self._disable(occurrence, f"{occurrence.failed} of {occurrence.tried} letters failed")

    def _disable(self, occurrence: _Open, reason: str) -> None:
        mailing_id, now = occurrence.mailing_id, self.now()
        self._recorder.submit(lambda connection: queue.disable(connection, mailing_id, reason, now))
        self._ready = deque(chosen for chosen in self._ready if chosen[1] is not occurrence)

    # The relay

    async def _usable(self, connection: Connection | None) -> Connection | None:
        """This connection, or a new one where it is spent; None where there is none to be had."""
        if connection is not None and connection.usable:
            return connection
        if connection is not None:
            self._connections -= 1
            await connection.close()
        async with self._door:
            if self._stopping.is_set() or self._connections >= self._allowed:
                return None
            fresh = await self._connect()
        if fresh is not None:
            self._connections += 1
            if self._connections < min(self._allowed, len(self._ready) + 1):
                self._group.create_task(self._work())
        return fresh

    async def _connect(self) -> Connection | None:
        try:
            return await self.transport.connect()
        except RelayAway as away:
            if self._connections:  # it takes no more than these
                self._allowed = self._connections
                return None
            return await self._probe(away)
        except RelayRefuses as refusal:
            await self._pause(refusal)
            return None

    async def _probe(self, away: RelayAway) -> Connection | None:
        """Ask again, longer and longer apart, as long as patience lasts; nothing spends an attempt."""
        from tenacity import (
            AsyncRetrying,
            RetryError,
            retry_if_exception_type,
            stop_after_delay,
            stop_any,
            stop_when_event_set,
            wait_exponential_jitter,
        )

        patience = self.settings.run.patience
        if patience <= timedelta(0):
            self.stop(f"the relay is away: {away.message}", away.hint or "")
            return None
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RelayAway),
            wait=wait_exponential_jitter(initial=1, max=60),
            stop=stop_any(stop_after_delay(patience.total_seconds()), stop_when_event_set(self._stopping)),  # type: ignore[arg-type]
            sleep=self._sleep,
        )
        try:
            await self._sleep(1)
            return await retrying(self.transport.connect)
        except RetryError as error:
            reason = error.last_attempt.exception()
            self.stop(f"the relay is away: {reason}", away.hint or "")
        except RelayRefuses as refusal:
            await self._pause(refusal)
        return None

    async def _sleep(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            pass

    async def _pause(self, refusal: RelayRefuses) -> None:
        relay, settings_hash, now = self.transport.relay, self._settings_hash, self.now()
        await self._recorder.submit(lambda c: relays.pause(c, relay, settings_hash, refusal.message, now))
        self.stop(f"the relay is paused: {refusal.message}", refusal.hint or "")

    async def _refused(self, claimed: Claimed, answer: Answer) -> None:
        """The relay wants a login that it did not ask for before: nothing is spent."""
        run_id = self.run.run_id
        await self._recorder.submit(lambda connection: queue.release(connection, run_id, [claimed.id]))
        words = answer.reply.text if answer.reply else answer.fault
        await self._pause(RelayRefuses(words, "check smtp.username and smtp.password"))

    async def _pace(self) -> None:
        rate = self.settings.smtp.rate
        if rate is None:
            return
        slot = max(self._next_slot, time.monotonic())
        self._next_slot = slot + 1 / rate.per_second
        await self._sleep(slot - time.monotonic())

    # Around it

    async def _beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            self.report(self.tally, 0)
            if time.monotonic() - last >= HEARTBEAT:
                last = time.monotonic()
                now, run_id, counts = self.now(), self.run.run_id, self._counts()
                self._recorder.submit(lambda c: runs.heartbeat(c, run_id, now, counts))  # noqa: B023

    def _counts(self) -> dict[str, int]:
        return {name: getattr(self.tally, name) for name in ("sent", "deferred", "failed", "unknown")}

    def _end(self, connection: StoreConnection) -> None:
        now = self.now()
        queue.release(connection, self.run.run_id)
        queue.sweep(connection, now)
        if self.tally.sent:
            relays.resume(connection, self.transport.relay)
        runs.heartbeat(connection, self.run.run_id, now, self._counts())
        runs.end(connection, self.run.run_id, now)
        waiting = Counter(ledger.left(connection, self.scope.mailing_id))
        self.tally.deferred = waiting[DeliveryState.DEFERRED]
        self.tally.queued = sum(waiting.values()) - self.tally.deferred


class _Permit:
    """Asks for the intent at once; `await permit()` is True while it is committed, young, and the delivery ours."""

    def __init__(self, recorder: Recorder, claimed: Claimed) -> None:
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


def policy(settings: Settings) -> Policy:
    """What the config says about trying again."""
    chosen = settings.delivery
    return Policy(
        retry_after=tuple(chosen.retry_after),
        unknown_after=chosen.unknown_after if chosen.unknown == "resend" else None,
        disable_failures=chosen.disable_failures,
        disable_failure_rate=chosen.disable_failure_rate,
    )


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # counts sleep too


def _first(errors: BaseExceptionGroup[Any]) -> BaseException:
    known, _ = errors.split(SkychimpError)
    chosen: BaseException = known or errors
    while isinstance(chosen, BaseExceptionGroup):
        chosen = chosen.exceptions[0]
    return chosen


def _settings_hash(settings: Settings, secret: bytes) -> str:
    import hmac

    smtp = settings.smtp
    said = repr((smtp.host, smtp.effective_port, smtp.security, smtp.username, smtp.secret(), smtp.ca_file))
    return hmac.new(secret, said.encode(), "sha256").hexdigest()

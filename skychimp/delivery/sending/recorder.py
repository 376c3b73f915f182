"""Write what a run records: intents, outcomes and other changes of all connections, grouped into one commit.

A commit costs about the same for one row as for fifty. Intents, sent emails and quick jobs are committed in the event
loop itself, as that takes less time than handing them over to a thread. Everything else, and whatever has to wait for
another process, is committed by a thread. There is never more than one batch being written, and meanwhile the next one
collects.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from skychimp.errors import SkychimpError, StoreFailed, StoreUnwritable
from skychimp.models import SUCCESSES
from skychimp.store import ledger
from skychimp.store.database import Store, boot_time_s
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery, ClaimKey
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import tr

if TYPE_CHECKING:
    from tenacity import Retrying

log = logging.getLogger("skychimp")

MAX_PAUSE_S = 10.0
"""The longest pause before the next try while the disk is full or fails."""
LONG_WAIT_S = 5.0  # a shorter wait for the lock is not reported
MAX_INTENT_AGE_S = 30.0  # after this time another run may have taken the delivery, because this process was suspended

T = TypeVar("T")
IntentCallback = Callable[[bool], None]


class _Results(NamedTuple):
    """The results of a commit: the deliveries whose intents were recorded, and what the jobs returned."""

    ours: Collection[ClaimKey]
    of_jobs: Sequence[Any] = ()


@dataclass
class _Batch:
    """What goes into one commit. `jobs` are functions that write something else, all of them quick or not."""

    intents: list[tuple[ClaimedDelivery, IntentCallback]] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    jobs: list[tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]] = field(default_factory=list)
    has_long_jobs: bool = False

    def __bool__(self) -> bool:
        return bool(self.intents or self.attempts or self.jobs)

    @property
    def is_quick(self) -> bool:
        """Whether it can be written in the event loop, as almost all batches can."""
        return not self.has_long_jobs and all(attempt.outcome in SUCCESSES for attempt in self.attempts)

    @property
    def changes_own_deliveries(self) -> bool:
        """Whether it changes nothing but this run's deliveries, unless an attempt is late. Runs can do that at once."""
        return not self.has_long_jobs and not any(attempt.bad_address for attempt in self.attempts)

    @property
    def claims(self) -> list[ClaimedDelivery]:
        return [claimed for claimed, _ in self.intents]

    @property
    def futures(self) -> list["asyncio.Future[Any]"]:
        return [future for _, future in self.jobs]


class Recorder:
    """Takes what one run writes from the event loop, and gives the results there after the commit.

    While the disk is full or fails, it tries again for `patience`, for ever if that is None: nothing is sent
    meanwhile. If a commit fails for good, every job fails with StoreFailed, and so does everything submitted later;
    `watch` says so.
    """

    def __init__(
        self, store: Store, run_id: int, *, now: Callable[[], datetime], patience: timedelta | None = timedelta()
    ) -> None:
        self._run_id = run_id
        self._now = now
        self._patience_s = float("inf") if patience is None else patience.total_seconds()
        self._stopping = threading.Event()
        self.is_waiting = False
        """Whether the store cannot be written for now."""
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._store = store
        self._quick_store = store if isinstance(store, SqliteStore) else None  # a server may let the event loop wait
        self._db_of_loop: Connection | None = None
        self._db: Connection | None = None
        self._next_batch = _Batch()
        self.expired = 0
        """The number of deliveries that have expired after their last try."""
        self._unrecorded = 0
        """The number of emails that were sent, but will be unknown to the next run."""
        self._is_writing = False
        self._idle = asyncio.Event()
        self._failure: SkychimpError | None = None
        self._failing: asyncio.Future[None] = self._loop.create_future()

    def submit(self, job: Callable[[Connection], T], *, is_quick: bool = False) -> "asyncio.Future[T]":
        """Run a function that writes in the next transaction. Its result is available after the commit.

        One that is quick takes at most some milliseconds, and changes nothing but what belongs to this run. A function
        is called again if its transaction failed because another process holds the lock, so it must change nothing but
        the store.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._next_batch.jobs.append((job, future))
        self._next_batch.has_long_jobs |= not is_quick
        self._schedule_write()
        return future

    def commit_intent(self, claimed: ClaimedDelivery, answer: IntentCallback) -> None:
        """Commit the intent to send a delivery. `answer` is called after the commit, unless that failed.

        It gets True, or False if the delivery no longer belongs to this run or must not be sent.
        """
        self._next_batch.intents.append((claimed, answer))
        self._schedule_write()

    def record(self, attempt: AttemptRecord) -> None:
        """Record an attempt. It is committed no later than the next intent."""
        self._next_batch.attempts.append(attempt)
        self._schedule_write()

    def stop(self) -> None:
        """Try no more to write while the disk is full or fails."""
        self._stopping.set()

    async def watch(self) -> None:
        """Wait until a commit fails, and raise its StoreFailed."""
        await asyncio.shield(self._failing)

    async def close(self) -> None:
        """Commit what is left, and end the thread. Raises StoreFailed if a commit failed."""
        self.stop()
        while self._is_writing:
            self._idle.clear()
            await self._idle.wait()
        self._disconnect_loop()
        await self._loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        if self._unrecorded:
            log.error("emails were sent, but could not be recorded", extra={"emails": self._unrecorded})
        if self._failure:
            raise self._failure

    def _schedule_write(self) -> None:
        """Write after the event loop's current step, so that everything it submits goes into the same batch."""
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        batch, self._next_batch = self._next_batch, _Batch()
        if self._failure is not None:
            self._fail(batch, self._failure)
        elif not (self._quick_store and batch.is_quick and self._write_at_once(batch, self._quick_store)):
            writing = self._loop.run_in_executor(self._thread, partial(self._write, batch))
            writing.add_done_callback(partial(self._on_written_in_thread, batch, boot_time_s()))

    def _write_at_once(self, batch: _Batch, store: SqliteStore) -> bool:
        """Commit a quick batch in the event loop.

        Return False if that needs the thread: another process holds the lock, an attempt is late, or the disk is full.
        """
        began_at = boot_time_s()
        try:
            with store.translate_errors():
                results = self._write_unless_locked(batch, store)
        except StoreUnwritable:
            self._disconnect_loop()
            return False
        except Exception as error:
            self._fail(batch, error)
            return True
        if results is None:
            return False
        self._finish(batch, results, began_at)
        return True

    def _write_unless_locked(self, batch: _Batch, store: SqliteStore) -> _Results | None:
        try:
            if self._db_of_loop is None:
                self._db_of_loop = store.connect_for_quick_writes()
            return self._write_quickly(self._db_of_loop, batch, store)
        except Exception as error:
            if not (ledger.is_late(error) or store.is_locked(error)):
                raise
            return None

    def _write_quickly(self, db: Connection, batch: _Batch, store: SqliteStore) -> _Results:
        ours: Collection[ClaimKey] = ()
        with store.quick_transaction(db) as driver:
            if batch.attempts:
                ledger.record_sent(driver, self._run_id, batch.attempts)
            of_jobs = [job(db) for job, _ in batch.jobs]
            if batch.intents:
                ours = ledger.record_intents(driver, self._run_id, batch.claims, self._now())
        return _Results(ours, of_jobs)

    def _disconnect_loop(self) -> None:
        if self._db_of_loop is not None:
            self._db_of_loop.close()
            self._db_of_loop = None

    def _on_written_in_thread(self, batch: _Batch, began_at: float, writing: "asyncio.Future[_Results]") -> None:
        error = writing.exception()
        if error is None:
            self._finish(batch, writing.result(), began_at)
        else:
            self._fail(batch, error)

    def _finish(self, batch: _Batch, results: _Results, began_at: float) -> None:
        """Complete what waits for a batch, and write the next batch."""
        for future, result in zip(batch.futures, results.of_jobs, strict=True):
            if not future.done():
                future.set_result(result)
        if boot_time_s() - began_at > MAX_INTENT_AGE_S:
            self._next_batch.intents += batch.intents
        else:
            for claimed, answer in batch.intents:
                try:
                    answer(claimed.key in results.ours)
                except Exception as error:  # a defect; the other connections get their answers all the same
                    self._set_failure(error)
        self._end_write()

    def _fail(self, batch: _Batch, error: BaseException) -> None:
        failure = self._set_failure(error)
        self._unrecorded += sum(attempt.outcome in SUCCESSES for attempt in batch.attempts)
        for future in batch.futures:
            _set_exception(future, failure)
        self._end_write()

    def _set_failure(self, error: BaseException) -> SkychimpError:
        if not isinstance(error, SkychimpError):
            error = StoreFailed(tr("cannot record deliveries: {error!r}", error=error))
        if self._failure is None:
            self._failure = error
            _set_exception(self._failing, error)
        return error

    def _end_write(self) -> None:
        if self._next_batch:
            self._loop.call_soon(self._write_next)
        else:
            self._is_writing = False
            self._idle.set()

    # In the thread

    def _write(self, batch: _Batch) -> _Results:
        """Commit a batch. While the disk is full or fails, try again for as long as `patience` says.

        Raises StoreFailed.
        """
        try:
            return self._write_when_unlocked(batch)
        except StoreUnwritable as error:
            if not self._patience_s:
                raise
            log.warning("cannot write to the store: trying again", extra={"reason": error.message, "hint": error.hint})
        self.is_waiting = True
        try:
            results: _Results = self._until_writable()(self._write_when_unlocked, batch)
        finally:
            self.is_waiting = False
        log.warning("the store can be written again")
        return results

    def _until_writable(self) -> "Retrying":
        from tenacity import (
            Retrying,
            retry_if_exception_type,
            sleep_using_event,
            stop_after_delay,
            stop_when_event_set,
            wait_exponential,
        )

        return Retrying(
            retry=retry_if_exception_type(StoreUnwritable),
            wait=wait_exponential(max=MAX_PAUSE_S),
            stop=stop_when_event_set(self._stopping) | stop_after_delay(self._patience_s),
            sleep=sleep_using_event(self._stopping),
            reraise=True,
        )

    def _write_when_unlocked(self, batch: _Batch) -> _Results:
        """Commit a batch, however long another process holds the lock. Raises StoreFailed."""
        shares_lock, began_at = batch.changes_own_deliveries, time.monotonic()
        with self._store.translate_errors():
            while True:
                try:
                    if self._db is None:
                        self._db = self._store.connect_for_writes()
                    return self._write_transaction(self._db, batch, shares_lock)
                except Exception as error:
                    if self._db is not None:  # without WAL, a COMMIT that has to wait leaves its transaction open
                        self._db.invalidate()
                    self._disconnect()
                    if shares_lock and ledger.is_late(error):
                        shares_lock = False
                    elif self._store.is_locked(error):
                        if time.monotonic() - began_at > LONG_WAIT_S:
                            log.warning("cannot write to the store: another process has locked it")
                    elif not self._store.reconnect(error):
                        raise

    def _write_transaction(self, db: Connection, batch: _Batch, shares_lock: bool) -> _Results:
        ours: Collection[ClaimKey] = ()
        expired = 0
        is_pipelined = shares_lock and batch.is_quick and not batch.jobs
        logged = [attempt.claimed.id for attempt in batch.attempts]
        with self._store.transaction(db, logged, shared=shares_lock, pipelined=is_pipelined) as driver:
            if batch.is_quick and shares_lock:
                ledger.record_sent(driver, self._run_id, batch.attempts)
            elif batch.attempts:
                expired = ledger.record_attempts(db, self._run_id, batch.attempts, late=not shares_lock)
            of_jobs = [job(db) for job, _ in batch.jobs]
            if batch.intents:
                ours = ledger.record_intents(driver, self._run_id, batch.claims, self._now())
                logged += [delivery_id for delivery_id, _ in ours]
        self.expired += expired
        return _Results(ours, of_jobs)

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


def _set_exception(future: "asyncio.Future[Any]", error: SkychimpError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as read: without this, asyncio prints a traceback if nobody waits for it

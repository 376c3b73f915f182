"""Write what a run records: intents, outcomes and other changes of all connections, grouped into one commit.

A commit costs about the same for one row as for fifty. While a batch is written, the next one collects, so batches grow
with the load. A thread writes them. In a run of more than a few emails, a separate process takes over the batches that
contain only sent emails and intents. There is never more than one batch being written.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from skychimp.delivery.sending.writer_process import WriterProcess
from skychimp.errors import SkychimpError, StoreFailed
from skychimp.models import Outcome
from skychimp.store import ledger
from skychimp.store.database import Store, is_locked, translate_db_errors
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery

WRITER_PROCESS_THRESHOLD = 100  # emails; for fewer, a writer process costs more than it saves

T = TypeVar("T")
_Results = list[tuple["asyncio.Future[Any]", Any]]


@dataclass
class _Batch:
    """What goes into one commit. `jobs` are functions that write something else."""

    intents: list[tuple[ClaimedDelivery, "asyncio.Future[bool]"]] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    jobs: list[tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.intents or self.attempts or self.jobs)

    @property
    def suits_writer_process(self) -> bool:
        """Return whether the batch contains only sent emails and intents."""
        return not self.jobs and all(attempt.outcome == Outcome.SENT for attempt in self.attempts)

    @property
    def claims(self) -> list[ClaimedDelivery]:
        return [claimed for claimed, _ in self.intents]

    @property
    def futures(self) -> list["asyncio.Future[Any]"]:
        return [future for _, future in [*self.intents, *self.jobs]]


class Recorder:
    """Takes what one run writes from the event loop, and completes the futures there after the commit.

    If a commit fails, every future fails with StoreFailed, and so does everything submitted later.
    """

    def __init__(self, store: Store, run_id: int) -> None:
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._store = store
        self._db: Connection | None = None
        self._writer: WriterProcess | None = None
        self._starting_writer: asyncio.Task[None] | None = None
        self._recorded = 0
        self._next_batch = _Batch()
        self._is_writing = False
        self._idle = asyncio.Event()
        self._failure: SkychimpError | None = None

    def submit(self, job: Callable[[Connection], T]) -> "asyncio.Future[T]":
        """Run a function that writes in the next transaction. Its result is available after the commit."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._next_batch.jobs.append((job, future))
        self._schedule_write()
        return future

    def commit_intent(self, claimed: ClaimedDelivery) -> "asyncio.Future[bool]":
        """Commit the intent to send a delivery. The result is False if it no longer belongs to this run."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._next_batch.intents.append((claimed, future))
        self._schedule_write()
        return future

    def record(self, attempt: AttemptRecord) -> None:
        """Record an attempt. It is committed no later than the next intent."""
        self._next_batch.attempts.append(attempt)
        self._recorded += 1
        if self._recorded > WRITER_PROCESS_THRESHOLD and self._starting_writer is None:
            self._starting_writer = self._loop.create_task(self._start_writer())
        self._schedule_write()

    async def close(self) -> None:
        """Commit what is left, and end the thread and the writer process. Raises StoreFailed if a commit failed."""
        while self._is_writing:
            self._idle.clear()
            await self._idle.wait()
        if self._starting_writer is not None:
            await self._starting_writer
        if self._writer is not None:
            await self._writer.close()
        await self._loop.run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()
        if self._failure:
            raise self._failure

    async def _start_writer(self) -> None:
        self._writer = await WriterProcess.start(self._store, self._run_id)

    def _schedule_write(self) -> None:
        """Write after the event loop's current step, so that everything it submits goes into the same batch."""
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        batch, self._next_batch = self._next_batch, _Batch()
        if self._failure is not None:
            _fail_all(batch.futures, self._failure)
            self._is_writing = False
            self._idle.set()
        elif self._writer is not None and batch.suits_writer_process:
            rows, changes = ledger.writer_rows(batch.attempts, batch.claims)
            self._writer.write(rows).add_done_callback(partial(self._on_written_by_process, batch, changes))
        else:
            self._write_in_thread(batch)

    def _write_in_thread(self, batch: _Batch, *, is_recorded: bool = False) -> None:
        writing = self._loop.run_in_executor(self._thread, partial(self._write, batch, is_recorded=is_recorded))
        writing.add_done_callback(partial(self._on_written_in_thread, batch))

    def _on_written_by_process(self, batch: _Batch, expected_changes: int, writing: "asyncio.Future[int]") -> None:
        error = writing.exception()
        if error is None and writing.result() != expected_changes:  # some deliveries no longer belong to this run
            self._write_in_thread(batch, is_recorded=True)
        else:
            self._finish(batch, [(future, True) for _, future in batch.intents], error)

    def _on_written_in_thread(self, batch: _Batch, writing: "asyncio.Future[_Results]") -> None:
        error = writing.exception()
        self._finish(batch, [] if error else writing.result(), error)

    def _finish(self, batch: _Batch, results: _Results, error: BaseException | None) -> None:
        """Complete a batch's futures, and write the next batch."""
        if error is not None:
            self._set_failure(error)
            _fail_all(batch.futures, self._failure)
        for future, result in [] if error else results:
            if not future.done():
                future.set_result(result)
        if self._next_batch:
            self._write_next()
        else:
            self._is_writing = False
            self._idle.set()

    # In the thread

    def _write(self, batch: _Batch, *, is_recorded: bool) -> _Results:
        """Commit a batch, however long another process holds the lock. Raises StoreFailed.

        `is_recorded` means that the writer process has already written the deliveries that belong to this run.
        """
        with translate_db_errors(self._store.path):
            while True:
                try:
                    return self._write_transaction(batch, is_recorded=is_recorded)
                except DBAPIError as error:
                    if not is_locked(error):
                        raise
                    self._disconnect()  # without WAL, a COMMIT that has to wait leaves its transaction open

    def _write_transaction(self, batch: _Batch, *, is_recorded: bool) -> _Results:
        if self._db is None:
            self._db = self._store.connect()
        db, results = self._db, []
        with db.begin():
            if is_recorded:
                ledger.record_late_attempts(db, self._run_id, batch.attempts)
            elif batch.attempts:
                ledger.record_attempts(db, self._run_id, batch.attempts)
            results += [(future, job(db)) for job, future in batch.jobs]
            if batch.intents:
                ours = ledger.record_intents(db, self._run_id, batch.claims)
                results += [(future, claimed.id in ours) for claimed, future in batch.intents]
        return results

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _set_failure(self, error: BaseException) -> None:
        if not isinstance(error, SkychimpError):
            error = StoreFailed(f"cannot record deliveries: {error!r}")
        self._failure = self._failure or error


def _fail_all(futures: Sequence["asyncio.Future[Any]"], error: SkychimpError | None) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error or StoreFailed("cannot record deliveries"))
            future.exception()  # marks it as read: without this, asyncio prints a traceback if nobody waits for it

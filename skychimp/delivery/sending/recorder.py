"""The one who writes while a run sends: it groups what all connections have ready into one commit.

A commit costs about the same for one row as for fifty. While one is under way the next group gathers, so that the
groups grow with the load by themselves. A thread writes them; in a run of more than a few letters a scribe takes over
those that hold nothing but letters that were sent, and intents. There is never more than one group under way.
"""

import asyncio
from collections.abc import Callable
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

FEW = 100  # letters, for which it would not pay to hire a scribe

T = TypeVar("T")
_Results = list[tuple["asyncio.Future[Any]", Any]]


@dataclass
class _Group:
    """What goes into one commit; `jobs` are other pieces of writing."""

    intents: list[tuple[ClaimedDelivery, "asyncio.Future[bool]"]] = field(default_factory=list)
    entries: list[AttemptRecord] = field(default_factory=list)
    jobs: list[tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.intents or self.entries or self.jobs)

    @property
    def is_usual(self) -> bool:
        """Nothing but letters that were sent, and intents."""
        return not self.jobs and all(entry.outcome == Outcome.SENT for entry in self.entries)

    @property
    def claims(self) -> list[ClaimedDelivery]:
        return [claimed for claimed, _ in self.intents]

    @property
    def futures(self) -> list["asyncio.Future[Any]"]:
        return [future for _, future in [*self.intents, *self.jobs]]


class Recorder:
    """Takes intents, outcomes and other writing of one run from the event loop; answers there, once it is committed.

    Where the ledger can't commit, every future fails with StoreFailed and so does all that comes after.
    """

    def __init__(self, store: Store, run_id: int) -> None:
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._store = store
        self._connection: Connection | None = None
        self._scribe: WriterProcess | None = None
        self._hiring: asyncio.Task[None] | None = None
        self._recorded = 0
        self._next = _Group()
        self._is_writing = False
        self._idle = asyncio.Event()
        self._failure: SkychimpError | None = None

    def submit(self, job: Callable[[Connection], T]) -> "asyncio.Future[T]":
        """Do a piece of writing in the next transaction; its result comes once that is committed."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._next.jobs.append((job, future))
        self._start()
        return future

    def intend(self, claimed: ClaimedDelivery) -> "asyncio.Future[bool]":
        """Commit the intent to send: True where the delivery still is ours."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._next.intents.append((claimed, future))
        self._start()
        return future

    def record(self, entry: AttemptRecord) -> None:
        """Commit an outcome, at the latest with the next intent."""
        self._next.entries.append(entry)
        self._recorded += 1
        if self._recorded > FEW and self._hiring is None:
            self._hiring = self._loop.create_task(self._hire())
        self._start()

    async def close(self) -> None:
        """Commit what is left, and end the thread and the scribe. Raises StoreFailed where that failed."""
        while self._is_writing:
            self._idle.clear()
            await self._idle.wait()
        if self._hiring is not None:
            await self._hiring
        if self._scribe is not None:
            await self._scribe.leave()
        await self._loop.run_in_executor(self._thread, self._close)
        self._thread.shutdown()
        if self._failure:
            raise self._failure

    async def _hire(self) -> None:
        self._scribe = await WriterProcess.hire(self._store, self._run_id)

    def _start(self) -> None:
        """Write what there will be once the loop has done what it is at."""
        if not self._is_writing:
            self._is_writing = True
            self._loop.call_soon(self._write_next)

    def _write_next(self) -> None:
        group, self._next = self._next, _Group()
        if self._failure is not None:
            _fail_all(group.futures, self._failure)
            self._is_writing = False
            self._idle.set()
        elif self._scribe is not None and group.is_usual:
            rows, changes = ledger.rows_at_once(group.entries, group.claims)
            self._scribe.write(rows).add_done_callback(partial(self._scribe_has_written, group, changes))
        else:
            self._write_in_thread(group)

    def _write_in_thread(self, group: _Group, *, is_recorded: bool = False) -> None:
        writing = self._loop.run_in_executor(self._thread, partial(self._write, group, is_recorded=is_recorded))
        writing.add_done_callback(partial(self._written, group))

    def _scribe_has_written(self, group: _Group, wanted: int, writing: "asyncio.Future[int]") -> None:
        error = writing.exception()
        if error is None and writing.result() != wanted:  # some were not ours any more
            self._write_in_thread(group, is_recorded=True)
        else:
            self._end(group, [(future, True) for _, future in group.intents], error)

    def _written(self, group: _Group, writing: "asyncio.Future[_Results]") -> None:
        error = writing.exception()
        self._end(group, [] if error else writing.result(), error)

    def _end(self, group: _Group, results: _Results, error: BaseException | None) -> None:
        """Say what came of a group, and go on with the next."""
        if error is not None:
            self._fail(error)
            _fail_all(group.futures, self._failure)
        for future, result in [] if error else results:
            if not future.done():
                future.set_result(result)
        if self._next:
            self._write_next()
        else:
            self._is_writing = False
            self._idle.set()

    # In the thread

    def _write(self, group: _Group, *, is_recorded: bool) -> _Results:
        """Commit a group, however long another process holds the lock. Raises StoreFailed.

        With `is_recorded` the scribe has written it, as far as it was this run's.
        """
        with translate_db_errors():
            while True:
                try:
                    return self._write_by_parts(group, is_recorded=is_recorded)
                except DBAPIError as error:
                    if not is_locked(error):
                        raise
                    self._close()  # without WAL a COMMIT that has to wait leaves its transaction open

    def _write_by_parts(self, group: _Group, *, is_recorded: bool) -> _Results:
        if self._connection is None:
            self._connection = self._store.connect()
        connection, results = self._connection, []
        with connection.begin():
            if is_recorded:
                ledger.record_late(connection, self._run_id, group.entries)
            elif group.entries:
                ledger.record(connection, self._run_id, group.entries)
            results += [(future, job(connection)) for job, future in group.jobs]
            if group.intents:
                ours = ledger.intend(connection, self._run_id, group.claims)
                results += [(future, claimed.id in ours) for claimed, future in group.intents]
        return results

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _fail(self, error: BaseException) -> None:
        if not isinstance(error, SkychimpError):
            error = StoreFailed(f"the ledger can't be written: {error!r}")
        self._failure = self._failure or error


def _fail_all(futures: list["asyncio.Future[Any]"], error: SkychimpError | None) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error or StoreFailed("the ledger can't be written"))
            future.exception()  # who waited for it may be gone; then asyncio would print a traceback

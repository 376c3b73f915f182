"""The one thread that writes while a run sends: it groups what all connections have ready into one commit.

A commit costs about the same for one row as for fifty. While one is under way the next group gathers, so that the
groups grow with the load by themselves.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from skychimp.errors import SkychimpError, StoreFailed
from skychimp.store import ledger
from skychimp.store.engine import Store, is_locked, plain_errors
from skychimp.store.ledger import Entry
from skychimp.store.queue import Claimed

LINGER = 0.002  # s that an outcome waits for the next intent, to share its commit

T = TypeVar("T")
_Job = tuple[Callable[[Connection], Any], "asyncio.Future[Any]"]
_Intent = tuple[Claimed, "asyncio.Future[bool]"]


class Recorder:
    """Takes intents, outcomes and other writing of one run from the event loop; answers there, once it is committed.

    Where the ledger can't commit, every future fails with StoreFailed and so does all that comes after.
    """

    def __init__(self, store: Store, run_id: int) -> None:
        self._store = store
        self._run_id = run_id
        self._loop = asyncio.get_running_loop()
        self._wake = threading.Condition()
        self._intents: list[_Intent] = []
        self._entries: list[Entry] = []
        self._jobs: list[_Job] = []
        self._closing = False
        self._failure: SkychimpError | None = None
        self._thread = threading.Thread(target=self._work, name="recorder")
        self._thread.start()

    def submit(self, job: Callable[[Connection], T]) -> "asyncio.Future[T]":
        """Do a piece of writing in the next transaction; its result comes once that is committed."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._put(self._jobs, (job, future), future)
        return future

    def intend(self, claimed: Claimed) -> "asyncio.Future[bool]":
        """Commit the intent to send: True where the delivery still is ours."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._put(self._intents, (claimed, future), future)
        return future

    def record(self, entry: Entry) -> None:
        """Commit an outcome, at the latest with the next intent."""
        with self._wake:
            self._entries.append(entry)
            if len(self._entries) == 1:
                self._wake.notify()

    async def close(self) -> None:
        """Commit what is left and end the thread. Raises StoreFailed where that failed."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)
        if self._failure:
            raise self._failure

    def _put(self, queue: list[Any], item: object, future: "asyncio.Future[Any]") -> None:
        with self._wake:
            if self._failure:
                future.set_exception(self._failure)
                return
            queue.append(item)
            self._wake.notify()

    def _work(self) -> None:
        try:
            with plain_errors(), self._store.connect() as connection:
                while self._wait():
                    self._commit(connection)
        except SkychimpError as error:
            self._fail(error)
        except Exception as error:
            self._fail(StoreFailed(f"the ledger can't be written: {error!r}"))

    def _wait(self) -> bool:
        with self._wake:
            while not (self._intents or self._jobs or self._closing):
                if not self._wake.wait(LINGER if self._entries else None) and self._entries:
                    break
            return bool(self._intents or self._entries or self._jobs)

    def _commit(self, connection: Connection) -> None:
        with self._wake:
            intents, self._intents = self._intents, []
            entries, self._entries = self._entries, []
            jobs, self._jobs = self._jobs, []
        try:
            results = self._write(connection, intents, entries, jobs)
        except BaseException:
            with self._wake:  # their futures must hear of it, with those that came meanwhile
                self._intents[:0], self._jobs[:0] = intents, jobs
            raise
        if results:
            self._loop.call_soon_threadsafe(_settle, results)

    def _write(
        self, connection: Connection, intents: list[_Intent], entries: list[Entry], jobs: list[_Job]
    ) -> list[tuple["asyncio.Future[Any]", Any]]:
        while True:
            try:
                with connection.begin():
                    if entries:
                        ledger.record(connection, self._run_id, entries)
                    results = [(future, job(connection)) for job, future in jobs]
                    if intents:
                        ours = ledger.intend(connection, self._run_id, [claimed for claimed, _ in intents])
                        results += [(future, claimed.id in ours) for claimed, future in intents]
                return results
            except DBAPIError as error:
                if not is_locked(error):
                    raise

    def _fail(self, error: SkychimpError) -> None:
        with self._wake:
            self._failure = error
            futures: list[asyncio.Future[Any]] = [future for _, future in [*self._jobs, *self._intents]]
        self._loop.call_soon_threadsafe(_fail_all, futures, error)


def _settle(results: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for future, result in results:
        if not future.done():
            future.set_result(result)


def _fail_all(futures: list["asyncio.Future[Any]"], error: SkychimpError) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)

"""Write the changes of many requests in one transaction.

Each commit waits for the disk, and for the lock that a sending run takes all the time. So whoever comes while one
transaction is written shares the next one.
"""

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection

from skychimp.store.database import Store

T = TypeVar("T")

MOST_AT_ONCE = 200


class _Waiting(NamedTuple):
    change: Callable[[Connection], Any]
    result: "asyncio.Future[Any]"


class GroupedWrites:
    """Runs changes of the store, in the order in which they come."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: list[_Waiting] = []
        self._writer: asyncio.Task[None] | None = None

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Return what a change returns, once it is committed. Raises what it raises, and StoreFailed."""
        waiting = _Waiting(change, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        result: T = await waiting.result
        return result

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            for waiting, outcome in zip(batch, await asyncio.to_thread(self._run, batch), strict=True):
                _set_outcome(waiting.result, outcome)
        self._writer = None

    def _run(self, batch: list[_Waiting]) -> list[Any]:
        """Return the results of changes, or the errors. If one fails, each is tried by itself."""
        try:
            with self._store.write() as db:
                return [waiting.change(db.connection()) for waiting in batch]
        except Exception as error:  # whatever it is, the requests must get it, and the others go on
            return [error] if len(batch) == 1 else [outcome for each in batch for outcome in self._run([each])]


def _set_outcome(result: "asyncio.Future[Any]", outcome: Any) -> None:
    if result.cancelled():  # the request is gone
        return
    if isinstance(outcome, Exception):
        result.set_exception(outcome)
    else:
        result.set_result(outcome)

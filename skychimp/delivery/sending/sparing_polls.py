"""Poll a store only if that may find something, so that an idle daemon hardly wakes up.

A poll is a transaction in a thread, which wakes up the event loop and two threads again and again. Nothing can have
become due unless something was committed, or a time has come that the store names.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Self

from sqlalchemy import Connection

from skychimp.delivery.sending import due_work
from skychimp.errors import StoreFailed
from skychimp.store.database import SQLITE, Store


class StoreWatch:
    """Notices commits, by a connection of its own for the length of a `with` block."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._db: Connection | None = None
        self._version: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._disconnect()

    async def has_changed(self) -> bool:
        """Return whether anybody has committed since the last call, also this process. True if that is not known."""
        is_immediate = self._db is not None and self.store.dialect == SQLITE  # a server may let the event loop wait
        version = self._read() if is_immediate else await asyncio.to_thread(self._read)
        previous, self._version = self._version, version
        return version is None or version != previous

    def _read(self) -> object:
        try:
            if self._db is None:
                self._db = self.store.connect_to_watch()
            return self.store.read_version(self._db)
        except StoreFailed:
            self._disconnect()
            return None

    def _disconnect(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None


class SparingPolls:
    """Polls that are left out while they would find nothing. `poll` does one."""

    def __init__(self, watch: StoreWatch, poll: Callable[[], Awaitable[None]]) -> None:
        self._watch = watch
        self._store = watch.store
        self._poll = poll
        self._quiet: tuple[datetime, datetime] | None = None

    async def poll(self) -> None:
        """Poll if something was committed, or may be due. If the clock was set back, poll, too.

        Raises StoreFailed if the store's file was deleted or replaced.
        """
        self._store.check_file()
        if await self._watch.has_changed() or not self._is_quiet:
            await self._poll()
            await self._watch.has_changed()  # what is committed after this is seen the next time
            self._quiet = await asyncio.to_thread(self._find_quiet_time)

    @property
    def _is_quiet(self) -> bool:
        return self._quiet is not None and self._quiet[0] <= self._store.now() < self._quiet[1]

    def _find_quiet_time(self) -> tuple[datetime, datetime] | None:
        """Return from when until when nothing is due if nothing is committed. None if that is not known."""
        now = self._store.now()
        try:
            with self._store.read() as db:
                return now, due_work.next_due_at(db.connection(), now)
        except StoreFailed:
            return None

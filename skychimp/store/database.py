"""Define a store, whatever database it is in: its transactions, and what else a database has its own way of.

The databases are SQLite (`sqlite`) and PostgreSQL (`postgres`). What one of them says differently in a query is in
`sql`.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine

from skychimp.store.session import Session, transaction
from skychimp.translation import Phrase

SQLITE, POSTGRESQL = "sqlite", "postgresql"
"""The dialects, as SQLAlchemy names them."""

BUSY_TIMEOUT_MS = 30_000
"""How long to wait for the store's lock."""
BATCH_PAUSE_S = 0.11
"""How long to wait between the transactions of a large change, so that others get the lock.

Who waits for SQLite's lock looks for it every 100 ms at least. With a shorter pause it may be taken again each time.
"""
SHORT_TIMEOUT_MS = 2_000
"""How long to wait for the lock to record what need not be recorded."""


Fill = Callable[[Connection], object]
"""Puts something into the tables of a new store."""


def boot_time_s() -> float:
    """Return the seconds since the machine was started. Unlike the monotonic clock, it counts while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Driver(NamedTuple):
    """What executes SQL past SQLAlchemy, for the small statements of each email.

    `execute` takes the parameters as the database's driver does, and returns a cursor or what has its `fetch` methods.
    On PostgreSQL, the values that these return may be texts.
    """

    dialect: str
    execute: Callable[..., Any]


def driver_of(db: Connection) -> Driver:
    """Return the driver of a connection."""
    connection: Any = db.connection.dbapi_connection
    return Driver(db.dialect.name, connection.execute)


class Store(ABC):
    """An open store, with its transactions `read` and `write`.

    `name` is how a person is told of it. `path` is the file; for PostgreSQL it is a name in the user's data folder,
    beside which this machine keeps what is its own: the locks of its runs, and the outbox.
    """

    dialect: str

    def __init__(self, name: str, path: Path, engine: Engine, writer: Engine) -> None:
        self.name = name
        self.path = path
        self.engine = engine
        self._writer = writer

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that sees the store as it is at one moment. Raises StoreFailed."""
        with self.translate_errors(), transaction(self.engine) as db:
            yield db

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end of the block. Raises StoreFailed.

        It takes the store's lock at once, so that nothing it reads can change before it writes.
        """
        with self.translate_errors(), transaction(self._writer) as db:
            yield db

    def write_in_batches(self, step: Callable[[Session], bool]) -> None:
        """Call `step` in one transaction after another, until it returns True. Others can write in between.

        Raises StoreFailed.
        """
        while True:
            with self.write() as db:
                is_complete = step(db)
            if is_complete:
                return
            time.sleep(BATCH_PAUSE_S)

    def connect(self) -> Connection:
        """Return a connection whose transactions all take the lock at once, for a thread that only writes."""
        return self._writer.connect()

    def connect_for_writes(self) -> Connection:
        """Return a connection for `transaction`."""
        return self.connect()

    def now(self) -> datetime:
        """Return the time by the clock that all users of the store have in common."""
        return datetime.now(UTC)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @abstractmethod
    def write_soon(self) -> contextlib.AbstractContextManager[Session]:
        """Open a transaction like `write`, but wait for the lock for SHORT_TIMEOUT_MS only. Raises StoreFailed."""

    @abstractmethod
    def transaction(
        self, db: Connection, logged: list[int], *, shared: bool, pipelined: bool
    ) -> contextlib.AbstractContextManager["Driver"]:
        """Open a transaction on a connection of `connect_for_writes`. It waits for the lock.

        At its end, `logged` has the ids of deliveries that it has added attempts or intents to: they tell whether it
        was committed, if the connection breaks. With `shared`, it may run beside other such ones, where a database can
        do that. With `pipelined`, it may send statements before the results of those before them are there, so it must
        execute them by the driver it gets.
        """

    def find_damage(self) -> str:
        """Return what a quick check finds wrong with the database's files, "" if nothing."""
        return ""

    @abstractmethod
    def check_file(self) -> None:
        """Raise StoreFailed if the store is a file that was deleted or replaced since it was opened."""

    @abstractmethod
    def read_clock(self) -> None:
        """Compare this machine's clock with the store's, if they are two. Raises StoreFailed."""

    @abstractmethod
    def connect_to_watch(self) -> Connection:
        """Return a connection for `read_version`, which nothing else uses."""

    @abstractmethod
    def read_version(self, db: Connection) -> object:
        """Return what is another one after each commit, whoever it was. `db` is a connection of `connect_to_watch`.

        On SQLite it takes some microseconds, and fails at once rather than wait for a lock. Raises StoreFailed.
        """

    @abstractmethod
    def reconnect(self, error: Exception) -> bool:
        """Return whether an error came from a lost connection, after waiting until there is a new one."""

    @abstractmethod
    def checkpoint(self) -> bool:
        """Do what the database needs now and then for its log. Return False if that has to wait for others."""

    @abstractmethod
    def has_remains(self, texts: Collection[str]) -> bool:
        """Return whether deleted rows with these texts may have left them in the database's files.

        Raises StoreFailed.
        """

    @abstractmethod
    def vacuum(self) -> None:
        """Remove what deleted rows have left, and give their space back. Raises Conflict and StoreFailed."""

    @property
    @abstractmethod
    def description(self) -> Phrase:
        """The store, and the version of its database."""

    @abstractmethod
    def translate_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn the driver's errors into StoreFailed. A violated constraint (IntegrityError) is left to the caller."""

    @abstractmethod
    def is_locked(self, error: Exception) -> bool:
        """Return whether an error says that another process holds a lock, so that waiting helps."""

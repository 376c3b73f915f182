"""Define a store, whatever database it is in: its transactions, and what else a database has its own way of.

The databases are SQLite (`sqlite`) and PostgreSQL (`postgres`). What one of them says differently in a query is in
`sql`.
"""

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, Engine
from sqlmodel import Session

SQLITE, POSTGRESQL = "sqlite", "postgresql"
"""The dialects, as SQLAlchemy names them."""

BUSY_TIMEOUT_MS = 30_000
"""How long to wait for the store's lock."""
SHORT_TIMEOUT_MS = 2_000
"""How long to wait for the lock to record what need not be recorded."""


Fill = Callable[[Connection], object]
"""Puts something into the tables of a new store."""


def boot_time_s() -> float:
    """Return the seconds since the machine was started. Unlike the monotonic clock, it counts while it sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


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
        with self.translate_errors(), Session(self.engine, expire_on_commit=False) as db, db.begin():
            yield db

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end of the block. Raises StoreFailed.

        It takes the store's lock at once, so that nothing it reads can change before it writes.
        """
        with self.translate_errors(), Session(self._writer, expire_on_commit=False) as db, db.begin():
            yield db

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
    def transaction(self, db: Connection, *, shared: bool, pipelined: bool) -> contextlib.AbstractContextManager[None]:
        """Open a transaction on a connection of `connect_for_writes`. It waits for the lock.

        With `shared`, it may run beside other such ones, where a database can do that. With `pipelined`, it may send
        statements before the results of those before them are there, so it must use no number of changed rows.
        """

    def find_damage(self) -> str:
        """Return what a quick check finds wrong with the database's files, "" if nothing."""
        return ""

    @abstractmethod
    def read_clock(self) -> None:
        """Compare this machine's clock with the store's, if they are two. Raises StoreFailed."""

    @abstractmethod
    def reconnect(self, error: Exception) -> bool:
        """Return whether an error came from a lost connection, after waiting until there is a new one."""

    @abstractmethod
    def checkpoint(self) -> None:
        """Do what the database needs now and then for its log."""

    @abstractmethod
    def vacuum(self) -> None:
        """Remove what deleted rows have left. Raises StoreFailed."""

    @property
    @abstractmethod
    def vacuum_hint(self) -> str:
        """The command that does what `vacuum` does."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The store, and the version of its database."""

    @abstractmethod
    def translate_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn the driver's errors into StoreFailed. A violated constraint (IntegrityError) is left to the caller."""

    @abstractmethod
    def is_locked(self, error: Exception) -> bool:
        """Return whether an error says that another process holds a lock, so that waiting helps."""

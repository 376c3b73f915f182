"""Keep a store in one SQLite file: the driver, its pragmas, transactions and errors.

The file is 0600 in a folder of ours with 0700. It uses a write-ahead log (WAL) if SQLite is 3.51.3 or
newer, and a rollback journal otherwise: older versions can corrupt a WAL that several processes write.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError

from skychimp import files
from skychimp.errors import Conflict, StoreFailed, StoreUnwritable
from skychimp.shell import run_hint
from skychimp.store import free_space, place, sqlite_errors
from skychimp.store.database import BUSY_TIMEOUT_MS, SHORT_TIMEOUT_MS, SQLITE, Driver, Store, driver_of
from skychimp.store.session import Session, transaction
from skychimp.text import folded
from skychimp.translation import tr

SAFE_WAL_VERSION = (3, 51, 3)
"""The first version of SQLite that keeps a write-ahead log intact while several processes write."""

IMMEDIATE = "BEGIN IMMEDIATE"

_CHECKPOINT_TIMEOUT_MS = 100
_LOG_TIMEOUT_S = 5.0
"""How long to wait for those who read the write-ahead log."""


class SqliteStore(Store):
    """A store in a file. A writer takes the lock at once (BEGIN IMMEDIATE), and nobody else can write meanwhile."""

    dialect = SQLITE

    def __init__(self, path: Path, **pragmas: str) -> None:
        """Open the file. `pragmas` replace the usual ones."""
        engine = make_engine(path, **pragmas)
        super().__init__(str(path), path, engine, engine.execution_options(begin=IMMEDIATE))
        self._opened: tuple[int, int] | None = None
        event.listen(engine, "connect", self._note_file)

    def close(self) -> None:
        """Close all connections. The next one may open another file."""
        super().close()
        self._opened = None

    def _note_file(self, _connection: object, _record: object) -> None:
        self._opened = self._opened or _file_id(self.path)

    @contextlib.contextmanager
    def write_soon(self) -> Iterator[Session]:
        """Open a transaction like `write`, but wait for the lock for SHORT_TIMEOUT_MS only. Raises StoreFailed."""
        with self.translate_errors(), self._writer.connect() as connection:
            driver_connection = connection.connection.driver_connection
            assert driver_connection is not None
            driver_connection.execute(f"PRAGMA busy_timeout = {SHORT_TIMEOUT_MS}")
            try:
                with transaction(connection) as db:
                    yield db
            finally:
                driver_connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")

    @contextlib.contextmanager
    def transaction(
        self,
        db: Connection,
        logged: list[int],  # noqa: ARG002
        *,
        shared: bool,  # noqa: ARG002
        pipelined: bool,  # noqa: ARG002
    ) -> Iterator[Driver]:
        """Open a transaction on a connection of `connect_for_writes`. It waits for the lock, which is never shared."""
        with db.begin():
            yield driver_of(db)

    def connect_for_quick_writes(self) -> Connection:
        """Return a connection for `quick_transaction`. Its statements fail at once if another one holds the lock."""
        connection = self.connect_autocommit()
        connection.detach()  # so that no other user of the pool gets the connection with this setting
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.commit()
        return connection

    @contextlib.contextmanager
    def quick_transaction(self, db: Connection) -> Iterator[Driver]:
        """Open a transaction on a connection for quick writes, past SQLAlchemy. It is committed after the block.

        It fails at once, with an error that `is_locked`, rather than wait for a lock.
        """
        driver_connection: Any = db.connection.dbapi_connection
        driver_connection.execute(IMMEDIATE)
        try:
            yield driver_of(db)
            driver_connection.execute("COMMIT")
        finally:
            if driver_connection.in_transaction:
                driver_connection.rollback()
            db.rollback()  # SQLAlchemy has seen nothing of the above, only what the block did by it

    def connect_autocommit(self) -> Connection:
        """Return a connection on which each statement is its own transaction."""
        return self.engine.execution_options(begin=None).connect()

    def check_file(self) -> None:
        """Raise StoreFailed if the file was deleted or replaced. What is written to the old one would be lost."""
        file_id = _file_id(self.path)
        if self._opened in (file_id, None):
            return
        is_there = file_id is not None
        change = "replaced by another file" if is_there else "deleted"
        hint = tr("start this command again") if is_there else run_hint("restore", "FILE", "--operator")
        raise StoreFailed(tr("the store {path} was {change} while it was in use", path=self.path, change=change), hint)

    def read_clock(self) -> None:
        """Do nothing: all users of the file have this machine's clock."""

    def connect_to_watch(self) -> Connection:
        """Return a connection for `read_version`, which nothing else uses."""
        with self.translate_errors():
            return self.connect_for_quick_writes()

    def read_version(self, db: Connection) -> object:
        """Return a number that this connection has not seen before if another one has committed since the last call."""
        driver_connection: Any = db.connection.dbapi_connection
        with self.translate_errors():
            return driver_connection.execute("PRAGMA data_version").fetchall()[0][0]

    def reconnect(self, error: Exception) -> bool:  # noqa: ARG002
        """Return False: there is no connection to lose."""
        return False

    def checkpoint(self) -> bool:
        """Move the write-ahead log into the file and empty it. Return False if another connection is reading it.

        Writers wait while SQLite waits for readers, so it waits for a moment only.
        """
        with self.translate_errors(), self.connect_autocommit() as db:
            db.exec_driver_sql(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MS}")
            db.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)")  # moves most of it without holding up writers
            is_busy = db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]
            db.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return not is_busy

    def has_remains(self, texts: Collection[str]) -> bool:
        """Return whether deleted rows with these texts have left them in the free space of the file.

        Each connection overwrites what it deletes. But SQLite leaves a copy of a few rows when it splits a page, and an
        older Skychimp has overwritten nothing.
        Raises StoreFailed if the write-ahead log still has deleted rows, as another process is reading it.
        """
        ends_at = time.monotonic() + _LOG_TIMEOUT_S
        while not self.checkpoint():
            if time.monotonic() > ends_at:
                raise StoreFailed(tr("another process is reading the store"), tr("end it"))
            time.sleep(0.1)
        self.close()  # closing the file while it is open as a store would drop SQLite's locks
        return free_space.contains(self.path, [text.encode() for text in texts])

    def vacuum(self) -> None:
        """Rewrite the file without free space. It needs twice as much disk space meanwhile, and little memory.

        Raises Conflict if another process has the store open, and StoreFailed.
        """
        self.close()
        draft = self.path.with_name(f"{self.path.name}.draft-{secrets.token_hex(4)}")
        with translate_db_errors(self.path), contextlib.closing(connect_file(self.path)) as db:
            _lock_out_others(db)
            # Not VACUUM: depending on how SQLite was built, that keeps the whole new file in memory.
            with files.temporary_file(draft) as file:
                db.execute("VACUUM INTO ?", (str(file),))
                with contextlib.closing(connect_file(file)) as compact:
                    compact.backup(db, pages=2000)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def description(self) -> str:
        """The store, its database's version, and the journal that the file uses now: `wal` or `delete`."""
        with self.translate_errors(), self.engine.connect() as db:
            journal = db.exec_driver_sql("PRAGMA journal_mode").scalar()
        return f"{self.path}, SQLite {driver().sqlite_version}, {journal} journal"

    @property
    def has_safe_wal(self) -> bool:
        """Whether SQLite is new enough for a write-ahead log, which is faster."""
        return bool(driver().sqlite_version_info >= SAFE_WAL_VERSION)

    def find_damage(self) -> str:
        """Return what SQLite's quick check finds wrong with the file, "" if nothing."""
        with self.translate_errors(), self.engine.connect() as db:
            result = str(db.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        return "" if result == "ok" else result

    def translate_errors(self) -> contextlib.AbstractContextManager[None]:
        """Turn the driver's errors into StoreFailed. A violated constraint (IntegrityError) is left to the caller."""
        return translate_db_errors(self.path)

    def is_locked(self, error: Exception) -> bool:
        """Return whether another process holds the store's lock, so that waiting helps."""
        cause = error.orig if isinstance(error, DBAPIError) else error
        return cause is not None and sqlite_errors.is_busy(cause)


def _lock_out_others(db: Any) -> None:
    """Keep everybody else from using a store until the connection is closed. Raises Conflict."""
    db.execute(f"PRAGMA busy_timeout = {SHORT_TIMEOUT_MS}")
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    try:
        db.execute("BEGIN EXCLUSIVE")
        db.execute("COMMIT")
    except driver().OperationalError as error:
        if not sqlite_errors.is_busy(error):
            raise
        raise Conflict(
            tr("the store is in use"), tr("stop the daemon and all other commands, then try again")
        ) from None


def _file_id(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of the same name, None if there is none or it cannot be read."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Errors


@contextlib.contextmanager
def translate_db_errors(path: Path) -> Iterator[None]:
    """Turn the driver's errors about a store into StoreFailed.

    A violated constraint (IntegrityError) is left to the caller.
    """
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise store_error(path, str(error.orig), result_code(error)) from error
    except (driver().Error, UnicodeDecodeError) as error:
        raise store_error(path, sqlite_errors.reason(error), sqlite_errors.result_code(error)) from error


def store_error(path: Path, reason: str, code: int = 0) -> StoreFailed:
    """Return the error for SQLite's message and result code about a store."""
    kind = StoreUnwritable if code in sqlite_errors.UNWRITABLE else StoreFailed
    return kind(f"cannot use the store {path}: {reason}", _HINTS.get(code) or place.permissions_hint(path))


def result_code(error: DBAPIError) -> int:
    """Return SQLite's primary result code of an error, 0 if it is unknown."""
    return 0 if error.orig is None else sqlite_errors.result_code(error.orig)


_TRY_LATER = "another process has locked the store; try again later"


_HINTS = {
    sqlite_errors.BUSY: _TRY_LATER,
    sqlite_errors.LOCKED: _TRY_LATER,
    sqlite_errors.FULL: "free some disk space, then run the command again",
}


# Connections


def driver() -> ModuleType:
    """Return the SQLite driver: pysqlite3 if it is installed, as it brings a newer SQLite, else Python's own."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        from sqlite3 import dbapi2
    module: ModuleType = dbapi2
    return module


def make_engine(path: Path, **pragmas: str) -> Engine:
    """Return a SQLAlchemy engine for a file. `pragmas` replace the usual ones."""
    engine = create_engine(URL.create("sqlite", database=str(path)), module=driver(), hide_parameters=True)
    all_pragmas = connection_pragmas() | pragmas

    @event.listens_for(engine, "do_connect")
    def _name_existing_file(_dialect: object, _record: object, arguments: list[str], options: dict[str, Any]) -> None:
        # So that a store that was deleted is not created again, without tables, by whoever still has it open.
        arguments[0] = _uri(path, _mode_in_use(path))
        options["uri"] = True

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver itself would begin transactions only before some statements
        for name, value in all_pragmas.items():
            if name == "journal_mode" and place.is_on_read_only_mount(path):
                continue
            _execute_patiently(connection, f"PRAGMA {name} = {value}")
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows only ASCII

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        statement = db.get_execution_options().get("begin", "BEGIN")
        if statement:
            db.exec_driver_sql(statement)

    return engine


def connection_pragmas() -> dict[str, str]:
    """Return the pragmas of every connection."""
    has_safe_wal = driver().sqlite_version_info >= SAFE_WAL_VERSION
    return {
        "busy_timeout": str(BUSY_TIMEOUT_MS),
        "foreign_keys": "ON",
        "secure_delete": "ON",  # overwrites what is deleted, as a person may have to be erased
        "trusted_schema": "OFF",
        "journal_mode": "WAL" if has_safe_wal else "DELETE",
        "synchronous": "FULL" if has_safe_wal else "EXTRA",
        "cache_size": "-16000",
    }


def _execute_patiently(connection: Any, statement: str) -> None:
    """Execute a statement, waiting for locks: SQLite's own timeout does not apply to a change of the journal mode."""
    for _ in range(BUSY_TIMEOUT_MS // 50):
        try:
            connection.execute(statement)
            return
        except driver().OperationalError as error:
            if not sqlite_errors.is_busy(error):
                raise
            time.sleep(0.05)
    connection.execute(statement)


def _lower(value: object) -> object:
    return folded(value) if isinstance(value, str) else value


# Copies


def copy_pages(
    source: Path,
    target: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    in_use: bool = True,
    count: bool = False,
) -> dict[str, int]:
    """Copy a store as it is at one moment. With `count`, return how many rows each table had then.

    The target is an empty file or a store. It changes in one transaction: others see the old or the new store, and a
    kill leaves one of them. `in_use` says whether others may be writing to the source. `progress` is called with the
    number of copied pages and of all pages. Raises StoreFailed.
    """
    is_new = target.stat().st_size == 0
    with translate_db_errors(source), contextlib.closing(connect_file(source, in_use=in_use)) as origin:
        origin.execute("BEGIN")
        origin.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the first read fixes the moment
        rows = count_rows(origin.execute) if count else {}
        with contextlib.closing(connect_file(target)) as copy:
            copy.execute("PRAGMA writable_schema = ON")  # so that a truncated file can be overwritten
            origin.backup(copy, pages=2000, progress=lambda _, left, total: progress(total - left, total))
            if is_new:
                copy.execute("PRAGMA journal_mode = DELETE")  # everything in one file
    return rows


def count_rows(execute: Callable[[str], Any]) -> dict[str, int]:
    """Return how many rows each table has. `execute` runs a statement."""
    names = execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'").fetchall()
    return {name: execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0] for (name,) in names}  # noqa: S608


def quoted(name: str) -> str:
    """Return the name of a table or column as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def connect_file(path: Path, *, in_use: bool = True) -> Any:
    """Return a connection of the driver. If the file is not in use, no other file is created beside it."""
    has_log = any(path.with_name(path.name + suffix).exists() for suffix in files.SQLITE_LOGS)
    name = _uri(path, _mode_in_use(path) if in_use else "mode=ro" if has_log else "immutable=1")
    connection = driver().connect(name, uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection


def _mode_in_use(path: Path) -> str:
    """Return the options with which to open a store that others may be using.

    On a read-only mount nobody changes it, so that it needs no file beside it, as SQLite would create for a log.
    """
    if not place.is_on_read_only_mount(path):
        return "mode=rw"
    has_changes_in_log = any(map(_is_filled, (path.with_name(path.name + suffix) for suffix in files.SQLITE_LOGS)))
    return "mode=ro" if has_changes_in_log else "mode=ro&immutable=1"


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _uri(path: Path, options: str) -> str:
    return f"file:{quote(os.fsencode(path))}?{options}"

"""Opening a store: the driver, pragmas, transactions and the revision.

A store is one SQLite file, 0600 in a 0700 folder. It is written by Write-Ahead Log on a build of SQLite whose WAL is
sound with several writing processes (3.51.3 and newer), and by rollback journal on an older one.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session

from skychimp.errors import Conflict, StoreFailed

SOUND_WAL = (3, 51, 3)
IMMEDIATE = "BEGIN IMMEDIATE"
BUSY_TIMEOUT_MS = 30_000


class Store:
    """An open store. `read` and `write` are its transactions; a write begins IMMEDIATE, so that no update is lost."""

    def __init__(self, path: Path, **pragmas: str) -> None:
        self.path = path
        self.engine = make_engine(path, **pragmas)
        self._writer = self.engine.execution_options(begin=IMMEDIATE)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view of the store. Raises StoreFailed."""
        with translate_db_errors(), Session(self.engine, expire_on_commit=False) as db, db.begin():
            yield db

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed at the end of the block. Raises StoreFailed."""
        with translate_db_errors(), Session(self._writer, expire_on_commit=False) as db, db.begin():
            yield db

    def connect(self) -> Connection:
        """A connection whose every transaction begins IMMEDIATE, for the one thread that writes the ledger."""
        return self._writer.connect()

    def connect_at_once(self) -> Connection:
        """A connection whose every statement is a transaction of its own."""
        return self.engine.execution_options(begin=None).connect()

    def checkpoint(self) -> None:
        """Bring what the Write-Ahead Log holds into the file, and empty the log, unless somebody reads or writes it."""
        with translate_db_errors(), self.connect_at_once() as db:
            db.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def rewrite(self) -> None:
        """Write the file anew: what was deleted leaves bytes in its gaps, even where SQLite overwrites what it frees.

        Takes as much room again for a while, and writers wait. Raises StoreFailed.
        """
        with translate_db_errors(), self.connect_at_once() as db:
            db.exec_driver_sql("VACUUM")
        self.checkpoint()

    @property
    def driver_name(self) -> str:
        """The module that talks to SQLite here."""
        return _driver().__name__

    @property
    def pragmas(self) -> dict[str, str]:
        """How every connection to the store is set up."""
        return _pragmas()

    @property
    def sqlite_version(self) -> str:
        return str(_driver().sqlite_version)

    @property
    def is_sound_build(self) -> bool:
        """Whether SQLite is of those that keep a Write-Ahead Log sound, which is faster."""
        return bool(_driver().sqlite_version_info >= SOUND_WAL)

    @property
    def journal_mode(self) -> str:
        with translate_db_errors(), self.engine.connect() as db:
            return str(db.exec_driver_sql("PRAGMA journal_mode").scalar())

    def damage(self) -> str:
        """What SQLite's own check finds wrong with the file; "" where it is sound."""
        with translate_db_errors(), self.engine.connect() as db:
            found = str(db.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        return "" if found == "ok" else found

    def close(self) -> None:
        self.engine.dispose()


@contextlib.contextmanager
def translate_db_errors() -> Iterator[None]:
    """Turn the driver's errors into StoreFailed; what the tables forbid (IntegrityError) stays for the caller."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise failed(str(error.orig)) from error
    except _driver().Error as error:
        raise failed(str(error)) from error


def failed(reason: str) -> StoreFailed:
    """The error for what SQLite says."""
    return StoreFailed(f"the store can't be used: {reason}", _remedy(reason))


def is_locked(error: DBAPIError) -> bool:
    """Whether another process holds the store, so that waiting helps."""
    return "locked" in str(error.orig) or "busy" in str(error.orig)


def _remedy(reason: str) -> str:
    if "locked" in reason:
        return "another process holds it for long; try again"
    if "full" in reason:
        return "free some disk space, then run the command again; nothing was lost"
    return "check the disk and the file's permissions; nothing was sent without being recorded"


def _driver() -> ModuleType:
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        from sqlite3 import dbapi2
    driver: ModuleType = dbapi2
    return driver


def make_engine(path: Path, **changed: str) -> Engine:
    """An engine on a file; `changed` are pragmas that are not as usual."""
    engine = create_engine(URL.create("sqlite", database=str(path)), module=_driver(), hide_parameters=True)
    pragmas = _pragmas() | changed

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin only before some statements
        for name, value in pragmas.items():
            _patiently(connection, f"PRAGMA {name} = {value}")
        connection.create_function("lower", 1, _lower, deterministic=True)  # SQLite's own knows English only

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        how = db.get_execution_options().get("begin", "BEGIN")
        if how:
            db.exec_driver_sql(how)

    return engine


def _pragmas() -> dict[str, str]:
    sound = _driver().sqlite_version_info >= SOUND_WAL
    return {
        "busy_timeout": str(BUSY_TIMEOUT_MS),
        "foreign_keys": "ON",
        "journal_mode": "WAL" if sound else "DELETE",
        "synchronous": "FULL" if sound else "EXTRA",
        "cache_size": "-16000",
    }


def _patiently(connection: Any, statement: str) -> None:
    """Run it, waiting for other processes: SQLite does not when the journal is to become another one."""
    for _ in range(BUSY_TIMEOUT_MS // 50):
        try:
            connection.execute(statement)
            return
        except _driver().OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.05)
    connection.execute(statement)


def _lower(value: object) -> object:
    return value.casefold() if isinstance(value, str) else value


@contextlib.contextmanager
def passing(draft: Path) -> Iterator[None]:
    """An empty file that nobody else can read, and that is gone after the block, with all that SQLite put beside it."""
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        yield
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def appear(draft: Path, path: Path, *, replacing: bool = False) -> None:
    """Give a finished file its name, in another's place only if that is meant; on the disk, too."""
    try:
        (os.rename if replacing else os.link)(draft, path)
    except FileExistsError:
        raise Conflict(f"there is already a file at {path}") from None
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def copy_pages(
    source: Path, target: Path, tell: Callable[[int, int], None] = lambda done, total: None, *, is_used: bool = True
) -> dict[str, int]:
    """Copy a store, as it is at one moment, into a live one or an empty file; how many rows each table had then.

    It is one transaction of the target: whoever has that open sees the old or the new one, and a kill leaves one of
    them. `is_used` says whether others may be writing to the source; `tell` is told of pages done, and of all.
    Raises StoreFailed.
    """
    is_new = target.stat().st_size == 0
    with translate_db_errors(), contextlib.closing(_bare(source, is_used=is_used)) as origin:
        origin.execute("BEGIN")  # from the first look on it stays at that moment
        tables = origin.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")
        rows = {name: origin.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for (name,) in tables}  # noqa: S608
        with contextlib.closing(_bare(target)) as copied:
            copied.execute("PRAGMA writable_schema = ON")  # so that a file that was cut short can be written over
            origin.backup(copied, pages=2000, progress=lambda _, left, total: tell(total - left, total))
            if is_new:
                copied.execute("PRAGMA journal_mode = DELETE")  # one file, whole
    return rows


def _bare(path: Path, *, is_used: bool = True) -> Any:
    """A connection of the driver's own; one to a file that nobody uses leaves nothing beside it."""
    name = "file:" + quote(str(path))
    if not is_used:
        has_log = any(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-journal"))
        name += "?mode=ro" if has_log else "?immutable=1"
    connection = _driver().connect(name, uri=True, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return connection

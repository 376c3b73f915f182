"""Opening a store: the driver, pragmas, transactions and the revision.

A store is one SQLite file, 0600 in a 0700 folder. It is written by Write-Ahead Log on a build of SQLite whose WAL is
sound with several writing processes (3.51.3 and newer), and by rollback journal on an older one.
"""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, IntegrityError
from sqlmodel import Session

from skychimp.errors import Conflict, StoreFailed, StoreNotReady

REVISION = "0001"
"""The newest migration; a test holds it equal to the folder's."""

MIGRATIONS = Path(__file__).parent / "migrations"
APPLICATION_ID = 0x534B5943  # "SKYC", at offset 68 of the file's header
SOUND_WAL = (3, 51, 3)
IMMEDIATE = "BEGIN IMMEDIATE"
BUSY_TIMEOUT_MS = 30_000


class Store:
    """An open store. `read` and `write` are its transactions; a write begins IMMEDIATE, so that no update is lost."""

    def __init__(self, path: Path, **pragmas: str) -> None:
        self.path = path
        self.engine = _engine(path, **pragmas)
        self._writer = self.engine.execution_options(begin=IMMEDIATE)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view of the store. Raises StoreFailed."""
        with plain_errors(), Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """One transaction, committed at the end of the block. Raises StoreFailed."""
        with plain_errors(), Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def connect(self) -> Connection:
        """A connection whose every transaction begins IMMEDIATE, for the one thread that writes the ledger."""
        return self._writer.connect()

    def connect_at_once(self) -> Connection:
        """A connection whose every statement is a transaction of its own."""
        return self.engine.execution_options(begin=None).connect()

    def checkpoint(self) -> None:
        """Bring what the Write-Ahead Log holds into the file, and empty the log, unless somebody reads or writes it."""
        with plain_errors(), self.connect_at_once() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def rewrite(self) -> None:
        """Write the file anew: what was deleted leaves bytes in its gaps, even where SQLite overwrites what it frees.

        Takes as much room again for a while, and writers wait. Raises StoreFailed.
        """
        with plain_errors(), self.connect_at_once() as connection:
            connection.exec_driver_sql("VACUUM")
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
        with plain_errors(), self.engine.connect() as connection:
            return str(connection.exec_driver_sql("PRAGMA journal_mode").scalar())

    def damage(self) -> str:
        """What SQLite's own check finds wrong with the file; "" where it is sound."""
        with plain_errors(), self.engine.connect() as connection:
            found = str(connection.exec_driver_sql("PRAGMA quick_check(1)").scalar())
        return "" if found == "ok" else found

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str) -> Store:
    """Open the store at a SQLAlchemy URL, upgrading an old one after a backup; once in a process.

    Raises StoreNotReady where there is none, where the file is something else or damaged (it is not touched), or where
    it was made by a newer Skychimp.
    """
    path = store_path(url)
    require_store(path)
    store = Store(path)
    try:
        if _revision(store) != REVISION:
            upgrade(path)
    except BaseException:
        store.close()
        raise
    return store


def create_store(url: str) -> Store:
    """Make a new store; it appears whole or not at all. Raises Conflict where the file exists, StoreNotReady."""
    path = store_path(url)
    draft = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with passing(draft):
            _fill(draft)
            appear(draft, path)
    except OSError as error:
        raise StoreNotReady(
            f"the store {path} can't be made: {error.strerror}", "choose another place: --store PATH"
        ) from None
    return open_store(url)


def store_path(url: str) -> Path:
    """The file of a SQLite URL. Raises StoreNotReady for any other database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        raise StoreNotReady(
            f"this version keeps its store in an SQLite file, not in {parsed.get_backend_name()}",
            "set store.url to a path",
        )
    if not parsed.database or parsed.database == ":memory:":
        raise StoreNotReady("the store needs a file", "set store.url to a path")
    return Path(parsed.database)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
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


def _engine(path: Path, **changed: str) -> Engine:
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
    def _begin(connection: Connection) -> None:
        how = connection.get_execution_options().get("begin", "BEGIN")
        if how:
            connection.exec_driver_sql(how)

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


def require_store(path: Path) -> None:
    """Raise StoreNotReady where the first bytes of a file are not a store's.

    Not while the process has the store open: closing a file drops SQLite's locks on it.
    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            header = file.read(100)
    except FileNotFoundError:
        raise StoreNotReady(f"there is no store at {path}", "make one: skychimp init --email YOU@EXAMPLE.ORG") from None
    except OSError as error:
        raise StoreNotReady(f"the store {path} can't be read: {error.strerror}") from None
    if not header.startswith(b"SQLite format 3\0") or int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise StoreNotReady(f"{path} is not a Skychimp store; it was left as it is", "name another file: --store PATH")


def _revision(store: Store) -> str:
    try:
        with plain_errors(), store.engine.connect() as connection:
            return _revision_of(connection)
    except StoreFailed as error:
        if type(error.__cause__) is DatabaseError or "no such table" in error.message:  # not for want of a disk or lock
            raise StoreNotReady(
                f"the store {store.path} is damaged; it was left as it is",
                "bring back a copy: skychimp restore FILE --operator",
            ) from error
        raise


def _revision_of(connection: Connection) -> str:
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())


@contextlib.contextmanager
def passing(draft: Path) -> Iterator[None]:
    """An empty file that nobody else can read, and that is gone after the block, with all that SQLite put beside it."""
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    try:
        yield
    finally:
        for suffix in ("", "-journal", "-wal", "-shm"):
            draft.with_name(draft.name + suffix).unlink(missing_ok=True)


def _fill(path: Path) -> None:
    from skychimp.models import StoreInfo

    engine = _engine(path, journal_mode="DELETE")  # leaves one file, whole
    try:
        with plain_errors(), engine.execution_options(begin=IMMEDIATE).connect() as connection, connection.begin():
            migrate(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            row = {"id": 1, "secret": secrets.token_bytes(32), "created_at": datetime.now(UTC)}
            connection.execute(insert(StoreInfo.__table__).values(row))
    finally:
        engine.dispose()


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


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def upgrade(path: Path, *, with_backup: bool = True) -> None:
    """Bring an old store to the newest revision, after a backup beside it; another process may just have done it.

    Raises StoreNotReady where it was made by a newer Skychimp, StoreFailed.
    """
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    engine = _engine(path, foreign_keys="OFF")  # a table that is made anew must not take along what points to it
    try:
        with plain_errors(), engine.execution_options(begin=IMMEDIATE).connect() as connection, connection.begin():
            revision = _revision_of(connection)
            if revision not in known:
                raise StoreNotReady(
                    f"the store {path} was made by a newer Skychimp (revision {revision})", "upgrade Skychimp"
                )
            if revision != REVISION:
                if with_backup:
                    _copy(path, path.with_name(f"{path.name}.before-{REVISION}"))
                migrate(connection)
                _require_whole(connection)
    finally:
        engine.dispose()


def copy_pages(
    source: Path, target: Path, tell: Callable[[int, int], None] = lambda done, total: None, *, is_used: bool = True
) -> dict[str, int]:
    """Copy a store, as it is at one moment, into a live one or an empty file; how many rows each table had then.

    It is one transaction of the target: whoever has that open sees the old or the new one, and a kill leaves one of
    them. `is_used` says whether others may be writing to the source; `tell` is told of pages done, and of all.
    Raises StoreFailed.
    """
    is_new = target.stat().st_size == 0
    with plain_errors(), contextlib.closing(_bare(source, is_used=is_used)) as origin:
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


def _copy(path: Path, target: Path) -> None:
    """Copy a store to a name of its own. Raises StoreFailed."""
    draft = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    try:
        with passing(draft):
            copy_pages(path, draft)
            appear(draft, target, replacing=True)
    except OSError as error:
        raise StoreFailed(
            f"the store can't be copied to {target}: {error.strerror}", "it is upgraded only after a backup"
        ) from None


def _require_whole(connection: Connection) -> None:
    for table, row, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        raise StoreFailed(f"the upgrade would leave row {row} of {table} without its {parent}; nothing was changed")

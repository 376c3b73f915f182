"""Opening a store: the driver, pragmas, transactions and the revision.

A store is one SQLite file, 0600 in a 0700 folder. It is written by Write-Ahead Log on a build of SQLite whose WAL is
sound with several writing processes (3.51.3 and newer), and by rollback journal on an older one.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import Session

from skychimp.errors import Conflict, StoreFailed, StoreNotReady

REVISION = "0001"
"""The newest migration; a test holds it equal to the folder's."""

MIGRATIONS = Path(__file__).parent / "migrations"
APPLICATION_ID = 0x534B5943  # "SKYC", at offset 68 of the file's header
SOUND_WAL = (3, 51, 3)
BUSY_TIMEOUT_MS = 30_000


class Store:
    """An open store. `read` and `write` are its transactions; a write begins IMMEDIATE, so that it never loses an update."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = _engine(path)
        self._writer = self.engine.execution_options(immediate=True)

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

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str) -> Store:
    """Open the store at a SQLAlchemy URL, upgrading an old one after a backup.

    Raises StoreNotReady where there is none, where the file is something else (it is not touched), or where it was
    made by a newer Skychimp.
    """
    path = store_path(url)
    _refuse_what_is_no_store(path)
    store = Store(path)
    with plain_errors(), store.engine.connect() as connection:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision != REVISION:
        _upgrade(store, str(revision))
    return store


def create_store(url: str) -> Store:
    """Make a new store; it appears whole or not at all. Raises Conflict where the file exists."""
    path = store_path(url)
    if path.exists():
        raise Conflict(f"there is already a file at {path}")
    draft = path.with_name(f"{path.name}.new-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        _fill(draft)
        os.link(draft, path)
    except FileExistsError:
        raise Conflict(f"there is already a file at {path}") from None
    except OSError as error:
        raise StoreNotReady(
            f"the store {path} can't be made: {error.strerror}", "choose another place: --store PATH"
        ) from None
    finally:
        draft.unlink(missing_ok=True)
    return open_store(url)


def store_path(url: str) -> Path:
    """The file of a SQLite URL. Raises StoreNotReady for any other database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        raise StoreNotReady(
            f"this version keeps its store in an SQLite file, not in {parsed.get_backend_name()}",
            "set store.url to a path",
        )
    return Path(parsed.database)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the driver's errors into StoreFailed; what the tables forbid (IntegrityError) stays for the caller."""
    try:
        yield
    except IntegrityError:
        raise
    except DBAPIError as error:
        raise StoreFailed(f"the store can't be used: {error.orig}", _remedy(str(error.orig))) from error


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
        from sqlite3 import dbapi2  # type: ignore[no-redef]
    return dbapi2  # type: ignore[no-any-return]


def _engine(path: Path) -> Engine:
    driver = _driver()
    engine = create_engine(f"sqlite:///{path}", module=driver)
    sound = driver.sqlite_version_info >= SOUND_WAL
    pragmas = (
        f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}",
        "PRAGMA foreign_keys = ON",
        f"PRAGMA journal_mode = {'WAL' if sound else 'DELETE'}",
        f"PRAGMA synchronous = {'FULL' if sound else 'EXTRA'}",
        "PRAGMA cache_size = -16000",
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # the driver would begin only before some statements
        for pragma in pragmas:
            connection.execute(pragma)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _refuse_what_is_no_store(path: Path) -> None:
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        raise StoreNotReady(f"there is no store at {path}", "make one: skychimp init --email YOU@EXAMPLE.ORG") from None
    except OSError as error:
        raise StoreNotReady(f"the store {path} can't be read: {error.strerror}") from None
    if not header.startswith(b"SQLite format 3\0") or int.from_bytes(header[68:72]) != APPLICATION_ID:
        raise StoreNotReady(f"{path} is not a Skychimp store; it was left as it is", "name another file: --store PATH")


def _fill(path: Path) -> None:
    from skychimp.models import StoreInfo

    store = Store(path)
    try:
        with store.connect() as connection, connection.begin():
            migrate(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        with store.write() as session:
            session.add(StoreInfo(secret=secrets.token_bytes(32), created_at=datetime.now(UTC)))
    finally:
        store.close()
    with contextlib.closing(_driver().connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # leaves one file, whole, to be linked


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _upgrade(store: Store, revision: str) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    if revision not in known:
        raise StoreNotReady(
            f"the store {store.path} was made by a newer Skychimp (revision {revision})", "upgrade Skychimp"
        )
    with plain_errors(), store.connect() as connection, connection.begin():
        backup = store.path.with_name(f"{store.path.name}.before-{REVISION}")
        _copy(store, backup)
        migrate(connection)


def _copy(store: Store, target: Path) -> None:
    draft = target.with_name(target.name + ".part")
    os.close(os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
    driver = _driver()
    with (
        contextlib.closing(driver.connect(store.path)) as source,
        contextlib.closing(driver.connect(draft)) as copy,
    ):
        source.backup(copy)
    shutil.move(draft, target)

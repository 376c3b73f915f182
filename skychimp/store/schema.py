"""Create, open and upgrade a store."""

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, insert
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError

from skychimp.errors import StoreFailed, StoreNotReady
from skychimp.store.database import IMMEDIATE, Store, appear, copy_pages, make_engine, passing, translate_db_errors

REVISION = "0001"
"""The newest migration; a test holds it equal to the folder's."""


MIGRATIONS = Path(__file__).parent / "migrations"


APPLICATION_ID = 0x534B5943  # "SKYC", at offset 68 of the file's header


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
        with translate_db_errors(), store.engine.connect() as db:
            return _revision_of(db)
    except StoreFailed as error:
        if type(error.__cause__) is DatabaseError or "no such table" in error.message:  # not for want of a disk or lock
            raise StoreNotReady(
                f"the store {store.path} is damaged; it was left as it is",
                "bring back a copy: skychimp restore FILE --operator",
            ) from error
        raise


def _revision_of(db: Connection) -> str:
    return str(db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())


def _fill(path: Path) -> None:
    from skychimp.models import StoreInfo

    engine = make_engine(path, journal_mode="DELETE")  # leaves one file, whole
    try:
        with (
            translate_db_errors(),
            engine.execution_options(begin=IMMEDIATE).connect() as db,
            db.begin(),
        ):
            migrate(db)
            db.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            row = {"id": 1, "secret": secrets.token_bytes(32), "created_at": datetime.now(UTC)}
            db.execute(insert(StoreInfo.__table__).values(row))
    finally:
        engine.dispose()


def migrate(db: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision, inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    command.upgrade(config, revision)


def upgrade(path: Path, *, with_backup: bool = True) -> None:
    """Bring an old store to the newest revision, after a backup beside it; another process may just have done it.

    Raises StoreNotReady where it was made by a newer Skychimp, StoreFailed.
    """
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}
    engine = make_engine(path, foreign_keys="OFF")  # a table that is made anew must not take along what points to it
    try:
        with (
            translate_db_errors(),
            engine.execution_options(begin=IMMEDIATE).connect() as db,
            db.begin(),
        ):
            revision = _revision_of(db)
            if revision not in known:
                raise StoreNotReady(
                    f"the store {path} was made by a newer Skychimp (revision {revision})", "upgrade Skychimp"
                )
            if revision != REVISION:
                if with_backup:
                    _copy(path, path.with_name(f"{path.name}.before-{REVISION}"))
                migrate(db)
                _require_whole(db)
    finally:
        engine.dispose()


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


def _require_whole(db: Connection) -> None:
    for table, row, parent, _ in db.exec_driver_sql("PRAGMA foreign_key_check"):
        raise StoreFailed(f"the upgrade would leave row {row} of {table} without its {parent}; nothing was changed")

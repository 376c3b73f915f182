"""Create, open and upgrade a store."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from skychimp import files
from skychimp.errors import Conflict, StoreFailed, StoreNotReady
from skychimp.shell import run_hint
from skychimp.store import sqlite_errors
from skychimp.store.database import POSTGRESQL, SQLITE, Fill, Store
from skychimp.store.migrations import revisions
from skychimp.store.place import check_place
from skychimp.store.sqlite import IMMEDIATE, SqliteStore, copy_pages, make_engine, result_code, translate_db_errors
from skychimp.translation import tr

APPLICATION_ID = 0x534B5943
""""SKYC", at offset 68 of the file's header."""

_OTHER_FILE = tr("use --store PATH to choose another file")


def open_store(url: str, password: str | None = None) -> Store:
    """Open the store at a SQLAlchemy URL. An old store is upgraded first. `password` is for a server, if it needs one.

    Raises StoreNotReady if there is no store, if the file is damaged or something else (it is not touched), or if it
    was made by a newer Skychimp; if others can change it, see `check_place`; and StoreFailed.
    """
    if is_on_server(url):
        from skychimp.store.postgres import schema as postgres_schema

        return postgres_schema.open_store(url, password)
    return _open_file(real_path(store_path(url)))


def _open_file(path: Path) -> SqliteStore:
    """Open a store in a file. An old one is upgraded after a backup."""
    check_place(path)
    require_store(path)
    store = SqliteStore(path)
    try:
        if _read_revision(store) != revisions.REVISION:
            upgrade(path)
    except BaseException:
        store.close()
        raise
    return store


def create_store(url: str, password: str | None = None, fill: Fill = lambda db: None) -> Store:
    """Create a store, completely or not at all, and open it. `fill` may put something into the new tables.

    Raises Conflict if it exists, StoreNotReady if it cannot be created or others can change its folder, and
    StoreFailed.
    """
    if is_on_server(url):
        from skychimp.store.postgres import schema as postgres_schema

        return postgres_schema.create_store(url, password, fill)
    path = real_path(store_path(url))
    draft = path.with_name(f"{path.name}.new-{secrets.token_hex(4)}")
    if os.path.lexists(path):
        raise _exists(path)
    check_place(path)
    try:
        files.make_folder(path.parent)
        with files.temporary_file(draft) as file:
            create_file(file, fill)
            publish_new(file, path)
    except OSError as error:
        reason = error.reason(path) if isinstance(error, files.UnsafePlace) else error.strerror
        raise StoreNotReady(
            tr("cannot create the store {path}: {reason}", path=path, reason=reason), _OTHER_FILE
        ) from None
    return open_store(url)


def publish_new(draft: Path, path: Path) -> None:
    """Give a complete file its name. Raises Conflict if a file with that name exists, and OSError."""
    try:
        files.publish(draft, path)
    except FileExistsError:
        raise _exists(path) from None


def _exists(path: Path) -> Conflict:
    return Conflict(tr("{path} already exists", path=path), _OTHER_FILE)


def has_store(url: str, password: str | None = None) -> bool:
    """Return whether there is a store, or a file in its place. Raises StoreNotReady and StoreFailed."""
    if is_on_server(url):
        from skychimp.store.postgres import schema as postgres_schema

        return postgres_schema.has_store(url, password)
    return store_path(url).exists()


def is_on_server(url: str) -> bool:
    """Return whether a store's URL is one of PostgreSQL. Raises StoreNotReady for an unknown database."""
    name = make_url(url).get_backend_name()
    if name not in (SQLITE, POSTGRESQL):
        raise StoreNotReady(
            tr('unsupported database "{name}"', name=name), tr("set store.url to a path or to postgresql+psycopg://…")
        )
    return name == POSTGRESQL


def store_path(url: str) -> Path:
    """Return the file of an SQLite URL. Raises StoreNotReady for any other database."""
    if is_on_server(url):
        raise StoreNotReady(tr("this works only with a store in a file"), tr('see "skychimp help postgres"'))
    parsed = make_url(url)
    if not parsed.database or parsed.database == ":memory:":
        raise StoreNotReady(tr("store.url names no file"), tr("set store.url to a path"))
    return Path(parsed.database)


def real_path(path: Path) -> Path:
    """Return the path of a file without links. A link to nothing stays, so that it is neither opened nor replaced."""
    if os.path.exists(path):
        return Path(os.path.realpath(path))
    return Path(os.path.realpath(path.parent)) / path.name


def require_store(path: Path) -> None:
    """Raise StoreNotReady unless a file begins like a store.

    Do not call it while this process has the store open: closing the file would drop SQLite's locks on it.
    """
    try:
        is_ours = is_store(path)
    except FileNotFoundError:
        raise StoreNotReady(
            tr("no store at {path}", path=path), run_hint("init", "--email", "YOU@EXAMPLE.ORG")
        ) from None
    except OSError as error:
        raise StoreNotReady(
            tr("cannot read the store {path}: {strerror}", path=path, strerror=error.strerror)
        ) from None
    if not is_ours:
        raise StoreNotReady(tr("{path} is not a Skychimp store", path=path), _OTHER_FILE)


def is_store(path: Path) -> bool:
    """Return whether a file begins like a store. Raises OSError. For the same files as `require_store`."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        header = file.read(100)
    return header.startswith(b"SQLite format 3\0") and int.from_bytes(header[68:72]) == APPLICATION_ID


# Migrations


def upgrade(path: Path, *, with_backup: bool = True) -> None:
    """Bring an old store to the newest revision, after a backup beside it. Another process may have just done it.

    Raises StoreNotReady if the store was made by a newer Skychimp, and StoreFailed.
    """
    from skychimp.store.clients import tags

    known = revisions.known_revisions()
    engine = make_engine(path, foreign_keys="OFF")  # rebuilding a table must not delete the rows that refer to it
    try:
        with (
            translate_db_errors(path),
            engine.execution_options(begin=IMMEDIATE).connect() as db,
            db.begin(),
        ):
            revision = revisions.read_revision(db)
            if revision not in known:
                raise revisions.newer_store(str(path), revision)
            if revision != revisions.REVISION:
                with _backup(path) if with_backup else nullcontext():
                    revisions.migrate(db)
                    tags.merge_spellings(db)
                    _require_intact_references(db)
    finally:
        engine.dispose()


def _read_revision(store: SqliteStore) -> str:
    try:
        with store.translate_errors(), store.engine.connect() as db:
            return revisions.read_revision(db)
    except StoreFailed as error:
        cause = error.__cause__
        if isinstance(cause, DBAPIError) and result_code(cause) in sqlite_errors.DAMAGE:
            message = tr("the store {path} is damaged", path=store.path)
            raise StoreNotReady(message, run_hint("restore", "FILE", "--operator")) from error
        raise


def create_file(path: Path, fill: Fill) -> None:
    """Create a store in an empty file. Raises StoreFailed."""
    engine = make_engine(path, journal_mode="DELETE")  # everything in one file
    try:
        with (
            translate_db_errors(path),
            engine.execution_options(begin=IMMEDIATE).connect() as db,
            db.begin(),
        ):
            revisions.migrate(db)
            db.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            revisions.add_store_info(db)
            fill(db)
    finally:
        engine.dispose()


@contextmanager
def _backup(path: Path) -> Iterator[None]:
    """Keep a copy of a store, unless the upgrade in the block fails and changes nothing. Raises StoreFailed."""
    copy = _back_up(path)
    try:
        yield
    except BaseException:
        copy.unlink(missing_ok=True)
        raise


def _back_up(path: Path) -> Path:
    """Copy a store, to a name that no other copy has, and return the copy. Raises StoreFailed."""
    first = f"{path.name}.before-{revisions.REVISION}"
    names = (path.with_name(f"{first}-{number}" if number else first) for number in count())
    target = next(name for name in names if not os.path.lexists(name))
    draft = target.with_name(f"{target.name}.draft-{secrets.token_hex(4)}")
    try:
        with files.temporary_file(draft) as file:
            copy_pages(path, file)
            files.publish(file, target)
            return target
    except OSError as error:
        message = tr("cannot back up the store to {target}: {strerror}", target=target, strerror=error.strerror)
        raise StoreFailed(message, tr("the store is upgraded only after a backup")) from None


def _require_intact_references(db: Connection) -> None:
    for table, row, parent, _ in db.exec_driver_sql("PRAGMA foreign_key_check"):
        raise StoreFailed(
            tr(
                "cannot upgrade the store: row {row} of {table} would refer to a missing {other_table}",
                row=row,
                table=table,
                other_table=parent,
            )
        )

"""Create, open and upgrade a store in a PostgreSQL database.

New tables are created from the models, as the first migrations are older than this database's support. Every change is
one transaction: it happens completely or not at all.
"""

from contextlib import closing

from sqlalchemy import Connection

from skychimp.errors import Conflict, StoreFailed, StoreNotReady
from skychimp.shell import run_hint
from skychimp.store.database import Fill
from skychimp.store.migrations import revisions
from skychimp.store.postgres.server import MISSING_TABLE, OLDEST_VERSION, PostgresStore, sqlstate
from skychimp.translation import tr


def open_store(url: str, password: str | None) -> PostgresStore:
    """Open the store in a database. An old store is upgraded first.

    Raises StoreNotReady if the database has no store, or one of a newer Skychimp, and StoreFailed.
    """
    store = PostgresStore(url, password)
    try:
        if _read_revision(store) != revisions.REVISION:
            _upgrade(store)
        store.prepare()
    except BaseException:
        store.close()
        raise
    return store


def create_store(url: str, password: str | None, fill: Fill) -> PostgresStore:
    """Create a store in a database and open it. `fill` may put something into the new tables.

    Raises Conflict if the database has one, StoreNotReady if it is not suitable, and StoreFailed.
    """
    with closing(PostgresStore(url, password)) as store, store.translate_errors(), store.connect() as db, db.begin():
        _require_suitable(db, store)
        create_tables(db)
        revisions.add_store_info(db)
        fill(db)
    return open_store(url, password)


def has_store(url: str, password: str | None) -> bool:
    """Return whether a database has a store. Raises StoreNotReady and StoreFailed if it cannot be asked."""
    with closing(PostgresStore(url, password)) as store, store.translate_errors(), store.engine.connect() as db:
        return _has_tables(db)


def create_tables(db: Connection) -> None:
    """Create the tables of an empty store, at the newest revision."""
    from skychimp.models import metadata

    for index in (index for table in metadata.tables.values() for index in table.indexes):
        index.dialect_options["postgresql"]["where"] = index.dialect_options["sqlite"]["where"]
    metadata.create_all(db, checkfirst=False)
    db.exec_driver_sql(_CREATE_IMAGES)
    revisions.stamp(db)


_CREATE_IMAGES = "CREATE TABLE image (name text PRIMARY KEY, content bytea NOT NULL)"
"""What is a folder beside the file of an SQLite store."""


def _require_suitable(db: Connection, store: PostgresStore) -> None:
    version = int(db.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < OLDEST_VERSION:
        raise StoreNotReady(
            tr("{name} is PostgreSQL {version}", name=store.name, version=version // 10000),
            tr("use PostgreSQL 14 or newer"),
        )
    encoding = db.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        hint = tr("create the database with: createdb --encoding UTF8 --template template0 NAME")
        raise StoreNotReady(
            tr("the database {name} has the encoding {encoding}", name=store.name, encoding=encoding), hint
        )
    if _has_tables(db):
        raise Conflict(tr("{name} already has a store", name=store.name), tr("use another database"))


def _has_tables(db: Connection) -> bool:
    return db.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar() is not None


def _upgrade(store: PostgresStore) -> None:
    """Bring an old store to the newest revision. Another process may have just done it."""
    from skychimp.store.clients import tags

    known = revisions.known_revisions()
    with store.translate_errors(), store.connect() as db, db.begin():
        revision = revisions.read_revision(db)
        if revision not in known:
            raise revisions.newer_store(store.name, revision)
        if revision != revisions.REVISION:
            revisions.migrate(db)
            tags.merge_spellings(db)


def _read_revision(store: PostgresStore) -> str:
    try:
        with store.translate_errors(), store.engine.connect() as db:
            return revisions.read_revision(db)
    except StoreFailed as error:
        if error.__cause__ is not None and sqlstate(error.__cause__) == MISSING_TABLE:
            raise StoreNotReady(
                tr("no store at {name}", name=store.name), run_hint("init", "--email", "YOU@EXAMPLE.ORG")
            ) from None
        raise

"""Read and change the revision of a store's tables. Every function is part of its caller's transaction."""

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, insert

from skychimp.errors import StoreNotReady
from skychimp.text import shortened
from skychimp.translation import tr

if TYPE_CHECKING:
    from alembic.config import Config

REVISION = "0021"
"""The newest migration. A test compares it with the migrations folder."""

MIGRATIONS = Path(__file__).parent


def migrate(db: Connection, revision: str = "head") -> None:
    """Bring the tables to a revision."""
    from alembic import command

    command.upgrade(_alembic_config(db), revision)


def stamp(db: Connection) -> None:
    """Record that tables which were created from the models are at the newest revision."""
    from alembic import command

    command.stamp(_alembic_config(db), "head")


def add_store_info(db: Connection) -> None:
    """Add the row that describes a new store, and its first key for tokens."""
    from skychimp.models import tables

    now = datetime.now(UTC)
    db.execute(insert(tables.store_info).values(id=1, secret=secrets.token_bytes(32), created_at=now))
    db.execute(insert(tables.token_key).values(number=1, key=secrets.token_bytes(32), created_at=now))


def read_revision(db: Connection) -> str:
    """Return the revision of the tables."""
    return str(db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar())


def known_revisions() -> set[str]:
    """Return the revisions that this version of Skychimp can upgrade."""
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()}


def newer_store(name: str, revision: str) -> StoreNotReady:
    """Return the error for a store with an unknown revision."""
    message = tr(
        "the store {name} was made by a newer Skychimp (revision {revision})", name=name, revision=shortened(revision)
    )
    return StoreNotReady(message, tr("upgrade Skychimp"))


def _alembic_config(db: Connection) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = db
    return config

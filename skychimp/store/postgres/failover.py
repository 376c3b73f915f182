"""Notice that the store is in another database than before, and hold it if that may lack commits.

What was committed last may be missing then: emails that were sent would be sent again. That is so after a restore
from a dump or to a point in time, and after a fail-over to a standby server. The last two begin a new timeline
(PostgreSQL's documentation, 26.3). A fail-over loses nothing if each commit waited for the standby. A machine that has
committed something knows it from a restore: what it has written last is still there.
"""

from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, select, update

from skychimp.models import tables
from skychimp.store import holds
from skychimp.store.database import POSTGRESQL, Store
from skychimp.store.postgres import last_commit
from skychimp.store.postgres.server import DATABASE_ID, WAITS_FOR_STANDBY

_INFO = tables.store_info

_READ_DATABASE = f"SELECT {DATABASE_ID}, {WAITS_FOR_STANDBY}"


class Database(NamedTuple):
    """Where a store is, None if it is not known: see StoreInfo. Whether each commit waits for a standby server."""

    database_id: str | None
    waits_for_standby: bool | None


def check_store(store: Store) -> None:
    """Do `check` in a transaction of its own."""
    if store.dialect == POSTGRESQL:
        with store.write() as db:
            check(db.connection(), store.path, store.now())


def check(db: Connection, path: Path, now: datetime) -> None:
    """Hold the store if its database may lack commits of the one that it was in before.

    Part of the caller's transaction, which has the store's lock.
    """
    if db.dialect.name != POSTGRESQL:
        return
    current = Database(*db.exec_driver_sql(_READ_DATABASE).one())
    before = Database(*db.execute(select(_INFO.c.database_id, _INFO.c.waits_for_standby)).one())
    if reason := why_commits_may_be_missing(before, current, has_own_last_commit=_has_last_commit(db, path)):
        holds.hold(db, reason, now, blind=True)
    if current != before:
        db.execute(update(_INFO).values(current._asdict()))


def _has_last_commit(db: Connection, path: Path) -> bool:
    """Return whether the last commit of this machine is known, and in the database."""
    last = last_commit.read(path)
    if last is None:
        return False
    query = _HAS_WRITTEN if last.delivery_ids else _HAS_COMMITTED
    return bool(db.exec_driver_sql(query, {"xid": str(last.xid), "ids": list(last.delivery_ids)}).scalar())


_HAS_COMMITTED = """
    SELECT CASE WHEN CAST(%(xid)s AS xid8) < pg_snapshot_xmax(pg_current_snapshot())
        THEN pg_xact_status(CAST(%(xid)s AS xid8)) = 'committed' END"""

_HAS_WRITTEN = """
    SELECT EXISTS (SELECT FROM attempt WHERE delivery_id = ANY(%(ids)s)
            AND age(xmin) <= age(CAST(CAST(%(xid)s AS xid8) AS xid)))
        OR EXISTS (SELECT FROM intent WHERE delivery_id = ANY(%(ids)s)
            AND xmin = CAST(CAST(%(xid)s AS xid8) AS xid))"""
"""Whether what a transaction has written is there, or a later attempt, which may have replaced its intent.

After a fail-over nobody adds an attempt before this check.
"""


def why_commits_may_be_missing(before: Database, current: Database, *, has_own_last_commit: bool) -> str | None:
    """Return what has happened between two looks at a store if its database may lack commits now, else None."""
    if before.database_id is None or current.database_id is None or before.database_id == current.database_id:
        return None
    if before.database_id.rpartition(":")[0] != current.database_id.rpartition(":")[0]:
        return holds.AFTER_RESTORE
    return None if before.waits_for_standby and has_own_last_commit else holds.AFTER_FAILOVER

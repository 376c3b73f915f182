"""Make stores as earlier versions of Skychimp left them."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from skychimp.delivery.scheduling import planner
from skychimp.store import schema, sqlite
from skychimp.store.migrations import revisions
from skychimp.store.occurrences import opening
from skychimp.store.sqlite import SqliteStore

NAMES = "id, occurrence_id, client_id, address, address_key, name, comment, tags, attempts, given_back, next_try_at"


def make_store_before_leases(template: Path, path: Path, states: Sequence[str]) -> Path:
    """Open the due mailing of a store, and write it to `path` as revision 0003 did, with these states of deliveries.

    Those that are claimed or being sent belong to a run that was killed.
    """
    now = datetime.now(UTC)
    with closing(SqliteStore(template)) as store, store.connect() as db, db.begin():
        planner.open_due(db, now, sender="a@x.org", return_path="a@x.org")
        opening.create_deliveries(db, 1)
    path.touch(exist_ok=True)
    engine = sqlite.make_engine(path)
    with engine.execution_options(begin=sqlite.IMMEDIATE).connect() as db, db.begin():
        revisions.migrate(db, "0003")
        db.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    engine.dispose()
    with closing(sqlite.connect_file(path)) as db:
        db.execute("PRAGMA foreign_keys = OFF")
        db.execute("ATTACH ? AS new", (str(template),))
        tables = [name for (name,) in db.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'")]
        for table in sorted(set(tables) - {"alembic_version", "delivery", "sqlite_sequence"}):
            db.execute(f"DELETE FROM main.{table}")
            names = ", ".join(f'"{row[1]}"' for row in db.execute(f"PRAGMA main.table_info('{table}')"))
            db.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        db.execute(f"INSERT INTO main.delivery ({NAMES}, state) SELECT {NAMES}, state FROM new.delivery")
        db.execute(
            "INSERT INTO run (id, host, pid, started_at, heartbeat_at, sent, deferred, failed, unknown)"
            " VALUES (1, 'here', 1, '2026-01-01', '2026-01-01', 0, 0, 0, 0)"
        )
        for number, state in enumerate(states, 1):
            db.execute("UPDATE delivery SET state = ?, run_id = 1, token = 1 WHERE id = ?", (state, number))
    path.chmod(0o600)
    return path

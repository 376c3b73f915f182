"""Migrations make what the models say, old stores are upgraded after a backup, and the tables forbid what can't be."""

import contextlib
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Enum, create_engine, delete
from sqlalchemy.exc import IntegrityError
from support.queue_steps import (
    NOW,
    claim,
    client,
    delete_client,
    fill,
    mailing,
    number_of,
    open_due,
    opened,
    rows,
    send,
    write,
)

from skychimp.errors import StoreFailed, StoreNotReady
from skychimp.models import (
    AuditEntry,
    Client,
    ClientTag,
    Code,
    CodePurpose,
    Delivery,
    DeliveryRollup,
    DeliveryState,
    Login,
    Outcome,
    ReplyKind,
    metadata,
)
from skychimp.permissions import Actor
from skychimp.store import database, schema
from skychimp.store.database import Store
from skychimp.store.schema import open_store


def test_models_and_migrations_say_the_same(store: Store) -> None:
    with store.read() as db:
        context = MigrationContext.configure(db.connection(), opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
        migrated = tables_of(db.connection())
    made = create_engine("sqlite://")
    with made.begin() as db:
        metadata.create_all(db)
        assert migrated == tables_of(db)
    made.dispose()


def tables_of(db: Connection) -> dict[str, list[str]]:
    """Every table and index as SQLite keeps it, constraints and conditions included; a table as its sorted parts."""
    found = db.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE name NOT IN ('alembic_version', 'sqlite_sequence') AND sql NOTNULL"
    )
    return {name: sorted(re.split(r",\s*\n|\(\s*\n|\n\s*\)", re.sub(r"[ \t]+", " ", sql))) for name, sql in found}


def test_the_newest_revision_is_the_last_of_the_folder() -> None:
    (newest,) = ScriptDirectory(str(schema.MIGRATIONS)).get_heads()
    assert newest == schema.REVISION


# Old stores

NEXT = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade() -> None:
    with op.batch_alter_table("client", recreate="always") as batch:
        batch.add_column(sa.Column("phone", sa.String(), nullable=False, server_default=""))
"""
BREAKS = (
    NEXT
    + """
    op.execute("DELETE FROM client")
"""
)
FAILS = (
    NEXT
    + """
    op.execute("SELECT nonsense")
"""
)


@pytest.fixture
def old(store: Store, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of today with some clients, which another revision makes an old one."""
    for name in ("ann", "bob"):
        client(store, ada, name, tags=["red"])
    store.close()
    become_newer(monkeypatch, tmp_path, NEXT)
    return store.path


def become_newer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    newer = tmp_path / "newer"
    shutil.rmtree(newer, ignore_errors=True)
    shutil.copytree(schema.MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "versions" / "0002_next.py").write_text(script)
    monkeypatch.setattr(database, "MIGRATIONS", newer)
    monkeypatch.setattr(database, "REVISION", "0002")


def revision(path: Path) -> str:
    with contextlib.closing(database._driver().connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def phones(path: Path) -> list[str]:
    with contextlib.closing(database._driver().connect(path)) as connection:
        return [phone for (phone,) in connection.execute("SELECT phone FROM client")]


def test_an_old_store_is_upgraded_after_a_backup(old: Path) -> None:
    """A table that is made anew on the way takes nothing along that points to it."""
    upgraded = open_store(f"sqlite:///{old}")

    assert [found.email for found in rows(upgraded, Client)] == ["ann@example.org", "bob@example.org"]
    assert number_of(upgraded, ClientTag) == 2
    with upgraded.read() as db:
        assert db.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    upgraded.close()
    assert (revision(old), phones(old)) == ("0002", ["", ""])
    backup = old.with_name("skychimp.db.before-0002")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert revision(backup) == "0001"
    files = {path.name for path in old.parent.iterdir() if path.is_file()}
    assert files == {"skychimp.db", "skychimp.db.before-0002"}


def test_the_backup_is_a_store(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (schema.MIGRATIONS.parent, schema.REVISION)
    open_store(f"sqlite:///{old}").close()
    monkeypatch.undo()
    assert before != (schema.MIGRATIONS.parent, schema.REVISION)

    with pytest.raises(StoreNotReady, match="newer Skychimp"):
        open_store(f"sqlite:///{old}")
    again = open_store(f"sqlite:///{old}.before-0002")

    assert [found.email for found in rows(again, Client)] == ["ann@example.org", "bob@example.org"]
    again.close()


@pytest.mark.parametrize(
    ("script", "error"), [(FAILS, "no such column: nonsense"), (BREAKS, "would leave row 1 of client_tag")]
)
def test_an_upgrade_that_fails_changes_nothing(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: str
) -> None:
    become_newer(monkeypatch, tmp_path / "newer", script)

    with pytest.raises(StoreFailed, match=error):
        open_store(f"sqlite:///{old}")

    monkeypatch.undo()
    same = open_store(f"sqlite:///{old}")
    assert (number_of(same, Client), number_of(same, ClientTag)) == (2, 2)
    same.close()


def test_without_a_backup_there_is_no_upgrade(old: Path) -> None:
    old.with_name("skychimp.db.before-0002").mkdir()

    with pytest.raises(StoreFailed, match="can't be copied"):
        open_store(f"sqlite:///{old}")

    assert revision(old) == "0001"


UPGRADE = """
import sys
from pathlib import Path
from skychimp.store import engine

engine.MIGRATIONS, engine.REVISION = Path(sys.argv[2]), "0002"
engine.open_store("sqlite:///" + sys.argv[1]).close()
"""


def test_two_who_upgrade_at_once(old: Path) -> None:
    """The second finds it done, and the backup stays the first one's."""
    command = [sys.executable, "-c", UPGRADE, str(old), str(schema.MIGRATIONS)]
    with contextlib.closing(database._driver().connect(old, isolation_level=None)) as gate:
        gate.execute("BEGIN IMMEDIATE")
        processes = [subprocess.Popen(command) for _ in range(2)]
        with pytest.raises(subprocess.TimeoutExpired):
            processes[0].wait(1.5)
        gate.execute("COMMIT")

    assert [process.wait() for process in processes] == [0, 0]
    assert revision(old) == "0002"
    assert revision(old.with_name("skychimp.db.before-0002")) == "0001"


# What the tables forbid


@pytest.fixture
def full(store: Store, ada: Actor) -> Store:
    """A row in every table that holds a state."""
    opened(store, ada, "bob")
    send(store, 1, Outcome.SENT, *claim(store))
    with store.write() as db:
        db.add(Code(user_id=1, purpose=CodePurpose.VERIFY, code_hash="", created_at=NOW, expires_at=NOW))
        db.add(AuditEntry(at=NOW, action="login", object="user"))
        db.add(ReplyKind(outcome=Outcome.SENT, phase="dot", code=250, enhanced="", words="ok"))
        db.add(DeliveryRollup(occurrence_id=1, domain="", state=DeliveryState.SENT, attempts=1, deliveries=1))
    return store


ENUMS = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, Enum)
]


@pytest.mark.parametrize(("table", "column"), ENUMS)
def test_a_state_is_one_of_those_there_are(full: Store, table: str, column: str) -> None:
    with pytest.raises(IntegrityError, match=f"CHECK constraint failed: ck_{table}_{column}"):
        write(full, lambda connection: connection.exec_driver_sql(f'UPDATE "{table}" SET "{column}" = \'nonsense\''))


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE mailing SET end_at = start_at", "ck_mailing_window"),
        ("INSERT INTO store_info (id, secret, created_at) VALUES (2, x'00', '')", "ck_store_info_one_row"),
        ("UPDATE delivery SET state = 'queued', next_try_at = NULL", "ck_delivery_waits_until"),
        ("UPDATE delivery SET state = 'deferred', next_try_at = NULL", "ck_delivery_waits_until"),
        ("UPDATE delivery SET state = 'claimed', run_id = NULL", "ck_delivery_held_by"),
        ("UPDATE delivery SET state = 'sending', token = NULL", "ck_delivery_held_by"),
        ("DELETE FROM message", "FOREIGN KEY"),
        ("DELETE FROM delivery", "FOREIGN KEY"),
        ("DELETE FROM user", "FOREIGN KEY"),
        ("DELETE FROM audit", "only added to"),
        ("UPDATE audit SET detail = 'another'", "only added to"),
    ],
)
def test_what_can_never_be(full: Store, statement: str, constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        write(full, lambda connection: connection.exec_driver_sql(statement))


UNIQUE = {
    "user": ["address_key"],
    "login": ["token_hash"],
    "client": ["owner_id", "address_key"],
    "occurrence": ["mailing_id", "due_local"],
    "delivery": ["occurrence_id", "address_key"],
    "attempt": ["delivery_id", "number"],
}


@pytest.mark.parametrize("table", UNIQUE)
def test_there_are_no_two_of_the_same(full: Store, table: str) -> None:
    with full.write() as db:
        db.add(Login(user_id=1, token_hash="x", created_at=NOW, seen_at=NOW, expires_at=NOW))
    columns = ", ".join(f'"{column.name}"' for column in metadata.tables[table].columns if column.name != "id")
    again = f'INSERT INTO "{table}" ({columns}) SELECT {columns} FROM "{table}"'
    same = ", ".join(f"{table}.{column}" for column in UNIQUE[table])

    with pytest.raises(IntegrityError, match=f"UNIQUE constraint failed: {same}"):
        write(full, lambda connection: connection.exec_driver_sql(again))


def test_the_numbers_of_clients_and_deliveries_never_come_back(store: Store, ada: Actor) -> None:
    """A delivery remembers its client by number, and a letter is named after its delivery's."""
    (bob,) = opened(store, ada, "bob")
    delete_client(store, bob)
    write(store, lambda connection: connection.execute(delete(Delivery)))

    new = client(store, ada, "eve")
    mailing(store, ada)
    open_due(store)
    fill(store, 2)

    assert new > bob
    assert [found.id for found in rows(store, Delivery)] == [2]

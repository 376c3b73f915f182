"""Migrations create what the models define, old stores are upgraded after a backup, and constraints hold."""

import contextlib
import errno
import os
import re
import shutil
import stat
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Enum, create_engine, delete, insert
from sqlalchemy.exc import IntegrityError
from support.harness import make_due_store
from support.old_stores import make_store_before_leases
from support.queue_steps import (
    NOW,
    RELAY,
    claim,
    close_leases,
    count_rows,
    create_client,
    create_deliveries,
    create_mailing,
    create_run,
    delete_client,
    delivery_states,
    get_row,
    make_attempt,
    open_due,
    open_mailing,
    record_attempts,
    rows,
    send,
    update_row,
    write,
)
from support.sending import state_counts

from skychimp.errors import StoreFailed, StoreNotReady
from skychimp.models import (
    AccountEmail,
    Attempt,
    AuditEntry,
    Client,
    ClientField,
    ClientTag,
    Code,
    CodePurpose,
    Consent,
    ConsentSource,
    Content,
    Delivery,
    DeliveryRollup,
    DeliveryState,
    FieldType,
    Format,
    Intent,
    LayoutKind,
    Lease,
    Login,
    MessageLayout,
    MessageVariant,
    Occurrence,
    Outcome,
    ReplyKind,
    ReturnCount,
    ReturnedKind,
    ReturnedMail,
    Role,
    Run,
    StoreInfo,
    Suppression,
    SuppressionSource,
    TokenKey,
    User,
    metadata,
)
from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.services.reporting import rollups
from skychimp.store import queue, schema, sqlite
from skychimp.store.clients.suppressions import address_hash
from skychimp.store.database import SQLITE, Store
from skychimp.store.migrations import revisions
from skychimp.store.schema import open_store


def test_tables_are_what_the_models_define(store: Store) -> None:
    options = {"compare_type": True, "include_name": lambda name, kind, _: (name, kind) != ("image", "table")}
    with store.read() as db:
        context = MigrationContext.configure(db.connection(), opts=options)
        assert compare_metadata(context, metadata) == []


@pytest.mark.sqlite
def test_migrations_create_what_the_models_define(store: Store) -> None:
    with store.read() as db:
        migrated = tables_of(db.connection())
    engine = create_engine("sqlite://")
    with engine.begin() as db:
        metadata.create_all(db)
        assert migrated == tables_of(db)
    engine.dispose()


def tables_of(db: Connection) -> dict[str, list[str]]:
    """Return the SQL of all tables, indexes and triggers by name, split into sorted parts."""
    rows = db.exec_driver_sql(
        "SELECT name, sql FROM sqlite_master WHERE name NOT IN ('alembic_version', 'sqlite_sequence') AND sql NOTNULL"
    )
    ends = r",\s*\n|, (?=\w+ [A-Z])|\(\s*\n|\n\s*\)"  # an added column is in the line of the one before it
    return {name: sorted(part.strip() for part in re.split(ends, re.sub(r"[ \t]+", " ", sql))) for name, sql in rows}


def test_revision_is_the_newest_migration() -> None:
    (newest,) = ScriptDirectory(str(revisions.MIGRATIONS)).get_heads()
    assert newest == revisions.REVISION


# Old stores

ORIGINAL_REVISION = revisions.REVISION

ADD_PHONE = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "next", "{}", None, None


def upgrade() -> None:
    with op.batch_alter_table("client", recreate="always") as batch:
        batch.add_column(sa.Column("phone", sa.String(), nullable=False, server_default=""))
"""
BREAKS_REFERENCES = (
    ADD_PHONE
    + """
    op.execute("DELETE FROM client")
"""
)
INVALID_SQL = (
    ADD_PHONE
    + """
    op.execute("SELECT nonsense")
"""
)
ADD_PHONE_TO_TABLE = ADD_PHONE.replace(', recreate="always"', "")


def test_old_store_is_upgraded(
    store: Store, store_url: str, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_client(store, ada, "bob")
    add_migration(monkeypatch, tmp_path, ADD_PHONE_TO_TABLE)

    for _ in range(2):
        open_store(store_url).close()

    with store.read() as db:
        assert revisions.read_revision(db.connection()) == "next"
        assert db.connection().exec_driver_sql("SELECT email, phone FROM client").all() == [("bob@example.org", "")]


def test_failed_upgrade_leaves_the_store_as_it_was(
    store: Store, store_url: str, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_client(store, ada, "bob")
    add_migration(monkeypatch, tmp_path, ADD_PHONE_TO_TABLE + INVALID_SQL.removeprefix(ADD_PHONE))

    with pytest.raises(StoreFailed, match="nonsense"):
        open_store(store_url)

    with store.read() as db:
        assert revisions.read_revision(db.connection()) == ORIGINAL_REVISION
        columns = db.connection().exec_driver_sql("SELECT * FROM client").keys()
        assert "phone" not in list(columns)


@pytest.fixture
def old_store(store: Store, ada: Actor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with clients, of a revision that is no longer the newest."""
    for name in ("ann", "bob"):
        create_client(store, ada, name, tags=["red"])
    store.close()
    add_migration(monkeypatch, tmp_path, ADD_PHONE)
    return store.path


def add_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str) -> None:
    newer = tmp_path / "newer"
    shutil.rmtree(newer, ignore_errors=True)
    shutil.copytree(revisions.MIGRATIONS, newer, ignore=shutil.ignore_patterns("__pycache__"))
    (newer / "versions" / "next.py").write_text(script.format(ORIGINAL_REVISION))
    monkeypatch.setattr(revisions, "MIGRATIONS", newer)
    monkeypatch.setattr(revisions, "REVISION", "next")


def revision(path: Path) -> str:
    with contextlib.closing(sqlite.driver().connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def phones(path: Path) -> list[str]:
    with contextlib.closing(sqlite.driver().connect(path)) as connection:
        return [phone for (phone,) in connection.execute("SELECT phone FROM client")]


@pytest.mark.sqlite
def test_old_store_is_upgraded_after_a_backup(old_store: Path) -> None:
    """The migration rebuilds a table, which must not delete the rows that refer to it."""
    upgraded = open_store(f"sqlite:///{old_store}")

    assert [client.email for client in rows(upgraded, Client)] == ["ann@example.org", "bob@example.org"]
    assert count_rows(upgraded, ClientTag) == 2
    with upgraded.read() as db:
        assert db.connection().exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    upgraded.close()
    assert (revision(old_store), phones(old_store)) == ("next", ["", ""])
    backup = old_store.with_name("skychimp.db.before-next")
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert revision(backup) == ORIGINAL_REVISION
    files = {path.name for path in old_store.parent.iterdir() if path.is_file()}
    assert files == {"skychimp.db", "skychimp.db.before-next"}


@pytest.mark.sqlite
def test_backup_before_an_upgrade_is_a_store(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_store(f"sqlite:///{old_store}").close()
    monkeypatch.undo()
    assert revisions.REVISION == ORIGINAL_REVISION

    with pytest.raises(StoreNotReady, match="newer Skychimp"):
        open_store(f"sqlite:///{old_store}")
    again = open_store(f"sqlite:///{old_store}.before-next")

    assert [client.email for client in rows(again, Client)] == ["ann@example.org", "bob@example.org"]
    again.close()


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("script", "error"),
    [
        (INVALID_SQL, "no such column: nonsense"),
        (BREAKS_REFERENCES, "row 1 of client_tag would refer to a missing client"),
    ],
)
def test_failed_upgrade_changes_nothing(
    old_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: str
) -> None:
    add_migration(monkeypatch, tmp_path / "newer", script)

    with pytest.raises(StoreFailed, match=error):
        open_store(f"sqlite:///{old_store}")

    monkeypatch.undo()
    same = open_store(f"sqlite:///{old_store}")
    assert (count_rows(same, Client), count_rows(same, ClientTag)) == (2, 2)
    assert not list(old_store.parent.glob("*.before-next*"))
    same.close()


@pytest.mark.sqlite
def test_store_is_not_upgraded_without_a_backup(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", fail)

    with pytest.raises(StoreFailed, match="cannot back up the store"):
        open_store(f"sqlite:///{old_store}")

    assert revision(old_store) == ORIGINAL_REVISION
    assert [path.name for path in old_store.parent.glob("skychimp.db*")] == ["skychimp.db"]


@pytest.mark.sqlite
def test_backups_of_earlier_upgrades_are_kept(old_store: Path) -> None:
    """An old store may have been put back, and is upgraded again then."""
    first, second = (old_store.with_name(f"skychimp.db.before-next{end}") for end in ("", "-1"))
    first.write_text("precious")
    open_store(f"sqlite:///{old_store}").close()
    assert first.read_text() == "precious"
    assert revision(second) == ORIGINAL_REVISION


UPGRADE = """
import sys
from pathlib import Path
from skychimp.store import schema
from skychimp.store.migrations import revisions

revisions.MIGRATIONS, revisions.REVISION = Path(sys.argv[2]), "next"
schema.open_store(sys.argv[1]).close()
"""


def test_two_processes_upgrade_at_once(
    store: Store, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one finds the store upgraded, and keeps the backup of the first."""
    add_migration(monkeypatch, tmp_path, ADD_PHONE_TO_TABLE)
    command = [sys.executable, "-c", UPGRADE, store_url, str(revisions.MIGRATIONS)]
    with store.write() as gate:
        gate.connection()
        processes = [subprocess.Popen(command) for _ in range(2)]
        with pytest.raises(subprocess.TimeoutExpired):
            processes[0].wait(1.5)

    assert [process.wait() for process in processes] == [0, 0]
    with store.read() as db:
        assert revisions.read_revision(db.connection()) == "next"
    if store.dialect == SQLITE:
        assert revision(store.path.with_name("skychimp.db.before-next")) == ORIGINAL_REVISION


def test_second_migration_notices_blocked_users(tmp_path: Path) -> None:
    """A store of the first revision is upgraded with its rows. Figures in a cache are counted again."""
    path = create_first_revision(tmp_path / "skychimp.db")

    upgraded = open_store(f"sqlite:///{path}")

    assert [user.email for user in rows(upgraded, User)] == ["ada@example.org", "eve@example.org"]
    versions = [get_row(upgraded, StoreInfo, 1).audience_version]
    assert versions != [7]
    for blocked_at in (NOW, None):
        update_row(upgraded, User, 1, blocked_at=blocked_at)
        versions.append(get_row(upgraded, StoreInfo, 1).audience_version)
    update_row(upgraded, User, 1, blocked_at=None)
    update_row(upgraded, User, 1, name="Ada")
    assert len(set(versions)) == 3
    assert get_row(upgraded, StoreInfo, 1).audience_version == versions[-1]
    upgraded.close()
    backup = path.with_name(f"skychimp.db.before-{revisions.REVISION}")
    assert (revision(path), revision(backup)) == (revisions.REVISION, "0001")


def test_third_migration_keeps_users_and_their_references(tmp_path: Path) -> None:
    """The table of users is made anew. It is unknown how often an address that is not verified was registered."""
    path = create_first_revision(tmp_path / "skychimp.db")

    upgraded = open_store(f"sqlite:///{path}")

    users = [(user.id, user.email, user.created_at, user.registered_again) for user in rows(upgraded, User)]
    assert users == [(1, "ada@example.org", NOW, False), (2, "eve@example.org", NOW, True)]
    assert get_row(upgraded, Code, 1).user_id == 2
    with upgraded.write() as db:
        db.execute(delete(Code))
        db.execute(delete(User).where(User.__table__.c.id == 2))
        db.add(User(email="e", address_key="e", role=Role.USER, created_at=NOW))
    assert [user.id for user in rows(upgraded, User)] == [1, 3]
    upgraded.close()


def test_fourth_migration_leases_what_a_run_had_claimed(tmp_path: Path) -> None:
    """What was being sent becomes unknown when the run is found dead, as before."""
    states = ["sent", "sending", "claimed", "claimed", "unknown", "queued"]
    template = make_due_store(tmp_path, clients=len(states))
    path = make_store_before_leases(template, tmp_path / "old.db", states)

    upgraded = open_store(f"sqlite:///{path}")

    assert state_counts(upgraded) == Counter(states)
    assert [delivery.id for delivery in rows(upgraded, Delivery)] == [1, 2, 3, 4, 5, 6]
    assert [lease.delivery_ids for lease in rows(upgraded, Lease)] == ["[2,3,4]"]
    assert [intent.delivery_id for intent in rows(upgraded, Intent)] == [2]
    with upgraded.connect() as db, db.begin():
        assert queue.rescue(db, 1, NOW, None, "relay") == 1
    assert state_counts(upgraded) == Counter(sent=1, unknown=2, queued=3)
    upgraded.close()


UNDO = {
    "0021": ("message_variant", "message.variant_by", "occurrence.variants", "content.variants"),
    "0020": (
        "stored_file",
        "message.attachments",
        "occurrence.attachments",
        "content.attachments",
        "intent.files_hash",
        "delivery.files_hash",
    ),
    "0019": ("message_layout", "layout"),
    "0018": ("INDEX ix_delivery_outbox", "run.outbox", "run.relay"),
    "0017": ("return_count", "client.good_at"),
    "0016": ("suppression.until",),
    "0015": ("mailing.transactional", "occurrence.extras", "content.extras"),
    "0014": ("returned_mail", "delivery.address_hash"),
    "0013": ("token_key",),
    "0012": ("occurrence.canary_until", "mailing.canary", "mailing.canary_wait_s"),
    "0011": ("mailing.name", "mailing_filter", "segment"),
    "0010": ("client.consent_at", "consent"),
    "0009": ("client.fields", "occurrence.fields", "delivery.fields", "client_field"),
    "0008": ("suppression", "mailing.topic"),
    "0007": ("rate_slot", "rate_count", "run.mailing_id"),
}
"""The tables and columns that each migration adds, the newest first."""


def go_back_to(store: Store, revision: str) -> None:
    """Take the tables back to an earlier revision."""
    with store.connect() as db, db.begin():
        for _, added in filter(lambda undo: undo[0] > revision, UNDO.items()):
            for name in added:
                if name.startswith("INDEX"):
                    db.exec_driver_sql(f"DROP {name}")
                    continue
                table, _, column = name.partition(".")
                db.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}" if column else f"DROP TABLE {table}")
        db.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{revision}'")


def test_seventh_migration_adds_what_runs_share(store: Store, store_url: str) -> None:
    """On both databases: here the tables of a PostgreSQL store are changed, not created."""
    create_run(store)
    go_back_to(store, "0006")

    open_store(store_url).close()

    test_tables_are_what_the_models_define(store)
    assert [run.mailing_id for run in rows(store, Run)] == [None]
    assert [(key.number, len(key.key)) for key in rows(store, TokenKey)] == [(1, 32)]


def test_eighth_migration_remembers_bad_addresses(store: Store, store_url: str, ada: Actor) -> None:
    create_client(store, ada, "ann")
    create_client(store, ada, "bob")
    with store.connect() as db, db.begin():
        db.exec_driver_sql("UPDATE client SET bad_at = created_at, bad_reason = 'no such user' WHERE id = 2")
    go_back_to(store, "0007")

    open_store(store_url).close()

    test_tables_are_what_the_models_define(store)
    (suppression,) = rows(store, Suppression)
    (info,) = rows(store, StoreInfo)
    bob = clients.show(store, ada, "2")
    assert (suppression.address, suppression.reason, suppression.note) == (bob.email, "bounce", "no such user")
    assert suppression.address_hash == address_hash(info.secret, bob.email)
    assert suppression.at == bob.bad_at
    assert bob.suppressed == "bounce"


def test_seventeenth_migration_counts_what_came_back(store: Store, store_url: str, ada: Actor) -> None:
    """Only what has a token counts, each kind once for an email. Of refusals the sums of the attempts are known."""
    open_mailing(store, ada, "ann", "bob", "eve")
    claims = claim(store)
    send(store, 1, Outcome.SENT, *claims[:2])
    refusal = make_attempt(claims[2], Outcome.FAILED, enhanced="5.1.1", reply="550 5.1.1 no such user")
    record_attempts(store, 1, refusal)
    rollups.count_new_attempts(store)
    reports = [(1, "bounced", True), (1, "bounced", True), (2, "complaint", True), (2, "bounced", False)]
    with store.write() as db:
        for number, (delivery_id, kind, has_token) in enumerate(reports):
            report = {"digest": str(number), "delivery_id": delivery_id, "kind": kind, "has_token": has_token}
            db.execute(insert(ReturnedMail).values(report | {"address_hash": "", "at": NOW, "reply": ""}))
    go_back_to(store, "0016")

    open_store(store_url).close()

    test_tables_are_what_the_models_define(store)
    (counted,) = rows(store, ReturnCount)
    assert (counted.refused, counted.bounced, counted.soft_bounce, counted.complaint) == (1, 1, 0, 1)
    assert not counted.held_for_bounces


def create_first_revision(path: Path) -> Path:
    """Create a store as the first revision was, with two users, one not verified. Its audience version is 7."""
    path.touch()
    engine = sqlite.make_engine(path)
    with engine.execution_options(begin=sqlite.IMMEDIATE).connect() as db, db.begin():
        revisions.migrate(db, "0001")
        db.exec_driver_sql(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        values = {"id": 1, "secret": b"secret", "created_at": NOW, "audience_version": 7}
        db.execute(insert(StoreInfo).values(values))
        for user_id, name, verified_at in ((1, "ada", NOW), (2, "eve", None)):
            email = f"{name}@example.org"
            times = (None if at is None else at.strftime("%Y-%m-%d %H:%M:%S.%f") for at in (NOW, verified_at))
            user = (user_id, email, email, "", None, "user", *times, None)
            db.exec_driver_sql("INSERT INTO user VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", user)
        db.exec_driver_sql("INSERT INTO code VALUES (1, 2, 'verify', 'x', '2026-01-01', '2026-01-01', 0, NULL)")
    engine.dispose()
    path.chmod(0o600)
    return path


def test_sixth_migration_keeps_what_a_resend_repeats(tmp_path: Path) -> None:
    """Emails had the date of the opening. The table of deliveries is made anew, with ids that are never used again."""
    states = ["sent", "sending", "unknown", "queued", "failed"]
    path = make_store_before_leases(make_due_store(tmp_path, clients=len(states)), tmp_path / "old.db", states)

    upgraded = open_store(f"sqlite:///{path}")

    (opened_at,) = [occurrence.opened_at for occurrence in rows(upgraded, Occurrence)]
    assert [delivery.dated_at for delivery in rows(upgraded, Delivery)] == [None, None, opened_at, None, None]
    assert [lease.leased_at for lease in rows(upgraded, Lease)] == [opened_at]
    with upgraded.connect() as db, db.begin():
        assert queue.rescue(db, 1, NOW, None, "relay") == 1
        assert db.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = 'delivery'").scalar() == len(states)
        assert db.exec_driver_sql("PRAGMA foreign_key_check").all() == []
    assert rows(upgraded, Delivery)[1].dated_at == opened_at
    upgraded.close()


def test_twenty_first_migration_tells_the_outbox_from_sent(store: Store, store_url: str, ada: Actor) -> None:
    """By the log. Also a delivery that was sent after it had been in the outbox stays sent."""
    names = ["written", "sent", "both", "erased"]
    open_mailing(store, ada, *names)
    claims = claim(store)
    send(store, 1, Outcome.SENT, *claims)
    close_leases(store)
    with store.connect() as db, db.begin():
        db.exec_driver_sql("UPDATE attempt SET relay = 'outbox' WHERE delivery_id IN (1, 3, 4)")
        db.exec_driver_sql("UPDATE attempt SET reply = '250 2.0.0 erased' WHERE delivery_id = 4")
        columns = "started_at, finished_at, outcome, phase, code, enhanced, reply"
        db.exec_driver_sql(
            f"INSERT INTO attempt ({columns}, relay, delivery_id, number)"
            f" SELECT {columns}, 'mx:25', delivery_id, 2 FROM attempt WHERE delivery_id = 3"
        )
        words = "written to the outbox as …"
        db.execute(insert(ReplyKind).values(outcome="sent", phase="dot", code=250, enhanced="2.0.0", words=words))
        db.exec_driver_sql("UPDATE occurrence SET results_of = opened_at")
    go_back_to(store, "0016")

    open_store(store_url).close()

    test_tables_are_what_the_models_define(store)
    assert delivery_states(store) == {"written": "outbox", "sent": "sent", "both": "sent", "erased": "outbox"}
    by_relay = {(attempt.relay, attempt.outcome.value) for attempt in rows(store, Attempt)}
    assert by_relay == {("outbox", "outbox"), (RELAY, "sent"), ("mx:25", "sent")}
    assert [kind.outcome for kind in rows(store, ReplyKind)] == [Outcome.OUTBOX]
    assert [occurrence.results_of for occurrence in rows(store, Occurrence)] == [None]


# Constraints


@pytest.fixture
def full_store(store: Store, ada: Actor) -> Store:
    """A store with a row in every table that has a state."""
    open_mailing(store, ada, "bob")
    send(store, 1, Outcome.SENT, *claim(store))
    with store.write() as db:
        db.add(Code(user_id=1, purpose=CodePurpose.VERIFY, code_hash="", created_at=NOW, expires_at=NOW))
        db.add(AccountEmail(mailbox_hash="", purpose=CodePurpose.VERIFY, sent_at=NOW))
        db.add(AuditEntry(at=NOW, action="login", object="user"))
        db.add(ReplyKind(outcome=Outcome.SENT, phase="dot", code=250, enhanced="", words="ok"))
        db.add(Content(occurrence_id=1, subject="", body="", format=Format.TEXT, sender="", return_path=""))
        db.add(Suppression(owner_id=1, address_hash="", reason="", source=SuppressionSource.COMMAND, at=NOW))
        db.add(DeliveryRollup(occurrence_id=1, domain="", state=DeliveryState.SENT, attempts=1, deliveries=1))
        db.add(
            ReturnedMail(digest="", delivery_id=1, address_hash="", kind=ReturnedKind.BOUNCED, at=NOW, has_token=True)
        )
        db.add(ClientField(owner_id=1, key="city", name="City", type=FieldType.TEXT))
        db.add(MessageLayout(message_id=1, kind=LayoutKind.NONE))
        variant = {"message_id": 1, "key": "ru", "value": "ru", "subject": "", "body": "", "format": Format.TEXT}
        db.add(MessageVariant(**variant, layout_kind=LayoutKind.NONE, updated_at=NOW))
        db.add(Consent(owner_id=1, address_hash="", at=NOW, wording="", source=ConsentSource.COMMAND, recorded_at=NOW))
    return store


ENUMS = [
    (table.name, column.name)
    for table in metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, Enum)
]


@pytest.mark.parametrize(("table", "column"), ENUMS)
def test_unknown_state_is_refused(full_store: Store, table: str, column: str) -> None:
    with pytest.raises(IntegrityError, match=f"ck_{table}_{column}"):
        write(
            full_store, lambda connection: connection.exec_driver_sql(f'UPDATE "{table}" SET "{column}" = \'nonsense\'')
        )


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE mailing SET end_at = start_at", "ck_mailing_window"),
        (
            "INSERT INTO store_info (id, secret, created_at) SELECT 2, secret, created_at FROM store_info",
            "ck_store_info_one_row",
        ),
        ("UPDATE delivery SET state = 'queued', next_try_at = NULL", "ck_delivery_waits_until"),
        ("UPDATE delivery SET state = 'deferred', next_try_at = NULL", "ck_delivery_waits_until"),
        ("UPDATE delivery SET state = 'claimed'", "ck_delivery_stored_state"),
        ("UPDATE delivery SET state = 'sending'", "ck_delivery_stored_state"),
        ("DELETE FROM message", "(?i)foreign key"),
        ("DELETE FROM delivery", "(?i)foreign key"),
        ('DELETE FROM "user"', "(?i)foreign key"),
        ("DELETE FROM audit", "only added to"),
        ("UPDATE audit SET detail = 'another'", "only added to"),
    ],
)
def test_invalid_change_is_refused(full_store: Store, statement: str, constraint: str) -> None:
    with pytest.raises((IntegrityError, StoreFailed), match=constraint):
        write(full_store, lambda connection: connection.exec_driver_sql(statement))


UNIQUE = {
    "user": ["address_key"],
    "login": ["token_hash"],
    "client": ["owner_id", "address_key"],
    "occurrence": ["mailing_id", "due_local"],
    "delivery": ["occurrence_id", "address_key"],
    "attempt": ["delivery_id", "number"],
}


@pytest.mark.parametrize("table", UNIQUE)
def test_duplicate_is_refused(full_store: Store, table: str) -> None:
    with full_store.write() as db:
        db.add(Login(user_id=1, token_hash="x", created_at=NOW, seen_at=NOW, expires_at=NOW))
    columns = ", ".join(f'"{column.name}"' for column in metadata.tables[table].columns if column.name != "id")
    copy = f'INSERT INTO "{table}" ({columns}) SELECT {columns} FROM "{table}"'
    names = ", ".join(f"{table}.{column}" for column in UNIQUE[table])
    constraint = "_".join(("uq", table, *UNIQUE[table]))

    with pytest.raises(IntegrityError, match=f"UNIQUE constraint failed: {names}|unique constraint .*{constraint}"):
        write(full_store, lambda connection: connection.exec_driver_sql(copy))


def test_ids_of_clients_and_deliveries_are_never_reused(store: Store, ada: Actor) -> None:
    """A delivery refers to its client by id, and an email's Message-ID is made of its delivery's id."""
    (bob,) = open_mailing(store, ada, "bob")
    delete_client(store, bob)
    write(store, lambda connection: connection.execute(delete(Delivery)))

    new = create_client(store, ada, "eve")
    create_mailing(store, ada)
    open_due(store)
    create_deliveries(store, 2)

    assert new > bob
    assert [delivery.id for delivery in rows(store, Delivery)] == [2]

"""Test that a backup is complete, and that a restored store waits for a person and sends nothing twice."""

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import ANY

import pytest
from conftest import create_user
from sqlmodel import select
from support.ledger_rows import NINE, delivery, occurrence
from support.ledger_rows import mailing as bare_mailing
from support.queue_steps import make_attempt
from support.sending import (
    attempts,
    create_mailing,
    deliveries,
    make_addresses,
    make_settings,
    rows,
    send,
    start_run,
    state_counts,
    wait_for_exit,
    wait_until,
)
from support.servers import GREETING, CountingReceiver, ScriptedServer, accept_mail

from skychimp.errors import Conflict, Denied, InvalidValue, NotLoggedIn, SkychimpError, StoreHeld
from skychimp.models import (
    AuditEntry,
    Client,
    Code,
    CodePurpose,
    Delivery,
    DeliveryState,
    DigestPost,
    Every,
    Intent,
    Lease,
    Login,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
    Outcome,
    Post,
    Role,
    Run,
    StoreInfo,
    User,
    metadata,
)
from skychimp.permissions import ANONYMOUS, OPERATOR, Actor
from skychimp.services.blog import images, posts
from skychimp.services.clients import clients
from skychimp.services.mailings import mailings
from skychimp.services.messages import messages
from skychimp.services.messages.attachments import AttachmentChanges, NewFile
from skychimp.services.operations import backups
from skychimp.services.operations.backups import Restored
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.reporting import reports, rollups
from skychimp.store import ledger, queue, runs, sqlite, token_keys
from skychimp.store.copies import backup_file
from skychimp.store.database import Store, driver_of
from skychimp.store.migrations import revisions
from skychimp.store.schema import create_store, open_store

pytestmark = pytest.mark.sqlite

IMAGE = b"a small image"
IMAGE_NAME = f"{hashlib.sha256(IMAGE).hexdigest()[:32]}.png"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "today.backup"


@pytest.fixture(autouse=True)
def _folder(file: Path) -> None:
    file.parent.mkdir()


def restore(store: Store, file: Path, actor: Actor = OPERATOR, token: str | None = None) -> Restored:
    """Restore as the command does: while this process does not have the store open."""
    store.close()
    return backups.restore(f"sqlite:///{store.path}", actor, file, token=token)


def lose_store(store: Store) -> None:
    """Remove the store, as if its disk were lost."""
    store.close()
    for path in store.path.parent.glob("skychimp.db*"):
        path.unlink()


def client_emails(store: Store) -> list[str]:
    return [client.email for client in rows(store, Client)]


# Backup


def test_backup_is_one_complete_private_file(store: Store, ada: Actor, file: Path) -> None:
    create_mailing(store, ada, make_addresses(3))
    made = backups.backup(store, OPERATOR, file)
    assert (made.clients, made.mailings, made.deliveries, made.images) == (3, 1, 0, 0)
    assert made.size == file.stat().st_size
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as plain:  # any program that reads SQLite files can open it
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert plain.execute("SELECT count(*) FROM client").fetchone() == (3,)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_next_backup_replaces_the_file(store: Store, ada: Actor, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="bob@example.org")
    with pytest.raises(Conflict, match="already exists"):
        backups.backup(store, OPERATOR, file)
    assert backups.backup(store, OPERATOR, file, replace=True).clients == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_leftovers_of_a_killed_backup_are_removed(store: Store, file: Path) -> None:
    """Also those of a backup to a file with yesterday's date in its name."""
    names = (f"{file.name}.draft-01234567", "yesterday.db.draft-89abcdef", "tomorrow.db.draft-01234567", "other.0123")
    left = [file.with_name(name) for name in names]
    young = left[2]
    for folder in left:
        folder.mkdir(mode=0o700)
        (folder / "draft").write_text("half a backup")
        two_minutes_ago = datetime.now(UTC).timestamp() - 120
        os.utime(folder / "draft", (two_minutes_ago, two_minutes_ago) if folder != young else None)
    backups.backup(store, OPERATOR, file)
    assert {path.name for path in file.parent.iterdir()} == {file.name, young.name, "other.0123"}


@pytest.mark.parametrize("place", ["skychimp.db", "skychimp.db-wal", "backups", "nowhere/today.backup"])
def test_unsuitable_backup_file_is_refused(store: Store, place: str, file: Path) -> None:
    with pytest.raises(SkychimpError) as refused:
        backups.backup(store, OPERATOR, file.parent.parent / place)
    assert type(refused.value) is InvalidValue or "No such file" in refused.value.message
    assert rows(store, StoreInfo)
    assert list(file.parent.iterdir()) == []


def test_only_administrators_may_back_up_and_restore(
    store: Store, ada: Actor, manager: Actor, admin: Actor, file: Path
) -> None:
    backups.backup(store, admin, file)
    for actor, refusal in ((ANONYMOUS, NotLoggedIn), (ada, Denied), (manager, Denied)):
        for act in (
            lambda: backups.backup(store, actor, file),  # noqa: B023
            lambda: restore(store, file, actor),  # noqa: B023
            lambda: backups.resume(store, actor),  # noqa: B023
        ):
            with pytest.raises(refusal):
                act()
    restore(store, file, admin)
    backups.resume(store, admin)
    trail = [(row.actor_id, row.action, row.detail) for row in rows(store, AuditEntry)]
    assert trail == [
        (admin.user_id, "back up", str(file)),
        (admin.user_id, "restore", str(file)),
        (admin.user_id, "resume sending", "resend"),
    ]


def test_backups_during_a_run_lose_and_repeat_nothing(store: Store, ada: Actor, tmp_path: Path, file: Path) -> None:
    """Backups made during a run are valid. After each is restored, every email is still sent exactly once."""
    create_mailing(store, ada, make_addresses(60))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        process = start_run(store, receiver.port, smtp__rate="75/s")
        made: list[Path] = []
        wait_until(lambda: state_counts(store)["sent"] > 5, process)
        while process.poll() is None and len(made) < 2:
            backups.backup(store, OPERATOR, file.with_name(f"{len(made)}.backup"))
            made.append(file.with_name(f"{len(made)}.backup"))
        assert wait_for_exit(process)[0] == 0
        assert made
        for copy in made:
            assert restore(store, copy).ledger_kept
            with pytest.raises(StoreHeld):
                send(store, make_settings(receiver.port))
            assert backups.resume(store, OPERATOR).to_send == 0
            assert send(store, make_settings(receiver.port)).sent == 0
            assert state_counts(store) == {"sent": 60}
        assert set(receiver.email_counts().values()) == {1}
        assert receiver.accepted_count == 60


# Restore


def test_restored_store_has_the_old_content_and_the_replaced_one_is_kept(store: Store, ada: Actor, file: Path) -> None:
    clients.create(store, ada, email="bob@example.org")
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="eve@example.org")
    before = datetime.now(UTC)
    done = restore(store, file)
    assert client_emails(store) == ["bob@example.org"]
    assert done.made_at is not None
    assert before - timedelta(minutes=1) < done.made_at < before
    assert done.kept is not None
    assert stat.S_IMODE(Path(done.kept).stat().st_mode) == 0o600
    with closing(open_store(f"sqlite:///{done.kept}")) as kept:
        assert client_emails(kept) == ["bob@example.org", "eve@example.org"]


def test_restore_without_a_store(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    clients.create(store, ada, email="bob@example.org")
    backups.backup(store, OPERATOR, file)
    path = tmp_path / "new" / "folder" / "skychimp.db"
    done = backups.restore(f"sqlite:///{path}", OPERATOR, file)
    assert (done.kept, done.ledger_kept) == (None, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with closing(open_store(f"sqlite:///{path}")) as new:
        assert client_emails(new) == ["bob@example.org"]


@pytest.mark.parametrize("is_lost", [False, True])
def test_links_in_emails_after_the_backup_name_nobody_else(store: Store, ada: Actor, file: Path, is_lost: bool) -> None:
    backups.backup(store, OPERATOR, file)
    newest = delivery(store, occurrence(store, bare_mailing(store, ada)), "a@x.example", DeliveryState.SENT)
    if is_lost:
        lose_store(store)
    restore(store, file)
    with closing(open_store(f"sqlite:///{store.path}")) as restored:
        later = occurrence(restored, bare_mailing(restored, ada))
        assert delivery(restored, later, "b@x.example", DeliveryState.QUEUED) > newest


def test_newer_key_of_links_is_kept_with_the_newer_ledger(store: Store, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        token_keys.replace(db.connection(), store.now())
        keys = token_keys.read(db.connection(), store.now())
    assert restore(store, file).ledger_kept
    with closing(open_store(f"sqlite:///{store.path}")) as restored, restored.read() as db:
        assert token_keys.read(db.connection(), restored.now()) == keys


def test_leftover_wal_is_not_applied_to_the_restored_store(store: Store, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    lose_store(store)
    store.path.with_name("skychimp.db-wal").write_bytes(b"the last changes of the store that is gone")
    with pytest.raises(Conflict, match=r"skychimp\.db-wal belongs to a store that is gone"):
        restore(store, file)
    assert not store.path.exists()


READER = """
import sys
from skychimp.store.schema import open_store
from sqlalchemy import text
store = open_store("sqlite:///" + sys.argv[1])
connection = store.connect_autocommit()
for line in sys.stdin:
    print(connection.execute(text("SELECT count(*) FROM client")).scalar(), flush=True)
"""


def test_process_with_the_old_store_open_sees_the_restored_one(store: Store, ada: Actor, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="bob@example.org")
    store.close()
    command = [sys.executable, "-c", READER, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdin
        assert reader.stdout
        for expected in ("1\n", "0\n"):
            reader.stdin.write("\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == expected
            if expected == "1\n":
                restore(store, file)
    clients.create(store, ada, email="eve@example.org")
    assert client_emails(store) == ["eve@example.org"]
    assert store.find_damage() == ""


def overwrite(start: int, length: int) -> Callable[[Path], None]:
    def overwrite_part(path: Path) -> None:
        with path.open("r+b") as opened:
            opened.seek(start)
            opened.write(b"\xff" * length)

    return overwrite_part


def truncate(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize(
    "damage",
    [overwrite(100, 3996), pytest.param(overwrite(4096 * 8, 4096 * 12), marks=pytest.mark.slow), truncate],
    ids=["first page", "some pages", "truncated"],
)
def test_damaged_store_is_replaced_and_kept(
    store: Store, ada: Actor, file: Path, damage: Callable[[Path], None]
) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    store.close()
    damage(store.path)
    damaged = store.path.read_bytes()
    done = restore(store, file)
    assert not done.ledger_kept
    assert done.kept is not None
    assert Path(done.kept).stat().st_size == len(damaged)
    assert client_emails(store) == ["bob@example.org"]
    assert store.find_damage() == ""


def orphan_rows(path: Path) -> None:
    with closing(sqlite.driver().connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM user")


def set_newer_revision(path: Path) -> None:
    with closing(sqlite.driver().connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


BROKEN = {
    "truncated": (truncate, "malformed|damaged"),
    "damaged page": (overwrite(4096 * 8, 4096 * 12), "malformed|damaged|integrity"),
    "not a store": (lambda path: path.write_text("hello"), "is not a backup of a Skychimp store"),
    "orphaned rows": (orphan_rows, "refers to a missing user"),
    "newer version": (set_newer_revision, "made by a newer Skychimp"),
    "missing": (lambda path: path.unlink(), "not found"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in ("truncated", "missing") else ()) for name in BROKEN],
)
def test_invalid_backup_changes_nothing(store: Store, ada: Actor, file: Path, name: str) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="eve@example.org")
    damage, message = BROKEN[name]
    damage(file)
    with pytest.raises(SkychimpError, match=message):
        restore(store, file)
    assert client_emails(store) == ["bob@example.org", "eve@example.org"]
    assert rows(store, StoreInfo)[0].held_at is None
    assert [path.name for path in store.path.parent.glob("skychimp.db*") if path.suffix == ".db"] == ["skychimp.db"]
    assert not list(store.path.parent.glob("*before-restore*"))


OLDER = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "next", "{}", None, None


def upgrade() -> None:
    op.add_column("client", sa.Column("phone", sa.String(), nullable=False, server_default=""))
"""


def test_older_backup_is_upgraded(store: Store, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups.backup(store, OPERATOR, file)
    migrations = tmp_path / "migrations"
    shutil.copytree(revisions.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations / "versions" / "next.py").write_text(OLDER.format(revisions.REVISION))
    monkeypatch.setattr(revisions, "MIGRATIONS", migrations)
    monkeypatch.setattr(revisions, "REVISION", "next")
    restore(store, file)
    with closing(sqlite3.connect(store.path)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("next",)
        assert "phone" in [row[1] for row in plain.execute("PRAGMA table_info(client)")]


def test_restore_is_refused_while_something_is_sending(store: Store, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        lock = runs.start(db.connection(), store.path, datetime.now(UTC))
    with pytest.raises(Conflict, match="something is sending"):
        restore(store, file)
    lock.release()
    restore(store, file)


def test_restore_keeps_valid_sessions_and_removes_codes(store: Store, ada: Actor, bob: Actor, file: Path) -> None:
    """An ended session stays ended, and the user who restores stays logged in."""
    now = datetime.now(UTC)
    mine = hashlib.sha256(b"token of the restorer").hexdigest()
    with store.write() as db:
        for number, (user, token_hash) in enumerate(((ada, "ended"), (ada, "kept"), (bob, "blocked"), (ada, mine))):
            db.add(
                Login(
                    id=number + 1,
                    user_id=user.user_id,
                    token_hash=token_hash,
                    created_at=now,
                    seen_at=now,
                    expires_at=now + timedelta(days=1),
                )
            )
        db.add(Code(user_id=ada.user_id, purpose=CodePurpose.RESET, code_hash="x", created_at=now, expires_at=now))
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        db.delete(db.get_one(Login, 1))
        db.delete(db.get_one(Login, 4))
        db.get_one(User, bob.user_id).blocked_at = now
    restore(store, file, token="token of the restorer")
    assert {login.token_hash for login in rows(store, Login)} == {"kept", mine}
    assert rows(store, Code) == []


def test_images_are_restored(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    lost = f"{'0' * 32}.png"
    with store.write() as db:
        for slug, image in (("one", IMAGE_NAME), ("two", lost)):
            db.add(
                Post(
                    author_id=ada.user_id, slug=slug, title=slug, content="", image=image, created_at=now,
                    updated_at=now,
                )
            )  # fmt: skip
    images.image_folder(store).mkdir()
    images.image_path(store, IMAGE_NAME).write_bytes(IMAGE)
    made = backups.backup(store, OPERATOR, file)
    assert (made.images, made.missing_images) == (1, [lost])
    path = tmp_path / "elsewhere" / "skychimp.db"
    assert backups.restore(f"sqlite:///{path}", OPERATOR, file).images == 1
    with closing(open_store(f"sqlite:///{path}")) as there:
        assert images.image_path(there, IMAGE_NAME).read_bytes() == IMAGE
        with there.read() as db:
            names = db.connection().exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
        assert "image" not in names


# Work on hold


IN_FLIGHT = {DeliveryState.CLAIMED, DeliveryState.SENDING}
UNCERTAIN = {DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.UNKNOWN} | IN_FLIGHT


@pytest.fixture
def waiting(store: Store, ada: Actor) -> Store:
    """Create an occurrence with deliveries in every state, and a daily mailing that is due but not opened."""
    occurrence_id = occurrence(store, bare_mailing(store, ada))
    for state in DeliveryState:
        made = DeliveryState.QUEUED if state in IN_FLIGHT else state
        delivery(store, occurrence_id, f"{state}@example.org", made, NINE if state in UNCERTAIN else None)
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=NINE, heartbeat_at=NINE))
        row = db.get_one(Occurrence, occurrence_id)
        row.subject, row.sender, row.return_path = "Hello", "ada@skychimp.test", "ada@skychimp.test"
        for state in IN_FLIGHT:
            claimed = db.exec(select(Delivery.id).where(Delivery.address == f"{state}@example.org")).one()
            assert claimed is not None
            db.add(Lease(id=claimed, run_id=1, occurrence_id=occurrence_id, delivery_ids=f"[{claimed}]"))
            if state == DeliveryState.SENDING:
                db.add(Intent(delivery_id=claimed, lease_id=claimed))
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    return store


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (None, DeliveryState.UNKNOWN),
        (Resolution.SENT, DeliveryState.SENT),
        pytest.param(Resolution.FAILED, DeliveryState.FAILED, marks=pytest.mark.slow),
    ],
)
def test_waiting_work_is_resolved_and_not_sent_without_the_old_store(
    waiting: Store, file: Path, tmp_path: Path, decision: Resolution | None, state: DeliveryState
) -> None:
    backups.backup(waiting, OPERATOR, file)
    lose_store(waiting)
    restore(waiting, file)
    held = backups.held_work(waiting)
    assert held is not None
    assert (held.is_blind, held.deliveries, held.due) == (True, 4, 1)
    resumed = backups.resume(waiting, OPERATOR, decision)
    assert (resumed.to_send, resumed.missed) == (0, 1)
    assert getattr(resumed, state) == 5
    outcomes = {row.address.partition("@")[0]: (row.state, row.next_try_at) for row in deliveries(waiting)}
    assert {name: outcomes[name] for name in UNCERTAIN} == dict.fromkeys(UNCERTAIN, (state, None))
    assert {name: outcome for name, (outcome, _) in outcomes.items() if name not in UNCERTAIN} == {
        name: name for name in ("sent", "outbox", "failed", "expired", "cancelled", "replaced")
    }
    assert all(row.attempts == 1 for row in deliveries(waiting) if row.address.startswith(("queued", "claimed")))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(waiting, make_settings(receiver.port)).sent == 0
        assert receiver.accepted_count == 0
    daily = rows(waiting, Mailing)[1]
    assert daily.next_at is not None
    assert daily.next_at > datetime.now(UTC)
    assert [row.state for row in rows(waiting, Occurrence)] == [OccurrenceState.FINISHED, OccurrenceState.MISSED]


def test_waiting_work_is_sent_if_a_person_decides_so(waiting: Store, file: Path, tmp_path: Path) -> None:
    backups.backup(waiting, OPERATOR, file)
    lose_store(waiting)
    restore(waiting, file)
    assert backups.resume(waiting, OPERATOR, Resolution.RESEND).to_send == 4
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(waiting, make_settings(receiver.port, delivery__unknown_after="0s"))
        names = {name for name, _ in receiver.email_counts()}
    assert {"queued@example.org", "deferred@example.org", "claimed@example.org", "bob@example.org"} <= names
    assert "sent@example.org" not in names


def test_half_opened_occurrence_becomes_unknown_as_a_whole(store: Store, ada: Actor, file: Path) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(3))
    with store.write() as db:
        row = db.get_one(Mailing, mailing_id)
        row.status, row.next_at = MailingStatus.RUNNING, None
    occurrence(store, mailing_id)
    with store.write() as db:
        db.get_one(Occurrence, 1).state = OccurrenceState.OPENING
    backups.backup(store, OPERATOR, file)
    lose_store(store)
    restore(store, file)
    assert backups.resume(store, OPERATOR).unknown == 3
    assert state_counts(store) == {"unknown": 3}
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED


def test_emails_sent_by_the_replaced_store_count_as_sent(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """That includes open deliveries and a due time that was not opened. The rest is sent once."""
    create_mailing(store, ada, make_addresses(4), every=Every.DAY)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port), limit=1)
        create_mailing(store, ada, ["late@example.org"])
        backups.backup(store, OPERATOR, file)
        send(store, make_settings(receiver.port), limit=2)
        clients.create(store, ada, email="eve@example.org")
        before = [(tried.delivery_id, tried.number, tried.reply) for tried in attempts(store)]
        next_at = rows(store, Mailing)[0].next_at
        assert restore(store, file).ledger_kept
        assert [(tried.delivery_id, tried.number, tried.reply) for tried in attempts(store)] == before
        assert rows(store, Mailing)[0].next_at == next_at
        held = backups.held_work(store)
        assert held is not None
        assert not held.is_blind
        assert backups.resume(store, OPERATOR).to_send == held.deliveries == 2
        assert send(store, make_settings(receiver.port)).sent == 2
        assert receiver.accepted_count == 5
        assert set(receiver.email_counts().values()) == {1}
    assert state_counts(store) == {"sent": 5}


def test_open_occurrence_keeps_the_files_that_the_backup_lacks(store: Store, ada: Actor, file: Path) -> None:
    create_mailing(store, ada, make_addresses(2))
    backups.backup(store, OPERATOR, file)
    messages.change(store, ada, 1, attached=AttachmentChanges(files=[NewFile("terms.txt", b"terms")]))
    with ScriptedServer([GREETING, accept_mail()]) as server:
        send(store, make_settings(server.port), limit=1)
        assert restore(store, file).ledger_kept
        backups.resume(store, OPERATOR)
        assert send(store, make_settings(server.port)).sent == 1
    assert [b'filename="terms.txt"' in email for email in server.emails] == [True, True]


def test_posts_of_a_sent_digest_stay_sent(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    messages.change(store, ada, 1, digest=True)
    editor = create_user(store, "grace", Role.EDITOR)
    posts.create(store, editor, title="Before", content="It begins.", publish=True)
    backups.backup(store, OPERATOR, file)
    posts.create(store, editor, title="After", content="It goes on.", publish=True)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1

    assert restore(store, file).ledger_kept

    assert [(row.post_id, row.occurrence_id) for row in rows(store, DigestPost)] == [
        (1, 1)
    ]  # the other post does not exist any more


def test_all_tables_of_the_ledger_are_kept() -> None:
    """Every table that refers to occurrences or deliveries must be in backup_file.LEDGER."""
    referring = {
        table.name
        for table in metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table.name in ("occurrence", "delivery")
    }
    assert referring == set(backup_file.LEDGER) - {"occurrence", "run", "cause", "intent", "rate_slot", "rate_count"}


def test_report_is_the_same_after_a_restore(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """Attempts that were counted before or after the backup count once."""
    mailing_id = create_mailing(store, ada, make_addresses(4))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port), limit=1)
        rollups.count_new_attempts(store)
        backups.backup(store, OPERATOR, file)
        send(store, make_settings(receiver.port))
    before = reports.mailing_report(store, ada, mailing_id)
    assert restore(store, file).ledger_kept
    assert reports.mailing_report(store, ada, mailing_id) == replace(before, as_of=ANY)
    assert sum(group.attempts for group in before.replies) == 4


def test_due_time_of_a_changed_schedule_is_not_sent_again(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """The restored mailing is scheduled for its old time again, but today's email was sent at the new one."""
    mailing_id = create_mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    now = datetime.now(UTC)
    mailings.change(store, ada, mailing_id, start=(now - timedelta(minutes=5)).isoformat())
    backups.backup(store, OPERATOR, file)
    mailings.change(store, ada, mailing_id, start=(now - timedelta(minutes=2)).isoformat())
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, make_settings(receiver.port)).sent == 1
        assert restore(store, file).ledger_kept
        backups.resume(store, OPERATOR)
        assert send(store, make_settings(receiver.port)).sent == 0
    (row,) = rows(store, Mailing)
    assert row.next_at == (now + timedelta(days=1, minutes=-5)).replace(microsecond=0)


def test_ledger_of_a_store_with_gaps_is_not_kept(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """It was restored without its predecessor, or it is older than the backup."""
    older = file.with_name("older.backup")
    create_mailing(store, ada, make_addresses(2))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port), limit=1)
        backups.backup(store, OPERATOR, older)
        send(store, make_settings(receiver.port))
    backups.backup(store, OPERATOR, file)
    lose_store(store)
    assert not restore(store, older).ledger_kept
    assert not restore(store, older).ledger_kept
    backups.resume(store, OPERATOR, Resolution.RESEND)
    assert not restore(store, file).ledger_kept
    assert state_counts(store) == {"sent": 2}


def test_ledger_of_an_older_store_is_not_kept_if_a_run_was_sending(
    store: Store, ada: Actor, file: Path, tmp_path: Path
) -> None:
    """The backup has emails that were sent under an open lease. Their own rows do not say so yet."""
    older = file.with_name("older.backup")
    create_mailing(store, ada, make_addresses(4))
    now = datetime.now(UTC)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(receiver.port), limit=1)
    backups.backup(store, OPERATOR, older)
    with store.connect() as db, db.begin():
        claims = queue.lease(db, 1, 1, now, now, 2)
        assert len(ledger.record_intents(driver_of(db), 1, claims, now)) == 2
        ledger.record_attempts(db, 1, [make_attempt(claims[0], Outcome.SENT)])
    backups.backup(store, OPERATOR, file)
    lose_store(store)
    restore(store, older)
    backups.resume(store, OPERATOR, Resolution.RESEND)
    assert not restore(store, file).ledger_kept


def test_ledger_of_another_store_is_not_kept(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    create_mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    with closing(create_store(f"sqlite:///{tmp_path / 'other.db'}")) as other:
        create_mailing(other, create_user(other, "ada"), ["eve@example.org"])
        assert not restore(other, file).ledger_kept
        held = backups.held_work(other)
        assert held is not None
        assert held.is_blind
        assert backups.resume(other, OPERATOR).missed == 1


def test_resent_emails_keep_their_message_ids(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """A receiver can then drop the duplicate."""
    create_mailing(store, ada, ["bob@example.org"])
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, make_settings(1))  # opened, and left waiting
        backups.backup(store, OPERATOR, file)
        send(store, make_settings(receiver.port))
        lose_store(store)
        restore(store, file)
        backups.resume(store, OPERATOR, Resolution.RESEND)
        send(store, make_settings(receiver.port))
        assert list(receiver.email_counts().values()) == [2]


def test_resume_without_a_hold_is_refused(store: Store) -> None:
    with pytest.raises(Conflict, match="not on hold"):
        backups.resume(store, OPERATOR)
    assert backups.held_work(store) is None

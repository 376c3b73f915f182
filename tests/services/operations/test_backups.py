"""A backup of a live store is whole; a restored store sends nothing by itself, and never again what was sent."""

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
from conftest import enrol
from sqlmodel import select
from support.ledger_rows import NINE, delivery, occurrence
from support.ledger_rows import mailing as bare_mailing
from support.sending import (
    addresses,
    attempts,
    deliveries,
    finish,
    mailing,
    rows,
    send,
    settings,
    start,
    states,
    wait_until,
)
from support.servers import CountingReceiver

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
    Login,
    Mailing,
    MailingStatus,
    Occurrence,
    OccurrenceState,
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
from skychimp.services.operations import backups
from skychimp.services.operations.backups import Restored
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.services.reporting import reports, rollups
from skychimp.store import backup_file, database, runs, schema
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store

IMAGE = b"a small image"
IMAGE_NAME = f"{hashlib.sha256(IMAGE).hexdigest()[:32]}.png"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "today.backup"


@pytest.fixture(autouse=True)
def _folder(file: Path) -> None:
    file.parent.mkdir()


def restore(store: Store, file: Path, actor: Actor = OPERATOR, token: str | None = None) -> Restored:
    """As the command does it: with nothing of this process in the store."""
    store.close()
    return backups.restore(f"sqlite:///{store.path}", actor, file, token=token)


def drop(store: Store) -> None:
    """The disk is lost."""
    store.close()
    for path in store.path.parent.glob("skychimp.db*"):
        path.unlink()


def emails(store: Store) -> list[str]:
    return [client.email for client in rows(store, Client)]


# Backup


def test_it_holds_all_in_one_file_that_is_its_owners_alone(store: Store, ada: Actor, file: Path) -> None:
    mailing(store, ada, addresses(3))
    made = backups.backup(store, OPERATOR, file)
    assert (made.clients, made.mailings, made.deliveries, made.images) == (3, 1, 0, 0)
    assert made.size == file.stat().st_size
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with closing(sqlite3.connect(file)) as plain:  # whatever opens SQLite files opens it
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert plain.execute("SELECT count(*) FROM client").fetchone() == (3,)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_next_one_takes_its_place(store: Store, ada: Actor, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="bob@example.org")
    assert backups.backup(store, OPERATOR, file).clients == 1
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_what_a_killed_one_has_left_goes_with_a_later_one(store: Store, file: Path) -> None:
    old, young, theirs = (
        file.with_name(f"{file.name}.{end}") for end in ("draft-01234567", "draft-89abcdef", "01234567")
    )
    for left in (old, young, theirs):
        left.write_text("half a backup")
        two_days_ago = datetime.now(UTC).timestamp() - 2 * 86_400
        os.utime(left, (two_days_ago, two_days_ago) if left != young else None)
    backups.backup(store, OPERATOR, file)
    assert {path.name for path in file.parent.iterdir()} == {file.name, young.name, theirs.name}


@pytest.mark.parametrize("place", ["skychimp.db", "skychimp.db-wal", "backups", "nowhere/today.backup"])
def test_where_no_backup_can_be(store: Store, place: str, file: Path) -> None:
    with pytest.raises(SkychimpError) as refused:
        backups.backup(store, OPERATOR, file.parent.parent / place)
    assert type(refused.value) is InvalidValue or "No such file" in refused.value.message
    assert rows(store, StoreInfo)
    assert list(file.parent.iterdir()) == []


def test_who_may(store: Store, ada: Actor, manager: Actor, admin: Actor, file: Path) -> None:
    backups.backup(store, admin, file)
    for actor, refusal in ((ANONYMOUS, NotLoggedIn), (ada, Denied), (manager, Denied)):
        for act in (
            lambda: backups.backup(store, actor, file),  # noqa: B023
            lambda: restore(store, file, actor),  # noqa: B023
            lambda: backups.let_go_on(store, actor),  # noqa: B023
        ):
            with pytest.raises(refusal):
                act()
    restore(store, file, admin)
    backups.let_go_on(store, admin)
    trail = [(row.actor_id, row.action, row.detail) for row in rows(store, AuditEntry)]
    assert trail == [
        (admin.user_id, "back up", str(file)),
        (admin.user_id, "restore", str(file)),
        (admin.user_id, "let the store go on", "resend"),
    ]


def test_while_a_run_writes(store: Store, ada: Actor, tmp_path: Path, file: Path) -> None:
    """Copies that are made in the midst of it are sound; put back, no letter goes twice, or not at all."""
    mailing(store, ada, addresses(120))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        process = start(store, receiver.port, smtp__rate="150/s")
        made: list[Path] = []
        wait_until(lambda: states(store)["sent"] > 5, process)
        while process.poll() is None and len(made) < 3:
            backups.backup(store, OPERATOR, file.with_name(f"{len(made)}.backup"))
            made.append(file.with_name(f"{len(made)}.backup"))
        assert finish(process)[0] == 0
        assert made
        for copy in made:
            assert restore(store, copy).ledger_kept
            with pytest.raises(StoreHeld):
                send(store, settings(receiver.port))
            assert backups.let_go_on(store, OPERATOR).to_send == 0
            assert send(store, settings(receiver.port)).sent == 0
            assert states(store) == {"sent": 120}
        assert set(receiver.arrived().values()) == {1}
        assert receiver.taken == 120


# Restore


def test_what_was_there_is_back_and_what_came_since_is_aside(store: Store, ada: Actor, file: Path) -> None:
    clients.create(store, ada, email="bob@example.org")
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="eve@example.org")
    before = datetime.now(UTC)
    done = restore(store, file)
    assert emails(store) == ["bob@example.org"]
    assert done.made_at is not None
    assert before - timedelta(minutes=1) < done.made_at < before
    assert done.kept is not None
    assert stat.S_IMODE(Path(done.kept).stat().st_mode) == 0o600
    with closing(open_store(f"sqlite:///{done.kept}")) as kept:
        assert emails(kept) == ["bob@example.org", "eve@example.org"]


def test_into_an_empty_place(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    clients.create(store, ada, email="bob@example.org")
    backups.backup(store, OPERATOR, file)
    path = tmp_path / "new" / "folder" / "skychimp.db"
    done = backups.restore(f"sqlite:///{path}", OPERATOR, file)
    assert (done.kept, done.ledger_kept) == (None, False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with closing(open_store(f"sqlite:///{path}")) as new:
        assert emails(new) == ["bob@example.org"]


def test_files_of_a_store_that_is_gone_are_not_applied_to_the_new_one(store: Store, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    drop(store)
    store.path.with_name("skychimp.db-wal").write_bytes(b"the last changes of the store that is gone")
    with pytest.raises(Conflict, match=r"skychimp\.db-wal belongs to a store that is gone"):
        restore(store, file)
    assert not store.path.exists()


READER = """
import sys
from skychimp.store.engine import open_store
from sqlalchemy import text
store = open_store("sqlite:///" + sys.argv[1])
connection = store.connect_at_once()
for line in sys.stdin:
    print(connection.execute(text("SELECT count(*) FROM client")).scalar(), flush=True)
"""


def test_whoever_has_the_old_one_open_sees_the_new_one(store: Store, ada: Actor, file: Path) -> None:
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
    assert emails(store) == ["eve@example.org"]
    assert store.damage() == ""


def spoil(start: int, length: int) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with path.open("r+b") as opened:
            opened.seek(start)
            opened.write(b"\xff" * length)

    return spoil


def cut(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [spoil(100, 3996), spoil(4096 * 8, 4096 * 12), cut], ids=["first", "some", "cut"])
def test_a_damaged_store_is_replaced_and_kept(
    store: Store, ada: Actor, file: Path, damage: Callable[[Path], None]
) -> None:
    mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    store.close()
    damage(store.path)
    damaged = store.path.read_bytes()
    done = restore(store, file)
    assert not done.ledger_kept
    assert done.kept is not None
    assert Path(done.kept).stat().st_size == len(damaged)
    assert emails(store) == ["bob@example.org"]
    assert store.damage() == ""


def astray(path: Path) -> None:
    with closing(database._driver().connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM user")


def newer(path: Path) -> None:
    with closing(database._driver().connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


BROKEN = {
    "cut": (cut, "malformed|damaged"),
    "a broken page": (spoil(4096 * 8, 4096 * 12), "malformed|damaged|integrity"),
    "no store": (lambda path: path.write_text("hello"), "is not a Skychimp store"),
    "rows astray": (astray, "is without its user"),
    "of a newer Skychimp": (newer, "made by a newer Skychimp"),
    "not there": (lambda path: path.unlink(), "there is no file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_backup_that_is_not_sound_changes_nothing(store: Store, ada: Actor, file: Path, name: str) -> None:
    mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    clients.create(store, ada, email="eve@example.org")
    damage, words = BROKEN[name]
    damage(file)
    with pytest.raises(SkychimpError, match=words):
        restore(store, file)
    assert emails(store) == ["bob@example.org", "eve@example.org"]
    assert rows(store, StoreInfo)[0].held_at is None
    assert [path.name for path in store.path.parent.glob("skychimp.db*") if path.suffix == ".db"] == ["skychimp.db"]
    assert not list(store.path.parent.glob("*before-restore*"))


OLDER = """
from alembic import op
import sqlalchemy as sa

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade() -> None:
    op.add_column("client", sa.Column("phone", sa.String(), nullable=False, server_default=""))
"""


def test_an_older_backup_is_upgraded(store: Store, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backups.backup(store, OPERATOR, file)
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations, ignore=shutil.ignore_patterns("__pycache__"))
    (migrations / "versions" / "0002_next.py").write_text(OLDER)
    monkeypatch.setattr(database, "MIGRATIONS", migrations)
    monkeypatch.setattr(database, "REVISION", "0002")
    restore(store, file)
    with closing(sqlite3.connect(store.path)) as plain:
        assert plain.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
        assert "phone" in [row[1] for row in plain.execute("PRAGMA table_info(client)")]


def test_not_while_something_is_sending(store: Store, file: Path) -> None:
    backups.backup(store, OPERATOR, file)
    with store.write() as db:
        lock = runs.start(db.connection(), store.path, datetime.now(UTC))
    with pytest.raises(Conflict, match="something is sending"):
        restore(store, file)
    lock.release()
    restore(store, file)


def test_sessions_and_codes(store: Store, ada: Actor, bob: Actor, file: Path) -> None:
    """One that has been ended since does not count again, whoever restores stays logged in, and codes are gone."""
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


def test_images_come_along(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
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
    images.folder(store).mkdir()
    images.path(store, IMAGE_NAME).write_bytes(IMAGE)
    made = backups.backup(store, OPERATOR, file)
    assert (made.images, made.missing_images) == (1, [lost])
    path = tmp_path / "elsewhere" / "skychimp.db"
    assert backups.restore(f"sqlite:///{path}", OPERATOR, file).images == 1
    with closing(open_store(f"sqlite:///{path}")) as there:
        assert images.path(there, IMAGE_NAME).read_bytes() == IMAGE
        with there.read() as db:
            names = db.connection().exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
        assert "image" not in names


# What a restored store holds


HELD = {DeliveryState.CLAIMED, DeliveryState.SENDING}
UNSURE = {DeliveryState.QUEUED, DeliveryState.DEFERRED, DeliveryState.UNKNOWN} | HELD


@pytest.fixture
def waiting(store: Store, ada: Actor) -> Store:
    """One occurrence with deliveries in every state, and a mailing of every day that is due and was never opened."""
    occurrence_id = occurrence(store, bare_mailing(store, ada))
    for state in DeliveryState:
        made = DeliveryState.QUEUED if state in HELD else state
        delivery(store, occurrence_id, f"{state}@example.org", made, NINE if state in UNSURE else None)
    with store.write() as db:
        db.add(Run(host="here", pid=1, started_at=NINE, heartbeat_at=NINE))
        letters = db.get_one(Occurrence, occurrence_id)
        letters.subject, letters.sender, letters.return_path = "Hello", "ada@skychimp.test", "ada@skychimp.test"
        for state in HELD:
            row = db.exec(select(Delivery).where(Delivery.address == f"{state}@example.org")).one()
            row.state, row.run_id, row.token = state, 1, 1
    mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    return store


@pytest.mark.parametrize(
    ("decision", "state"),
    [
        (None, DeliveryState.UNKNOWN),
        (Resolution.SENT, DeliveryState.SENT),
        (Resolution.FAILED, DeliveryState.FAILED),
    ],
)
def test_without_the_old_store_nothing_of_it_is_sent(
    waiting: Store, file: Path, tmp_path: Path, decision: Resolution | None, state: DeliveryState
) -> None:
    backups.backup(waiting, OPERATOR, file)
    drop(waiting)
    restore(waiting, file)
    held = backups.held(waiting)
    assert held is not None
    assert (held.is_blind, held.deliveries, held.due) == (True, 4, 1)
    done = backups.let_go_on(waiting, OPERATOR, decision)
    assert (done.to_send, done.missed) == (0, 1)
    assert getattr(done, state) == 5
    found = {one.address.partition("@")[0]: (one.state, one.next_try_at) for one in deliveries(waiting)}
    assert {name: found[name] for name in UNSURE} == dict.fromkeys(UNSURE, (state, None))
    assert {name: each for name, (each, _) in found.items() if name not in UNSURE} == {
        name: name for name in ("sent", "failed", "expired", "cancelled")
    }
    assert all(one.attempts == 1 for one in deliveries(waiting) if one.address.startswith(("queued", "claimed")))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(waiting, settings(receiver.port)).sent == 0
        assert receiver.taken == 0
    daily = rows(waiting, Mailing)[1]
    assert daily.next_at is not None
    assert daily.next_at > datetime.now(UTC)
    assert [row.state for row in rows(waiting, Occurrence)] == [OccurrenceState.FINISHED, OccurrenceState.MISSED]


def test_all_of_it_is_sent_where_a_person_says_so(waiting: Store, file: Path, tmp_path: Path) -> None:
    backups.backup(waiting, OPERATOR, file)
    drop(waiting)
    restore(waiting, file)
    assert backups.let_go_on(waiting, OPERATOR, Resolution.RESEND).to_send == 4
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(waiting, settings(receiver.port, delivery__unknown_after="0s"))
        names = {name for name, _ in receiver.arrived()}
    assert {"queued@example.org", "deferred@example.org", "claimed@example.org", "bob@example.org"} <= names
    assert "sent@example.org" not in names


def test_an_audience_that_was_not_all_opened_is_unknown_as_a_whole(store: Store, ada: Actor, file: Path) -> None:
    mailing_id = mailing(store, ada, addresses(3))
    with store.write() as db:
        row = db.get_one(Mailing, mailing_id)
        row.status, row.next_at = MailingStatus.RUNNING, None
    occurrence(store, mailing_id)
    with store.write() as db:
        db.get_one(Occurrence, 1).state = OccurrenceState.OPENING
    backups.backup(store, OPERATOR, file)
    drop(store)
    restore(store, file)
    assert backups.let_go_on(store, OPERATOR).unknown == 3
    assert states(store) == {"unknown": 3}
    assert rows(store, Mailing)[0].status == MailingStatus.COMPLETED


def test_what_the_replaced_store_has_sent_is_in_the_ledger(
    store: Store, ada: Actor, file: Path, tmp_path: Path
) -> None:
    """Deliveries that were open, and a due time that was not; what was not sent yet goes out, once."""
    mailing(store, ada, addresses(4), every=Every.DAY)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, settings(receiver.port), limit=1)
        mailing(store, ada, ["late@example.org"])
        backups.backup(store, OPERATOR, file)
        send(store, settings(receiver.port), limit=2)
        clients.create(store, ada, email="eve@example.org")
        before = [(tried.delivery_id, tried.number, tried.reply) for tried in attempts(store)]
        next_at = rows(store, Mailing)[0].next_at
        assert restore(store, file).ledger_kept
        assert [(tried.delivery_id, tried.number, tried.reply) for tried in attempts(store)] == before
        assert rows(store, Mailing)[0].next_at == next_at
        held = backups.held(store)
        assert held is not None
        assert not held.is_blind
        assert backups.let_go_on(store, OPERATOR).to_send == held.deliveries == 2
        assert send(store, settings(receiver.port)).sent == 2
        assert receiver.taken == 5
        assert set(receiver.arrived().values()) == {1}
    assert states(store) == {"sent": 5}


def test_what_a_digest_has_told_of_stays_told(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    messages.change(store, ada, 1, digest=True)
    editor = enrol(store, "grace", Role.EDITOR)
    posts.create(store, editor, title="Before", content="It begins.", publish=True)
    backups.backup(store, OPERATOR, file)
    posts.create(store, editor, title="After", content="It goes on.", publish=True)
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, settings(receiver.port)).sent == 1

    assert restore(store, file).ledger_kept

    assert [(row.post_id, row.occurrence_id) for row in rows(store, DigestPost)] == [(1, 1)]  # the other is no more


def test_all_that_hangs_on_the_ledger_is_kept_with_it() -> None:
    """A table that points to occurrences or deliveries belongs into copies.LEDGER, with what counts its rows."""
    hangs = {
        table.name
        for table in metadata.sorted_tables
        for key in table.foreign_keys
        if key.column.table.name in ("occurrence", "delivery")
    }
    assert hangs == set(backup_file.LEDGER) - {"occurrence", "run", "cause"}


def test_a_report_says_the_same_of_a_restored_store(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """What has been counted already, before the backup or since, counts once."""
    mailing_id = mailing(store, ada, addresses(4))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, settings(receiver.port), limit=1)
        rollups.add_up(store)
        backups.backup(store, OPERATOR, file)
        send(store, settings(receiver.port))
    before = reports.report(store, ada, mailing_id)
    assert restore(store, file).ledger_kept
    assert reports.report(store, ada, mailing_id) == replace(before, as_of=ANY)
    assert sum(answer.attempts for answer in before.replies) == 4


def test_a_due_time_of_a_schedule_that_has_changed_since_is_not_sent_once_more(
    store: Store, ada: Actor, file: Path, tmp_path: Path
) -> None:
    """The restored mailing is to be at its old hour again, and today's letter went out at the new one."""
    mailing_id = mailing(store, ada, ["bob@example.org"], every=Every.DAY)
    now = datetime.now(UTC)
    mailings.change(store, ada, mailing_id, start=(now - timedelta(minutes=5)).isoformat())
    backups.backup(store, OPERATOR, file)
    mailings.change(store, ada, mailing_id, start=(now - timedelta(minutes=2)).isoformat())
    with CountingReceiver(tmp_path / "arrived") as receiver:
        assert send(store, settings(receiver.port)).sent == 1
        assert restore(store, file).ledger_kept
        backups.let_go_on(store, OPERATOR)
        assert send(store, settings(receiver.port)).sent == 0
    (row,) = rows(store, Mailing)
    assert row.next_at == (now + timedelta(days=1, minutes=-5)).replace(microsecond=0)


def test_a_store_that_does_not_know_what_was_sent_vouches_for_nothing(
    store: Store, ada: Actor, file: Path, tmp_path: Path
) -> None:
    """It was put back blindly itself, or it is older than the backup."""
    older = file.with_name("older.backup")
    mailing(store, ada, addresses(2))
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, settings(receiver.port), limit=1)
        backups.backup(store, OPERATOR, older)
        send(store, settings(receiver.port))
    backups.backup(store, OPERATOR, file)
    drop(store)
    assert not restore(store, older).ledger_kept
    assert not restore(store, older).ledger_kept
    backups.let_go_on(store, OPERATOR, Resolution.RESEND)
    assert not restore(store, file).ledger_kept
    assert states(store) == {"sent": 2}


def test_another_store_says_nothing_of_what_this_one_has_sent(
    store: Store, ada: Actor, file: Path, tmp_path: Path
) -> None:
    mailing(store, ada, ["bob@example.org"])
    backups.backup(store, OPERATOR, file)
    with closing(create_store(f"sqlite:///{tmp_path / 'other.db'}")) as other:
        mailing(other, enrol(other, "ada"), ["eve@example.org"])
        assert not restore(other, file).ledger_kept
        held = backups.held(other)
        assert held is not None
        assert held.is_blind
        assert backups.let_go_on(other, OPERATOR).missed == 1


def test_the_letters_keep_their_message_ids(store: Store, ada: Actor, file: Path, tmp_path: Path) -> None:
    """So that a receiver can drop the copy where somebody has all of it sent again."""
    mailing(store, ada, ["bob@example.org"])
    with CountingReceiver(tmp_path / "arrived") as receiver:
        send(store, settings(1))  # opened, and left waiting
        backups.backup(store, OPERATOR, file)
        send(store, settings(receiver.port))
        drop(store)
        restore(store, file)
        backups.let_go_on(store, OPERATOR, Resolution.RESEND)
        send(store, settings(receiver.port))
        assert list(receiver.arrived().values()) == [2]
        assert len({letter.digest for letter in receiver.arrivals()}) == 1


def test_a_store_that_was_never_restored_is_not_let_go(store: Store) -> None:
    with pytest.raises(Conflict, match="not held"):
        backups.let_go_on(store, OPERATOR)
    assert backups.held(store) is None

"""The store's file: made whole or not at all, nobody else's business, and never written where it isn't ours."""

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import enrol
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from support.queue_steps import NOW, change, client, mailing, rows, write

from skychimp.errors import Conflict, SkychimpError, StoreFailed, StoreNotReady
from skychimp.models import Client, StoreInfo, User
from skychimp.permissions import Actor
from skychimp.store import database
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store, store_path

ANY_BUILD, OLD_BUILD = (3,), (99,)
"""Since when a build of SQLite is sound, so that the one at hand is, or is not."""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def closed(store: Store) -> Path:
    """Its file, while nobody has it open."""
    store.close()
    return store.path


def everything_in(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Each file with what it holds and when it was changed."""
    return {
        path.name: (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns) for path in folder.iterdir()
    }


def pragma(store: Store, name: str) -> object:
    with store.read() as db:
        return db.connection().exec_driver_sql(f"PRAGMA {name}").scalar()


# What is a store


def write_sqlite(path: Path, *, wal: bool = False, application_id: int = 0) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("CREATE TABLE theirs (x)")
        connection.commit()


NO_STORES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "a text": lambda path: path.write_text("[mail]\nsender = 'Ada <ada@skychimp.test>'\n" * 10),
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nowhere.db"),
    "somebody else's database": write_sqlite,
    "somebody else's database with a log": lambda path: write_sqlite(path, wal=True),
    "somebody else's application": lambda path: write_sqlite(path, application_id=0x534B5944),
}


@pytest.mark.parametrize("made", NO_STORES)
def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path, made: str) -> None:
    path = tmp_path / "skychimp.db"
    NO_STORES[made](path)
    before = everything_in(tmp_path)

    with pytest.raises(StoreNotReady, match=r"no store at|is not a Skychimp store|can't be read") as refused:
        open_store(url(path))

    assert refused.value.exit_status == 3
    assert str(path) in refused.value.message
    assert everything_in(tmp_path) == before


def test_a_store_without_its_tables_is_damaged(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "skychimp.db", application_id=0x534B5943)

    with pytest.raises(StoreNotReady, match="damaged"):
        open_store(url(tmp_path / "skychimp.db"))


@pytest.mark.parametrize("size", [50, 99, 512, 4096, 8192, 20_000, -4096])
def test_a_truncated_store_is_refused_and_left_as_it_is(store: Store, size: int) -> None:
    path = closed(store)
    os.truncate(path, size if size > 0 else path.stat().st_size + size)
    before = everything_in(path.parent)

    with pytest.raises(StoreNotReady):
        open_store(url(path))

    assert everything_in(path.parent) == before


def test_a_store_whose_process_was_killed_while_it_wrote_its_log_back_is_whole(sound: Store) -> None:
    """The file itself is cut off then, and the rest is in the log beside it."""
    client(sound, enrol(sound, "ada"), "bob")
    with contextlib.closing(database._driver().connect(sound.path, isolation_level=None)) as connection:
        connection.execute("VACUUM")  # puts every page into the log
        copy = sound.path.with_name("copy.db")
        shutil.copy(sound.path, copy)
        shutil.copy(f"{sound.path}-wal", f"{copy}-wal")
    os.truncate(copy, 4096)

    reopened = open_store(url(copy))

    assert [found.email for found in rows(reopened, Client)] == ["bob@example.org"]
    reopened.close()


def test_a_store_of_a_newer_skychimp_is_refused_and_left_as_it_is(store: Store) -> None:
    write(store, lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    path = closed(store)
    before = everything_in(path.parent)

    with pytest.raises(StoreNotReady, match="newer Skychimp") as refused:
        open_store(url(path))

    assert refused.value.hint == "upgrade Skychimp"
    assert everything_in(path.parent) == before


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("postgresql+psycopg://db/skychimp", "not in postgresql"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_a_store_is_an_sqlite_file(other: str, reason: str) -> None:
    with pytest.raises(StoreNotReady, match=reason):
        store_path(other)


@pytest.mark.parametrize("name", ["a store.db", "100%.db", "a%20b.db", "what?.db", "#1.db", "it's.db", "магазин 🐒.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    escaped = url(path).replace("%", "%25").replace("?", "%3F")  # as the settings write a path

    create_store(escaped).close()

    assert [found.name for found in tmp_path.iterdir()] == [name]
    reopened = open_store(escaped)
    assert len(rows(reopened, StoreInfo)) == 1
    reopened.close()


# Making one


def test_a_new_store_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, what SQLite puts beside it, and the folder where it has to be made."""
    monkeypatch.setattr(database, "SOUND_WAL", ANY_BUILD)
    old_mask = os.umask(0)
    try:
        store = create_store(url(tmp_path / "new" / "folder" / "skychimp.db"))
    finally:
        os.umask(old_mask)

    with store.write() as db:
        db.execute(update(StoreInfo).values(held_at=NOW))
        db.flush()
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
    assert modes == dict.fromkeys(("skychimp.db", "skychimp.db-wal", "skychimp.db-shm"), 0o600)
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert [path.name for path in closed(store).parent.iterdir()] == ["skychimp.db"]


def test_its_rollback_journal_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SOUND_WAL", OLD_BUILD)
    store = create_store(url(tmp_path / "skychimp.db"))

    with store.write() as db:
        db.execute(update(StoreInfo).values(held_at=NOW))
        db.flush()
        assert stat.S_IMODE((tmp_path / "skychimp.db-journal").stat().st_mode) == 0o600
    store.close()


def test_every_store_has_a_secret_of_its_own(store: Store, tmp_path: Path) -> None:
    other = create_store(url(tmp_path / "other.db"))
    (mine,), (theirs,) = rows(store, StoreInfo), rows(other, StoreInfo)
    assert len(mine.secret) == 32
    assert mine.secret != theirs.secret
    assert mine.held_at is None
    other.close()


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("precious"),
    "a folder": lambda path: path.mkdir(),
    "a link to nothing": lambda path: path.symlink_to("nowhere.db"),
    "a store": lambda path: create_store(url(path)).close(),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_a_store_is_never_made_in_anothers_place(tmp_path: Path, what: str) -> None:
    path = tmp_path / "skychimp.db"
    IN_THE_WAY[what](path)
    before = everything_in(tmp_path)

    with pytest.raises(Conflict, match="there is already a file"):
        create_store(url(path))

    assert everything_in(tmp_path) == before


def test_a_folder_that_cant_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "skychimp.db", tmp_path / "file" / "more" / "skychimp.db"):
        with pytest.raises(StoreNotReady, match="can't be made"):
            create_store(url(path))


MAKE = """
import os, sys
from skychimp.errors import Conflict
from skychimp.store import engine

if sys.argv[2] == "dies":
    engine.appear = lambda draft, path: os.kill(os.getpid(), 9)
try:
    engine.create_store("sqlite:///" + sys.argv[1]).close()
except Conflict:
    sys.exit(6)
"""


def make(path: Path, how: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", MAKE, str(path), how])


def test_of_many_who_make_it_at_once_one_does(tmp_path: Path) -> None:
    path = tmp_path / "skychimp.db"

    processes = [make(path) for _ in range(3)]

    assert sorted(process.wait() for process in processes) == [0, 6, 6]
    assert [found.name for found in tmp_path.iterdir()] == ["skychimp.db"]
    open_store(url(path)).close()


def test_a_store_that_was_half_made_when_its_process_died_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "skychimp.db"

    assert make(path, "dies").wait() == -9

    assert not path.exists()
    create_store(url(path)).close()


def test_a_store_that_cant_be_filled_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(connection: object, revision: str = "head") -> None:
        raise database._driver().OperationalError("database or disk is full")

    monkeypatch.setattr(database, "migrate", no_space)

    with pytest.raises(StoreFailed, match="disk is full"):
        create_store(url(tmp_path / "skychimp.db"))

    assert list(tmp_path.iterdir()) == []


# Permissions


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Without root's powers, if the tests have them."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that anybody may look into, and only its owner may change."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("mode", "error", "reason"),
    [(0o000, StoreNotReady, "can't be read: Permission denied"), (0o444, StoreFailed, "readonly database")],
)
def test_a_store_that_may_not_be_written_is_said(
    public_folder: Path, mode: int, error: type[SkychimpError], reason: str
) -> None:
    path = public_folder / "skychimp.db"
    create_store(url(path)).close()
    path.chmod(mode)
    public_folder.chmod(0o555)
    before = path.stat()

    with (
        as_nobody(),
        pytest.raises(error, match=reason),
        contextlib.closing(open_store(url(path))) as readable,
    ):
        write(readable, lambda connection: connection.exec_driver_sql("DELETE FROM user"))

    assert (path.stat().st_mtime_ns, [found.name for found in public_folder.iterdir()]) == (
        before.st_mtime_ns,
        ["skychimp.db"],
    )


def test_a_store_that_may_not_be_made_is_said(public_folder: Path) -> None:
    public_folder.chmod(0o555)

    with as_nobody(), pytest.raises(StoreNotReady, match="can't be made: Permission denied"):
        create_store(url(public_folder / "skychimp.db"))

    assert list(public_folder.iterdir()) == []


# Transactions


@pytest.fixture
def sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store by a build of SQLite that is taken for a sound one."""
    monkeypatch.setattr(database, "SOUND_WAL", ANY_BUILD)
    made = create_store(url(tmp_path / "sound.db"))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("sound_since", "journal", "synchronous"), [(ANY_BUILD, "wal", 2), (OLD_BUILD, "delete", 3)], ids=["sound", "old"]
)
def test_how_a_connection_is_set_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound_since: tuple[int, ...], journal: str, synchronous: int
) -> None:
    monkeypatch.setattr(database, "SOUND_WAL", sound_since)
    store = create_store(url(tmp_path / "skychimp.db"))

    assert pragma(store, "journal_mode") == journal
    assert pragma(store, "synchronous") == synchronous
    assert pragma(store, "foreign_keys") == 1
    assert pragma(store, "busy_timeout") == 30_000
    assert pragma(store, "application_id") == 0x534B5943
    store.close()


def test_a_store_changes_its_journal_with_the_build_that_opens_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = closed(store)
    for sound_since, journal in ((OLD_BUILD, "delete"), (ANY_BUILD, "wal"), (OLD_BUILD, "delete")):
        monkeypatch.setattr(database, "SOUND_WAL", sound_since)
        reopened = open_store(url(path))
        assert pragma(reopened, "journal_mode") == journal
        reopened.close()


def test_the_change_of_the_journal_waits_for_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SOUND_WAL", OLD_BUILD)
    path = closed(create_store(url(tmp_path / "skychimp.db")))
    monkeypatch.setattr(database, "SOUND_WAL", ANY_BUILD)
    with contextlib.closing(database._driver().connect(path, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, writer.execute, ["COMMIT"])
        timer.start()

        reopened = Store(path)

        assert pragma(reopened, "journal_mode") == "wal"
        timer.join()
    reopened.close()


@pytest.mark.parametrize("sound_since", [ANY_BUILD, OLD_BUILD], ids=["sound", "old"])
def test_no_update_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sound_since: tuple[int, ...]) -> None:
    """Two that read, think and write: the second reads what the first has written."""
    monkeypatch.setattr(database, "SOUND_WAL", sound_since)
    store = create_store(url(tmp_path / "skychimp.db"))
    write(store, lambda connection: connection.exec_driver_sql("CREATE TABLE number AS SELECT 0 AS n"))

    def add(times: int) -> None:
        for _ in range(times):
            with store.write() as db:
                n: int = db.connection().exec_driver_sql("SELECT n FROM number").scalar_one()
                db.connection().exec_driver_sql("UPDATE number SET n = ?", (n + 1,))

    threads = [threading.Thread(target=add, args=(25,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.read() as db:
        assert db.connection().exec_driver_sql("SELECT n FROM number").scalar() == 75
    store.close()


def test_a_read_sees_one_moment(sound: Store) -> None:
    ada = enrol(sound, "ada")
    with sound.read() as db:
        assert db.connection().exec_driver_sql("SELECT count(*) FROM client").scalar() == 0
        client(sound, ada, "bob")
        assert db.connection().exec_driver_sql("SELECT count(*) FROM client").scalar() == 0
    assert len(rows(sound, Client)) == 1


def test_a_write_is_done_whole_or_not_at_all(store: Store, ada: Actor) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as db:  # noqa: PT012
        db.execute(update(User).values(name="X"))
        db.flush()
        raise ZeroDivisionError

    assert rows(store, User)[0].name == ""


def test_times_come_back_aware_and_in_utc(store: Store, ada: Actor) -> None:
    mailing_id = mailing(store, ada)
    with pytest.raises(Exception, match="timezone"):
        change(store, User, 1, created_at=NOW.replace(tzinfo=None))
    with store.read() as db:
        stored = db.connection().exec_driver_sql("SELECT next_at FROM mailing WHERE id = ?", (mailing_id,))
        assert stored.scalar() == "2026-03-02 09:00:00.000000"


# What goes wrong


def test_a_store_that_is_held_for_long(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    impatient = Store(store.path)

    with store.write() as db:
        db.connection()
        with pytest.raises(StoreFailed, match="database is locked") as failed:
            write(impatient, lambda connection: connection.exec_driver_sql("SELECT 1"))

    assert failed.value.hint == "another process holds it for long; try again"
    impatient.close()


def test_a_full_disk(store: Store, ada: Actor) -> None:
    pages = pragma(store, "page_count")

    with pytest.raises(StoreFailed, match="database or disk is full") as failed, store.write() as db:  # noqa: PT012
        db.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        db.execute(update(User).values(name="x" * 1_000_000))

    assert failed.value.hint == "free some disk space, then run the command again; nothing was lost"
    assert rows(store, User)[0].name == ""


def test_a_broken_page(store: Store, ada: Actor) -> None:
    path = closed(store)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    with (
        pytest.raises((StoreFailed, StoreNotReady), match=r"malformed|damaged"),
        contextlib.closing(open_store(url(path))) as broken,
    ):
        rows(broken, User)


def test_what_the_tables_forbid_is_the_callers_business(store: Store, ada: Actor) -> None:
    client(store, ada, "bob")

    with pytest.raises(IntegrityError):
        client(store, ada, "bob")


def test_lower_knows_every_script(store: Store) -> None:
    with store.read() as db:
        found = db.connection().exec_driver_sql("SELECT lower('ÅSE ŽOFIE ΣΊΣΥΦΟΣ'), lower(NULL), lower(5)").one()
    assert tuple(found) == ("åse žofie σίσυφοσ", None, 5)

"""A store's file is created completely or not at all, is private, and is not touched if it is something else."""

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC
from pathlib import Path
from types import ModuleType

import pytest
from conftest import create_user
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session
from support.accounts import NOBODY, needs_root
from support.queue_steps import NOW, create_client, create_mailing, get_row, rows, update_row, write

from skychimp.errors import Conflict, SkychimpError, StoreFailed, StoreNotReady
from skychimp.models import Client, Mailing, StoreInfo, User
from skychimp.permissions import Actor
from skychimp.store import sqlite, sqlite_errors
from skychimp.store.database import BATCH_PAUSE_S, Store
from skychimp.store.migrations import revisions
from skychimp.store.postgres import server
from skychimp.store.schema import create_store, open_store, store_path
from skychimp.store.sqlite import SqliteStore

ANY_VERSION, NO_VERSION = (3,), (99,)
"""Values of SAFE_WAL_VERSION with which the installed SQLite has a safe WAL, or has not."""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def close(store: Store) -> Path:
    """Close a store and return its file."""
    store.close()
    return store.path


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return each file's content and modification time by name."""
    return {
        path.name: (path.read_bytes() if path.is_file() else b"", path.lstat().st_mtime_ns) for path in folder.iterdir()
    }


def pragma(store: Store, name: str) -> object:
    with store.read() as db:
        return db.connection().exec_driver_sql(f"PRAGMA {name}").scalar()


# What is not a store


def write_sqlite(path: Path, *, wal: bool = False, application_id: int = 0) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA application_id = {application_id}")
        connection.execute("CREATE TABLE foreign_table (x)")
        connection.commit()


NOT_STORES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "an empty file": lambda path: path.touch(),
    "a text file": lambda path: path.write_text("[mail]\nsender = 'Ada <ada@skychimp.test>'\n" * 10),
    "a pipe": os.mkfifo,
    "a broken link": lambda path: path.symlink_to("nowhere.db"),
    "another database": write_sqlite,
    "another database with a log": lambda path: write_sqlite(path, wal=True),
    "another application's database": lambda path: write_sqlite(path, application_id=0x534B5944),
}


@pytest.mark.parametrize("kind", NOT_STORES)
def test_file_that_is_not_a_store_is_refused_and_unchanged(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "skychimp.db"
    NOT_STORES[kind](path)
    before = snapshot(tmp_path)

    reasons = r"no store at|not a Skychimp store|it is a link|it is not a regular file"
    with pytest.raises(StoreNotReady, match=reasons) as refused:
        open_store(url(path))

    assert refused.value.exit_status == 3
    assert str(path) in refused.value.message
    assert snapshot(tmp_path) == before


def test_store_without_tables_is_damaged(tmp_path: Path) -> None:
    write_sqlite(tmp_path / "skychimp.db", application_id=0x534B5943)

    with pytest.raises(StoreNotReady, match="damaged"):
        open_store(url(tmp_path / "skychimp.db"))


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "size", [50, *(pytest.param(size, marks=pytest.mark.slow) for size in (99, 512, 8192, 20_000)), 4096, -4096]
)
def test_truncated_store_is_refused_and_unchanged(store: Store, size: int) -> None:
    path = close(store)
    os.truncate(path, size if size > 0 else path.stat().st_size + size)
    before = snapshot(path.parent)

    with pytest.raises(StoreNotReady):
        open_store(url(path))

    assert snapshot(path.parent) == before


def test_store_is_intact_after_a_kill_during_a_checkpoint(wal_store: Store) -> None:
    """The file is truncated then, and the rest is in the log beside it."""
    create_client(wal_store, create_user(wal_store, "ada"), "bob")
    with contextlib.closing(sqlite.driver().connect(wal_store.path, isolation_level=None)) as connection:
        connection.execute("VACUUM")  # writes every page to the log
        copy = wal_store.path.with_name("copy.db")
        shutil.copy(wal_store.path, copy)
        shutil.copy(f"{wal_store.path}-wal", f"{copy}-wal")
    os.truncate(copy, 4096)

    reopened = open_store(url(copy))

    assert [client.email for client in rows(reopened, Client)] == ["bob@example.org"]
    reopened.close()


def test_store_of_a_newer_version_is_refused_and_unchanged(store: Store, store_url: str, tmp_path: Path) -> None:
    write(store, lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    store.close()
    before = snapshot(tmp_path)

    with pytest.raises(StoreNotReady, match="newer Skychimp") as refused:
        open_store(store_url)

    assert refused.value.hint == "upgrade Skychimp"
    assert snapshot(tmp_path) == before
    with store.read() as db:
        assert revisions.read_revision(db.connection()) == "9999"


@pytest.mark.parametrize(
    ("store_url", "message"),
    [
        ("mysql://db/skychimp", 'unsupported database "mysql"'),
        ("postgresql+psycopg://db/skychimp", "works only with a store in a file"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_url_that_names_no_file_is_refused(store_url: str, message: str) -> None:
    with pytest.raises(StoreNotReady, match=message):
        store_path(store_url)


@pytest.mark.parametrize("name", ["a store.db", "100%.db", "a%20b.db", "what?.db", "#1.db", "it's.db", "магазин 🐒.db"])
def test_any_file_name_is_possible(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    escaped = url(path).replace("%", "%25").replace("?", "%3F")  # as the settings write a path

    create_store(escaped).close()

    assert [file.name for file in tmp_path.iterdir()] == [name]
    reopened = open_store(escaped)
    assert len(rows(reopened, StoreInfo)) == 1
    reopened.close()


# Creating a store


def test_new_store_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, SQLite's files beside it, and a folder that had to be created."""
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", ANY_VERSION)
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
    assert [path.name for path in close(store).parent.iterdir()] == ["skychimp.db"]


def test_rollback_journal_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", NO_VERSION)
    store = create_store(url(tmp_path / "skychimp.db"))

    with store.write() as db:
        db.execute(update(StoreInfo).values(held_at=NOW))
        db.flush()
        assert stat.S_IMODE((tmp_path / "skychimp.db-journal").stat().st_mode) == 0o600
    store.close()


def test_each_store_has_its_own_secret(store: Store, tmp_path: Path) -> None:
    other = create_store(url(tmp_path / "other.db"))
    (info,), (other_info,) = rows(store, StoreInfo), rows(other, StoreInfo)
    assert len(info.secret) == 32
    assert info.secret != other_info.secret
    assert info.held_at is None
    other.close()


EXISTING: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("precious"),
    "a folder": lambda path: path.mkdir(),
    "a broken link": lambda path: path.symlink_to("nowhere.db"),
    "a store": lambda path: create_store(url(path)).close(),
}


@pytest.mark.parametrize("kind", EXISTING)
def test_new_store_never_replaces_anything(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "skychimp.db"
    EXISTING[kind](path)
    before = snapshot(tmp_path)

    with pytest.raises(Conflict, match="already exists"):
        create_store(url(path))

    assert snapshot(tmp_path) == before


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "skychimp.db", tmp_path / "file" / "more" / "skychimp.db"):
        with pytest.raises(StoreNotReady, match=r"is not a folder|Not a directory"):
            create_store(url(path))


CREATE = """
import os, sys
from skychimp.errors import Conflict
from skychimp.store import schema

if sys.argv[2] == "dies":
    schema.publish_new = lambda draft, path: os.kill(os.getpid(), 9)
try:
    schema.create_store("sqlite:///" + sys.argv[1]).close()
except Conflict:
    sys.exit(6)
"""


def start_creating(path: Path, mode: str = "") -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-c", CREATE, str(path), mode])


def test_one_of_two_processes_creates_the_store(tmp_path: Path) -> None:
    path = tmp_path / "skychimp.db"

    processes = [start_creating(path) for _ in range(2)]

    assert sorted(process.wait() for process in processes) == [0, 6]
    assert [file.name for file in tmp_path.iterdir()] == ["skychimp.db"]
    open_store(url(path)).close()


def test_store_does_not_exist_if_its_creation_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "skychimp.db"

    assert start_creating(path, "dies").wait() == -9

    assert not path.exists()
    create_store(url(path)).close()


def test_failed_creation_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: object, revision: str = "head") -> None:
        raise sqlite.driver().OperationalError("database or disk is full")

    monkeypatch.setattr(revisions, "migrate", fail)

    with pytest.raises(StoreFailed, match="disk is full"):
        create_store(url(tmp_path / "skychimp.db"))

    assert list(tmp_path.iterdir()) == []


# Permissions


@contextlib.contextmanager
def without_root() -> Iterator[None]:
    """Give up root's permissions in the block, if the tests have them."""
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
    """A folder that anybody may read, and only its owner may change."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("mode", "error", "message"),
    [
        (0o000, StoreNotReady, "cannot read the store .*: Permission denied"),
        (0o444, StoreFailed, "cannot use the store .*: .*readonly database"),
    ],
)
def test_missing_permission_to_use_a_store_is_an_error(
    public_folder: Path, mode: int, error: type[SkychimpError], message: str
) -> None:
    path = public_folder / "skychimp.db"
    create_store(url(path)).close()
    path.chmod(mode)
    public_folder.chmod(0o555)
    before = path.stat()

    with (
        without_root(),
        pytest.raises(error, match=message),
        contextlib.closing(open_store(url(path))) as readable,
    ):
        write(readable, lambda connection: connection.exec_driver_sql("DELETE FROM user"))

    assert (path.stat().st_mtime_ns, [file.name for file in public_folder.iterdir()]) == (
        before.st_mtime_ns,
        ["skychimp.db"],
    )


@needs_root
def test_log_that_was_left_read_only_is_named_with_its_remedy(public_folder: Path) -> None:
    """SQLite gives its log the mode of a store that is read-only for a while."""
    os.chown(public_folder, NOBODY, NOBODY)
    path = public_folder / "skychimp.db"
    log = public_folder / "skychimp.db-shm"
    with without_root():
        create_store(url(path)).close()
        path.chmod(0o400)
        with contextlib.closing(open_store(url(path))) as store:
            assert pragma(store, "user_version") == 0
        path.chmod(0o600)
        log.touch()
        log.chmod(0o400)
        with contextlib.closing(open_store(url(path))) as store:
            with pytest.raises(StoreFailed, match=f"^cannot use the store {path}: .*readonly database") as refused:
                write(store, lambda connection: connection.exec_driver_sql("DELETE FROM user"))
            assert refused.value.hint == f'run "chmod u+w {log}"'
            log.chmod(0o600)
        with contextlib.closing(open_store(url(path))) as store:
            write(store, lambda connection: connection.exec_driver_sql("DELETE FROM user"))


def test_missing_permission_to_create_a_store_is_an_error(public_folder: Path) -> None:
    public_folder.chmod(0o555)

    with without_root(), pytest.raises(StoreNotReady, match=r"cannot create the store .*: Permission denied"):
        create_store(url(public_folder / "skychimp.db"))

    assert list(public_folder.iterdir()) == []


# Transactions


@pytest.fixture
def wal_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store with a write-ahead log, whatever SQLite is installed."""
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", ANY_VERSION)
    created = create_store(url(tmp_path / "wal.db"))
    yield created
    created.close()


@pytest.mark.parametrize(
    ("safe_version", "journal", "synchronous"), [(ANY_VERSION, "wal", 2), (NO_VERSION, "delete", 3)], ids=["new", "old"]
)
def test_pragmas_of_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe_version: tuple[int, ...], journal: str, synchronous: int
) -> None:
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", safe_version)
    store = create_store(url(tmp_path / "skychimp.db"))

    assert pragma(store, "journal_mode") == journal
    assert pragma(store, "synchronous") == synchronous
    assert pragma(store, "foreign_keys") == 1
    assert pragma(store, "busy_timeout") == 30_000
    assert pragma(store, "application_id") == 0x534B5943
    store.close()


@pytest.mark.sqlite
def test_journal_mode_follows_the_sqlite_version_that_opens_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = close(store)
    for safe_version, journal in ((NO_VERSION, "delete"), (ANY_VERSION, "wal"), (NO_VERSION, "delete")):
        monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", safe_version)
        reopened = open_store(url(path))
        assert pragma(reopened, "journal_mode") == journal
        reopened.close()


def test_change_of_journal_mode_waits_for_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", NO_VERSION)
    path = close(create_store(url(tmp_path / "skychimp.db")))
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", ANY_VERSION)
    with contextlib.closing(sqlite.driver().connect(path, isolation_level=None, check_same_thread=False)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.3, writer.execute, ["COMMIT"])
        timer.start()

        reopened = SqliteStore(path)

        assert pragma(reopened, "journal_mode") == "wal"
        timer.join()
    reopened.close()


@pytest.mark.parametrize("safe_version", [ANY_VERSION, NO_VERSION], ids=["new", "old"])
def test_no_update_is_lost(store: Store, monkeypatch: pytest.MonkeyPatch, safe_version: tuple[int, ...]) -> None:
    """Transactions that read, then write: each reads what the others have written."""
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", safe_version)
    store.close()  # so that all connections are new, with the journal that this version has
    write(store, lambda connection: connection.exec_driver_sql("CREATE TABLE number AS SELECT 0 AS n"))

    def add(times: int) -> None:
        for _ in range(times):
            with store.write() as db:
                n: int = db.connection().exec_driver_sql("SELECT n FROM number").scalar_one()
                db.connection().exec_driver_sql(f"UPDATE number SET n = {n + 1}")

    threads = [threading.Thread(target=add, args=(25,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with store.read() as db:
        assert db.connection().exec_driver_sql("SELECT n FROM number").scalar() == 75


def test_read_sees_the_store_at_one_moment(
    store: Store, store_url: str, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", ANY_VERSION)  # without it, a reader keeps writers out
    store.close()
    with contextlib.closing(open_store(store_url)) as reopened:
        with reopened.read() as db:
            assert db.connection().exec_driver_sql("SELECT count(*) FROM client").scalar() == 0
            create_client(reopened, ada, "bob")
            assert db.connection().exec_driver_sql("SELECT count(*) FROM client").scalar() == 0
        assert len(rows(reopened, Client)) == 1


def test_failed_write_changes_nothing(store: Store, ada: Actor) -> None:
    with pytest.raises(ZeroDivisionError), store.write() as db:  # noqa: PT012
        db.execute(update(User).values(name="X"))
        db.flush()
        raise ZeroDivisionError

    assert rows(store, User)[0].name == ""


def test_times_are_read_as_aware_utc(store: Store, ada: Actor) -> None:
    mailing_id = create_mailing(store, ada)
    with pytest.raises(Exception, match="timezone"):
        update_row(store, User, 1, created_at=NOW.replace(tzinfo=None))
    next_at = get_row(store, Mailing, mailing_id).next_at
    assert next_at is not None
    assert (next_at, next_at.tzinfo) == (NOW, UTC)
    with store.read() as db:
        (stored,) = db.connection().exec_driver_sql("SELECT CAST(next_at AS text) FROM mailing").one()
    assert stored in ("2026-03-02 09:00:00.000000", "2026-03-02 09:00:00+00")


# Errors


def test_locked_store_is_an_error_after_the_timeout(
    store: Store, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite, server):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 1)

    with contextlib.closing(open_store(store_url)) as impatient, store.write() as db:
        db.connection()
        with pytest.raises(StoreFailed, match=r"database is locked|lock timeout") as failed:
            write(impatient, lambda connection: connection.exec_driver_sql("SELECT 1"))

    assert failed.value.hint == "another process has locked the store; try again later"


@pytest.mark.sqlite
def test_full_disk_is_an_error_and_changes_nothing(store: Store, ada: Actor) -> None:
    pages = pragma(store, "page_count")

    with pytest.raises(StoreFailed, match="database or disk is full") as failed, store.write() as db:  # noqa: PT012
        db.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        db.execute(update(User).values(name="x" * 1_000_000))

    assert failed.value.hint == "free some disk space, then run the command again"
    assert rows(store, User)[0].name == ""


@pytest.mark.sqlite
def test_broken_page_is_an_error(store: Store, ada: Actor) -> None:
    path = close(store)
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))

    with (
        pytest.raises((StoreFailed, StoreNotReady), match=r"malformed|damaged"),
        contextlib.closing(open_store(url(path))) as broken,
    ):
        rows(broken, User)


@pytest.mark.parametrize("module", [sqlite3, sqlite.driver()], ids=lambda module: str(module.__name__))
@pytest.mark.parametrize("has_code", [True, False])
def test_errors_are_recognised_by_their_codes(tmp_path: Path, module: ModuleType, has_code: bool) -> None:
    """The message decides only for a driver that gives no codes."""

    def code_of(statement: str, path: Path | str = ":memory:") -> int:
        with contextlib.closing(module.connect(path, isolation_level=None, timeout=0)) as connection:
            with pytest.raises(module.Error) as raised:  # noqa: PT012
                for part in statement.split(";"):
                    connection.execute(part)
            error = raised.value if has_code else module.OperationalError(str(raised.value))
            assert hasattr(error, "sqlite_errorcode") == has_code
            return sqlite_errors.result_code(error)

    write_sqlite(tmp_path / "locked.db")
    (tmp_path / "text.db").write_text("hello" * 1000)
    full = "PRAGMA max_page_count = 2; CREATE TABLE t (x); INSERT INTO t VALUES (randomblob(100000))"
    with contextlib.closing(module.connect(tmp_path / "locked.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert code_of("BEGIN IMMEDIATE", tmp_path / "locked.db") == sqlite_errors.BUSY
    assert code_of(full) == sqlite_errors.FULL
    assert code_of("SELECT * FROM nowhere") == sqlite_errors.ERROR
    assert code_of("SELECT * FROM nowhere", tmp_path / "text.db") == sqlite_errors.NOTADB


def test_violated_constraint_is_left_to_the_caller(store: Store, ada: Actor) -> None:
    create_client(store, ada, "bob")

    with pytest.raises(IntegrityError):
        create_client(store, ada, "bob")


def test_lower_supports_every_script(store: Store) -> None:
    with store.read() as db:
        row = db.connection().exec_driver_sql("SELECT lower('ÅSE ŽOFIE ΣΊΣΥΦΟΣ'), lower(NULL)").one()
    assert tuple(row) == ("åse žofie σίσυφοσ", None)


@pytest.mark.sqlite
def test_lower_leaves_a_number_as_it_is(store: Store) -> None:
    with store.read() as db:
        assert db.connection().exec_driver_sql("SELECT lower(5)").scalar() == 5


@pytest.mark.sqlite
def test_store_in_a_file_imports_nothing_of_a_server(store: Store) -> None:
    """Importing SQLAlchemy's dialect of PostgreSQL takes 30 ms, which every command would wait."""
    script = (
        "import sys\nfrom skychimp.store.schema import open_store\nopen_store(sys.argv[1]).close()\n"
        "print([name for name in sys.modules if 'postgres' in name or 'psycopg' in name])"
    )
    url = f"sqlite:///{store.path}"
    done = subprocess.run([sys.executable, "-c", script, url], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_large_change_leaves_the_lock_to_who_waits_for_it(store: Store) -> None:
    """It comes in after the batch that it has waited for, or the one after that, however long each of them takes."""
    assert BATCH_PAUSE_S > 0.1  # the longest time between two looks of SQLite. A shorter pause goes well now and then.
    is_in, began, batches = threading.Event(), threading.Event(), 0

    def write_once() -> None:
        began.wait()
        with store.write() as db:
            db.execute(update(StoreInfo.__table__).values(held_reason=f"after {batches}"))
        is_in.set()

    def step(db: Session) -> bool:
        nonlocal batches
        batches += 1
        db.execute(update(StoreInfo.__table__).values(held_reason="batch"))
        began.set()
        time.sleep(0.25)
        return is_in.is_set() or batches == 10

    waiting = threading.Thread(target=write_once)
    waiting.start()
    store.write_in_batches(step)
    waiting.join()

    assert batches <= 4

"""A backup, or a store, that somebody has changed is refused in one line, and nothing in it is run."""

import os
import random
import shutil
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

import pytest
from conftest import create_user
from sqlalchemy import select
from support.command import PROGRAM, Home
from support.sending import create_mailing, rows

from skychimp.errors import SkychimpError, StoreNotReady
from skychimp.models import Login, Post, Role, User, metadata
from skychimp.permissions import OPERATOR
from skychimp.services.blog import images
from skychimp.services.operations import backups, integrity
from skychimp.store.copies import verification
from skychimp.store.database import Store
from skychimp.store.schema import create_store, open_store
from skychimp.store.sqlite import SqliteStore, driver

pytestmark = pytest.mark.sqlite

ADMINISTRATOR = "UPDATE user SET role = 'admin'"
IN_QUOTES = ADMINISTRATOR.replace("'", "''")


def edit_schema(change: str) -> str:
    """Return statements that change SQLite's own table of tables."""
    return f"PRAGMA writable_schema = ON; UPDATE sqlite_master SET {change}; PRAGMA writable_schema = RESET"


FOREIGN = {
    "trigger at login": (f"CREATE TRIGGER x AFTER INSERT ON login BEGIN {ADMINISTRATOR}; END", 'unknown trigger "x"'),
    "trigger at audit": (f"CREATE TRIGGER x AFTER INSERT ON audit BEGIN {ADMINISTRATOR}; END", 'unknown trigger "x"'),
    "trigger at hold": (
        f"CREATE TRIGGER x AFTER UPDATE ON store_info BEGIN {ADMINISTRATOR}; END", 'unknown trigger "x"',
    ),
    "trigger at upgrade": (
        f"CREATE TRIGGER x AFTER UPDATE ON alembic_version BEGIN {ADMINISTRATOR}; END", 'unknown trigger "x"',
    ),
    "trigger with our name": (
        f"DROP TRIGGER user_changed; CREATE TRIGGER user_changed AFTER UPDATE ON user BEGIN {ADMINISTRATOR}; END",
        'changed trigger "user_changed" on "user"',
    ),
    "our trigger on another table": (
        "DROP TRIGGER user_changed;"
        "CREATE TRIGGER user_changed AFTER UPDATE ON login BEGIN UPDATE store_info SET audience_version = 1; END",
        'unknown trigger "user_changed" on "login"',
    ),
    "no trigger against changes": ("DROP TRIGGER audit_no_delete", 'missing trigger "audit_no_delete" on "audit"'),
    "view": ("CREATE VIEW x AS SELECT password_hash FROM user", 'unknown view "x"'),
    "view instead of a table": (
        "DROP TABLE login_failure;"
        "CREATE VIEW login_failure AS SELECT '' AS address_key, 0 AS failures, '' AS failed_at",
        'unknown view "login_failure"',
    ),
    "endless view instead of the revision": (
        "DROP TABLE alembic_version; CREATE VIEW alembic_version AS WITH RECURSIVE n(version_num) AS"
        " (SELECT 1 UNION ALL SELECT version_num + 1 FROM n) SELECT max(version_num) AS version_num FROM n",
        "unknown revision",
    ),
    "two revisions": ("INSERT INTO alembic_version VALUES ('0001')", "unknown revision"),
    "no revision": ("DELETE FROM alembic_version", "unknown revision"),
    "table": ("CREATE TABLE x (a)", 'unknown table "x"'),
    "table with a quote": ('CREATE TABLE "a""b" (a)', "unknown table \"a\"b\""),
    "table with quotes": ("CREATE TABLE \"a'\"\"); DROP TABLE user; --\" (a)", "unknown table"),
    "table with a line break": ('CREATE TABLE "a\nerror: b" (a)', r"unknown table 'a\nerror: b'"),
    "table with an escape": ('CREATE TABLE "\x1b[2J" (a)', r"unknown table '\x1b[2J'"),
    "table with a bidi character": ('CREATE TABLE "\u202ea" (a)', r"unknown table '\u202ea'"),
    "table like SQLite's": ("CREATE TABLE sqlitex (a)", 'unknown table "sqlitex"'),
    "virtual table": ("CREATE VIRTUAL TABLE x USING fts5(a)", 'unknown table "x"'),
    "other images": ("DROP TABLE image; CREATE TABLE image (name, content)", 'unknown table "image"'),
    "many tables": (";".join(f"CREATE TABLE x{number} (a)" for number in range(50)), "and 45 more"),
    "index": ("CREATE INDEX x ON user (email)", 'unknown index "x" on "user"'),
    "index with a function": ("CREATE INDEX x ON user (abs(random()))", None),
    "index on an expression": ("CREATE INDEX x ON user (lower(email))", 'unknown index "x" on "user"'),
    "no index": ("DROP INDEX ix_login_user_id", 'missing index "ix_login_user_id" on "login"'),
    "other index": (
        "DROP INDEX ix_login_user_id; CREATE UNIQUE INDEX ix_login_user_id ON login (user_id)",
        'changed index "ix_login_user_id" on "login"',
    ),
    "column": ("ALTER TABLE user ADD COLUMN x DEFAULT 1", 'changed table "user"'),
    "generated column": ("ALTER TABLE user ADD COLUMN x AS (randomblob(1e9))", None),
    "column less": ("ALTER TABLE run DROP COLUMN host", 'changed table "run"'),
    "renamed column": ("ALTER TABLE run RENAME COLUMN host TO computer", 'changed table "run"'),
    "renamed table": ("ALTER TABLE code RENAME TO codes", 'unknown table "codes"'),
    "columns in another order": (
        "DROP TABLE login_failure; CREATE TABLE login_failure (failures INTEGER NOT NULL, address_key VARCHAR NOT NULL,"
        " failed_at DATETIME NOT NULL, CONSTRAINT pk_login_failure PRIMARY KEY (address_key))",
        'changed table "login_failure"',
    ),
    "no constraint": (
        edit_schema("sql = replace(sql, 'CONSTRAINT uq_login_token_hash UNIQUE', 'CHECK') WHERE name = 'login'"), None,
    ),
    "other check": (edit_schema("sql = replace(sql, '''admin''', '''root''') WHERE name = 'user'"), "changed table"),
    "value in capitals": (edit_schema("sql = replace(sql, '''sent''', '''SENT''')"), "changed table"),
    "comment in a table": (
        edit_schema("sql = replace(sql, 'NOT NULL', 'NOT /**/ NULL') WHERE name = 'run'"), 'changed table "run"',
    ),
    "index of another table": (edit_schema("tbl_name = 'run' WHERE name = 'ix_login_user_id'"), None),
    "two triggers of one name": (
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_master SELECT type, name, tbl_name, 0,"
        f" 'CREATE TRIGGER user_changed AFTER INSERT ON login BEGIN {IN_QUOTES}; END'"
        " FROM sqlite_master WHERE name = 'user_changed'",
        None,
    ),
    "trigger that calls itself a table": (
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_master VALUES ('table', 'user', 'user', 0,"
        f" 'CREATE TRIGGER x AFTER INSERT ON login BEGIN {IN_QUOTES}; END')",
        None,
    ),
    "trigger as a blob": (
        "PRAGMA writable_schema = ON; INSERT INTO sqlite_master VALUES ('trigger', 'x', 'login', 0,"
        f" CAST('CREATE TRIGGER x AFTER INSERT ON login BEGIN {IN_QUOTES}; END' AS BLOB))",
        'unknown trigger "x"',
    ),
    "names as blobs": (
        edit_schema("name = CAST(name AS BLOB), sql = CAST(sql AS BLOB) WHERE name = 'run'"), 'missing table "run"',
    ),
    "letter that only Python folds": (
        edit_schema("sql = replace(sql, 'token_hash', 'to\u212aen_hash') WHERE tbl_name = 'login'"), None,
    ),
    "space that only Python knows": (
        edit_schema("sql = replace(sql, 'host', 'host\u00a0') WHERE name = 'run'"), 'changed table "run"',
    ),
    "text after the end": (edit_schema("sql = sql || char(0) || ' x' WHERE name = 'run'"), None),
    "comment after the end": (edit_schema("sql = sql || ' -- x' WHERE name = 'run'"), 'changed table "run"'),
    "invalid schema": (edit_schema("sql = 'CREATE TABLE run' WHERE name = 'run'"), None),
    "invalid name": (edit_schema("name = CAST(x'ff' AS TEXT) WHERE name = 'code'"), None),
}  # fmt: skip
"""Statements, and what the error says."""


@pytest.fixture(scope="module")
def example(_new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that has a row in most tables, and its backup."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copy(_new_store, folder / "skychimp.db")
    with closing(open_store(f"sqlite:///{folder / 'skychimp.db'}")) as store:
        create_mailing(store, create_user(store, "ada"), ["bob@example.org"])
        backups.backup(store, OPERATOR, folder / "today.backup")
    return folder


@pytest.fixture
def backup(store: Store, example: Path, tmp_path: Path) -> Path:
    """A backup of the store, which has a row in most tables and is closed."""
    store.close()
    shutil.copy(example / "skychimp.db", store.path)
    return Path(shutil.copy(example / "today.backup", tmp_path))


def change(file: Path, statements: str) -> None:
    with closing(driver().connect(file, isolation_level=None)) as db:
        db.executescript(statements)


def content(path: Path) -> list[str]:
    """Return everything in a store as SQL."""
    with closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def restore(store: Store, file: Path) -> backups.Restored:
    store.close()
    try:
        return backups.restore(f"sqlite:///{store.path}", OPERATOR, file)
    finally:
        store.close()


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_schema_is_refused_and_found_by_the_check(
    store: Store, backup: Path, tmp_path: Path, name: str
) -> None:
    statements, message = FOREIGN[name]
    try:
        change(backup, statements)
    except driver().Error:
        assert message is None, "SQLite itself refuses it"
        return
    contents = store.path.read_bytes(), backup.read_bytes()
    with pytest.raises(StoreNotReady) as refused:
        restore(store, backup)
    assert (message or "") in refused.value.message
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 700
    assert not [path for path in tmp_path.iterdir() if "draft" in path.name or "before" in path.name]
    done = Home(tmp_path, SKYCHIMP_STORE=str(backup)).call("store", "check")
    assert done.status in (1, 3)
    assert "unexpected" not in done.err
    assert 1 <= len((done.out + done.err).splitlines()) <= 50  # a line for each difference
    assert message is None or message.removeprefix("and 45 more") in done.out + done.err
    assert (store.path.read_bytes(), backup.read_bytes()) == contents


HARMLESS = {
    "nothing": "SELECT 1",
    "statistics": "ANALYZE",
    "compacted": "VACUUM",
    "rebuilt indexes": "REINDEX",
    "other spaces": edit_schema("sql = replace(replace(sql, char(10), '  '), ', ', char(10) || ',')"),
    "other case of words": edit_schema("sql = replace(replace(sql, 'NOT NULL', 'not null'), 'CREATE', 'create')"),
    "quoted names": edit_schema("sql = replace(sql, 'email VARCHAR', '\"email\" VARCHAR')"),
    "write-ahead log": "PRAGMA journal_mode = WAL",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_same_schema_is_accepted(store: Store, backup: Path, tmp_path: Path, name: str) -> None:
    change(backup, HARMLESS[name])
    assert restore(store, backup).store == str(store.path)
    done = Home(tmp_path, SKYCHIMP_STORE=str(store.path)).call("store", "check")
    assert (done.status, done.err) == (0, "no damage found\n"), done.out


def test_backup_opened_as_a_store_is_accepted(store: Store, backup: Path, tmp_path: Path) -> None:
    """It has the table of images, and may be backed up and checked again."""
    with closing(open_store(f"sqlite:///{backup}")) as opened:
        create_user(opened, "grace")
        again = backups.backup(opened, OPERATOR, tmp_path / "again.backup")
    assert again.differences == []
    assert restore(store, tmp_path / "again.backup").store == str(store.path)
    assert Home(tmp_path, SKYCHIMP_STORE=str(backup)).call("store", "check").status == 0


def test_trigger_cannot_make_an_administrator(store: Store, backup: Path) -> None:
    """It did at the next login after the restore."""
    change(backup, FOREIGN["trigger at login"][0])
    with pytest.raises(StoreNotReady, match='unknown trigger "x" on "login"'):
        restore(store, backup)
    assert [user.role for user in rows(store, User)] == [Role.USER]


def test_store_with_a_foreign_schema_can_be_backed_up(store: Store, tmp_path: Path) -> None:
    """Nothing is lost, and the user is told."""
    store.close()
    change(store.path, FOREIGN["index"][0])
    home = Home(tmp_path, SKYCHIMP_STORE=str(store.path))
    made = home.call("backup", "today.backup", "--operator", "--json")
    assert (made.status, made.json["differences"]) == (0, ['unknown index "x" on "user"'])
    assert 'restore will refuse this backup: unknown index "x" on "user"; run "skychimp store check"' in made.err


def test_table_with_a_quote_can_be_backed_up(store: Store, tmp_path: Path) -> None:
    store.close()
    change(store.path, 'CREATE TABLE "a""b" (a); INSERT INTO "a""b" VALUES (1)')
    with closing(open_store(f"sqlite:///{store.path}")) as opened:
        assert backups.backup(opened, OPERATOR, tmp_path / "x.backup").differences == ['unknown table "a"b"']


def test_untrusted_file_is_opened_safely(backup: Path) -> None:
    with closing(verification.open_untrusted(backup)) as db:
        pragmas = {name: db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("trusted_schema", "cell_size_check")}
        with pytest.raises(driver().OperationalError):
            db.execute("CREATE TABLE x (a)")
    assert pragmas == {"trusted_schema": 0, "cell_size_check": 1}


def test_every_connection_distrusts_the_schema(store: Store) -> None:
    with store.read() as db:
        assert db.connection().exec_driver_sql("PRAGMA trusted_schema").scalar() == 0


# Damage


VALUES = {
    "time that is none": "UPDATE user SET created_at = 'soon'",
    "day that is none": "UPDATE user SET created_at = '2026-02-31 00:00:00.000000'",
    "time with more": "UPDATE user SET created_at = created_at || ' '",
    "time that is a number": "UPDATE user SET created_at = 1e9",
    "number that is a text": "UPDATE mailing SET grace = 'long'",
    "number that is a fraction": "UPDATE mailing SET grace = 1.5",
    "text that is a blob": "UPDATE user SET name = x'00'",
    "text that is not UTF-8": "UPDATE user SET name = CAST(x'c3' AS TEXT)",
    "sequence that is a text": "UPDATE sqlite_sequence SET seq = 'x'",
    "sequence at its end": "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "image without a name": "INSERT INTO image VALUES (x'00', x'00')",
    "image elsewhere": "INSERT INTO image VALUES ('../../x.png', x'00')",
    "image that is a text": "INSERT INTO image VALUES ('x.png', 'text')",
    "secret that is a text": "UPDATE store_info SET secret = 'secret'",
    "row without its owner": "PRAGMA foreign_keys = OFF; DELETE FROM user",
    "unknown state": "PRAGMA ignore_check_constraints = ON; UPDATE user SET role = 'root'",
}


@pytest.mark.parametrize("name", VALUES)
def test_invalid_value_is_refused(store: Store, backup: Path, tmp_path: Path, name: str) -> None:
    change(backup, VALUES[name])
    before = store.path.read_bytes()
    with pytest.raises(StoreNotReady, match="the backup is damaged: ") as refused:
        restore(store, backup)
    assert "\n" not in refused.value.message
    assert store.path.read_bytes() == before
    assert Home(tmp_path, SKYCHIMP_STORE=str(backup)).call("store", "check").status == 1


def try_to_restore(store: Store, damaged: Path, original: bytes) -> bool:
    """Restore a damaged backup over a copy of a store. Return whether it was refused, with the store as it was."""
    store.path.write_bytes(original)
    try:
        restore(store, damaged)
    except SkychimpError as error:
        message = str(error.message)
    else:
        message = ""
    if message:
        assert message.isprintable(), ascii(message)
        assert len(message) < 1000
        assert store.path.read_bytes() == original
        return True
    with closing(SqliteStore(store.path)) as restored, restored.read() as db:  # everything in it can be read
        for table in metadata.sorted_tables:
            db.execute(select(table)).all()
    return False


@pytest.fixture
def original(store: Store, backup: Path) -> bytes:
    with closing(SqliteStore(store.path)) as opened, opened.read() as db:
        db.connection()
    return store.path.read_bytes()


def flip_bits(file: Path, content: bytes, generator: random.Random) -> None:
    """Write a copy with a changed byte, or some of them. Half of them are in the first pages: header and schema."""
    damaged = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 8))):
        place = generator.randrange(len(damaged) if generator.random() < 0.5 else 4096 * 8)
        damaged[place] ^= generator.randrange(1, 256)
    file.write_bytes(damaged)


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_changed_bytes_are_refused_or_harmless(store: Store, backup: Path, original: bytes, seed: int) -> None:
    generator, good = random.Random(seed), backup.read_bytes()
    for _ in range(8):
        flip_bits(backup, good, generator)
        try_to_restore(store, backup, original)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_many_changed_bytes_are_refused_or_harmless(store: Store, backup: Path, original: bytes) -> None:
    generator, good = random.Random(15), backup.read_bytes()
    refused = 0
    for _ in range(int(os.environ.get("SKYCHIMP_TEST_INPUTS", "2000"))):
        flip_bits(backup, good, generator)
        refused += try_to_restore(store, backup, original)
    assert refused


def test_shortened_file_is_refused(store: Store, backup: Path, original: bytes) -> None:
    good = backup.read_bytes()
    for length in (0, 1, 16, 99, 100, 101, 4095, 4096, 4097, len(good) // 2, len(good) - 4096):
        backup.write_bytes(good[:length])
        assert try_to_restore(store, backup, original), length


def test_other_files_are_refused(store: Store, backup: Path, original: bytes, tmp_path: Path) -> None:
    good = backup.read_bytes()
    empty = tmp_path / "empty.db"
    with closing(sqlite3.connect(empty)) as db:
        db.execute("CREATE TABLE x (a)")
    header = empty.read_bytes()
    for data in (b"\0" * 100_000, good[4096:], b"SQLite format 3\0", header, header[:68] + good[68:72] + header[72:]):
        backup.write_bytes(data)
        assert try_to_restore(store, backup, original)


# Names that are no UTF-8


NAME = b"b\xff\xe9ckup \x1b[2J\n.db"


def run(home: Home, *arguments: bytes | str) -> tuple[int, str]:
    """Run the installed command. Return its status and what it wrote to stderr."""
    done = subprocess.run(
        [PROGRAM, *arguments], env=home.environ, cwd=home.folder, capture_output=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.decode()


def call_here(home: Home, *arguments: bytes | str) -> tuple[int, str]:
    """Do the same in this process."""
    done = home.call(*map(os.fsdecode, arguments))
    return done.status, done.err


def test_backup_with_a_strange_name(store: Store, backup: Path, tmp_path: Path) -> None:
    home = Home(tmp_path, SKYCHIMP_STORE=str(store.path))
    for call, command in ((run, "backup"), (call_here, "restore")):
        status, errors = call(home, command, NAME, "--operator", "--force")
        assert (status, "unexpected" in errors, "\x1b[2J" in errors) == (0, False, False), errors
    trail = [entry for entry in content(store.path) if 'INTO "audit"' in entry]
    assert any(r"b\xff\xe9ckup" in entry for entry in trail)
    assert call_here(home, "restore", b"no" + NAME, "--operator", "--force")[0] == 2


def test_store_with_a_strange_name(store: Store, backup: Path, tmp_path: Path) -> None:
    place = os.fsencode(tmp_path) + b"/" + NAME.replace(b"\n", b"")
    os.rename(store.path, place)
    home = Home(tmp_path)
    commands: list[tuple[bytes | str, ...]] = [
        ("store", "check"), ("restore", str(backup), "--operator", "--force"), ("resolve", "--restored", "--operator"),
        ("backup", "again.backup", "--operator"),
    ]  # fmt: skip
    for command in commands:
        call = run if command[0] == "restore" else call_here
        status, errors = call(home, "--store", place, *command)
        assert (status in (0, 3), "unexpected" in errors, "Traceback" in errors) == (True, False, False), errors


def test_posts_and_sessions_of_a_valid_backup_are_restored(store: Store, backup: Path) -> None:
    """The checks refuse nothing that Skychimp writes."""
    assert [astuple(fault) for fault in integrity.find_damage(backup)] == []
    assert (rows(store, Login), rows(store, Post)) == ([], [])
    assert images.image_folder(store).exists() is False


def test_new_store_has_our_schema(tmp_path: Path) -> None:
    create_store(f"sqlite:///{tmp_path / 'new.db'}").close()
    assert verification.find_differences(tmp_path / "new.db") == []
    shutil.rmtree(tmp_path)

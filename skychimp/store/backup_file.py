"""Write backups of a store in use, and restore them in its place.

A backup is a store in one file, which `sqlite3` opens too. It has one more table: the images of the blog's posts.
"""

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, update

from skychimp import files
from skychimp.errors import Conflict, SkychimpError, StoreFailed, StoreNotReady
from skychimp.models import AuditEntry, StoreInfo
from skychimp.store import database, queue, runs, schema
from skychimp.store.database import Store

BACKED_UP = "back up"
"""The action in the audit trail. A backup contains the entry about itself, which tells when it was made."""

DRAFT_LIFE = 86_400
"""Seconds after which a draft is a leftover of a killed process."""

_LOG_SUFFIXES = ("-wal", "-journal", "-shm")
_CREATE_IMAGES = "CREATE TABLE image (name TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
_TABLE_NAMES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"

# What was sent stays sent: for mailings that are in both stores, a restored store takes the ledger of the newer store.
# LEDGER has the tables, each with the condition for its rows.
_SAME_MAILINGS = "SELECT id FROM mailing JOIN newer.mailing AS n USING (id, owner_id, created_at)"
_OCCURRENCES = f"SELECT id FROM {{}}occurrence WHERE mailing_id IN ({_SAME_MAILINGS})"  # noqa: S608
_DELIVERIES = f"SELECT id FROM {{}}delivery WHERE occurrence_id IN ({_OCCURRENCES})"  # noqa: S608
_SAME_POSTS = "SELECT id FROM post JOIN newer.post AS p USING (id, created_at)"
LEDGER = {
    "attempt": f"delivery_id IN ({_DELIVERIES})",
    "delivery": f"occurrence_id IN ({_OCCURRENCES})",
    "digest_post": f"mailing_id IN ({_SAME_MAILINGS}) AND post_id IN ({_SAME_POSTS})",
    "pace": f"occurrence_id IN ({_OCCURRENCES})",
    "result": f"occurrence_id IN ({_OCCURRENCES})",
    "occurrence": f"mailing_id IN ({_SAME_MAILINGS})",
    "run": "true",
    "cause": "true",
}
_REPLACE_LEDGER = (
    *(f"DELETE FROM {table} WHERE {condition}".replace("{}", "") for table, condition in LEDGER.items()),  # noqa: S608
    *(
        f"INSERT INTO {table} SELECT * FROM newer.{table} WHERE {condition}".replace("{}", "newer.")  # noqa: S608
        for table, condition in LEDGER.items()
    ),
    """UPDATE mailing SET next_at = n.next_at, status = n.status FROM newer.mailing AS n
       WHERE n.id = mailing.id AND n.deleted_at IS NULL
         AND (n.owner_id, n.created_at, n.start_local, n.timezone, n.every, n.end_at IS mailing.end_at)
           = (mailing.owner_id, mailing.created_at, mailing.start_local, mailing.timezone, mailing.every, 1)""",
    "UPDATE store_info SET counted_to = n.counted_to FROM newer.store_info AS n",
)
_IS_NEWER = """
    SELECT (SELECT secret FROM store_info) = (SELECT secret FROM newer.store_info)
        AND NOT (SELECT coalesce(held_blind, 0) FROM newer.store_info)
        AND NOT EXISTS (
            SELECT id, mailing_id, due_local FROM occurrence
            EXCEPT SELECT id, mailing_id, due_local FROM newer.occurrence)
        AND NOT EXISTS (
            SELECT 1 FROM delivery AS d JOIN newer.delivery AS n USING (id) WHERE d.attempts > n.attempts)"""

Progress = Callable[[int, int], None]
"""Called with the number of pages that are done, and the number of all."""


@dataclass(frozen=True)
class BackupResult:
    """A verified backup: its rows by table, and how many images. `missing` names images of posts that do not exist."""

    rows: Mapping[str, int]
    images: int
    missing: list[str]


@dataclass(frozen=True)
class RestoreResult:
    """A restored store.

    `made_at` is when the backup was made, None for a copy that was made in another way. `aside` is where the replaced
    store is kept. `ledger_kept` says whether the emails that it had sent count as sent.
    """

    made_at: datetime | None
    aside: Path | None
    ledger_kept: bool


def write_backup(
    store: Path, file: Path, read_image: Callable[[str], bytes | None], progress: Progress
) -> BackupResult:
    """Copy a store to a file and verify it. The file gets its name at the end, in place of an existing file.

    `read_image` returns the content of an image by its name, None if there is none. Raises StoreFailed.
    """
    with _draft(file) as draft:
        rows = database.copy_pages(store, draft, progress)
        with contextlib.closing(_open_alone(draft)) as copy, copy.write() as db:
            images, missing = _add_images(db.connection(), read_image)
        written = verify(draft)
        wrong = [table for table, number in (rows | {"image": images}).items() if written.get(table) != number]
        if wrong:
            raise StoreFailed(f"the copy lacks rows of {', '.join(wrong)}", "try again")
        files.publish(draft, file, replace=True)
    return BackupResult(rows, images, missing)


def restore_backup(
    file: Path,
    store: Path,
    aside: Path,
    prepare: Callable[[Session, Mapping[str, bytes]], None],
    progress: Progress,
) -> RestoreResult:
    """Replace a store by a backup, on hold. A copy of the replaced store is kept at `aside`.

    The store changes in one transaction: a kill leaves the old or the new one. `prepare` is called with the backup's
    images, and may change the copy first. This process must not have the store open.

    Raises StoreNotReady if the backup is damaged, Conflict while something is sending, and StoreFailed.
    """
    schema.require_store(file)
    store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _draft(store) as draft:
        database.copy_pages(file, draft, progress, in_use=False)
        verify(draft)
        schema.upgrade(draft, with_backup=False)
        with _on_hold(store) as exists:
            ledger_kept = exists and _set_aside(store, aside) and _take_newer_ledger(draft, aside)
            with contextlib.closing(_open_alone(draft)) as copy, copy.write() as db:
                _hold(db, blind=not ledger_kept)
                made_at, images = _remove_images(db)
                prepare(db, images)
            if exists:
                database.copy_pages(draft, store)
            else:
                schema.publish_new(draft, store)
    return RestoreResult(made_at, aside if exists else None, ledger_kept)


def verify(path: Path) -> dict[str, int]:
    """Check a store that is not in use, and return the number of rows of each table.

    Raises StoreNotReady if SQLite finds damage, or a row refers to a missing one.
    """
    schema.require_store(path)
    with contextlib.closing(_open_alone(path)) as store, store.read() as db:
        execute = db.connection().exec_driver_sql
        damage = next(find_damage(db.connection()), None)
        if damage is not None:
            raise StoreNotReady(f"{path} is damaged: {damage}", "use another backup")
        tables = execute(_TABLE_NAMES).scalars().all()
        return {name: execute(f'SELECT count(*) FROM "{name}"').scalar() or 0 for name in tables}  # noqa: S608


def find_damage(db: Connection) -> Iterator[str]:
    """Yield what SQLite finds wrong with a store: broken pages and indexes, and rows that refer to missing rows."""
    try:
        problems = list(db.exec_driver_sql("PRAGMA integrity_check(20)").scalars())
    except DBAPIError as error:  # too damaged even for the check
        if database.is_locked(error):
            raise
        problems = [str(error.orig)]
    if problems != ["ok"]:
        yield from problems
        return
    for table, row, parent, _ in db.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} refers to a missing {parent}"


# Drafts


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Create an empty file beside a path, and remove it after the block. Errors in the block are told of the path."""
    draft = path.with_name(f"{path.name}.draft-{secrets.token_hex(4)}")
    try:
        _remove_old_drafts(path)
        with files.temporary_file(draft):
            yield draft
    except OSError as error:
        raise StoreFailed(f"cannot write {path}: {error.strerror}", "use a folder that you can write to") from None
    except StoreFailed as error:
        raise StoreFailed(f"cannot write {path}: {error.message}", error.hint) from error
    except StoreNotReady as error:
        raise StoreNotReady(error.message.replace(str(draft), "the backup"), error.hint) from error


def _remove_old_drafts(path: Path) -> None:
    """Remove the drafts of killed processes: each may be as large as the store."""
    draft_name = re.compile(re.escape(path.name) + r"\.draft-[0-9a-f]{8}(-journal|-wal|-shm)?")
    for file in path.parent.iterdir():
        if draft_name.fullmatch(file.name) and file.stat().st_mtime < time.time() - DRAFT_LIFE:
            file.unlink(missing_ok=True)


def _open_alone(path: Path) -> Store:
    """Open a store that is not in use, without creating a log beside it."""
    return Store(path, journal_mode="DELETE")


# Images


def _add_images(db: Connection, read_image: Callable[[str], bytes | None]) -> tuple[int, list[str]]:
    """Store the images of the posts. Return how many, and the names of those that are missing."""
    db.exec_driver_sql("DROP TABLE IF EXISTS image")  # from a backup that was opened as a store
    db.exec_driver_sql(_CREATE_IMAGES)
    names = db.exec_driver_sql("SELECT DISTINCT image FROM post WHERE image IS NOT NULL").scalars().all()
    missing = []
    for name in names:
        content = read_image(name)
        if content is None:
            missing.append(name)
        else:
            db.exec_driver_sql("INSERT INTO image VALUES (?, ?)", (name, content))
    return len(names) - len(missing), missing


def _remove_images(db: Session) -> tuple[datetime | None, Mapping[str, bytes]]:
    """Remove the images from a backup. Return the time when it was made, and the images by name."""
    execute = db.connection().exec_driver_sql
    if not execute("SELECT 1 FROM sqlite_master WHERE name = 'image'").scalar():
        return None, {}
    made_at = db.scalar(select(func.max(AuditEntry.at)).where(col(AuditEntry.action) == BACKED_UP))
    images = {row.name: row.content for row in execute("SELECT name, content FROM image")}
    execute("DROP TABLE image")
    return made_at, images


# The store that is replaced


@contextlib.contextmanager
def _on_hold(path: Path) -> Iterator[bool]:
    """Hold a store during the block, so that no run begins to send. Yield whether there is a store.

    If the block fails, the hold is removed again. Raises Conflict if a run is sending, or if there are logs of a store
    that is gone.
    """
    _require_no_run(path)
    if not path.exists():
        _require_no_logs(path)
        yield False
        return
    schema.require_store(path)
    is_held_by_us = _try_to_hold(path)
    try:
        _require_no_run(path)  # one may have begun just before the hold
        yield True
    except BaseException:
        if is_held_by_us:
            _release_hold(path)
        raise


def _require_no_run(path: Path) -> None:
    if runs.has_living_run(path):
        raise Conflict("something is sending from this store", "stop the daemon, or wait until the run has ended")


def _require_no_logs(path: Path) -> None:
    for log in (path.with_name(path.name + suffix) for suffix in _LOG_SUFFIXES):
        if log.exists():
            raise Conflict(f"{log} belongs to a store that is gone", "move it away; it may contain the last changes")


def _try_to_hold(path: Path) -> bool:
    """Hold a store. Return False if it is on hold already, or too damaged for that (and for a run)."""
    with contextlib.suppress(SkychimpError), contextlib.closing(Store(path)) as store, store.write() as db:
        if not queue.is_held(db.connection()):
            _hold(db, blind=False)
            return True
    return False


def _release_hold(path: Path) -> None:
    with contextlib.suppress(SkychimpError), contextlib.closing(Store(path)) as store, store.write() as db:
        db.execute(update(StoreInfo).values(held_at=None, held_blind=None))


def _hold(db: Session, *, blind: bool) -> None:
    db.execute(update(StoreInfo).values(held_at=datetime.now(UTC), held_blind=blind))


def _set_aside(store: Path, aside: Path) -> bool:
    """Keep a copy of a store, byte by byte if SQLite cannot read it. Return whether the copy is intact."""
    try:
        with _draft(aside) as draft:
            database.copy_pages(store, draft)
            schema.publish_new(draft, aside)
        verify(aside)
    except SkychimpError:
        if not aside.exists():
            _copy_bytes(store, aside)
        return False
    return True


def _copy_bytes(store: Path, aside: Path) -> None:
    for suffix in ("", "-wal", "-journal"):
        if (file := store.with_name(store.name + suffix)).exists():
            aside.with_name(aside.name + suffix).touch(mode=0o600)
            shutil.copyfile(file, aside.with_name(aside.name + suffix))


def _take_newer_ledger(draft: Path, newer: Path) -> bool:
    """Copy what a newer store has sent into an older copy of it. Return False if it is not the same store."""
    store = Store(draft, journal_mode="DELETE", foreign_keys="OFF")
    with contextlib.closing(store), database.translate_db_errors(), store.connect_autocommit() as db:
        execute = db.exec_driver_sql
        execute("ATTACH ? AS newer", (str(newer),))
        revision = execute("SELECT version_num FROM newer.alembic_version").scalar()
        if revision != schema.REVISION or not execute(_IS_NEWER).scalar():
            return False
        execute("BEGIN IMMEDIATE")
        for statement in _REPLACE_LEDGER:
            execute(statement)
        is_intact = execute("PRAGMA foreign_key_check").first() is None
        execute("COMMIT" if is_intact else "ROLLBACK")
    return is_intact

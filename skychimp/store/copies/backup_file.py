"""Write backups of a store in use, and restore them in its place.

A backup is a store in one file, which `sqlite3` opens too. It has one more table: the images of the blog's posts.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, CursorResult, func, select, text
from sqlmodel import col

from skychimp import files
from skychimp.config.locations import user_folder
from skychimp.errors import Conflict, SkychimpError, StoreFailed, StoreNotReady
from skychimp.models import AuditEntry
from skychimp.store import holds, place, runs, schema, sqlite, sqlite_errors
from skychimp.store.copies import copying, newer_suppressions, verification
from skychimp.store.database import Fill, Store
from skychimp.store.migrations import revisions
from skychimp.store.session import Session
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import Phrase, tr

BACKED_UP = "back up"
"""The action in the audit trail. A backup contains the entry about itself, which tells when it was made."""

_DRAFT_NAME = re.compile(r".+\.draft-[0-9a-f]{8}")


# What was sent stays sent: for mailings that are in both stores, a restored store takes the ledger of the newer store.
# LEDGER has the tables, each with the condition for its rows.
_SAME_MAILINGS = "SELECT id FROM mailing JOIN newer.mailing AS n USING (id, owner_id, created_at)"
_OCCURRENCES = f"SELECT id FROM {{}}occurrence WHERE mailing_id IN ({_SAME_MAILINGS})"  # noqa: S608
_DELIVERIES = f"SELECT id FROM {{}}delivery WHERE occurrence_id IN ({_OCCURRENCES})"  # noqa: S608
_SAME_POSTS = "SELECT id FROM post JOIN newer.post AS p USING (id, created_at)"
LEDGER = {
    "attempt": f"delivery_id IN ({_DELIVERIES})",
    "returned_mail": f"delivery_id IN ({_DELIVERIES})",
    "return_count": f"occurrence_id IN ({_OCCURRENCES})",
    "intent": f"delivery_id IN ({_DELIVERIES})",
    "lease": f"occurrence_id IN ({_OCCURRENCES})",
    "delivery": f"occurrence_id IN ({_OCCURRENCES})",
    "content": f"occurrence_id IN ({_OCCURRENCES})",
    "digest_post": f"mailing_id IN ({_SAME_MAILINGS}) AND post_id IN ({_SAME_POSTS})",
    "pace": f"occurrence_id IN ({_OCCURRENCES})",
    "result": f"occurrence_id IN ({_OCCURRENCES})",
    "occurrence": f"mailing_id IN ({_SAME_MAILINGS})",
    "run": "true",
    "rate_slot": "true",
    "rate_count": "true",
    "cause": "true",
}
_REPLACE_LEDGER = (
    *(f"DELETE FROM {table} WHERE {condition}".replace("{}", "") for table, condition in LEDGER.items()),  # noqa: S608
    *(
        f"INSERT INTO {table} SELECT * FROM newer.{table} WHERE {condition}".replace("{}", "newer.")  # noqa: S608
        for table, condition in LEDGER.items()
    ),
    "INSERT OR IGNORE INTO stored_file SELECT * FROM newer.stored_file",  # which the occurrences have
    """UPDATE mailing SET next_at = n.next_at, status = n.status FROM newer.mailing AS n
       WHERE n.id = mailing.id AND n.deleted_at IS NULL
         AND (n.owner_id, n.created_at, n.start_local, n.timezone, n.every, n.end_at IS mailing.end_at)
           = (mailing.owner_id, mailing.created_at, mailing.start_local, mailing.timezone, mailing.every, 1)""",
    "UPDATE store_info SET counted_to = n.counted_to FROM newer.store_info AS n",
    "DELETE FROM token_key",
    "INSERT INTO token_key SELECT * FROM newer.token_key",
)
# The entries of the audit trail that the restored store lacks. An actor whose account it lacks, too, is named in words:
# the account's id may be given to somebody else. The + keeps SQLite from using the index of actors, which is slow for
# one with many entries.
_IS_SAME_STORE = "SELECT (SELECT secret FROM store_info) = (SELECT secret FROM newer.store_info)"
_ADD_NEWER_ENTRIES = """
    INSERT INTO audit (at, actor_id, action, object, object_id, detail)
    SELECT n.at, same.id, n.action, n.object, n.object_id,
        CASE WHEN n.actor_id IS same.id THEN n.detail ELSE trim(n.detail || ' [by ' || actor.email || ']') END
    FROM newer.audit AS n
    LEFT JOIN audit AS a
        ON (a.at, a.action, a.object, a.detail) = (n.at, n.action, n.object, n.detail)
        AND +a.actor_id IS n.actor_id AND a.object_id IS n.object_id
    LEFT JOIN newer.user AS actor ON actor.id = n.actor_id
    LEFT JOIN user AS same ON (same.id, same.created_at) = (actor.id, actor.created_at)
    WHERE a.id IS NULL ORDER BY n.id"""
# Whether the replaced store knows of each try that the restored one knows of. An intent is a try that may not be in the
# delivery's own row yet.
_IS_NEWER = f"""{_IS_SAME_STORE}
        AND NOT (SELECT coalesce(held_blind, 0) FROM newer.store_info)
        AND NOT EXISTS (
            SELECT id, mailing_id, due_local FROM occurrence
            EXCEPT SELECT id, mailing_id, due_local FROM newer.occurrence)
        AND NOT EXISTS (
            SELECT 1 FROM delivery AS d JOIN newer.delivery AS n USING (id)
            WHERE d.attempts + (SELECT count(*) FROM intent AS i WHERE i.delivery_id = d.id)
                > n.attempts + (SELECT count(*) FROM newer.intent AS i WHERE i.delivery_id = n.id))"""  # noqa: S608

SKIPPED_IDS = 1_000_000_000
"""More deliveries than a store creates between two backups."""

Progress = Callable[[int, int], None]
"""Called with the number of pages that are done, and the number of all."""

Prepare = Callable[[Session, Mapping[str, bytes]], None]
"""Called with a copy of the backup and its images. It may change the copy before that is the store."""


@dataclass(frozen=True)
class BackupResult:
    """A verified backup: its rows by table, and how many images. `missing` names images of posts that do not exist.

    `differences` says what else is in the schema of the store than Skychimp creates. A backup with any is not restored.
    """

    rows: Mapping[str, int]
    images: int
    missing: list[str]
    differences: list[Phrase]


@dataclass(frozen=True)
class NewerEntries:
    """How many entries of the replaced store's audit trail, newer than the backup, were kept and lost.

    `lost` is None if it is not known, because there was no store, or it was damaged.
    """

    kept: int = 0
    lost: int | None = None


@dataclass(frozen=True)
class RestoreResult:
    """A restored store.

    `made_at` is when the backup was made, None for a copy that was made in another way. `aside` is where the replaced
    store is kept. `ledger_kept` says whether the emails that it had sent count as sent. `suppressions` counts its
    newer suppressions that were kept, None if it could not be read, or was another store.
    """

    made_at: datetime | None
    aside: Path | None
    ledger_kept: bool
    audit: NewerEntries
    suppressions: int | None = None


def write_backup(
    store: Store, file: Path, read_image: Callable[[str], bytes | None], progress: Progress, *, replace: bool
) -> BackupResult:
    """Copy a store to a file and verify it. The file gets its name at the end, in place of an existing file.

    Raises Conflict if a file exists and `replace` is false.
    `read_image` returns the content of an image by its name, None if there is none. Raises StoreFailed.
    """
    with _draft(file) as draft:
        if isinstance(store, SqliteStore):
            rows = sqlite.copy_pages(store.path, draft, progress, count=True)
        else:
            rows = _copy_rows(store, draft, progress)
        with contextlib.closing(_open_alone(draft)) as copy, copy.write() as db:
            images, missing = _add_images(db.connection(), read_image)
        written = verify(draft)
        differences = verification.find_differences(draft)
        wrong = [table for table, number in (rows | {"image": images}).items() if written.get(table) != number]
        if wrong:
            raise StoreFailed(tr("the copy lacks rows of {tables}", tables=", ".join(wrong)), tr("try again"))
        _publish_backup(draft, file, replace=replace)
    return BackupResult(rows, images, missing, differences)


def restore_to_server(
    file: Path,
    url: str,
    password: str | None,
    prepare: Prepare,
    add_images: Fill,
    progress: Progress,
) -> RestoreResult:
    """Put a backup into an empty database, on hold. The rest is as for `restore_backup`.

    `add_images` adds what `prepare` got of them. Raises Conflict if the database has a store.
    """
    folder = user_folder("data")
    files.make_folder(folder)
    with _verified_copy(file, folder / "restore", progress) as draft, contextlib.closing(_open_alone(draft)) as copy:
        with copy.write() as db:
            _hold(db, blind=True)
            _skip_delivery_ids(db)
            made_at, images = _remove_images(db)
            prepare(db, images)
        with copy.read() as db:
            rows = db.connection()

            def fill(target: Connection) -> None:
                copying.copy_rows(rows, target, progress)
                add_images(target)

            schema.create_store(url, password, fill).close()
    return RestoreResult(made_at, None, False, NewerEntries())


def restore_backup(
    file: Path,
    store: Path,
    aside: Path,
    prepare: Prepare,
    progress: Progress,
) -> RestoreResult:
    """Replace a store by a backup, on hold. A copy of the replaced store is kept at `aside`.

    The store changes in one transaction: a kill leaves the old or the new one. `prepare` is called with the backup's
    images, and may change the copy first. This process must not have the store open.

    Raises StoreNotReady if the backup is damaged or has another schema than ours, Conflict while something is sending,
    and StoreFailed.
    """
    place.check_place(store)
    files.make_folder(store.parent)
    with _verified_copy(file, store, progress) as draft, _on_hold(store) as exists:
        is_readable = exists and _set_aside(store, aside)
        ledger_kept = is_readable and _take_newer_ledger(draft, aside)
        audit = _take_newer_entries(draft, aside) if is_readable else NewerEntries()
        suppressions = _take_newer_suppressions(draft, aside) if is_readable else None
        with contextlib.closing(_open_alone(draft)) as copy, copy.write() as db:
            _hold(db, blind=not ledger_kept)
            _skip_delivery_ids(db)
            newer_suppressions.apply(db.connection())
            made_at, images = _remove_images(db)
            prepare(db, images)
        if exists:
            sqlite.copy_pages(draft, store)
        else:
            schema.publish_new(draft, store)
    return RestoreResult(made_at, aside if exists else None, ledger_kept, audit, suppressions)


@contextlib.contextmanager
def _verified_copy(file: Path, store: Path, progress: Progress) -> Iterator[Path]:
    """Copy a backup to a draft beside a store, and upgrade it. Raises StoreNotReady if it is not safe to use."""
    schema.require_store(file)
    place.require_own_logs(file)
    with _draft(store) as draft:
        _copy_backup(file, draft, progress)
        verification.require_our_schema(draft)  # before anything in it could run
        verification.require_no_damage(draft)
        schema.upgrade(draft, with_backup=False)
        verification.require_valid_values(draft)
        yield draft


def _copy_rows(store: Store, draft: Path, progress: Progress) -> dict[str, int]:
    """Copy a store on a server, as it is at one moment, to an empty file. Return how many rows each table has."""
    rows: dict[str, int] = {}
    with store.read() as db:
        connection = db.connection()
        schema.create_file(draft, lambda target: rows.update(copying.copy_rows(connection, target, progress)))
    return rows


def _publish_backup(draft: Path, file: Path, *, replace: bool) -> None:
    try:
        files.publish(draft, file, replace=replace)
    except FileExistsError:
        raise Conflict(tr("{file} already exists", file=file), tr("pass --force")) from None


def verify(path: Path) -> dict[str, int]:
    """Check a store that is not in use, and return the number of rows of each table.

    Raises StoreNotReady if SQLite finds damage, or a row refers to a missing one.
    """
    verification.require_no_damage(path)
    with sqlite.translate_db_errors(path), contextlib.closing(verification.open_untrusted(path)) as store:
        return sqlite.count_rows(store.execute)


def _copy_backup(file: Path, draft: Path, progress: Progress) -> None:
    """Copy a backup, page by page. Raises StoreNotReady if SQLite cannot read it, and StoreFailed."""
    try:
        sqlite.copy_pages(file, draft, progress, in_use=False)
    except StoreFailed as error:
        cause = error.__cause__
        if cause is None or sqlite_errors.result_code(cause) not in sqlite_errors.DAMAGE:
            raise
        raise StoreNotReady(
            tr("{file} is damaged: {reason}", file=file, reason=sqlite_errors.reason(cause)), tr("use another backup")
        ) from error


# Drafts


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """Create an empty file in a private folder beside a path, and remove both after the block.

    Errors in the block are told of the path.
    """
    draft = path.with_name(f"{path.name}.draft-{secrets.token_hex(4)}")
    try:
        _remove_old_drafts(path.parent)
        with files.temporary_file(draft) as file:
            yield file
    except OSError as error:
        raise StoreFailed(
            tr("cannot write {path}: {strerror}", path=path, strerror=error.strerror),
            tr("use a folder that you can write to"),
        ) from None
    except StoreFailed as error:
        raise StoreFailed(tr("cannot write {path}: {message}", path=path, message=error.message), error.hint) from error
    except StoreNotReady as error:
        raise StoreNotReady(_about_the_backup(error.message, draft / "draft"), error.hint) from error


def _about_the_backup(message: Phrase, draft: Path) -> Phrase:
    """Return what is said about a draft, as said about the backup that it is a copy of."""
    names = {name: tr("the backup") for name, value in message.values.items() if str(value) == str(draft)}
    return tr(message.message, **{**message.values, **names}) if names else message


def _remove_old_drafts(folder: Path) -> None:
    """Remove the drafts of killed processes: each may be as large as the store. Their targets may have had any name."""
    for entry in folder.iterdir():
        if _DRAFT_NAME.fullmatch(entry.name):
            with contextlib.suppress(OSError):  # of somebody else, or with other files
                files.remove_temporary(entry)


def _open_alone(path: Path) -> Store:
    """Open a store that is not in use, without creating a log beside it."""
    return SqliteStore(path, journal_mode="DELETE")


# Images


def _add_images(db: Connection, read_image: Callable[[str], bytes | None]) -> tuple[int, list[str]]:
    """Store the images of the posts. Return how many, and the names of those that are missing."""
    db.exec_driver_sql("DROP TABLE IF EXISTS image")  # from a backup that was opened as a store
    db.exec_driver_sql(verification.CREATE_IMAGES)
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
        raise Conflict(
            tr("something is sending from this store"), tr("stop the daemon, or wait until the run has ended")
        )


def _require_no_logs(path: Path) -> None:
    for log in (path.with_name(path.name + suffix) for suffix in files.SQLITE_COMPANIONS):
        if log.exists():
            raise Conflict(
                tr("{log} belongs to a store that is gone", log=log),
                tr("move it away; it may contain the last changes"),
            )


def _try_to_hold(path: Path) -> bool:
    """Hold a store. Return False if it is on hold already, or too damaged for that (and for a run)."""
    with contextlib.suppress(SkychimpError), contextlib.closing(SqliteStore(path)) as store, store.write() as db:
        if not holds.is_held(db.connection()):
            _hold(db, blind=False)
            return True
    return False


def _release_hold(path: Path) -> None:
    with contextlib.suppress(SkychimpError), contextlib.closing(SqliteStore(path)) as store, store.write() as db:
        holds.release(db.connection(), datetime.now(UTC))


def _hold(db: Session, *, blind: bool) -> None:
    holds.hold(db.connection(), holds.AFTER_RESTORE, datetime.now(UTC), blind=blind)


def _skip_delivery_ids(db: Session) -> None:
    """Let deliveries get ids that no delivery of the replaced store had.

    Message-IDs and the links for unsubscribing are made from them: an old link must not unsubscribe somebody else.
    """
    newest = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'delivery'"
    seq: int = db.execute(text(newest)).scalar_one()
    db.execute(text("DELETE FROM sqlite_sequence WHERE name = 'delivery'"))
    db.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('delivery', :seq)"), {"seq": seq + SKIPPED_IDS})


def _set_aside(store: Path, aside: Path) -> bool:
    """Keep a copy of a store, byte by byte if SQLite cannot read it. Return whether the copy is intact."""
    try:
        with _draft(aside) as draft:
            sqlite.copy_pages(store, draft)
            schema.publish_new(draft, aside)
        verify(aside)
    except SkychimpError:
        if not aside.exists():
            _copy_bytes(store, aside)
        return False
    return True


def _copy_bytes(store: Path, aside: Path) -> None:
    for suffix in ("", *files.SQLITE_LOGS):
        if (file := store.with_name(store.name + suffix)).exists():
            aside.with_name(aside.name + suffix).touch(mode=0o600)
            shutil.copyfile(file, aside.with_name(aside.name + suffix))


def _take_newer_ledger(draft: Path, newer: Path) -> bool:
    """Copy what a newer store has sent into an older copy of it. Return False if it is not the same store."""
    with _attached(draft, newer, foreign_keys="OFF") as execute:
        revision = execute("SELECT version_num FROM newer.alembic_version").scalar()
        if revision != revisions.REVISION or not execute(_IS_NEWER).scalar():
            return False
        execute("BEGIN IMMEDIATE")
        for statement in _REPLACE_LEDGER:
            execute(statement)
        is_intact = execute("PRAGMA foreign_key_check").first() is None
        execute("COMMIT" if is_intact else "ROLLBACK")
    return is_intact


def _take_newer_entries(draft: Path, newer: Path) -> NewerEntries:
    """Add the entries of a newer store's audit trail to an older copy of it. Those of another store are lost."""
    with contextlib.suppress(StoreFailed), _attached(draft, newer) as execute:
        if not execute(_IS_SAME_STORE).scalar():
            return NewerEntries(lost=execute("SELECT count(*) FROM newer.audit").scalar() or 0)
        return NewerEntries(kept=execute(_ADD_NEWER_ENTRIES).rowcount, lost=0)
    return NewerEntries()


def _take_newer_suppressions(draft: Path, newer: Path) -> int | None:
    """Add the suppressions of a newer store to an older copy of it. Return how many, None for another store."""
    with _attached(draft, newer) as execute:
        return newer_suppressions.add(execute) if execute(_IS_SAME_STORE).scalar() else None


@contextlib.contextmanager
def _attached(draft: Path, newer: Path, **pragmas: str) -> Iterator[Callable[..., CursorResult[Any]]]:
    """Open an older copy of a store with the newer store attached as `newer`. Yield the function that runs SQL."""
    store = SqliteStore(draft, journal_mode="DELETE", **pragmas)
    with contextlib.closing(store), sqlite.translate_db_errors(draft), store.connect_autocommit() as db:
        db.exec_driver_sql("ATTACH ? AS newer", (os.fsencode(newer),))  # bytes, as the path may be no UTF-8
        yield db.exec_driver_sql

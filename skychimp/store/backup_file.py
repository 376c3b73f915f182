"""Backups of a live store, and their way back into its place.

A backup is a store of its own, in one file that `sqlite3` opens too, with a table more: the images of the posts.
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

from skychimp.errors import Conflict, SkychimpError, StoreFailed, StoreNotReady
from skychimp.models import AuditEntry, StoreInfo
from skychimp.store import database, queue, runs, schema
from skychimp.store.database import Store

BACKED_UP = "back up"
"""What the audit trail calls it; a backup holds this line of itself, too."""

DRAFT_LIFE = 86_400  # s

_BESIDE = ("-wal", "-journal", "-shm")
_IMAGES = "CREATE TABLE image (name TEXT PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"

# What was sent stays sent: of mailings that both stores know, the ledger is the newer one's: each table of LEDGER, and
# which of its rows those are.
_SAME = "SELECT id FROM mailing JOIN newer.mailing AS n USING (id, owner_id, created_at)"
_OCCURRENCES = f"SELECT id FROM {{}}occurrence WHERE mailing_id IN ({_SAME})"  # noqa: S608
_DELIVERIES = f"SELECT id FROM {{}}delivery WHERE occurrence_id IN ({_OCCURRENCES})"  # noqa: S608
LEDGER = {"attempt": f"delivery_id IN ({_DELIVERIES})", "delivery": f"occurrence_id IN ({_OCCURRENCES})"}
_POSTS = "SELECT id FROM post JOIN newer.post AS p USING (id, created_at)"
LEDGER |= {"digest_post": f"mailing_id IN ({_SAME}) AND post_id IN ({_POSTS})"}
LEDGER |= dict.fromkeys(("pace", "result"), f"occurrence_id IN ({_OCCURRENCES})")
LEDGER |= {"occurrence": f"mailing_id IN ({_SAME})", "run": "true", "cause": "true"}
_KEEP_LEDGER = (
    *(f"DELETE FROM {table} WHERE {part}".replace("{}", "") for table, part in LEDGER.items()),  # noqa: S608
    *(
        f"INSERT INTO {table} SELECT * FROM newer.{table} WHERE {part}".replace("{}", "newer.")  # noqa: S608
        for table, part in LEDGER.items()
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

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Made:
    """A backup that was read back; `missing` names the images that posts speak of and that are not there."""

    rows: Mapping[str, int]
    images: int
    missing: list[str]


@dataclass(frozen=True)
class PutBack:
    """`made_at` is when the backup was made, None for a copy that came about in another way. `aside` is where the store
    that was there is kept, and `ledger_kept`: what it had sent counts as sent here, too."""

    made_at: datetime | None
    aside: Path | None
    ledger_kept: bool


def back_up(store: Path, file: Path, image: Callable[[str], bytes | None], tell: Tell) -> Made:
    """Write a store's copy to a file, read it back, and only then give it its name: it is there whole or not at all.

    `image` gives the content of an image by its name. Raises StoreFailed.
    """
    with _draft_of(file) as draft:
        rows = database.copy_pages(store, draft, tell)
        with contextlib.closing(_alone(draft)) as copy, copy.write() as db:
            images, missing = _add_images(db.connection(), image)
        found = verified(draft)
        wrong = [table for table, number in (rows | {"image": images}).items() if found.get(table) != number]
        if wrong:
            raise StoreFailed(f"it has not all rows of {', '.join(wrong)}", "try again")
        database.appear(draft, file, replacing=True)
    return Made(rows, images, missing)


def put_back(
    file: Path, store: Path, aside: Path, prepare: Callable[[Session, Mapping[str, bytes]], None], tell: Tell
) -> PutBack:
    """Put a backup into a store's place, and hold it; the one that was there is kept `aside`.

    It is one transaction: a kill leaves the old or the new one. `prepare` changes the copy before, and is given the
    images. Nothing in this process has the store open. Raises StoreNotReady, StoreFailed, and Conflict while something
    is sending.
    """
    schema.require_store(file)
    store.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _draft_of(store) as draft:
        database.copy_pages(file, draft, tell, is_used=False)
        verified(draft)
        schema.upgrade(draft, with_backup=False)
        with _holding(store) as is_there:
            ledger_kept = is_there and _set_aside(store, aside) and _keep_ledger(draft, aside)
            with contextlib.closing(_alone(draft)) as copy, copy.write() as db:
                _hold(db, blind=not ledger_kept)
                made_at, images = _take_images(db)
                prepare(db, images)
            if is_there:
                database.copy_pages(draft, store)
            else:
                database.appear(draft, store)
    return PutBack(made_at, aside if is_there else None, ledger_kept)


def verified(path: Path) -> dict[str, int]:
    """How many rows each table of a store has, which is sound; nobody has it open.

    Raises StoreNotReady where SQLite finds a fault, or a row that points to nothing.
    """
    schema.require_store(path)
    with contextlib.closing(_alone(path)) as store, store.read() as db:
        execute = db.connection().exec_driver_sql
        fault = next(faults(db.connection()), None)
        if fault is not None:
            raise StoreNotReady(f"{path} is damaged: {fault}", "take another backup")
        tables = execute(_TABLES).scalars().all()
        return {name: execute(f'SELECT count(*) FROM "{name}"').scalar() or 0 for name in tables}  # noqa: S608


def faults(db: Connection) -> Iterator[str]:
    """What SQLite itself finds wrong with a store: broken pages and indexes, rows that point to nothing."""
    try:
        broken = list(db.exec_driver_sql("PRAGMA integrity_check(20)").scalars())
    except DBAPIError as error:  # where it is too broken for that
        if database.is_locked(error):
            raise
        broken = [str(error.orig)]
    if broken != ["ok"]:
        yield from broken
        return
    for table, row, parent, _ in db.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row} of {table} is without its {parent}"


@contextlib.contextmanager
def _draft_of(path: Path) -> Iterator[Path]:
    """An empty file beside a path, which is gone after the block; what goes wrong is told of the path."""
    draft = path.with_name(f"{path.name}.draft-{secrets.token_hex(4)}")
    try:
        _remove_old_drafts(path)
        with database.passing(draft):
            yield draft
    except OSError as error:
        raise StoreFailed(f"{path} was not written: {error.strerror}", "name a place that you can write to") from None
    except StoreFailed as error:
        raise StoreFailed(f"{path} was not written: {error.message}", error.hint) from error
    except StoreNotReady as error:
        raise StoreNotReady(error.message.replace(str(draft), "the backup"), error.hint) from error


def _remove_old_drafts(path: Path) -> None:
    """Remove what copies have left that were killed, a day ago or more: each may be as large as the store."""
    ours = re.compile(re.escape(path.name) + r"\.draft-[0-9a-f]{8}(-journal|-wal|-shm)?")
    for file in path.parent.iterdir():
        if ours.fullmatch(file.name) and file.stat().st_mtime < time.time() - DRAFT_LIFE:
            file.unlink(missing_ok=True)


def _alone(path: Path) -> Store:
    """A store that nobody else has open, as one file."""
    return Store(path, journal_mode="DELETE")


def _add_images(db: Connection, image: Callable[[str], bytes | None]) -> tuple[int, list[str]]:
    db.exec_driver_sql("DROP TABLE IF EXISTS image")  # of a backup that somebody uses as a store
    db.exec_driver_sql(_IMAGES)
    names = db.exec_driver_sql("SELECT DISTINCT image FROM post WHERE image IS NOT NULL").scalars().all()
    missing = []
    for name in names:
        content = image(name)
        if content is None:
            missing.append(name)
        else:
            db.exec_driver_sql("INSERT INTO image VALUES (?, ?)", (name, content))
    return len(names) - len(missing), missing


def _take_images(db: Session) -> tuple[datetime | None, Mapping[str, bytes]]:
    """When a backup was made, by its own audit trail, and the images that it brings along, out of it."""
    execute = db.connection().exec_driver_sql
    if not execute("SELECT 1 FROM sqlite_master WHERE name = 'image'").scalar():
        return None, {}
    made_at = db.scalar(select(func.max(AuditEntry.at)).where(col(AuditEntry.action) == BACKED_UP))
    images = {row.name: row.content for row in execute("SELECT name, content FROM image")}
    execute("DROP TABLE image")
    return made_at, images


@contextlib.contextmanager
def _holding(path: Path) -> Iterator[bool]:
    """Whether there is a store, of which no run can begin to send in the block; it is let go again where that fails.

    Raises Conflict where something is sending, or where files are left of a store that is gone.
    """
    if runs.any_living(path):
        raise Conflict("something is sending from this store", "stop the daemon, or wait for the run to end")
    if not path.exists():
        for left in (path.with_name(path.name + suffix) for suffix in _BESIDE):
            if left.exists():
                raise Conflict(f"{left} belongs to a store that is gone", "move it away: it may hold its last changes")
        yield False
        return
    schema.require_store(path)
    is_ours = _held_now(path)
    if runs.any_living(path):  # one that began just before
        _let_go(path)
        raise Conflict("something is sending from this store", "stop the daemon, or wait for the run to end")
    try:
        yield True
    except BaseException:
        if is_ours:
            _let_go(path)
        raise


def _held_now(path: Path) -> bool:
    """Hold a store; False where it was held already, or is too damaged for that and for a run."""
    with contextlib.suppress(SkychimpError), contextlib.closing(Store(path)) as store, store.write() as db:
        if not queue.is_held(db.connection()):
            _hold(db, blind=False)
            return True
    return False


def _let_go(path: Path) -> None:
    with contextlib.suppress(SkychimpError), contextlib.closing(Store(path)) as store, store.write() as db:
        db.execute(update(StoreInfo).values(held_at=None, held_blind=None))


def _hold(db: Session, *, blind: bool) -> None:
    db.execute(update(StoreInfo).values(held_at=datetime.now(UTC), held_blind=blind))


def _set_aside(store: Path, aside: Path) -> bool:
    """Keep a copy of a store, byte for byte where SQLite can't read it; whether it is sound."""
    try:
        with _draft_of(aside) as draft:
            database.copy_pages(store, draft)
            database.appear(draft, aside)
        verified(aside)
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


def _keep_ledger(draft: Path, newer: Path) -> bool:
    """Bring what the newer store has sent into the copy of an older one; False where it is not the same store."""
    store = Store(draft, journal_mode="DELETE", foreign_keys="OFF")
    with contextlib.closing(store), database.translate_db_errors(), store.connect_at_once() as db:
        execute = db.exec_driver_sql
        execute("ATTACH ? AS newer", (str(newer),))
        revision = execute("SELECT version_num FROM newer.alembic_version").scalar()
        if revision != schema.REVISION or not execute(_IS_NEWER).scalar():
            return False
        execute("BEGIN IMMEDIATE")
        for statement in _KEEP_LEDGER:
            execute(statement)
        is_whole = execute("PRAGMA foreign_key_check").first() is None
        execute("COMMIT" if is_whole else "ROLLBACK")
    return is_whole

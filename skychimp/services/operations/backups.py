"""Back up and restore the store, and resume sending after a restore."""

import itertools
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from sqlalchemy import Connection, delete, select
from sqlmodel import col

from skychimp.delivery.scheduling import planner
from skychimp.errors import Conflict, InvalidValue, SkychimpError, StoreNotReady
from skychimp.models import Code, DeliveryState, Login, OccurrenceState, StoreInfo, tables
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.accounts import session_rule
from skychimp.services.blog import images
from skychimp.services.blog.images import Image
from skychimp.services.operations.unknown_deliveries import Resolution, batches
from skychimp.store import holds, ledger, place, queue, schema
from skychimp.store.copies import backup_file
from skychimp.store.database import Store
from skychimp.store.occurrences import opening, sweeping
from skychimp.store.schema import store_path
from skychimp.store.session import Session
from skychimp.store.sqlite import SqliteStore
from skychimp.translation import tr

RESUMED = "resume sending"
"""The action in the audit trail when a person ends the hold of a restored store."""

_BACKUP_FILE = tr('use a file written by "skychimp backup"')

_L = tables.login
_O = tables.occurrence
_U = tables.user

Progress = Callable[[int, int], None]
"""Called with the number of parts that are done, and the number of all."""


@dataclass(frozen=True)
class Backup:
    """A verified backup: its size in bytes, and what it contains.

    `differences` says what else than Skychimp creates is in the store's schema. A backup with any is not restored.
    """

    file: str
    size: int
    clients: int
    mailings: int
    deliveries: int
    posts: int
    images: int
    missing_images: list[str]
    differences: list[str]


@dataclass(frozen=True)
class Restored:
    """A restored store.

    `made_at` is when the backup was made, and `kept` the path of the replaced store. `ledger_kept` says whether emails
    that the replaced store had sent since the backup count as sent. `audit_kept` and `audit_lost` count the entries of
    its audit trail that the backup lacks; `audit_lost` is None if it is not known. `suppressions_kept` counts its
    suppressions that the backup lacks, None if they are not known.
    """

    store: str
    file: str
    made_at: datetime | None
    kept: str | None
    ledger_kept: bool
    images: int
    audit_kept: int
    audit_lost: int | None
    suppressions_kept: int | None


@dataclass(frozen=True)
class HeldWork:
    """What a store on hold has to send: waiting deliveries, and due times that have passed.

    `is_blind` says that it is not known which of them were sent since the backup was made.
    """

    since: datetime
    is_blind: bool
    deliveries: int
    due: int


@dataclass(frozen=True)
class Resumed:
    """What happened to the work of a store on hold: the numbers of deliveries by decision, and of missed due times."""

    restored: bool
    to_send: int = 0
    unknown: int = 0
    sent: int = 0
    failed: int = 0
    missed: int = 0


def backup(
    store: Store,
    actor: Actor,
    file: Path,
    progress: Progress = lambda done, total: None,
    *,
    replace: bool = False,
) -> Backup:
    """Copy the store and the images of posts into one file, while the store is in use.

    Raises NotLoggedIn, Denied, InvalidValue for an unsuitable file, Conflict if it exists and `replace` is false, and
    StoreFailed.
    """
    authorize(actor, Action.BACK_UP_STORE)
    require_target(store, file)
    with store.write() as db:  # before the copy, so that the copy contains the entry
        audit.record(db, actor, backup_file.BACKED_UP, "store_info", 1, _printable(file))
    written = backup_file.write_backup(store, file, lambda name: images.find(store, name), progress, replace=replace)
    rows = written.rows
    return Backup(
        file=str(file),
        size=file.stat().st_size,
        clients=rows["client"],
        mailings=rows["mailing"],
        deliveries=rows["delivery"],
        posts=rows["post"],
        images=written.images,
        missing_images=written.missing,
        differences=written.differences,
    )


def restore(
    url: str,
    actor: Actor,
    file: Path,
    progress: Progress = lambda done, total: None,
    *,
    token: str | None = None,
    password: str | None = None,
) -> Restored:
    """Replace the store by a backup: verified, upgraded and on hold. The replaced store is kept beside it.

    A store on a server is not replaced: the database must be empty.

    If the replaced store is a newer copy of the same store, the emails that it has sent stay sent. All codes are
    removed, and all sessions but that of `token` and those that are valid in the replaced store. This process must not
    have the store open. Raises what `backup` raises, StoreNotReady for a damaged file, and Conflict while something is
    sending.
    """
    authorize(actor, Action.RESTORE_STORE)
    if schema.is_on_server(url):
        return _restore_to_server(url, actor, file, progress, password)
    path = store_path(url)
    require_source(file, path)
    place.check_place(path)
    target = SqliteStore(path)
    kept_sessions = _session_hashes(target) if path.exists() else set()
    if token:
        kept_sessions.add(session_rule.hash_token(token))
    restored_images: list[str] = []

    def prepare(db: Session, contents: Mapping[str, bytes]) -> None:
        for name, content in contents.items():
            images.save(target, Image(name, content))
            restored_images.append(name)
        _prepare(db, actor, file, kept_sessions)

    done = backup_file.restore_backup(file, path, _free_name(path), prepare, progress)
    kept = None if done.aside is None else str(done.aside)
    return Restored(
        str(path),
        str(file),
        done.made_at,
        kept,
        done.ledger_kept,
        len(restored_images),
        done.audit.kept,
        done.audit.lost,
        done.suppressions,
    )


def _restore_to_server(url: str, actor: Actor, file: Path, progress: Progress, password: str | None) -> Restored:
    require_source(file)
    found: dict[str, bytes] = {}

    def prepare(db: Session, contents: Mapping[str, bytes]) -> None:
        found.update(contents)
        _prepare(db, actor, file, set())

    def add_images(db: Connection) -> None:
        images.save_new(url, db, itertools.starmap(Image, found.items()))

    done = backup_file.restore_to_server(file, url, password, prepare, add_images, progress)
    with closing(schema.open_store(url, password)) as store:
        return Restored(store.name, str(file), done.made_at, None, False, len(found), 0, None, None)


def _prepare(db: Session, actor: Actor, file: Path, kept_sessions: Collection[str]) -> None:
    """Change what must not come back with a backup: due times that were opened, codes and sessions."""
    planner.skip_opened_due_times(db.connection())
    db.execute(delete(Code))
    db.execute(delete(Login).where(col(Login.token_hash).not_in(kept_sessions)))
    actor_id = db.scalar(select(_U.c.id).where(_U.c.email == actor.email))
    audit.record(db, Actor(user_id=actor_id or 0), "restore", "store_info", 1, _printable(file))


def held_work(store: Store) -> HeldWork | None:
    """Return what a store on hold has to send, or None if it is not on hold."""
    now = store.now()
    with store.read() as db:
        info = db.get_one(StoreInfo, 1)
        if info.held_at is None:
            return None
        waiting = sum(ledger.count_pending_by_state(db.connection()).values())
        due = sum(len(mailing.plan.open) for mailing in planner.due_mailings(db.connection(), now))
    return HeldWork(info.held_at, bool(info.held_blind), waiting, due)


def resume(store: Store, actor: Actor, decision: Resolution | None = None, *, require_consent: bool = False) -> Resumed:
    """End the hold of a restored store, and apply a decision to the work it has waiting.

    `require_consent` is the setting of that name.
    RESEND sends all of it. SENT or FAILED records that as the outcome of waiting deliveries, and due times that have
    passed as missed. None sends all of it if the store knows what was sent since the backup; if it does not, waiting
    deliveries become unknown, for a person to resolve, and due times are missed.
    Raises NotLoggedIn, Denied, and Conflict if the store is not on hold.
    """
    authorize(actor, Action.RESUME_SENDING)
    now = store.now()
    with store.write() as db:
        info = db.get_one(StoreInfo, 1)
        if info.held_at is None:
            raise Conflict(tr("the store is not on hold"))
        if decision is None and not info.held_blind:
            decision = Resolution.RESEND
        if decision == Resolution.RESEND:
            done = Resumed(True, to_send=sum(ledger.count_pending_by_state(db.connection()).values()))
        else:
            done = _resolve_waiting(db, decision, now, require_consent)
        holds.release(db.connection(), now)
        db.expire_all()
        sweeping.sweep(db.connection(), now)
        audit.record(db, actor, RESUMED, "store_info", 1, decision or "unknown")
    return done


def _resolve_waiting(
    transaction: Session, decision: Resolution | None, now: datetime, require_consent: bool
) -> Resumed:
    """Record an outcome for all waiting deliveries, and due times as missed. Finish opening occurrences first."""
    db = transaction.connection()
    unopened = select(_O.c.id).where(_O.c.state == OccurrenceState.OPENING)
    for occurrence_id in db.scalars(unopened).all():
        while not opening.create_deliveries(db, occurrence_id, require_consent=require_consent):
            pass
    unknown_ids = queue.mark_unknown(db, now)
    if decision is not None:
        for batch in batches(unknown_ids):
            queue.resolve_as(db, batch, DeliveryState(decision))
    counts = {str(decision or DeliveryState.UNKNOWN): len(unknown_ids)}
    return Resumed(True, missed=planner.record_missed(db, now), **counts)


def _printable(file: Path) -> str:
    """Return a path as valid Unicode: bytes that are not UTF-8 are written as `\\xff`."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def require_target(store: Store, file: Path) -> None:
    """Raise InvalidValue unless a backup can be written to the file."""
    try:
        if file.exists() and not file.is_file():
            raise InvalidValue(tr("{file} is not a file", file=file), tr("use another FILE"))
        if place.is_part_of(store.path, file):
            raise InvalidValue(tr("{file} belongs to the store itself", file=file), tr("use another FILE"))
    except OSError as error:
        raise InvalidValue(
            tr("cannot write {file}: {strerror}", file=file, strerror=error.strerror), tr("use another FILE")
        ) from None


def require_source(file: Path, store: Path | None = None) -> None:
    """Raise InvalidValue unless the file can be read and begins like a store, and is not the store."""
    if not file.exists():
        raise InvalidValue(tr("file {file} not found", file=file), _BACKUP_FILE)
    if not file.is_file():
        raise InvalidValue(tr("{file} is not a regular file", file=file), _BACKUP_FILE)
    if not os.access(file, os.R_OK):
        raise InvalidValue(tr("cannot read {file}: permission denied", file=file), tr("use a file that you may read"))
    if store is not None and store.exists() and file.samefile(store):
        raise InvalidValue(tr("{file} is the store itself", file=file), _BACKUP_FILE)
    if not schema.is_store(file):
        raise StoreNotReady(tr("{file} is not a backup of a Skychimp store", file=file), _BACKUP_FILE)


def _free_name(store: Path) -> Path:
    """Return an unused path for the store that is replaced."""
    first = f"{store.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (store.with_name(f"{first}-{number}" if number else first) for number in count())
    return next(name for name in names if not name.exists())


def _session_hashes(store: Store) -> set[str]:
    """Return the hashes of the tokens of all valid sessions in a store; none if the store is damaged."""
    valid = select(_L.c.token_hash).join(_U, _U.c.id == _L.c.user_id).where(_U.c.blocked_at.is_(None))
    try:
        with store.read() as db:
            return set(db.execute(valid.where(_L.c.expires_at > datetime.now(UTC))).scalars())
    except SkychimpError:
        return set()
    finally:
        store.close()

"""Backup and restore, and letting a restored store go on."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from sqlalchemy import delete, select
from sqlmodel import Session, col

from skychimp.delivery.scheduling import planner
from skychimp.errors import Conflict, InvalidValue, SkychimpError
from skychimp.models import Code, DeliveryState, Login, Occurrence, OccurrenceState, StoreInfo, User
from skychimp.permissions import Action, Actor, authorize
from skychimp.services import audit
from skychimp.services.accounts import sessions
from skychimp.services.blog import images
from skychimp.services.blog.images import Image
from skychimp.services.operations.unknown_deliveries import Resolution, in_parts
from skychimp.store import backup_file, ledger, queue
from skychimp.store.database import Store
from skychimp.store.schema import store_path

_L = Login.__table__
_O = Occurrence.__table__
_U = User.__table__

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Backup:
    """A backup that was read back: its size in bytes, and what is in it."""

    file: str
    size: int
    clients: int
    mailings: int
    deliveries: int
    posts: int
    images: int
    missing_images: list[str]


@dataclass(frozen=True)
class Restored:
    """`made_at` is when the backup was made, `kept` where the store is that was there before.

    `ledger_kept` says that what that store had sent counts as sent in this one, too.
    """

    store: str
    file: str
    made_at: datetime | None
    kept: str | None
    ledger_kept: bool
    images: int


@dataclass(frozen=True)
class Held:
    """What a restored store holds: deliveries that wait, and due times that are past.

    `is_blind`: it does not know which of them were sent since the backup was made.
    """

    since: datetime
    is_blind: bool
    deliveries: int
    due: int


@dataclass(frozen=True)
class LetGo:
    """What was decided about what a restored store held: `to_send` or else `unknown`, `sent`, `failed`; `missed`."""

    restored: bool
    to_send: int = 0
    unknown: int = 0
    sent: int = 0
    failed: int = 0
    missed: int = 0


def backup(store: Store, actor: Actor, file: Path, tell: Tell = lambda done, total: None) -> Backup:
    """Copy a store, live as it may be, with the posts' images, into one file; it takes the place of one that is there.

    Raises NotLoggedIn, Denied, InvalidValue for a file that can't be meant, StoreFailed.
    """
    authorize(actor, Action.MAINTAIN_STORE)
    _refuse_as_backup(file, store.path)
    with store.write() as db:  # before the copy, so that this line is in it, too
        audit.record(db, actor, backup_file.BACKED_UP, "store_info", 1, str(file))
    made = backup_file.back_up(store.path, file, lambda name: _content(images.path(store, name)), tell)
    rows = made.rows
    return Backup(
        file=str(file),
        size=file.stat().st_size,
        clients=rows["client"],
        mailings=rows["mailing"],
        deliveries=rows["delivery"],
        posts=rows["post"],
        images=made.images,
        missing_images=made.missing,
    )


def restore(
    url: str, actor: Actor, file: Path, tell: Tell = lambda done, total: None, *, token: str | None = None
) -> Restored:
    """Put a backup into the store's place, verified, upgraded and held; the one that was there is kept beside it.

    Of two copies of the same store, what the newer one has sent stays sent. Codes are gone, and so are all sessions but
    that of `token` and those that still count in the store that was there. Nothing in this process has it open. Raises
    what `backup` raises, StoreNotReady for a file that is no sound store, and Conflict while something is sending.
    """
    path = store_path(url)
    authorize(actor, Action.MAINTAIN_STORE)
    _refuse_as_source(file, path)
    target = Store(path)
    staying = (_sessions(target) if path.exists() else set()) | ({sessions.hashed(token)} if token else set())
    written: list[str] = []

    def prepare(db: Session, kept: Mapping[str, bytes]) -> None:
        for name, content in kept.items():
            images.keep(target, Image(name, content))
            written.append(name)
        planner.go_on_after_the_last(db.connection())
        db.execute(delete(Code))
        db.execute(delete(Login).where(col(Login.token_hash).not_in(staying)))
        same = db.scalar(select(_U.c.id).where(_U.c.email == actor.email))
        audit.record(db, Actor(user_id=same or 0), "restore", "store_info", 1, str(file))

    done = backup_file.put_back(file, path, _aside(path), prepare, tell)
    kept = None if done.aside is None else str(done.aside)
    return Restored(str(path), str(file), done.made_at, kept, done.ledger_kept, len(written))


def require_caretaker(actor: Actor) -> None:
    """Raise NotLoggedIn or Denied unless the actor may look after the store."""
    authorize(actor, Action.MAINTAIN_STORE)


def held(store: Store) -> Held | None:
    """What a restored store holds until a person decides; None where it is not held."""
    now = datetime.now(UTC)
    with store.read() as db:
        info = db.get_one(StoreInfo, 1)
        if info.held_at is None:
            return None
        waiting = sum(ledger.left(db.connection()).values())
        due = sum(len(plan.open) for _, plan in planner.due(db.connection(), now))
    return Held(info.held_at, bool(info.held_blind), waiting, due)


def let_go_on(store: Store, actor: Actor, decision: Resolution | None = None) -> LetGo:
    """Let a restored store send again, once it is decided what becomes of all that it holds.

    RESEND: it is sent. SENT or FAILED: that is what became of it, and what is due is missed. None: it is sent where the
    store knows what was sent since the backup; else it is unknown, for a person, and what is due is missed.
    Raises NotLoggedIn, Denied, and Conflict where the store is not held.
    """
    authorize(actor, Action.MAINTAIN_STORE)
    now = datetime.now(UTC)
    with store.write() as db:
        info = db.get_one(StoreInfo, 1)
        if info.held_at is None:
            raise Conflict("this store is not held: it sends already")
        if decision is None and not info.held_blind:
            decision = Resolution.RESEND
        if decision == Resolution.RESEND:
            done = LetGo(True, to_send=sum(ledger.left(db.connection()).values()))
        else:
            done = _give_up_waiting(db, decision, now)
        info.held_at = info.held_blind = None
        db.flush()
        queue.sweep(db.connection(), now)
        audit.record(db, actor, "let the store go on", "store_info", 1, decision or "unknown")
    return done


def _give_up_waiting(transaction: Session, decision: Resolution | None, now: datetime) -> LetGo:
    """Nothing that waits or is due is sent; what is left to open of an occurrence counts as waiting."""
    db = transaction.connection()
    opening = select(_O.c.id).where(_O.c.state == OccurrenceState.OPENING)
    for occurrence_id in db.scalars(opening).all():
        while not queue.fill(db, occurrence_id):
            pass
    doubtful = queue.mark_unknown(db, now)
    if decision is not None:
        for some in in_parts(doubtful):
            queue.resolve_as(db, some, DeliveryState(decision))
    counts = {str(decision or DeliveryState.UNKNOWN): len(doubtful)}
    return LetGo(True, missed=planner.record_missed(db, now), **counts)


def _refuse_as_backup(file: Path, store: Path) -> None:
    if file.exists() and not file.is_file():
        raise InvalidValue(f"{file} is no file", "name a file that the backup is written to")
    parts = [store, *(store.with_name(store.name + suffix) for suffix in ("-wal", "-shm", "-journal"))]
    if file.resolve() in [part.resolve() for part in parts]:
        raise InvalidValue(f"{file} belongs to the store itself", "name another file")


def _refuse_as_source(file: Path, store: Path) -> None:
    if not file.is_file():
        raise InvalidValue(f"there is no file {file}", "name a file that skychimp backup has written")
    if not os.access(file, os.R_OK):
        raise InvalidValue(f"{file} can't be read", "name a file that you may read")
    if store.exists() and file.samefile(store):
        raise InvalidValue(f"{file} is the store itself", "name a backup of it")


def _aside(store: Path) -> Path:
    """A name that is free, for the store that is replaced."""
    first = f"{store.name}.before-restore-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    names = (store.with_name(f"{first}-{number}" if number else first) for number in count())
    return next(name for name in names if not name.exists())


def _sessions(store: Store) -> set[str]:
    """The sessions, by their tokens' hashes, that count in a store now; none where it is damaged."""
    valid = select(_L.c.token_hash).join(_U, _U.c.id == _L.c.user_id).where(_U.c.blocked_at.is_(None))
    try:
        with store.read() as db:
            return set(db.execute(valid.where(_L.c.expires_at > datetime.now(UTC))).scalars())
    except SkychimpError:
        return set()
    finally:
        store.close()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None

"""Register sending processes (runs), and find those that are dead.

Each run holds a lock on a file of its machine as long as its process lives, which tells a dead run from a slow one. All
runs of an SQLite store are on one machine. Those on other machines, of a PostgreSQL store, are judged by their
heartbeats alone.
"""

import fcntl
import hashlib
import os
import re
import secrets
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, Row, and_, case, delete, func, insert, or_, select, union, update

from skychimp import files
from skychimp.errors import ClockBehind, Conflict, StoreFailed
from skychimp.models import tables
from skychimp.shell import run_line_hint
from skychimp.store.database import SQLITE
from skychimp.translation import tr

_RUN = tables.run
_L = tables.lease

COUNTS = ("sent", "outbox", "deferred", "failed", "unknown")
"""The columns that count what a run did."""

CLOCK_TOLERANCE = timedelta(minutes=10)

HEARTBEAT_LIMIT = timedelta(seconds=60)
"""A run on another machine is dead if its last heartbeat is older."""

_own_locks: set[Path] = set()
"""The lock files of this process's own runs. A person may delete the files while the runs go on."""


@dataclass(frozen=True)
class RunLock:
    """The lock of a run of this process. `file` is its open file descriptor."""

    run_id: int
    path: Path
    file: int

    def release(self) -> None:
        """Remove the lock. To other processes the run is dead from now on."""
        _own_locks.discard(self.path)
        self.path.unlink(missing_ok=True)
        os.close(self.file)


@dataclass(frozen=True)
class OtherRun:
    """The process of another run, when it started, and what it sends through, "" if that is not known."""

    pid: int
    started_at: datetime
    relay: str


def start(db: Connection, store: Path, now: datetime, mailing_id: int | None = None, relay: str = "") -> RunLock:
    """Register this process as a run, and lock its file before any other process can see the run.

    It sends one mailing, or all if that is None. `relay` is what it sends through.

    Raises Conflict if another process holds that lock, as a run of a store that was at this path before, and
    StoreFailed if the file cannot be opened.
    """
    host = {"host": socket.gethostname(), "host_id": _own_host_id(db, store), "relay": relay}
    row = host | {"pid": os.getpid(), "started_at": now, "heartbeat_at": now, "mailing_id": mailing_id}
    row |= dict.fromkeys(COUNTS, 0)
    key = db.execute(insert(_RUN).values(row)).inserted_primary_key
    assert key is not None
    path = lock_path(store, f"run-{key[0]}")
    return RunLock(key[0], path, _acquire(path))


def heartbeat(db: Connection, run_id: int, now: datetime, counts: dict[str, int]) -> None:
    """Record that a run lives, with its counts. A heartbeat never goes back, so that a wrong clock is noticed.

    A run that another machine has taken for dead lives again.
    """
    latest = case((_RUN.c.heartbeat_at < now, now), else_=_RUN.c.heartbeat_at)
    db.execute(update(_RUN).where(_RUN.c.id == run_id).values(heartbeat_at=latest, ended_at=None, **counts))


def end(db: Connection, run_id: int, now: datetime) -> None:
    """Record that a run has ended."""
    db.execute(update(_RUN).where(_RUN.c.id == run_id).values(ended_at=now))


def is_first_of_hour(db: Connection, now: datetime) -> bool:
    """Return whether at most one run has ended in this hour, such as the one that asks."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    ended = select(_RUN.c.id).where(_RUN.c.ended_at >= hour).limit(2)
    return len(db.execute(ended).all()) < 2


def delete_ended(db: Connection, before: datetime) -> None:
    """Delete the runs that ended before a time."""
    db.execute(delete(_RUN).where(_RUN.c.ended_at < before))


# The clock


def clock_behind(db: Connection, now: datetime) -> ClockBehind | None:
    """Return the error if this machine's clock is far behind the last heartbeat, as it cannot tell what is due then."""
    latest = newest_heartbeat(db)
    if latest is None or latest - now <= CLOCK_TOLERANCE:
        return None
    return ClockBehind(
        tr(
            "the clock says {now:%Y-%m-%d %H:%M} UTC, but the store was last used at {latest:%Y-%m-%d %H:%M} UTC",
            now=now,
            latest=latest,
        ),
        tr('set the clock, or run "skychimp doctor --accept-clock --operator" if it is right now'),
    )


def newest_heartbeat(db: Connection) -> datetime | None:
    """Return the time of the newest heartbeat of any run, None if there was no run yet."""
    newest: datetime | None = db.scalar(select(_RUN.c.heartbeat_at).order_by(_RUN.c.heartbeat_at.desc()).limit(1))
    return newest


def accept_clock(db: Connection, now: datetime) -> None:
    """Take the present clock as right, and move times of runs in its future to now."""
    for column in (_RUN.c.started_at, _RUN.c.heartbeat_at, _RUN.c.ended_at):
        db.execute(update(_RUN).where(column > now).values({column.name: now}))


# Dead and living runs


def count_living(db: Connection, store: Path, now: datetime) -> int:
    """Return the number of runs that are alive, also on other machines."""
    is_alive = and_(_RUN.c.ended_at.is_(None), _RUN.c.id.not_in(dead_runs(db, store, now)))
    return db.scalar(select(func.count()).where(is_alive)) or 0


def dead_runs(db: Connection, store: Path, now: datetime) -> list[int]:
    """Return the runs whose process is gone, and that never ended or still have a lease."""
    with_lease = select(_L.c.run_id)
    unfinished = union(select(_RUN.c.id).where(_RUN.c.ended_at.is_(None)), with_lease).subquery()
    columns = (unfinished.c.id, _RUN.c.host_id, _RUN.c.heartbeat_at)
    rows = db.execute(select(*columns).outerjoin_from(unfinished, _RUN, _RUN.c.id == unfinished.c.id)).all()
    if not rows:
        return []
    own_host = _own_host_id(db, store)
    # Nobody could write while the server was down, which tells nothing about the runs.
    up_since = None if db.dialect.name == SQLITE else db.scalar(select(func.pg_postmaster_start_time()))
    return [row.id for row in rows if _is_dead(row, own_host, store, now, up_since)]


def _is_dead(
    row: Row[int, str, datetime], own_host: str, store: Path, now: datetime, up_since: datetime | None
) -> bool:
    run_id, host_id, heartbeat_at = row
    if host_id in (None, own_host):
        return _is_unlocked(lock_path(store, f"run-{run_id}"))
    return now - max(heartbeat_at, up_since or heartbeat_at) > HEARTBEAT_LIMIT


def find_sending(db: Connection, store: Path, mailing_id: int | None, now: datetime) -> OtherRun | None:
    """Return a living run of this host that sends a mailing too, or all mailings if that is None.

    One without a recent heartbeat does not count: its process may have been stopped.
    """
    sends_it = or_(_RUN.c.mailing_id.is_(None), _RUN.c.mailing_id == mailing_id)
    same = select(_RUN).where(_RUN.c.ended_at.is_(None), sends_it, _RUN.c.host_id == _own_host_id(db, store))
    for row in db.execute(same.order_by(_RUN.c.id)):
        is_recent = now - row.heartbeat_at <= HEARTBEAT_LIMIT
        if is_recent and not _is_unlocked(lock_path(store, f"run-{row.id}")):
            return OtherRun(row.pid, row.started_at, row.relay)
    return None


def has_living_run(store: Path) -> bool:
    """Return whether a run of this store lives, judging by the lock files alone."""
    store = store.resolve()
    lock_name = re.compile(re.escape(store.name) + r"\.run-\d+")
    return any(not _is_unlocked(path) for path in store.parent.iterdir() if lock_name.fullmatch(path.name))


# Hosts


def _own_host_id(db: Connection, store: Path) -> str:
    """Return what tells this machine from others, "" if a store is on one machine anyway.

    A random number in a file is not enough, as a copy of the machine has it too. So the machine's start and its name
    count as well. After a restart of the machine its old runs are taken for those of another one.
    """
    if db.dialect.name == SQLITE:
        return ""
    file = store.with_name("host-id")
    try:
        files.make_folder(file.parent)
        with suppress(FileExistsError):
            files.write_file(file, secrets.token_hex(16).encode(), replace=False)
        number = files.read_checked(file, max_bytes=100).decode("ascii", "replace")
    except OSError as error:
        raise StoreFailed(
            tr("cannot read {file}: {strerror}", file=file, strerror=error.strerror),
            tr("check the folder's permissions"),
        ) from None
    start = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return hashlib.sha256(f"{number} {start} {socket.gethostname()}".encode()).hexdigest()[:32]


# Lock files


def lock_path(store: Path, name: str) -> Path:
    """Return the path of a lock file beside a store."""
    store = store.resolve()  # the same path for all processes, whatever links they open the store by
    return store.with_name(f"{store.name}.{name}")


def open_lock(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a lock file. Raises FileNotFoundError, and StoreFailed for a file that is not a lock of ours."""
    try:
        file = os.open(path, os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _not_a_lock(path, error.strerror) from None
    try:
        _check_lock(os.fstat(file), path)
    except BaseException:
        os.close(file)
        raise
    return file


def _acquire(path: Path) -> int:
    file = open_lock(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise Conflict(
            tr("another process holds {path}", path=path), tr("stop the run of the store that was here before")
        ) from None
    _own_locks.add(path)
    return file


def _is_unlocked(path: Path) -> bool:
    """Return whether no process holds a lock, and remove its file then. A file with content is none of ours."""
    if path in _own_locks:
        return False
    try:
        file = open_lock(path)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, so that two processes that look at once both get it
    except BlockingIOError:
        return False
    else:
        is_ours = os.fstat(file).st_size == 0
    finally:
        os.close(file)
    if is_ours:
        with suppress(OSError):  # on a read-only mount it stays
            path.unlink(missing_ok=True)
    return True


def _check_lock(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise _not_a_lock(path, "it is not a regular file with one name")
    try:
        files.check_status(status, path)
    except files.UnsafePlace as error:
        raise _not_a_lock(path, error.strerror) from None


def _not_a_lock(path: Path, reason: str | None) -> StoreFailed:
    return StoreFailed(
        tr("cannot open {path}: {reason}", path=path, reason=reason), run_line_hint("mv", path, f"{path}.old")
    )

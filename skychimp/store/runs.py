"""Sending processes: which there are, and which of them are dead.

On SQLite all of them are on one machine, so that a lock file beside the store, held as long as the process lives,
tells the dead from the slow.
"""

import contextlib
import fcntl
import os
import re
import socket
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, case, delete, insert, select, text, union, update

from skychimp.errors import ClockBehind, Conflict, StoreFailed
from skychimp.models import IN_FLIGHT_SQL, Delivery, Run

_RUN = Run.__table__
_D = Delivery.__table__

CLOCK_TOLERANCE = timedelta(minutes=10)

_ours: set[Path] = set()
"""The locks of runs that live in this process, which a person may have deleted under them."""


@dataclass(frozen=True)
class RunLock:
    """A run that lives in this process, by the lock it holds."""

    run_id: int
    path: Path
    file: int

    def release(self) -> None:
        _ours.discard(self.path)
        self.path.unlink(missing_ok=True)
        os.close(self.file)


def start(db: Connection, store: Path, now: datetime) -> RunLock:
    """Enter this process as a run; its lock is held before anybody can see the run.

    Raises Conflict where another process holds that lock: a run of a store that was here before this one.
    """
    counts = {"sent": 0, "deferred": 0, "failed": 0, "unknown": 0}
    row = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": now, "heartbeat_at": now} | counts
    run_id = db.execute(insert(_RUN).values(row)).inserted_primary_key
    assert run_id is not None
    path = _lock_path(store, run_id[0])
    return RunLock(run_id[0], path, _locked(path, store))


def heartbeat(db: Connection, run_id: int, now: datetime, counts: dict[str, int]) -> None:
    """Say that a run lives; its heartbeat never goes back, so that a clock that does is found out."""
    later = case((_RUN.c.heartbeat_at < now, now), else_=_RUN.c.heartbeat_at)
    db.execute(update(_RUN).where(_RUN.c.id == run_id).values(heartbeat_at=later, **counts))


def clock_behind(db: Connection, now: datetime) -> ClockBehind | None:
    """The error where this machine's clock is far behind the last heartbeat: what is due can't be told then."""
    latest: datetime | None = db.scalar(select(_RUN.c.heartbeat_at).order_by(_RUN.c.heartbeat_at.desc()).limit(1))
    if latest is None or latest - now <= CLOCK_TOLERANCE:
        return None
    return ClockBehind(
        f"the clock says {now:%Y-%m-%d %H:%M} UTC, but this store was in use at {latest:%Y-%m-%d %H:%M}",
        "set the clock; or, if it is right now: skychimp doctor --accept-clock",
    )


def forget(db: Connection, before: datetime) -> None:
    """Delete what is known of runs that ended before a time."""
    db.execute(delete(_RUN).where(_RUN.c.ended_at < before))


def accept_clock(db: Connection, now: datetime) -> None:
    """Take the present clock for right: what was recorded as later was now."""
    for column in (_RUN.c.started_at, _RUN.c.heartbeat_at, _RUN.c.ended_at):
        db.execute(update(_RUN).where(column > now).values({column.name: now}))


def end(db: Connection, run_id: int, now: datetime) -> None:
    db.execute(update(_RUN).where(_RUN.c.id == run_id).values(ended_at=now))


def dead(db: Connection, store: Path) -> list[int]:
    """The runs that never ended, or hold something still, and whose process is gone."""
    holding = select(_D.c.run_id).where(text(IN_FLIGHT_SQL))
    known = db.scalars(union(select(_RUN.c.id).where(_RUN.c.ended_at.is_(None)), holding)).all()
    return [run_id for run_id in known if _is_free(_lock_path(store, run_id))]


def any_living(store: Path) -> bool:
    """Whether a run has this store, by the locks alone."""
    store = store.resolve()
    beside = (path for path in store.parent.iterdir() if re.fullmatch(re.escape(store.name) + r"\.run-\d+", path.name))
    return any(not _is_free(path) for path in beside)


def _lock_path(store: Path, run_id: int) -> Path:
    store = store.resolve()  # one place for all, whatever links they come by
    return store.with_name(f"{store.name}.run-{run_id}")


def _locked(path: Path, store: Path) -> int:
    file = _opened(path, os.O_CREAT)
    if os.geteuid() == 0:  # whoever the store belongs to must be able to look
        with contextlib.suppress(OSError):
            os.fchown(file, store.stat().st_uid, store.stat().st_gid)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise Conflict(f"another process holds {path}", "end the run of the store that was here before") from None
    _ours.add(path)
    return file


def _is_free(path: Path) -> bool:
    if path in _ours:
        return False
    try:
        file = _opened(path)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once both see it
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    path.unlink(missing_ok=True)
    return True


def _opened(path: Path, more: int = 0) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | more, 0o600)
    except FileNotFoundError:
        raise
    except OSError as error:
        hint = "it must be a file that belongs to the store's owner"
        raise StoreFailed(f"{path} can't be opened: {error.strerror}", hint) from None

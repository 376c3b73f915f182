"""Sending processes: which there are, and which of them are dead.

On SQLite all of them are on one machine, so that a lock file beside the store, held as long as the process lives,
tells the dead from the slow.
"""

import fcntl
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from skychimp.models import Run

_RUN = Run.__table__


@dataclass(frozen=True)
class RunLock:
    """A run that lives in this process, by the lock it holds."""

    run_id: int
    path: Path
    file: int

    def release(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.file)


def start(connection: Connection, store: Path, now: datetime) -> RunLock:
    """Enter this process as a run; its lock is held before anybody can see the run."""
    counts = {"sent": 0, "deferred": 0, "failed": 0, "unknown": 0}
    row = {"host": socket.gethostname(), "pid": os.getpid(), "started_at": now, "heartbeat_at": now} | counts
    run_id = connection.execute(insert(_RUN).values(row)).inserted_primary_key
    assert run_id is not None
    path = _lock_path(store, run_id[0])
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    return RunLock(run_id[0], path, file)


def heartbeat(connection: Connection, run_id: int, now: datetime, counts: dict[str, int]) -> None:
    connection.execute(update(_RUN).where(_RUN.c.id == run_id).values(heartbeat_at=now, **counts))


def end(connection: Connection, run_id: int, now: datetime) -> None:
    connection.execute(update(_RUN).where(_RUN.c.id == run_id).values(ended_at=now))


def dead(connection: Connection, store: Path) -> list[int]:
    """The runs that never ended and whose process is gone."""
    living = connection.scalars(select(_RUN.c.id).where(_RUN.c.ended_at.is_(None))).all()
    return [run_id for run_id in living if _is_free(_lock_path(store, run_id))]


def _lock_path(store: Path, run_id: int) -> Path:
    return store.with_name(f"{store.name}.run-{run_id}")


def _is_free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(file)
    path.unlink(missing_ok=True)
    return True

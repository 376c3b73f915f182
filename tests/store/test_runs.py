"""A run is dead if its process no longer holds its lock, whatever is done to the files."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from support.accounts import NOBODY, needs_root
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    attempt_outcomes,
    claim,
    create_run,
    delivery_states,
    get_row,
    give_back,
    make_attempt,
    open_mailing,
    record_attempts,
    record_intents,
    rescue,
    rows,
    write,
)

from skychimp.errors import Conflict, StoreFailed
from skychimp.models import DeliveryState, Outcome, Run
from skychimp.permissions import Actor
from skychimp.store import runs
from skychimp.store.database import SQLITE, Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.runs import OtherRun, RunLock

S = DeliveryState

RUN_PROGRAM = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from skychimp.store import ledger, queue, runs
from skychimp.store.database import driver_of
from skychimp.store.schema import open_store

store = open_store(sys.argv[1])
now = datetime(2026, 3, 2, 9, tzinfo=UTC)
with store.write() as db:
    lock = runs.start(db.connection(), Path(sys.argv[2]), now)
    if sys.argv[3] == "before":
        os.kill(os.getpid(), 9)
with store.write() as db:
    first, _ = queue.lease(db.connection(), 1, lock.run_id, now, now, 2)
    ledger.record_intents(driver_of(db.connection()), lock.run_id, [first], now)
print(lock.run_id, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_run(store: Store, path: Path | None = None, dies: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Start a run in another process. It claims two deliveries, and records the intent to send the first."""
    url = store.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", RUN_PROGRAM, url, str(path or store.path), dies]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def start(store: Store) -> RunLock:
    return write(store, lambda db: runs.start(db, store.path, NOW))


def end(store: Store, run_id: int) -> None:
    write(store, lambda db: runs.end(db, run_id, NOW))


def dead_runs(store: Store) -> list[int]:
    return write(store, lambda db: runs.dead_runs(db, store.path, store.now()))


def lock_path(store: Store, run_id: int) -> Path:
    """Return the lock file of a run. Its folder exists."""
    store.path.parent.mkdir(parents=True, exist_ok=True)
    return store.path.with_name(f"{store.path.name}.run-{run_id}")


def lock_files(store: Store) -> list[str]:
    return sorted(path.name for path in store.path.parent.glob("*.run-*"))


def create_dead_run(store: Store) -> int:
    """Create a run of this machine that has lost its lock, and return its id."""
    lock = start(store)
    lock.release()
    return lock.run_id


@pytest.fixture
def busy_store(store: Store, ada: Actor) -> Store:
    """A store with an open occurrence."""
    open_mailing(store, ada, "ann", "bob", "cid")
    return store


def test_run_starts_counts_and_ends(store: Store) -> None:
    lock = start(store)
    row = get_row(store, Run, lock.run_id)
    assert (row.host, row.pid) == (os.uname().nodename, os.getpid())
    assert (row.started_at, row.heartbeat_at, row.ended_at, row.sent) == (NOW, NOW, None, 0)
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    assert dead_runs(store) == []

    counts = {"sent": 3, "deferred": 2, "failed": 1, "unknown": 0}
    write(store, lambda db: runs.heartbeat(db, lock.run_id, NOW + MINUTE, counts))
    end(store, lock.run_id)
    lock.release()

    row = get_row(store, Run, lock.run_id)
    assert (row.heartbeat_at, row.ended_at, row.sent, row.failed) == (NOW + MINUTE, NOW, 3, 1)
    assert (dead_runs(store), lock_files(store)) == ([], [])


def test_killed_run_is_dead_and_its_deliveries_are_rescued(busy_store: Store) -> None:
    with other_run(busy_store) as process:
        (row,) = rows(busy_store, Run)
        run_id = row.id or 0
        assert dead_runs(busy_store) == []
        assert delivery_states(busy_store) == {"ann": S.SENDING, "bob": S.CLAIMED, "cid": S.QUEUED}
        process.send_signal(signal.SIGSTOP)
        assert dead_runs(busy_store) == [], "it is stopped, not dead"
        process.kill()
        process.wait()

        assert dead_runs(busy_store) == [run_id]
        assert lock_files(busy_store) == []
        assert dead_runs(busy_store) == [run_id], "until its deliveries are rescued"
        rescue(busy_store, run_id)
        end(busy_store, run_id)

    assert dead_runs(busy_store) == []
    assert delivery_states(busy_store) == {"ann": S.UNKNOWN, "bob": S.QUEUED, "cid": S.QUEUED}
    assert attempt_outcomes(busy_store, 1) == [(1, Outcome.UNKNOWN)]


def test_run_that_died_before_its_row_was_committed(busy_store: Store) -> None:
    """Its lock file is left. On SQLite the next run has the same id, and so the same file."""
    with other_run(busy_store, dies="before") as process:
        process.wait()
    left = lock_path(busy_store, 1).name
    assert (lock_files(busy_store), rows(busy_store, Run)) == ([left], [])
    assert dead_runs(busy_store) == []

    lock = start(busy_store)

    assert (lock.run_id == 1) == (busy_store.dialect == SQLITE)
    assert dead_runs(busy_store) == []
    lock.release()
    assert lock_files(busy_store) == ([] if lock.run_id == 1 else [left])


def test_process_id_does_not_matter(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In containers many processes have id 1: a dead run may have the id of this process."""
    run_id = create_run(store, host=os.uname().nodename, pid=os.getpid())
    monkeypatch.setattr(runs, "HEARTBEAT_LIMIT", timedelta())

    assert dead_runs(store) == [run_id]


@pytest.mark.postgres
def test_run_that_could_not_write_while_the_server_was_down_is_not_dead(store: Store) -> None:
    create_run(store, host_id="another machine")
    with store.connect() as db:
        started: datetime = db.exec_driver_sql("SELECT pg_postmaster_start_time()").scalar_one()
    for after, is_dead in ((runs.HEARTBEAT_LIMIT, False), (runs.HEARTBEAT_LIMIT + MINUTE, True)):
        with store.write() as session:
            assert bool(runs.dead_runs(session.connection(), store.path, started + after)) == is_dead


def test_run_whose_lock_file_was_deleted_is_not_dead_to_itself(store: Store) -> None:
    lock = start(store)

    lock.path.unlink()

    assert dead_runs(store) == []
    lock.release()
    assert dead_runs(store) == [lock.run_id]


def test_run_whose_lock_file_was_deleted_is_dead_to_others_without_harm(busy_store: Store) -> None:
    """Its deliveries are rescued. It notices before the next final dot, and a success it had counts."""
    with other_run(busy_store) as process:
        lock_path(busy_store, 1).unlink()
        assert dead_runs(busy_store) == [1]
        rescue(busy_store, 1)
        end(busy_store, 1)
        assert process.poll() is None
    first = ClaimedDelivery(1, 1, 1, "ann@example.org", "Ann", "", "[]", 0, 0, None, None, None, None, 1, NOW)

    assert record_intents(busy_store, 1, first, first._replace(id=2)) == set()
    record_attempts(busy_store, 1, make_attempt(first, Outcome.SENT))

    assert delivery_states(busy_store) == {"ann": S.SENT, "bob": S.QUEUED, "cid": S.QUEUED}


def test_ended_run_with_deliveries_in_flight_is_dead(busy_store: Store) -> None:
    """Otherwise they would never be sent."""
    lock = start(busy_store)
    record_intents(busy_store, lock.run_id, *claim(busy_store, lock.run_id, limit=1))
    end(busy_store, lock.run_id)
    assert dead_runs(busy_store) == []

    lock.release()

    assert dead_runs(busy_store) == [lock.run_id]


def test_run_without_a_recorded_end_is_dead_once_its_lock_is_released(busy_store: Store) -> None:
    lock = start(busy_store)
    claims = claim(busy_store, lock.run_id)

    lock.release()

    assert dead_runs(busy_store) == [lock.run_id]
    give_back(busy_store, *claims)


def test_two_processes_find_a_dead_run_at_once(store: Store) -> None:
    """The lock that one of them takes to check does not look like a living run to the other."""
    run_id = create_dead_run(store)
    file = os.open(lock_path(store, run_id), os.O_CREAT | os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_SH)

    assert dead_runs(store) == [run_id]
    os.close(file)


@pytest.mark.sqlite
def test_run_is_found_through_any_link_to_the_store(busy_store: Store, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(busy_store.path)

    with other_run(busy_store, link):
        assert dead_runs(busy_store) == []
        assert lock_files(busy_store) == ["skychimp.db.run-1"]


def test_lock_held_by_a_run_of_a_former_store_is_a_conflict(store: Store) -> None:
    """The store has replaced another one, whose run still goes on."""
    with lock_path(store, 1).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another process holds"):
            start(store)

    assert rows(store, Run) == []
    start(store).release()


def make_writable(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def make_foreign(path: Path) -> None:
    path.touch()
    os.chown(path, NOBODY, NOBODY)


NOT_LOCKS: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to(path.with_name("precious")),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "another name of a file": lambda path: path.hardlink_to(path.with_name("precious")),
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a file that others can write": make_writable,
    "a file of another account": make_foreign,
}


@needs_root
@pytest.mark.parametrize(
    ("other", "own", "is_same"),
    [(None, None, True), (None, 1, True), (1, 1, True), (1, 2, False), (1, None, False)],
)
def test_run_that_sends_the_same_is_found(store: Store, other: int | None, own: int | None, is_same: bool) -> None:
    lock = write(store, lambda db: runs.start(db, store.path, NOW, other, "mx:25"))
    found = find_sending(store, own)
    assert found == (OtherRun(os.getpid(), NOW, "mx:25") if is_same else None)
    lock.release()
    assert find_sending(store, own) is None


@pytest.mark.parametrize(
    "change",
    [
        {"ended_at": NOW},
        {"heartbeat_at": NOW - 2 * MINUTE},  # its process was stopped
        {"host_id": "another machine"},
    ],
    ids=["ended", "stopped", "another machine"],
)
def test_run_that_does_not_send_here_holds_up_nobody(store: Store, change: dict[str, object]) -> None:
    lock = start(store)
    write(store, lambda db: db.execute(update(Run).values(change)))
    assert find_sending(store, None) is None
    lock.release()


def find_sending(store: Store, mailing_id: int | None) -> OtherRun | None:
    return write(store, lambda db: runs.find_sending(db, store.path, mailing_id, NOW))


@pytest.mark.parametrize("step", [start, dead_runs, lambda store: runs.has_living_run(store.path)])
@pytest.mark.parametrize("kind", NOT_LOCKS)
def test_file_that_is_not_a_lock_is_refused_and_unchanged(
    store: Store, kind: str, step: Callable[[Store], object]
) -> None:
    run_id = create_dead_run(store)
    precious = store.path.with_name("precious")
    precious.write_text("precious")
    paths = [lock_path(store, number) for number in (run_id, run_id + 1)]
    for path in paths:
        NOT_LOCKS[kind](path)
    before = [os.lstat(path) for path in (*paths, precious)]

    with pytest.raises(StoreFailed, match="cannot open") as refused:
        step(store)

    assert refused.value.hint in [f'run "mv {path} {path}.old"' for path in paths]
    unchanged = ("st_ino", "st_uid", "st_mode", "st_size", "st_nlink", "st_mtime_ns")
    after = [os.lstat(path) for path in (*paths, precious)]
    for name in unchanged:
        assert [getattr(each, name) for each in after] == [getattr(each, name) for each in before]
    assert precious.read_text() == "precious"


def test_file_with_content_is_not_removed(store: Store) -> None:
    """A lock is empty, so this is a file of the user that has the name of a lock."""
    path = lock_path(store, create_dead_run(store))
    path.write_text("precious")
    assert dead_runs(store) != []
    assert not runs.has_living_run(store.path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("umask", [0, 0o077])
def test_lock_is_private_whatever_the_umask(store: Store, umask: int) -> None:
    before = os.umask(umask)
    try:
        lock = start(store)
    finally:
        os.umask(before)
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    lock.release()


# The clock


def test_heartbeat_never_goes_back(store: Store) -> None:
    run_id = create_run(store)
    for now in (NOW + MINUTE, NOW - DAY):
        write(store, lambda db: runs.heartbeat(db, run_id, now, {}))  # noqa: B023

    assert get_row(store, Run, run_id).heartbeat_at == NOW + MINUTE


@pytest.mark.parametrize(
    ("behind", "is_error"), [(-DAY, False), (10 * MINUTE, False), (11 * MINUTE, True), (DAY, True)]
)
def test_clock_far_behind_the_last_heartbeat_is_an_error(store: Store, behind: timedelta, is_error: bool) -> None:
    assert write(store, lambda db: runs.clock_behind(db, NOW)) is None
    create_run(store)
    create_run(store, heartbeat_at=NOW - DAY)

    error = write(store, lambda db: runs.clock_behind(db, NOW - behind))

    assert (error is not None) == is_error
    if error is not None:
        assert error.exit_status == 3
        assert "2026-03-02 09:00" in error.message


def test_accepted_clock_moves_later_times_to_now(store: Store) -> None:
    """Earlier times stay."""
    later = create_run(store, ended_at=NOW)
    earlier = create_run(store, started_at=NOW - 2 * DAY, heartbeat_at=NOW - 2 * DAY)

    write(store, lambda db: runs.accept_clock(db, NOW - DAY))

    assert write(store, lambda db: runs.clock_behind(db, NOW - DAY)) is None
    times = [(row.started_at, row.heartbeat_at, row.ended_at) for row in rows(store, Run)]
    assert times == [(NOW - DAY, NOW - DAY, NOW - DAY), (NOW - 2 * DAY, NOW - 2 * DAY, None)]
    assert [row.id for row in rows(store, Run)] == [later, earlier]

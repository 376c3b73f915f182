"""Runs: a lock that lives as long as its process tells the dead from the slow, whatever is done to the files."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from support.queue_steps import (
    DAY,
    MINUTE,
    NOW,
    claim,
    entry,
    intend,
    one,
    opened,
    record,
    release,
    rescue,
    rows,
    run,
    states,
    tried,
    write,
)

from skychimp.errors import Conflict, StoreFailed
from skychimp.models import DeliveryState, Outcome, Run
from skychimp.permissions import Actor
from skychimp.store import runs
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.runs import RunLock

S = DeliveryState

RUN = """
import os, sys
from datetime import UTC, datetime
from pathlib import Path
from skychimp.store import ledger, queue, runs
from skychimp.store.engine import open_store

store = open_store("sqlite:///" + sys.argv[1])
now = datetime(2026, 3, 2, 9, tzinfo=UTC)
with store.write() as session:
    lock = runs.start(session.connection(), Path(sys.argv[1]), now)
    if sys.argv[2] == "before":
        os.kill(os.getpid(), 9)
with store.write() as session:
    first, second = queue.claim(session.connection(), 1, lock.run_id, 1, now, now, 2)
    ledger.intend(session.connection(), lock.run_id, [first])
print(lock.run_id, flush=True)
sys.stdin.read()
"""


@contextmanager
def other_run(store: Store, path: Path | None = None, dies: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Another process with a run: it has claimed two deliveries, and is about to send the first of them."""
    command = [sys.executable, "-c", RUN, str(path or store.path), dies]
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


def dead(store: Store) -> list[int]:
    return write(store, lambda db: runs.dead(db, store.path))


def locks(store: Store) -> list[str]:
    return sorted(path.name for path in store.path.parent.glob("*.run-*"))


@pytest.fixture
def sending(store: Store, ada: Actor) -> Store:
    """A store with an occurrence that is being sent."""
    opened(store, ada, "ann", "bob", "cid")
    return store


def test_a_run_from_its_beginning_to_its_end(store: Store) -> None:
    lock = start(store)
    found = one(store, Run, lock.run_id)
    assert (found.host, found.pid) == (os.uname().nodename, os.getpid())
    assert (found.started_at, found.heartbeat_at, found.ended_at, found.sent) == (NOW, NOW, None, 0)
    assert stat.S_IMODE(lock.path.stat().st_mode) == 0o600
    assert dead(store) == []

    counts = {"sent": 3, "deferred": 2, "failed": 1, "unknown": 0}
    write(store, lambda db: runs.heartbeat(db, lock.run_id, NOW + MINUTE, counts))
    end(store, lock.run_id)
    lock.release()

    found = one(store, Run, lock.run_id)
    assert (found.heartbeat_at, found.ended_at, found.sent, found.failed) == (NOW + MINUTE, NOW, 3, 1)
    assert (dead(store), locks(store)) == ([], [])


def test_a_killed_run_is_dead_and_what_it_held_is_rescued(sending: Store) -> None:
    with other_run(sending) as process:
        (known,) = rows(sending, Run)
        run_id = known.id or 0
        assert dead(sending) == []
        assert states(sending) == {"ann": S.SENDING, "bob": S.CLAIMED, "cid": S.QUEUED}
        process.send_signal(signal.SIGSTOP)
        assert dead(sending) == [], "it is only slow"
        process.kill()
        process.wait()

        assert dead(sending) == [run_id]
        assert locks(sending) == []
        assert dead(sending) == [run_id], "until somebody has rescued what it held"
        rescue(sending, run_id)
        end(sending, run_id)

    assert dead(sending) == []
    assert states(sending) == {"ann": S.UNKNOWN, "bob": S.QUEUED, "cid": S.QUEUED}
    assert tried(sending, 1) == [(1, Outcome.UNKNOWN)]


def test_a_run_that_died_before_anybody_could_see_it(sending: Store) -> None:
    """Its lock's file is left, and the next run has its number."""
    with other_run(sending, dies="before") as process:
        process.wait()
    assert (locks(sending), rows(sending, Run)) == (["skychimp.db.run-1"], [])
    assert dead(sending) == []

    lock = start(sending)

    assert lock.run_id == 1
    assert dead(sending) == []
    lock.release()
    assert locks(sending) == []


def test_the_number_of_a_process_says_nothing(store: Store) -> None:
    """In a container each process may be number 1: a dead run with this process's number is dead all the same."""
    run_id = run(store, host=os.uname().nodename, pid=os.getpid())

    assert dead(store) == [run_id]


def test_a_run_whose_lock_a_person_deleted_is_not_dead_for_itself(store: Store) -> None:
    lock = start(store)

    lock.path.unlink()

    assert dead(store) == []
    lock.release()
    assert dead(store) == [lock.run_id]


def test_a_run_whose_lock_a_person_deleted_is_dead_for_others_and_nothing_comes_of_it(sending: Store) -> None:
    """What it holds is taken over: it finds so before its next dot, and the reply to an earlier one counts."""
    with other_run(sending) as process:
        sending.path.with_name("skychimp.db.run-1").unlink()
        assert dead(sending) == [1]
        rescue(sending, 1)
        end(sending, 1)
        assert process.poll() is None
    first = ClaimedDelivery(1, 1, 1, "ann@example.org", "Ann", "", "[]", 0, 0, 1)

    assert intend(sending, 1, first, first._replace(id=2)) == set()
    record(sending, 1, entry(first, Outcome.SENT))

    assert states(sending) == {"ann": S.SENT, "bob": S.QUEUED, "cid": S.QUEUED}


def test_a_run_that_ended_and_still_holds_something_is_rescued_like_a_dead_one(sending: Store) -> None:
    """Nobody would look at it again: what it held would be lost."""
    lock = start(sending)
    intend(sending, lock.run_id, *claim(sending, lock.run_id, limit=1))
    end(sending, lock.run_id)
    assert dead(sending) == []

    lock.release()

    assert dead(sending) == [lock.run_id]


def test_a_run_that_could_not_write_its_end_is_dead_at_once(sending: Store) -> None:
    lock = start(sending)
    claims = claim(sending, lock.run_id)

    lock.release()

    assert dead(sending) == [lock.run_id]
    release(sending, lock.run_id, *claims)


def test_two_who_look_at_once_both_see_it(store: Store) -> None:
    """The look of one is not taken for life by the other."""
    run_id = run(store)
    path = store.path.with_name(f"skychimp.db.run-{run_id}")
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_SH)

    assert dead(store) == [run_id]
    os.close(file)


def test_a_run_is_found_by_whatever_link_the_store_is_opened(sending: Store, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(sending.path)

    with other_run(sending, link):
        assert dead(sending) == []
        assert locks(sending) == ["skychimp.db.run-1"]


def test_another_stores_run_in_the_way_is_said_and_not_waited_for(store: Store) -> None:
    """A store was put in the place of one whose run still goes on."""
    with store.path.with_name("skychimp.db.run-1").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="another process holds"):
            start(store)

    assert rows(store, Run) == []
    start(store).release()


@pytest.mark.parametrize("step", [start, dead])
def test_a_lock_that_cant_be_looked_at_is_said(store: Store, step: object) -> None:
    run_id = run(store)
    for number in (run_id, run_id + 1):
        store.path.with_name(f"skychimp.db.run-{number}").symlink_to("/etc/hostname")

    with pytest.raises(StoreFailed, match="can't be opened"):
        step(store)  # type: ignore[operator]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run for somebody else")
def test_a_run_of_root_leaves_no_file_that_the_stores_owner_cant_open(store: Store) -> None:
    os.chown(store.path, 65534, 65534)

    lock = start(store)

    assert (lock.path.stat().st_uid, lock.path.stat().st_gid) == (65534, 65534)
    lock.release()


# The clock


def test_a_heartbeat_never_goes_back(store: Store) -> None:
    run_id = run(store)
    for now in (NOW + MINUTE, NOW - DAY):
        write(store, lambda db: runs.heartbeat(db, run_id, now, {}))  # noqa: B023

    assert one(store, Run, run_id).heartbeat_at == NOW + MINUTE


@pytest.mark.parametrize(("behind", "is_said"), [(-DAY, False), (10 * MINUTE, False), (11 * MINUTE, True), (DAY, True)])
def test_a_clock_that_is_far_behind_the_last_heartbeat_is_said(store: Store, behind: timedelta, is_said: bool) -> None:
    assert write(store, lambda db: runs.clock_behind(db, NOW)) is None
    run(store)
    run(store, heartbeat_at=NOW - DAY)

    error = write(store, lambda db: runs.clock_behind(db, NOW - behind))

    assert (error is not None) == is_said
    if error is not None:
        assert error.exit_status == 3
        assert "2026-03-02 09:00" in error.message


def test_a_clock_that_is_right_after_all_is_accepted(store: Store) -> None:
    """What was recorded as later was now; what was recorded as earlier stays."""
    wrong, right = run(store, ended_at=NOW), run(store, started_at=NOW - 2 * DAY, heartbeat_at=NOW - 2 * DAY)

    write(store, lambda db: runs.accept_clock(db, NOW - DAY))

    assert write(store, lambda db: runs.clock_behind(db, NOW - DAY)) is None
    times = [(found.started_at, found.heartbeat_at, found.ended_at) for found in rows(store, Run)]
    assert times == [(NOW - DAY, NOW - DAY, NOW - DAY), (NOW - 2 * DAY, NOW - 2 * DAY, None)]
    assert [found.id for found in rows(store, Run)] == [wrong, right]

"""Test that the processes of a host share the connections, whatever becomes of a process or the lock file."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from skychimp.errors import StoreFailed
from skychimp.store.limits.connections import ConnectionSlots

HOLDER = """
import sys
from pathlib import Path
from skychimp.store.limits.connections import ConnectionSlots
slots = ConnectionSlots(Path(sys.argv[1]), 3)
print([slots.take() for _ in range(int(sys.argv[2]))], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "skychimp.db"


@pytest.fixture
def slots(path: Path) -> Iterator[ConnectionSlots]:
    with closing(ConnectionSlots(path, 3)) as opened:
        yield opened


def hold(path: Path, number: int) -> "subprocess.Popen[str]":
    """Start a process that takes this many of 3 slots, and keeps them."""
    command = [sys.executable, "-c", HOLDER, str(path), str(number)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == str([True] * number)
    return process


def test_slots_are_taken_and_given_back(slots: ConnectionSlots) -> None:
    assert [slots.take() for _ in range(4)] == [True, True, True, False]
    slots.release()
    assert [slots.take() for _ in range(2)] == [True, False]


def test_slots_of_a_killed_process_are_free(path: Path, slots: ConnectionSlots) -> None:
    with hold(path, 2) as process:
        assert [slots.take() for _ in range(2)] == [True, False]
        process.send_signal(signal.SIGSTOP)
        assert not slots.take()
        process.kill()
        process.wait()
        assert [slots.take() for _ in range(3)] == [True, True, False]


def test_two_users_in_one_process_share_the_slots(path: Path, slots: ConnectionSlots) -> None:
    with closing(ConnectionSlots(path, 3)) as others:
        assert [slots.take(), others.take(), others.take(), others.take()] == [True, True, True, False]
    assert [slots.take() for _ in range(3)] == [True, True, False]


def test_process_with_a_higher_limit_takes_what_others_leave(path: Path, slots: ConnectionSlots) -> None:
    assert all(slots.take() for _ in range(3))
    with closing(ConnectionSlots(path, 5)) as more:
        assert [more.take() for _ in range(3)] == [True, True, False]


def test_lock_file_is_private(path: Path, slots: ConnectionSlots) -> None:
    slots.take()
    status = path.with_name("skychimp.db.connections").stat()
    assert (status.st_mode & 0o777, status.st_size) == (0o600, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda lock: lock.symlink_to("/dev/null"),
        lambda lock: lock.mkdir(),
        os.mkfifo,
        lambda lock: (lock.touch(), lock.chmod(0o666)),
    ],
    ids=["link", "folder", "pipe", "writable by others"],
)
def test_what_is_no_lock_file_of_ours_is_refused(
    path: Path, slots: ConnectionSlots, make: Callable[[Path], object]
) -> None:
    make(path.with_name("skychimp.db.connections"))
    with pytest.raises(StoreFailed, match=r"skychimp\.db\.connections"):
        slots.take()

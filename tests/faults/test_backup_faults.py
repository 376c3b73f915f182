"""A backup or a restore that is killed, or whose disk fails, leaves the old one or the new one, never half of one."""

import signal
from contextlib import closing
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.scene import copied, due
from support.sending import rows
from support.tracing import failing, hit, killing, needs_strace

from skychimp.models import Client
from skychimp.permissions import OPERATOR
from skychimp.services.operations import backups
from skychimp.store import backup_file
from skychimp.store.database import Store

OLD, NEW = 30, 60  # clients
WRITES, NAMES = "pwrite64,ftruncate,fdatasync,fsync", "rename,link,unlink"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A backup of a store with so many clients each, made once; the smaller one is a backup of the other's past."""
    made = {}
    for number in (OLD, NEW):
        folder = tmp_path_factory.mktemp(str(number))
        with closing(Store(due(folder, number))) as store:
            backups.backup(store, OPERATOR, folder / "made.backup")
        made[number] = folder / "made.backup"
    return made


def size(path: Path) -> int:
    """How many clients a sound store has."""
    backup_file.verified(path)
    with closing(Store(path)) as store:
        return len(rows(store, Client))


def environ(folder: Path) -> dict[str, str]:
    return {"SKYCHIMP_STORE": str(folder / "skychimp.db"), "HOME": str(folder), "SKYCHIMP_CONFIG": "/dev/null"}


def attempted(folder: Path, stores: dict[int, Path], command: str, tracer: list[str]) -> tuple[int, str, int]:
    """Replace what is old by what is new, under a tracer; the status, what was said, and what is there then."""
    folder.mkdir()
    store = copied(stores[NEW] if command == "backup" else stores[OLD], folder / "skychimp.db")
    other = copied(stores[OLD] if command == "backup" else stores[NEW], folder / "other.backup")
    words = (command, str(other), "--operator", "--force")
    status, said = run_forked(words, environ(folder), folder, under=tracer)
    return status, said, size(other if command == "backup" else store)


@needs_strace
@pytest.mark.parametrize(
    ("command", "names", "step"),
    [("backup", WRITES, 37), ("backup", NAMES, 2), ("restore", WRITES, 83), ("restore", NAMES, 5)],
)
def test_a_kill_at_each_call(tmp_path: Path, stores: dict[int, Path], command: str, names: str, step: int) -> None:
    def kill(number: int) -> int | None:
        trace = tmp_path / f"trace-{number}"
        status, said, found = attempted(
            tmp_path / str(number), stores, command, killing(names, number, trace, all_threads=False)
        )
        call = hit(trace, number)
        assert status == (-signal.SIGKILL if call else 0), said
        assert found in (OLD, NEW), call
        if not call:
            assert found == NEW
        return found if call else None

    assert OLD in sweep(kill, step)


@needs_strace
@pytest.mark.parametrize(("command", "step"), [("backup", 37), ("restore", 83)])
def test_a_full_disk(tmp_path: Path, stores: dict[int, Path], command: str, step: int) -> None:
    def fill(number: int) -> int | None:
        folder = tmp_path / str(number)
        tracer = failing("pwrite64", "ENOSPC", number, tmp_path / f"trace-{number}")
        status, said, found = attempted(folder, stores, command, tracer)
        if status:
            assert status in (1, 3)
            assert said.count("error: ") == 1, said
            assert "disk" in said
            assert found == OLD, number
            left = {path.name for path in folder.iterdir()} - {
                "said",
                "skychimp.db",
                "other.backup",
                "skychimp.db-wal",
                "skychimp.db-shm",
            }
            assert all(name.startswith("skychimp.db.before-restore") for name in left), left
        return found if status else None

    assert sweep(fill, step)


def test_a_restore_that_is_broken_off_leaves_the_old_one_as_it_was(tmp_path: Path, stores: dict[int, Path]) -> None:
    """Ctrl-C, in the midst of it: it is held no longer."""
    store = Store(copied(stores[OLD], tmp_path / "skychimp.db"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup_file.put_back(stores[NEW], store.path, tmp_path / "aside", interrupt, lambda done, total: None)
    assert backups.held(store) is None
    store.close()
    assert size(store.path) == OLD

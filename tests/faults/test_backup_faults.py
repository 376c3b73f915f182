"""A backup or restore that is killed, or runs out of disk space, leaves the old or the new file, never a mixture."""

import signal
from contextlib import closing
from pathlib import Path

import pytest
from support.forks import OUTPUT_FILE, run_forked, sweep
from support.harness import copy_store_files, make_due_store
from support.sending import rows
from support.tracing import fail_from_call, kill_at_call, killed_call, needs_strace

from skychimp.models import Client
from skychimp.permissions import OPERATOR
from skychimp.services.operations import backups
from skychimp.store.copies import backup_file
from skychimp.store.sqlite import SqliteStore

OLD, NEW = 30, 60  # clients
WRITES, NAMES = "pwrite64,ftruncate,fdatasync,fsync", "rename,link,unlink"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Backups of stores with OLD and NEW clients."""
    paths = {}
    for number in (OLD, NEW):
        folder = tmp_path_factory.mktemp(str(number))
        with closing(SqliteStore(make_due_store(folder, number))) as store:
            backups.backup(store, OPERATOR, folder / "written.backup")
        paths[number] = folder / "written.backup"
    return paths


def count_clients(path: Path) -> int:
    """Verify a store, and return how many clients it has."""
    backup_file.verify(path)
    with closing(SqliteStore(path)) as store:
        return len(rows(store, Client))


def environ(folder: Path) -> dict[str, str]:
    return {"SKYCHIMP_STORE": str(folder / "skychimp.db"), "HOME": str(folder), "SKYCHIMP_CONFIG": "/dev/null"}


def run_command(folder: Path, stores: dict[int, Path], command: str, tracer: list[str]) -> tuple[int, str, int]:
    """Back up or restore under a tracer. Return the exit status, the output, and the number of clients afterwards."""
    folder.mkdir()
    store = copy_store_files(stores[NEW] if command == "backup" else stores[OLD], folder / "skychimp.db")
    other = copy_store_files(stores[OLD] if command == "backup" else stores[NEW], folder / "other.backup")
    arguments = (command, str(other), "--operator", "--force")
    status, output = run_forked(arguments, environ(folder), folder, tracer=tracer)
    return status, output, count_clients(other if command == "backup" else store)


@needs_strace
@pytest.mark.parametrize(
    ("command", "names", "step"),
    [
        ("backup", WRITES, 79),
        ("backup", NAMES, 2),
        ("restore", WRITES, 167),
        pytest.param("restore", NAMES, 7, marks=pytest.mark.slow),
        pytest.param("backup", WRITES, 37, marks=pytest.mark.slow),
        pytest.param("restore", WRITES, 83, marks=pytest.mark.slow),
        pytest.param("restore", NAMES, 5, marks=pytest.mark.slow),
    ],
)
def test_kill_at_any_system_call_leaves_the_old_or_the_new_store(
    tmp_path: Path, stores: dict[int, Path], command: str, names: str, step: int
) -> None:
    def kill(number: int) -> int | None:
        trace = tmp_path / f"trace-{number}"
        status, output, clients = run_command(
            tmp_path / str(number), stores, command, kill_at_call(names, number, trace, all_threads=False)
        )
        call = killed_call(trace, number)
        assert status == (-signal.SIGKILL if call else 0), output
        assert clients in (OLD, NEW), call
        if not call:
            assert clients == NEW
        return clients if call else None

    assert OLD in sweep(kill, step)


@needs_strace
@pytest.mark.parametrize(
    ("command", "step"),
    [
        ("backup", 79),
        pytest.param("restore", 167, marks=pytest.mark.slow),
        pytest.param("backup", 37, marks=pytest.mark.slow),
        pytest.param("restore", 83, marks=pytest.mark.slow),
    ],
)
def test_full_disk_leaves_the_old_store(tmp_path: Path, stores: dict[int, Path], command: str, step: int) -> None:
    def fail(number: int) -> int | None:
        folder = tmp_path / str(number)
        tracer = fail_from_call("pwrite64", "ENOSPC", number, tmp_path / f"trace-{number}")
        status, output, clients = run_command(folder, stores, command, tracer)
        if status:
            assert status in (1, 3)
            assert output.count("error: ") == 1, output
            assert "disk" in output
            assert clients == OLD, number
            leftovers = {path.name for path in folder.iterdir()} - {
                OUTPUT_FILE,
                "skychimp.db",
                "other.backup",
                "skychimp.db-wal",
                "skychimp.db-shm",
            }
            assert all(name.startswith("skychimp.db.before-restore") for name in leftovers), leftovers
        return clients if status else None

    assert sweep(fail, step)


def test_interrupted_restore_leaves_the_old_store_unchanged_and_not_on_hold(
    tmp_path: Path, stores: dict[int, Path]
) -> None:
    store = SqliteStore(copy_store_files(stores[OLD], tmp_path / "skychimp.db"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup_file.restore_backup(stores[NEW], store.path, tmp_path / "aside", interrupt, lambda done, total: None)
    assert backups.held_work(store) is None
    store.close()
    assert count_clients(store.path) == OLD

"""Test that a store is refused if another account could have changed it, with a hint that helps."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from support.accounts import MAIL, NOBODY, needs_root, run_as
from support.command import Home
from support.sending import rows

from skychimp.config.locations import user_folder
from skychimp.errors import StoreNotReady
from skychimp.models import User
from skychimp.permissions import OPERATOR, Actor
from skychimp.services.operations import backups
from skychimp.store.database import Store
from skychimp.store.place import check_place
from skychimp.store.schema import open_store
from skychimp.store.sqlite import SqliteStore, driver

pytestmark = pytest.mark.sqlite

PLANT = """
import os, sys
from importlib import import_module
connection = import_module(sys.argv[2]).connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = WAL")
connection.execute("UPDATE user SET role = 'admin'")
os.kill(os.getpid(), 9)  # the log stays
"""
CHECK = """
import sys
from pathlib import Path
from skychimp.errors import SkychimpError
from skychimp.store.place import check_place
for path in sys.argv[1:]:
    try:
        check_place(Path(path))
        print()
    except SkychimpError as error:
        print(error.message)
"""


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def plant_log(store: Path, folder: Path) -> None:
    """Let another account make every user an administrator, in a log that fits the store but is not applied to it."""
    copy = folder / store.name
    shutil.copy(store, copy)
    os.chown(copy, NOBODY, NOBODY)
    run_as(NOBODY, "-c", PLANT, copy, driver().__name__)
    log = copy.with_name(f"{copy.name}-wal")
    assert log.stat().st_uid == NOBODY
    shutil.copy(log, store.with_name(log.name))
    os.chown(store.with_name(log.name), NOBODY, NOBODY)


def give_to_a_group(store: Path) -> None:
    os.chown(store.parent, 0, 100)
    store.parent.chmod(0o770)


FAULTS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "others can write to the folder": (
        lambda store: store.parent.chmod(0o777),
        "cannot use the store {store}: {folder} can be changed by others",
        'run "chmod go-w {folder}"',
    ),
    "a shared folder such as /tmp": (
        lambda store: store.parent.chmod(0o1777),
        "cannot use the store {store}: {folder} can be changed by others",
        "use --store {home}/.local/share/skychimp/skychimp.db",
    ),
    "others can write to the store": (
        lambda store: store.chmod(0o666),
        "cannot use the store {store}: it can be changed by others",
        'run "chmod go-w {store}"',
    ),
    "a group can write to the folder": (
        give_to_a_group,
        "cannot use the store {store}: {folder} can be changed by its group",
        'run "chmod go-w {folder}"',
    ),
    "a store of another account": (
        lambda store: os.chown(store, NOBODY, NOBODY),
        "cannot use the store {store}: it belongs to nobody",
        'run "sudo -u nobody skychimp ..."',
    ),
    "a folder of another account": (
        lambda store: os.chown(store.parent, NOBODY, NOBODY),
        "cannot use the store {store}: {folder} belongs to nobody",
        'run "sudo -u nobody skychimp ..."',
    ),
    "an account without a name": (
        lambda store: os.chown(store.parent, 54321, 54321),
        "cannot use the store {store}: {folder} belongs to 54321",
        "run \"sudo -u '#54321' skychimp ...\"",
    ),
} | {
    f"a {suffix} of another account": (
        lambda store, suffix=suffix: make_foreign(store.with_name(store.name + suffix)),
        f"cannot use the store {{store}}: {{store}}{suffix} belongs to nobody",
        f'run "mv {{store}}{suffix} {{store}}{suffix}.old"',
    )
    for suffix in ("-wal", "-shm", "-journal")
} | {
    f"a {suffix} that is a link": (
        lambda store, suffix=suffix: store.with_name(store.name + suffix).symlink_to("/etc/hostname"),
        f"cannot use the store {{store}}: {{store}}{suffix} is a link",
        f'run "mv {{store}}{suffix} {{store}}{suffix}.old"',
    )
    for suffix in ("-wal", "-shm", "-journal")
}  # fmt: skip


def make_foreign(path: Path) -> None:
    path.write_bytes(b"planted")
    os.chown(path, NOBODY, NOBODY)


@pytest.fixture
def path(store: Store, tmp_path: Path) -> Iterator[Path]:
    """Return a closed store in a folder of its own."""
    store.close()
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    yield store.path.rename(folder / "skychimp.db")
    folder.chmod(0o700)


WAYS_IN = [
    ("stats",),
    ("run",),
    ("daemon",),
    ("clients", "list"),
    ("init", "--email", "eve@example.org"),
    ("backup", "copy", "--operator"),
    ("restore", "good.backup", "--operator", "--yes"),
    ("store", "check"),
    ("resolve", "--restored", "--operator"),
]


@needs_root
@pytest.mark.usefixtures("with_sudo")
@pytest.mark.parametrize(
    ("fault", "ways"),
    [
        ("others can write to the folder", WAYS_IN),
        *((fault, [WAYS_IN[number % len(WAYS_IN)]]) for number, fault in enumerate(FAULTS)),
        *(pytest.param(fault, WAYS_IN, marks=pytest.mark.slow) for fault in FAULTS),
    ],
)
def test_unsafe_place_is_refused_by_every_way_in(
    path: Path, tmp_path: Path, fault: str, ways: list[tuple[str, ...]]
) -> None:
    """Each fault is refused by one way in and by "doctor", and one fault by all of them."""
    make, message, hint = FAULTS[fault]
    shutil.copy(path, tmp_path / "good.backup")
    make(path)
    home = Home(tmp_path, SKYCHIMP_STORE=str(path))
    names = {"store": path, "folder": path.parent, "home": tmp_path}
    before = {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.is_symlink()}

    for arguments in ways:
        refused = home.call(*arguments)
        assert (refused.status, refused.out) == (3, ""), arguments
        assert refused.err == f"error: {message.format_map(names)}\nhint: {hint.format_map(names)}\n"
    found = home.call("doctor", "--json")
    assert found.status == 3
    store_finding = next(each for each in found.json["findings"] if each["about"] == "store")
    assert (store_finding["found"], store_finding["remedy"]) == (message.format_map(names), hint.format_map(names))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir() if not file.is_symlink()} == before


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """Return a folder of another account."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def test_log_that_another_account_put_beside_the_store_is_not_replayed(
    store: Store, ada: Actor, tmp_path: Path, foreign_folder: Path
) -> None:
    store.checkpoint()
    store.close()
    plant_log(store.path, foreign_folder)
    with pytest.raises(StoreNotReady, match="-wal belongs to nobody"):
        open_store(url(store.path))
    store.path.with_name("skychimp.db-wal").rename(tmp_path / "evidence")
    with closing(open_store(url(store.path))) as opened:
        assert [user.role for user in rows(opened, User)] == ["user"]


def test_planted_log_would_work_without_the_check(store: Store, ada: Actor, foreign_folder: Path) -> None:
    """The attack is a real one."""
    store.checkpoint()
    store.close()
    plant_log(store.path, foreign_folder)
    with closing(SqliteStore(store.path)) as opened:
        assert [user.role for user in rows(opened, User)] == ["admin"]


def test_log_beside_a_backup_is_not_replayed_unless_it_is_by_its_owner(
    store: Store, ada: Actor, tmp_path: Path, foreign_folder: Path
) -> None:
    """A backup may be in a folder that others can write to."""
    backup = tmp_path / "shared" / "today.backup"
    backup.parent.mkdir(mode=0o777)
    backups.backup(store, OPERATOR, backup)
    store.close()
    plant_log(backup, foreign_folder)
    with pytest.raises(StoreNotReady, match=r"today.backup-wal is not a regular file by the owner of today.backup"):
        backups.restore(url(store.path), OPERATOR, backup)
    backup.with_name("today.backup-wal").unlink()
    backups.restore(url(store.path), OPERATOR, backup)
    with closing(open_store(url(store.path))) as opened:
        assert [user.role for user in rows(opened, User)] == ["user"]


@needs_root
def test_nobody_can_put_a_log_beside_a_backup_that_is_being_written(store: Store, tmp_path: Path) -> None:
    """The copy is opened several times before it gets its name."""
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o777)
    seen: dict[str, int] = {}

    def look(_done: int, _total: int) -> None:
        seen.update({str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")})

    before = os.umask(0)
    try:
        backups.backup(store, OPERATOR, folder / "today.backup", look)
    finally:
        os.umask(before)
    (draft,) = [path for path in seen if "/" not in path]
    assert seen[draft] == 0o700
    assert seen[f"{draft}/draft"] == 0o600
    assert [path.name for path in folder.iterdir()] == ["today.backup"]


@needs_root
def test_restore_into_an_unsafe_place_is_refused(store: Store, tmp_path: Path) -> None:
    backups.backup(store, OPERATOR, tmp_path / "today.backup")
    store.close()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    home = Home(tmp_path, SKYCHIMP_STORE=str(shared / "skychimp.db"))
    for arguments in (("restore", "today.backup", "--operator"), ("init", "--email", "you@example.org")):
        refused = home.call(*arguments)
        assert (refused.status, os.listdir(shared)) == (3, [])
        assert f"{shared} can be changed by others" in refused.err


def test_completion_does_not_open_an_unsafe_store(store: Store, home: Home) -> None:
    home.call("clients", "create", "--email", "zoe@example.org")
    store.close()
    environ = {"COMP_WORDS": "skychimp\nclients\nshow\nz", "COMP_CWORD": "3", "_SKYCHIMP_COMPLETE": "complete_bash"}
    assert home.run(environ=environ).out.strip() == "zoe@example.org"
    store.path.parent.chmod(0o777)
    try:
        done = home.run(environ=environ)
    finally:
        store.path.parent.chmod(0o700)
    assert (done.status, done.out.strip(), done.err) == (0, "", "")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_nothing_waits_for_a_pipe(path: Path, tmp_path: Path, suffix: str) -> None:
    pipe = path.with_name(path.name + suffix)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    home = Home(tmp_path, SKYCHIMP_STORE=str(path))
    refused = home.call("stats")
    place, hint = (pipe, f'run "mv {pipe} {pipe}.old"') if suffix else ("it", "use another file with --store FILE")
    assert refused.err == f"error: cannot use the store {path}: {place} is not a regular file\nhint: {hint}\n"
    assert (refused.status, refused.out) == (3, "")
    words = {"COMP_WORDS": "skychimp\nblog\nshow\n", "COMP_CWORD": "3", "_SKYCHIMP_COMPLETE": "complete_bash"}
    done = home.call(environ=words)
    assert (done.status, done.out.strip(), done.err) == (0, "", "")


@pytest.mark.timeout(30)
def test_restore_does_not_wait_for_a_pipe_beside_the_backup(store: Store, tmp_path: Path) -> None:
    backups.backup(store, OPERATOR, tmp_path / "today.backup")
    store.close()
    os.mkfifo(tmp_path / "today.backup-journal")
    with pytest.raises(StoreNotReady, match=r"today.backup-journal is not a regular file"):
        backups.restore(url(store.path), OPERATOR, tmp_path / "today.backup")


@needs_root
def test_store_in_a_volume_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes gives a volume to a group (fsGroup). The group must stay able to write to it."""
    volume = tmp_path / "data"
    volume.mkdir()
    os.chown(volume, 0, 2000)
    volume.chmod(0o2775)
    monkeypatch.setattr(os, "geteuid", lambda: 77777)
    for can_write, expected in (
        (True, f"use --store {volume}/skychimp/skychimp.db"),
        (False, f"use --store {user_folder('data')}/skychimp.db"),
    ):
        monkeypatch.setattr(os, "access", lambda *_, can_write=can_write: can_write)
        with pytest.raises(StoreNotReady, match="can be changed by its group") as refused:
            check_place(volume / "skychimp.db")
        assert refused.value.hint == expected


def test_store_that_the_account_cannot_reach_is_one_line(path: Path) -> None:
    for arguments in (("stats",), ("init", "--email", "you@example.org")):
        done = run_as(MAIL, "-m", "skychimp", *arguments, env={"SKYCHIMP_STORE": str(path), "HOME": "/nonexistent"})
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith("error: cannot ")
        assert "Permission denied" in done.stderr
        assert len(done.stderr.splitlines()) <= 2


@needs_root
@pytest.mark.parametrize("mode", [0o755, 0o700, 0o711, 0o750, 0o2755])
def test_folder_that_others_cannot_change_is_used(path: Path, mode: int) -> None:
    path.parent.chmod(mode)
    open_store(url(path)).close()


FOLDERS = [
    (MAIL, MAIL, 0o2775, ""),  # a home with umask 002: nobody else is in the account's group
    (0, 0, 0o755, ""),
    (MAIL, 0, 0o755, ""),
    (MAIL, 100, 0o775, "can be changed by its group"),
    (NOBODY, NOBODY, 0o775, "belongs to nobody"),
    (0, 100, 0o775, "can be changed by its group"),
    (MAIL, MAIL, 0o777, "can be changed by others"),
]
"""The owner, group and mode of a folder, and why the account MAIL may have no store in it."""


@needs_root
def test_owner_may_be_root_and_the_accounts_own_group_may_write() -> None:
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in FOLDERS]
        for folder, (owner, group, mode, _) in zip(folders, FOLDERS, strict=True):
            os.chown(folder, owner, group)
            folder.chmod(mode)
        checked = run_as(MAIL, "-c", CHECK, *(folder / "skychimp.db" for folder in folders))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines() == [
        message and f"cannot use the store {folder}/skychimp.db: {folder} {message}"
        for folder, (*_, message) in zip(folders, FOLDERS, strict=True)
    ]


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/x.db"])
def test_no_command_changes_a_device(tmp_path: Path, place: str) -> None:
    done = Home(tmp_path).call("--store", place, "stats")
    fault = "it is not a regular file" if place == "/dev/null" else "/dev/null is not a folder"
    assert done.err == f"error: cannot use the store {place}: {fault}\nhint: use another file with --store FILE\n"
    assert done.status == 3


def test_data_folder_that_is_a_link_to_itself(tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/skychimp"
    folder.parent.mkdir(parents=True)
    folder.symlink_to("skychimp")
    done = Home(tmp_path).call("stats")
    assert (done.status, done.err.splitlines()[1:]) == (3, ["hint: use another file with --store FILE"])

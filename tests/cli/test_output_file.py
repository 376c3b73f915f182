"""Test the file that a user names for an export, a report or a backup, and folders of generated files."""

import errno
import json
import os
import resource
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ledger_rows
from support.accounts import MAIL, NOBODY, needs_root, run_as
from support.command import Home

from skychimp.permissions import Actor
from skychimp.services.clients import clients
from skychimp.store.database import Store

TEXT_COMMANDS = {"clients": "clients export FILE", "users": "users export FILE", "report": "report 1 --html FILE"}
COMMANDS = TEXT_COMMANDS | {"backup": "backup FILE"}
FULL = "/dev/full"

command_names = pytest.mark.parametrize("command", COMMANDS)
text_command_names = pytest.mark.parametrize("command", TEXT_COMMANDS)


def words(command: str, file: str | Path) -> list[str]:
    return [str(file) if word == "FILE" else word for word in COMMANDS[command].split()]


@pytest.fixture
def home(store: Store, home_of: Callable[[Actor], Home], admin: Actor) -> Home:
    """Return the command line of an administrator who has a client and a mailing."""
    clients.create(store, admin, email="zoe@example.org")
    ledger_rows.mailing(store, admin)
    return home_of(admin)


@contextmanager
def umask_of(umask: int) -> Iterator[None]:
    """Give this process another umask for a while."""
    before = os.umask(umask)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def full_disk() -> Iterator[None]:
    """Let this process write nothing more to any file for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def is_written(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 40


@command_names
@pytest.mark.parametrize("umask", [0, 0o077])
def test_new_file_is_private_whatever_the_umask(home: Home, command: str, umask: int) -> None:
    with umask_of(umask):
        done = home.call(*words(command, "out"))
    assert (done.status, os.listdir(home.folder)) == (0, ["out"]), done.err
    assert stat.S_IMODE((home.folder / "out").stat().st_mode) == 0o600


EXISTING: dict[str, Callable[[Path], object]] = {
    "a file": lambda path: path.write_text("precious"),
    "a link": lambda path: path.symlink_to("target"),
    "a broken link": lambda path: path.symlink_to("nowhere"),
    "a second name": lambda path: path.hardlink_to(path.with_name("target")),
}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        pytest.param(command, kind, marks=[] if command in ("clients", "backup") else pytest.mark.slow)
        for command in COMMANDS
        for kind in EXISTING
    ],
)
def test_existing_file_is_replaced_only_if_the_user_agrees(home: Home, command: str, kind: str) -> None:
    target, path = home.folder / "target", home.folder / "out"
    target.write_text("target")
    EXISTING[kind](path)
    before = path.lstat()
    shown = path if command == "backup" else path.name

    refused = home.call(*words(command, "out"))
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == f"error: refusing to replace {shown} without confirmation\nhint: pass --force\n"
    assert home.call("--no-input", *words(command, "out"), width=80).status == 2
    no = home.call(*words(command, "out"), width=80, stdin="n\n")
    assert (no.status, "? [y/N]" in no.err) == (1, True)
    assert (path.lstat().st_ino, path.lstat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    for answer in ("--force", "--yes", "-y"):
        assert home.call(*words(command, "out"), answer).status == 0
    assert is_written(path)
    assert target.read_text() == "target"
    assert not (home.folder / "nowhere").exists()


@command_names
def test_yes_on_a_terminal_replaces_the_file(home: Home, command: str) -> None:
    (home.folder / "out").write_text("old")
    done = home.on_terminal(*words(command, "out"), answers=[("? [y/N]", "y\n")])
    assert done.status == 0
    assert ("Replace out? [y/N]" if command != "backup" else "? [y/N]") in done.out
    assert is_written(home.folder / "out")


@text_command_names
@pytest.mark.parametrize("mode", [0o640, 0o666, 0o4755])
def test_replaced_file_of_ours_keeps_its_mode_without_special_bits(home: Home, command: str, mode: int) -> None:
    path = home.folder / "out"
    path.touch()
    path.chmod(mode)
    assert home.call(*words(command, "out"), "--force").status == 0
    assert stat.S_IMODE(path.stat().st_mode) == mode & 0o777


@needs_root
@command_names
def test_replaced_file_of_another_account_does_not_give_its_mode(home: Home, command: str) -> None:
    path = home.folder / "out"
    path.touch()
    path.chmod(0o666)
    os.chown(path, NOBODY, NOBODY)
    assert home.call(*words(command, "out"), "--force").status == 0
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o600, 0)


@pytest.mark.sqlite
@command_names
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
def test_store_is_never_replaced(home: Home, store: Store, command: str, suffix: str) -> None:
    path = store.path.with_name(store.path.name + suffix)
    path.touch()
    before = store.path.read_bytes()
    refused = home.call(*words(command, path), "--force")
    assert (refused.status, "belongs to the store itself" in refused.err) == (2, True)
    if suffix == "":
        other_name = home.folder / "other name"
        other_name.hardlink_to(path)
        assert home.call(*words(command, other_name), "--force").status == 2
    assert store.path.read_bytes() == before


@command_names
@pytest.mark.parametrize(
    ("name", "reason"), [("missing/out", "No such file or directory"), ("x" * 300, "File name too long")]
)
def test_file_that_cannot_be_written_is_one_line(home: Home, command: str, name: str, reason: str) -> None:
    done = home.call(*words(command, name))
    assert done.status in ((1, 2) if command == "backup" else (2,))
    assert done.err.startswith("error: cannot write ")
    assert f"{name}: {reason}\nhint: " in done.err
    assert done.err.count("\n") == 2


@text_command_names
def test_mount_point_has_a_hint_that_works(home: Home, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container mounts a single file so that it can be written, but not be replaced."""
    (home.folder / "out").write_text("old")

    def rename(*_: object, **__: object) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(os, "rename", rename)
    done = home.call(*words(command, "out"), "--force")
    assert (done.status, done.err) == (
        2, "error: cannot replace out: it is a mount point\nhint: use - and redirect the output\n",
    )  # fmt: skip
    assert len(home.call(*words(command, "-")).out) > 40


@command_names
@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)])
def test_folder_and_socket_are_not_files(home: Home, command: str, make: Callable[[Path], object]) -> None:
    make(home.folder / "out")
    done = home.call(*words(command, "out"), "--force")
    assert (done.status, done.err.splitlines()[0].endswith("not a file")) == (2, True)


@text_command_names
def test_full_disk_is_one_line_and_keeps_the_old_file(home: Home, command: str) -> None:
    done = home.call(*words(command, FULL))
    assert (done.status, done.err.splitlines()[0]) == (2, f"error: cannot write {FULL}: No space left on device")
    (home.folder / "out").write_text("old")
    with full_disk():
        small = home.call(*words(command, "out"), "--force")
    assert (small.status, small.err.count("\n")) == (2, 2), small.err
    assert "File too large" in small.err
    assert os.listdir(home.folder) == ["out"]
    assert (home.folder / "out").read_text() == "old"


# Devices and pipes


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("clients", "/dev/stdout"),
        pytest.param("users", "/dev/fd/1", marks=pytest.mark.slow),
        pytest.param("report", "/proc/self/fd/1", marks=pytest.mark.slow),
    ],
)
def test_stdout_by_its_name_is_written_directly(home: Home, command: str, name: str) -> None:
    piped = home.run(*words(command, name))
    assert (piped.status, len(piped.out) > 40) == (0, True)
    with (home.folder / "log").open("a") as log:
        log.write("before\n")
        log.flush()
        inode = os.fstat(log.fileno()).st_ino
        home.run(*words(command, name), stdout=log)
    assert (home.folder / "log").read_text().startswith("before\n")
    assert (home.folder / "log").stat().st_ino == inode
    assert len((home.folder / "log").read_text()) > 40


@text_command_names
def test_pipe_with_a_name_and_a_process_substitution_are_written(home: Home, command: str) -> None:
    os.mkfifo(home.folder / "pipe")
    with subprocess.Popen(["cat", "pipe"], stdout=subprocess.PIPE, cwd=home.folder) as reader:
        assert home.call(*words(command, "pipe")).status == 0
        assert len(reader.communicate()[0]) > 40
    assert stat.S_ISFIFO((home.folder / "pipe").stat().st_mode)
    reading, writing = os.pipe()  # as a shell makes one for >(cat)
    with subprocess.Popen(["cat"], stdin=reading, stdout=subprocess.PIPE) as reader:
        os.close(reading)
        assert home.call(*words(command, f"/dev/fd/{writing}")).status == 0
        os.close(writing)
        assert len(reader.communicate()[0]) > 40


@needs_root
@text_command_names
def test_pipe_of_another_account_gets_nothing(home: Home, command: str) -> None:
    """Such a pipe can wait in a shared folder for an export."""
    os.mkfifo(home.folder / "pipe", 0o666)
    os.chown(home.folder / "pipe", NOBODY, NOBODY)
    refused = home.call(*words(command, "pipe"), "--force")
    assert (refused.status, "cannot write pipe: it belongs to nobody" in refused.err) == (2, True)


FORK_EACH_COMMAND = """
import json, os, sys
import skychimp.cli.registry, skychimp.services.accounts.sessions, skychimp.services.clients.clients
import skychimp.services.reporting.reports, skychimp.services.users.users, skychimp.store.schema
import sqlalchemy.dialects.sqlite
from skychimp.cli.main import main
statuses = []
for arguments in json.load(sys.stdin):
    child = os.fork()
    if not child:
        sys.argv[1:] = arguments
        try:
            main()
        except SystemExit as leaving:
            os._exit(leaving.code)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
json.dump(statuses, sys.stderr)
"""
"""A program that starts each command with the standard streams only, and without the time for imports."""


@pytest.mark.slow
@pytest.mark.sqlite
def test_our_own_open_store_is_not_written(home: Home, store: Store) -> None:
    """Whatever number it has."""
    before = store.path.read_bytes()
    commands = [[*words(name, f"/dev/fd/{number}"), "--force"] for name in TEXT_COMMANDS for number in range(3, 20)]
    done = subprocess.run(
        [sys.executable, "-c", FORK_EACH_COMMAND],
        env=home.environ, cwd=home.folder, input=json.dumps(commands), capture_output=True, text=True, check=True,
    )  # fmt: skip
    statuses = json.loads(done.stderr.splitlines()[-1])
    assert len(statuses) == len(commands)
    assert set(statuses) <= {0, 2}, done.stderr
    assert store.path.read_bytes()[:100] == before[:100]
    assert home.call("store", "check").status == 0


# Folders of generated files

GENERATED = {"man pages": ("help", "--man", "made"), "units": ("service", "systemd", "--dir", "made")}
generated = pytest.mark.parametrize("kind", GENERATED)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@generated
def test_our_own_files_are_replaced_silently(home: Home, kind: str) -> None:
    (home.folder / "made").mkdir()
    assert home.call(*GENERATED[kind]).status == 0
    written = contents(home.folder / "made")
    assert home.call(*GENERATED[kind]).status == 0
    changed = home.call(*GENERATED[kind], environ={"SKYCHIMP_SMTP__DOT_TIMEOUT": "20m"})
    assert (changed.status, changed.err.count("refusing")) == (0, 0)
    assert (contents(home.folder / "made") != written) == (kind == "units")


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("man pages", "edited"),
        pytest.param("man pages", "a link", marks=pytest.mark.slow),
        pytest.param("man pages", "another file", marks=pytest.mark.slow),
        *(("units", how) for how in ("edited", "a link", "another file")),
    ],
)
def test_files_that_are_not_ours_are_replaced_only_if_the_user_agrees(home: Home, kind: str, how: str) -> None:
    folder, precious = home.folder / "made", home.folder / "precious"
    folder.mkdir()
    home.call(*GENERATED[kind])
    precious.write_text("precious")
    name = min(contents(folder))
    if how == "edited":
        (folder / name).write_text((folder / name).read_text() + "# by me\n")
    else:
        (folder / name).unlink()
        (folder / name).symlink_to(precious) if how == "a link" else (folder / name).write_text("precious")
    before = contents(folder)

    refused = home.call(*GENERATED[kind])
    assert (refused.status, contents(folder)) == (2, before)
    assert refused.err.endswith(f"error: refusing to replace {name} in made without confirmation\nhint: pass --force\n")
    no = home.call(*GENERATED[kind], width=80, stdin="n\n")
    assert (no.status, "[y/N]" in no.err) == (1, True)
    assert contents(folder) == before
    assert home.call(*GENERATED[kind], "--force").status == 0
    assert contents(folder)[name] not in (before[name], b"precious")
    assert not (folder / name).is_symlink()
    assert precious.read_text() == "precious"


@generated
@pytest.mark.parametrize(("umask", "mode"), [(0, 0o644), (0o022, 0o644), (0o077, 0o600)])
def test_others_may_read_generated_files_but_never_write_them(home: Home, kind: str, umask: int, mode: int) -> None:
    if kind == "units":
        (home.folder / "made").mkdir()
    with umask_of(umask):
        assert home.call(*GENERATED[kind]).status == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home.folder / "made").iterdir()} == {mode}
    assert not (home.folder / "made").stat().st_mode & 0o022


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """Return a folder that the account "mail" cannot write to."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@needs_root
@generated
def test_read_only_folder_is_one_line(read_only_folder: Path, kind: str) -> None:
    store = {"SKYCHIMP_STORE": "/nowhere/skychimp.db", "HOME": "/nowhere"}
    arguments = [*GENERATED[kind][:-1], str(read_only_folder)]
    done = run_as(MAIL, "-m", "skychimp", *arguments, env=store)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: cannot write to {read_only_folder}: Permission denied\nhint: ")

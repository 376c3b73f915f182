"""Files are written completely or not at all, and are opened without following links or waiting."""

import errno
import grp
import itertools
import os
import pwd
import shutil
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.accounts import NOBODY, needs_root

from skychimp import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_file_is_complete_and_private(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    old_mask = os.umask(0)
    try:
        files.write_file(path, b"first")
        files.write_file(path, b"second")
    finally:
        os.umask(old_mask)

    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["report.html"]


def test_existing_file_is_kept_if_it_may_not_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"first")

    with pytest.raises(FileExistsError):
        files.write_file(path, b"second", replace=False)

    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["report.html"])


def test_failed_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_bytes(b"first")

    with pytest.raises(ZeroDivisionError), files.new_file(path) as file:  # noqa: PT012
        file.write(b"second")
        raise ZeroDivisionError

    assert (path.read_bytes(), names(tmp_path)) == (b"first", ["report.html"])


def test_file_has_no_name_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)  # the longest name that most file systems allow

    with files.new_file(path) as file:
        file.write(b"data")
        assert not path.exists()

    assert names(tmp_path) == [path.name]


def test_temporary_file_is_removed_with_sqlites_files(tmp_path: Path) -> None:
    with files.temporary_file(tmp_path / "draft") as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).touch()

    assert names(tmp_path) == []


NOT_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link": lambda path: path.symlink_to("/etc/hostname"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", NOT_FILES)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    NOT_FILES[kind](tmp_path / "file")

    with pytest.raises(OSError, match=r"file"):
        files.open_file(tmp_path / "file")


def test_regular_file_is_opened_by_name_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    folder = os.open(tmp_path, os.O_RDONLY)
    descriptor = files.open_file("file", dir_fd=folder)

    assert os.read(descriptor, 10) == b"data"
    os.close(descriptor)
    os.close(folder)


@pytest.mark.parametrize(("mode", "expected"), [(0o600, True), (0o640, False), (0o604, False), (0o700, True)])
def test_private_file_gives_others_no_permission(tmp_path: Path, mode: int, expected: bool) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    descriptor = os.open(path, os.O_RDONLY)

    assert files.is_private(descriptor) == expected
    assert files.is_private(descriptor, forbidden=0o022)
    os.close(descriptor)


def test_file_of_another_user_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.touch(mode=0o600)
    descriptor = os.open(path, os.O_RDONLY)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)

    assert not files.is_private(descriptor)
    os.close(descriptor)


# Places that nobody else may change

Make = Callable[[Path], object]


def write(path: Path, *, mode: int = 0o600, owner: int = -1, group: int = -1) -> None:
    path.write_bytes(b"data")
    os.chown(path, owner, group)
    path.chmod(mode)


def link(path: Path, *, owner: int = -1) -> None:
    write(path.with_name("real"), owner=owner)
    path.symlink_to("real")


def link_through_folders(path: Path) -> None:
    folder = path.with_name("folder")
    folder.mkdir()
    link(folder / "link")
    path.with_name("folder link").symlink_to("folder")
    path.symlink_to("folder link/link")


def link_in_a_shared_folder(path: Path) -> None:
    write(path.parent.parent / "real")
    path.symlink_to("../real")
    path.parent.chmod(0o1777)


def write_in_folder(path: Path, *, mode: int = 0o700, owner: int = -1) -> None:
    """Write a file, and then change its folder."""
    write(path)
    path.parent.chmod(mode)
    os.chown(path.parent, owner, -1)


SAFE: dict[str, Make] = {
    "a private file": write,
    "a file that others can read": lambda path: write(path, mode=0o644),
    "a read-only file": lambda path: write(path, mode=0o400),
    "an executable": lambda path: write(path, mode=0o755),
    "a link": link,
    "a link to a link in a folder that is a link": link_through_folders,
    "a link in a folder that others can write to": link_in_a_shared_folder,
    "the largest file": lambda path: path.write_bytes(b"x" * 10),
    "an empty file": Path.touch,
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the path of a file in a folder of its own."""
    (tmp_path / "place").mkdir(mode=0o700)
    return tmp_path / "place/file"


@pytest.mark.parametrize("kind", SAFE)
def test_file_in_a_safe_place_is_read(place: Path, kind: str) -> None:
    SAFE[kind](place)
    assert files.read_checked(place, max_bytes=10) == place.read_bytes()


UNSAFE: dict[str, tuple[Make, str, str]] = {
    "others can write": (
        lambda path: write(path, mode=0o602), "it can be changed by others", 'run "chmod go-w {path}"',
    ),
    "a shared group can write": (
        lambda path: write(path, mode=0o620, group=NOBODY), "it can be changed by its group",
        'run "chmod go-w {path}"',
    ),
    "a group without a name can write": (
        lambda path: write(path, mode=0o620, group=54321), "it can be changed by its group",
        'run "chmod go-w {path}"',
    ),
    "an empty group can write": (
        lambda path: write(path, mode=0o620, group=grp.getgrnam("tape").gr_gid),
        "it can be changed by its group", 'run "chmod go-w {path}"',
    ),
    "another account's": (
        lambda path: write(path, owner=NOBODY), "it belongs to nobody",
        'run "sudo -u nobody skychimp ...", or check what is in it, then run "chown root {path}"',
    ),
    "of an account without a name": (
        lambda path: write(path, owner=54321), "it belongs to 54321",
        "run \"sudo -u '#54321' skychimp ...\", or check what is in it, then run \"chown root {path}\"",
    ),
    "others can write to the folder": (
        lambda path: write_in_folder(path, mode=0o777), "it can be changed by others",
        'run "chmod go-w {folder}"',
    ),
    "a folder like /tmp": (
        lambda path: write_in_folder(path, mode=0o1777), "it can be changed by others",
        "use a folder that only you can write to",
    ),
    "another account's folder": (
        lambda path: write_in_folder(path, owner=NOBODY), "it belongs to nobody",
        'run "sudo -u nobody skychimp ..."',
    ),
    "a link to an unsafe file": (
        lambda path: link(path, owner=NOBODY), "it belongs to nobody",
        'run "sudo -u nobody skychimp ...", or check what is in it, then run "chown root {folder}/real"',
    ),
}  # fmt: skip


@needs_root
@pytest.mark.usefixtures("with_sudo")
@pytest.mark.parametrize("kind", UNSAFE)
def test_file_in_an_unsafe_place_is_not_read(place: Path, kind: str) -> None:
    make, reason, remedy = UNSAFE[kind]
    make(place)
    with pytest.raises(files.UnsafePlace) as caught:
        files.read_checked(place, max_bytes=10)
    assert caught.value.strerror == reason
    assert caught.value.remedy == remedy.format(path=place, folder=place.parent)


@needs_root
@pytest.mark.usefixtures("with_sudo")
def test_command_that_is_shown_fixes_the_place(place: Path) -> None:
    place = place.with_name("it's $(touch x) a file")
    for file_mode, owner, folder_mode in ((0o666, NOBODY, 0o700), (0o600, 0, 0o733)):
        write(place, mode=file_mode, owner=owner)
        place.parent.chmod(folder_mode)
        for _ in range(2):
            try:
                files.read_checked(place, max_bytes=10)
            except files.UnsafePlace as error:
                command = error.remedy.rpartition('run "')[2].removesuffix('"')
                subprocess.run(command, shell=True, check=True, cwd=place.parent)
    assert files.read_checked(place, max_bytes=10) == b"data"
    assert names(place.parent) == [place.name]


OURS = 77777
"""The number of the account whose hints and groups are checked, which need not exist here."""


def status_of(*, owner: int = OURS, group: int = OURS, mode: int = stat.S_IFREG | 0o660) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, owner, group, 0, 0, 0, 0))


@pytest.mark.parametrize("uid", [0, OURS])
def test_folder_that_others_need_is_not_changed_by_a_hint(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Such as another account's home, or the volume of a container, which root has given to a group."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/sudo")
    places = [status_of(owner=54321, mode=stat.S_IFDIR | 0o700)]
    if uid:
        places.append(status_of(owner=0, group=2000, mode=stat.S_IFDIR | 0o2775))
    for status in places:
        with pytest.raises(files.UnsafePlace) as caught:
            files.check_status(status, "/data")
        hints = ("run \"sudo -u '#54321' skychimp ...\"", "use a folder that only you can write to")
        assert caught.value.remedy in hints


@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR])
def test_root_without_sudo_is_told_to_run_as_the_owner(monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    """As in a container with a file of the host: chown would take it away from its owner there."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(files.UnsafePlace) as caught:
        files.check_status(status_of(owner=54321, mode=kind | 0o400), "/run/secrets/smtp")
    assert caught.value.remedy == "run Skychimp as the account 54321 (in a container, set its user to 54321)"


ADA, BOB, SHARED = "ada", "bob", 100
GROUPS: dict[str, tuple[int | None, int, tuple[str, list[str]] | None, bool]] = {
    "her own": (OURS, OURS, (ADA, []), True),
    "her own, with another number": (2001, 2001, (ADA, []), True),
    "her own, which lists her": (OURS, OURS, (ADA, [ADA]), True),
    "her own, with another member": (OURS, OURS, (ADA, [ADA, BOB]), False),
    "shared by all, and only she is listed": (SHARED, SHARED, ("staff", [ADA]), False),
    "shared by all, and nobody is listed": (SHARED, SHARED, ("staff", []), False),
    "with her name, but not her primary group": (SHARED, OURS, (ADA, []), False),
    "in a container without her name": (None, OURS, None, True),
    "of root in a container without her name": (None, 0, ("root", []), False),
    "without a name": (OURS, 54321, None, False),
}
"""The primary group of Ada, None if she has no name, the group of a file, its name and members, and if it is hers."""


@pytest.mark.parametrize("kind", GROUPS)
def test_private_group(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Accounts are never listed: a directory such as LDAP has many, or does not list them."""
    primary, group, entry, is_private = GROUPS[kind]

    def getpwuid(uid: int) -> pwd.struct_passwd:
        assert uid == OURS
        if primary is None:
            raise KeyError(uid)
        return pwd.struct_passwd((ADA, "x", OURS, primary, "", "/", "/bin/sh"))

    def getgrgid(gid: int) -> grp.struct_group:
        if entry is None:
            raise KeyError(gid)
        return grp.struct_group((entry[0], "x", gid, entry[1]))

    monkeypatch.setattr(os, "geteuid", lambda: OURS)
    monkeypatch.setattr(os, "getegid", lambda: OURS)
    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(grp, "getgrgid", getgrgid)
    monkeypatch.delattr(pwd, "getpwall")
    if is_private:
        files.check_status(status_of(group=group), "/file")
    else:
        with pytest.raises(files.UnsafePlace, match="/file can be changed by its group"):
            files.check_status(status_of(group=group), "/file")
    assert files.can_others_read(status_of(group=group), "/file") != is_private


@pytest.mark.parametrize("kind", NOT_FILES)
def test_only_a_regular_file_is_read(place: Path, kind: str) -> None:
    if kind == "a link":
        place.symlink_to("/dev/zero")
    else:
        NOT_FILES[kind](place)
    with pytest.raises(OSError, match=r"not a regular file|No such file"):
        files.read_checked(place, max_bytes=10)


def test_pipe_without_a_name_is_not_read() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="not a regular file"):
        files.read_checked(f"/dev/fd/{reader}", max_bytes=10)
    os.close(reader)
    os.close(writer)


def test_too_large_file_is_not_read(place: Path) -> None:
    place.write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        files.read_checked(place, max_bytes=10)
    os.truncate(place, 10**12)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        files.read_checked(place, max_bytes=10)


@needs_root
def test_access_list_that_lets_another_account_write(place: Path) -> None:
    """The mode then shows the list's mask as the permissions of the group."""
    write(place, mode=0o660)
    assert files.read_checked(place, max_bytes=10) == b"data"
    entries = ((0x01, 6, -1), (0x02, 6, NOBODY), (0x04, 6, -1), (0x10, 6, -1), (0x20, 0, -1))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    try:
        os.setxattr(place, "system.posix_acl_access", acl)
    except OSError as error:
        pytest.skip(f"this file system has no access lists: {error.strerror}")
    with pytest.raises(files.UnsafePlace, match="can be changed by its group"):
        files.read_checked(place, max_bytes=10)


def test_swap_of_a_link_is_never_read_half(place: Path) -> None:
    """As Kubernetes changes a secret: the link gets another folder, and the old one is removed."""
    stop = threading.Event()

    def swap() -> None:
        for number in itertools.count(1):
            folder = place.with_name(f"..{number}")
            folder.mkdir()
            (folder / "file").write_bytes(b"data")
            place.with_name("new").symlink_to(folder.name)
            old = os.readlink(data) if data.is_symlink() else None
            place.with_name("new").rename(data)
            if old is not None:
                time.sleep(0.005)
                shutil.rmtree(place.with_name(old))
            if stop.is_set():
                return

    data = place.with_name("..data")
    place.symlink_to("..data/file")
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        while not data.exists():
            time.sleep(0.001)
        for _ in range(300):
            assert files.read_checked(place, max_bytes=10) == b"data"
    finally:
        stop.set()
        thread.join()


# Temporary files


def test_temporary_file_is_in_a_private_folder(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        with files.temporary_file(tmp_path / "draft") as path:
            assert path.parent == tmp_path / "draft"
            assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]
    finally:
        os.umask(old_mask)


def test_umask_never_takes_our_own_permissions(tmp_path: Path) -> None:
    umask = os.umask(0o777)
    try:
        with files.temporary_file(tmp_path / "draft") as path:
            modes = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)]
        files.write_file(tmp_path / "config", b"")
    finally:
        os.umask(umask)
    assert modes == [0o700, 0o600]
    assert stat.S_IMODE((tmp_path / "config").stat().st_mode) == 0o600


def test_published_temporary_file_stays(tmp_path: Path) -> None:
    with files.temporary_file(tmp_path / "draft") as path:
        path.write_bytes(b"data")
        files.publish(path, tmp_path / "store")
    assert names(tmp_path) == ["store"]
    assert (tmp_path / "store").stat().st_nlink == 1


def test_only_old_temporary_files_are_removed(tmp_path: Path) -> None:
    for name, age_s in (("old", 100), ("young", 10), ("foreign", 100)):
        (tmp_path / name).mkdir(mode=0o700)
        (tmp_path / name / "draft").touch()
        now = (tmp_path / name).stat().st_mtime
        os.utime(tmp_path / name / "draft", (now - age_s, now - age_s))
    (tmp_path / "foreign" / "draft").rename(tmp_path / "foreign" / "precious")
    (tmp_path / "link").symlink_to("old")
    for name in ("link", "foreign"):
        with pytest.raises(OSError, match=r"is a link|not empty"):
            files.remove_temporary(tmp_path / name)
    for name in ("old", "young", "missing"):
        files.remove_temporary(tmp_path / name)
    assert names(tmp_path) == ["foreign", "link", "young"]
    assert names(tmp_path / "foreign") == ["precious"]


@pytest.mark.parametrize(("age_s", "is_kept"), [(3_600, True), (2 * 86_400, False)])
def test_temporary_file_of_a_living_process_is_kept_for_a_day(tmp_path: Path, age_s: int, is_kept: bool) -> None:
    with files.temporary_file(tmp_path / "draft") as path:
        at = path.stat().st_mtime - age_s
        os.utime(path, (at, at))
        files.remove_temporary(tmp_path / "draft")
        assert path.exists() is is_kept


# File systems


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """FAT on a USB stick answers like this."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    files.write_file(tmp_path / "file", b"first", replace=False)
    for existing in (tmp_path / "file", tmp_path / "link"):
        if existing.name == "link":
            existing.symlink_to("nowhere")
        with pytest.raises(FileExistsError):
            files.write_file(existing, b"second", replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names(tmp_path) == ["file", "link"]


@pytest.mark.parametrize("character", ["x", "é", "吳", "😀"])
def test_longest_name_in_any_script_is_written(tmp_path: Path, character: str) -> None:
    path = tmp_path / (character * (255 // len(character.encode())))
    files.write_file(path, b"data")
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_folder_and_those_above_are_ours_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    old_mask = os.umask(umask)
    try:
        files.make_folder(tmp_path / "a" / "b" / "c")
        files.make_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(old_mask)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")} == {0o700}


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("precious")
    files.write_file(tmp_path / "link", b"data")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_file_is_written_into_an_open_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    with files.open_folder(tmp_path / "folder") as folder:
        (tmp_path / "folder").rename(tmp_path / "moved")
        (tmp_path / "folder").symlink_to("/nowhere")
        files.write_file(Path("file"), b"data", dir_fd=folder)
    assert (tmp_path / "moved/file").read_bytes() == b"data"
    with pytest.raises(files.UnsafePlace, match="is a link"), files.open_folder(tmp_path / "folder"):
        pass


def test_temporary_file_on_a_file_system_that_shows_other_modes(tmp_path: Path) -> None:
    """NTFS shows 0777."""
    with files.temporary_file(tmp_path / "draft") as path:
        path.parent.chmod(0o777)
    assert names(tmp_path) == []

"""Files are written completely or not at all, and are opened without following links or waiting."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

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

"""Test the file that a user names for an export or a report."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from skychimp.cli.output_file import open_output_file
from skychimp.errors import InvalidValue


def write(path: Path) -> None:
    with open_output_file(str(path)) as opened:
        opened.write("Zoë\n")


def test_new_file_is_private_and_utf8(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    write(path)
    assert path.read_bytes() == "Zoë\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_target_of_a_link_is_replaced_and_keeps_its_mode(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target.name)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "Zoë\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("old")

    def write_and_fail() -> None:
        with open_output_file(str(path)) as opened:
            opened.write("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("redirect", [subprocess.PIPE, subprocess.DEVNULL])
def test_dev_stdout_is_written_directly(redirect: int) -> None:
    code = "from skychimp.cli.output_file import open_output_file as o\nwith o('/dev/stdout') as f: f.write('text')"
    done = subprocess.run([sys.executable, "-c", code], stdout=redirect, check=True)
    assert done.stdout in (b"text", None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing/export.csv", "No such file or directory"), (".", "Is a directory"), ("x" * 300, "File name too long")],
)
def test_file_that_cannot_be_written_is_an_invalid_value(tmp_path: Path, name: str, reason: str) -> None:
    path = os.path.join(tmp_path, name)
    with pytest.raises(InvalidValue) as refused, open_output_file(path):
        pass
    assert refused.value.message == f"cannot write {path}: {reason}"

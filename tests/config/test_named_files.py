"""Files that a user names: whoever runs a shared installation with sudo must be able to read them without it."""

import json
import os
import random
import stat
import tempfile
from pathlib import Path

import pytest
from support.accounts import NOBODY, needs_root, run_as

from skychimp.config import named_files

ADA, EVE, STAFF = 1001, 1002, 50


def status(mode: int, uid: int = 0, gid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))


OPEN = status(stat.S_IFDIR | 0o755)


@pytest.mark.parametrize(
    ("file", "folders", "expected"),
    [
        (status(0o644), [OPEN], True),
        (status(0o640), [OPEN], False),
        (status(0o600, ADA), [OPEN], True),
        (status(0o600, EVE), [OPEN], False),
        (status(0o040, EVE, STAFF), [OPEN], True),
        (status(0o604, EVE, STAFF), [OPEN], False),  # the group's permissions count, not those of others
        (status(0o044, ADA), [OPEN], False),  # the owner's count
        (status(0o644), [OPEN, status(0o700), OPEN], False),
        (status(0o644), [OPEN, status(0o711), OPEN], True),
        (status(0o644), [OPEN, status(0o744), OPEN], False),
        (status(0o644), [status(0o700, ADA)], True),
        (status(0o644), [status(0o070, EVE, STAFF)], True),
    ],
)
def test_who_can_read(file: os.stat_result, folders: list[os.stat_result], expected: bool) -> None:
    assert named_files.can_read(ADA, [STAFF], file, folders) == expected


def test_root_can_read_anything() -> None:
    assert named_files.can_read(0, [], status(0o000, ADA), [status(0o000)])


TRY_TO_READ = """
import json, sys
from pathlib import Path

def can_read(path):
    try:
        return bool(Path(path).open())
    except OSError:
        return False

json.dump([path for path in json.load(sys.stdin) if can_read(path)], sys.stdout)
"""


@needs_root
def test_the_kernel_agrees() -> None:
    """300 files with random modes, owners and groups, in folders with such."""
    chance = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        top.chmod(0o755)
        paths = [top / f"{number}/folder/file" for number in range(300)]
        for path in paths:
            path.parent.mkdir(parents=True)
            path.touch()
            for each in (path, path.parent, path.parent.parent):
                os.chown(each, chance.choice((0, NOBODY, NOBODY)), chance.choice((0, NOBODY)))
                each.chmod(chance.choice((0o777, 0o755, 0o711, 0o644, 0o750, 0o070, 0o007, chance.randrange(0o1000))))
        done = run_as(NOBODY, "-c", TRY_TO_READ, input=json.dumps([str(path) for path in paths]))
        assert done.returncode == 0, done.stderr
        expected = set(json.loads(done.stdout))
        assert 30 < len(expected) < 270
        for path in paths:
            folders = [folder.stat() for folder in path.parents]
            assert named_files.can_read(NOBODY, [NOBODY], path.stat(), folders) == (str(path) in expected), path


def test_without_sudo_every_file_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    (tmp_path / "link").symlink_to("a")
    with named_files.open_input_file(tmp_path / "link") as file:
        assert file.read() == b"content"

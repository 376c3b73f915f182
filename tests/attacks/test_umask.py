"""Test that nobody else gets access to what any command creates, whatever the umask is."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from support.argon import fast_argon2  # noqa: F401
from support.command import Home

pytestmark = pytest.mark.usefixtures("fast_argon2")

STEPS = """
init --email you@example.org
login --email you@example.org
clients create --email zoe@example.org
messages create --subject Hello --body text
mailings create --message 1 --start now --every once --all-clients
run
stats
report 1
blog create --title T --body B --image picture.png --publish
blog show 1
register --email eve@example.org
messages test 1 --to you@example.org
backup --operator copies/today.backup
restore --operator --yes copies/today.backup
resolve --operator --restored
clients export people.csv
users export mine.json
report 1 --html page.html
logout
help --man man
doctor
"""


def modes(folder: Path) -> dict[str, int]:
    """Return the mode of each file and folder, by its path."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give this process the umask of the parameter."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize(
    "umask",
    [0, pytest.param(0o002, marks=pytest.mark.slow), pytest.param(0o022, marks=pytest.mark.slow), 0o077],
    indirect=True,
)
@pytest.mark.usefixtures("umask")
def test_everything_that_is_created_is_private(tmp_path: Path) -> None:
    home = Home(
        tmp_path,
        SKYCHIMP_PASSWORD="a long pass phrase",
        SKYCHIMP_MAIL__SENDER="You <you@example.org>",
    )
    Image.new("RGB", (4, 4)).save(tmp_path / "picture.png")
    (tmp_path / "copies").mkdir()
    before = set(modes(tmp_path))
    for step in STEPS.strip().splitlines():
        done = home.call(*step.split())
        assert done.status == 0 or step in ("doctor", "run"), (step, done.err)
    made = {path: mode for path, mode in modes(tmp_path).items() if path not in before and not path.startswith("man")}
    assert {mode for path, mode in made.items() if (tmp_path / path).is_dir()} == {0o700}, made
    assert {mode for path, mode in made.items() if (tmp_path / path).is_file()} == {0o600}, made
    for expected in (
        ".config/skychimp/skychimp.toml",
        ".local/share/skychimp/outbox/new",
        ".local/share/skychimp/skychimp.db.images",
        ".local/state/skychimp/sessions",
        ".cache/skychimp",
    ):
        assert expected in made, sorted(made)


@pytest.mark.parametrize("umask", [0, 0o077], indirect=True)
def test_site_is_never_writable_by_others(tmp_path: Path, umask: int) -> None:
    home = Home(tmp_path, SKYCHIMP_PASSWORD="a long pass phrase")
    for step in ("init --email you@example.org", "blog create --title T --body B --publish", "blog build public/site"):
        done = home.call(*step.split())
        assert done.status == 0, (step, done.err)
    made = modes(tmp_path / "public")
    assert made
    assert not [path for path, mode in made.items() if mode & (0o077 if umask else 0o022)]
    assert os.stat(tmp_path / "public").st_mode & 0o022 == 0

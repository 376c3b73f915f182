"""The session file: what is kept is given back, and what is not one's own alone is refused."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from skychimp.cli import saved_session
from skychimp.errors import ConfigError, NotLoggedIn, SkychimpError

URL = "sqlite:////a/skychimp.db"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def kept(tmp_path: Path) -> Path:
    """The file of a session that was just kept."""
    saved_session.write(URL, "token")
    (path,) = (tmp_path / "state/skychimp/sessions").iterdir()
    return path


def test_what_is_kept_is_given_back() -> None:
    assert saved_session.read(URL) is None
    saved_session.write(URL, "one")
    saved_session.write(URL, "two")
    saved_session.write("sqlite:////b/\udcff.db", "three")
    assert [saved_session.read(URL), saved_session.read("sqlite:////b/\udcff.db")] == ["two", "three"]


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = kept(tmp_path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def loose(path: Path) -> None:
    path.chmod(0o640)


def linked(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def foreign(path: Path) -> None:
    os.chown(path, 12345, 12345)


GIVEN_AWAY = pytest.param(foreign, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give away"))


def refused(path: Path, call: Callable[[], object], error: type[SkychimpError] = NotLoggedIn) -> None:
    with pytest.raises(error) as caught:
        call()
    assert str(path) in caught.value.message
    assert caught.value.hint == "remove it, then log in again"


@pytest.mark.parametrize("spoil", [loose, linked, a_pipe, a_folder, GIVEN_AWAY])
def test_what_is_not_ones_own_alone_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = kept(tmp_path)
    spoil(path)
    refused(path, lambda: saved_session.read(URL))


@pytest.mark.parametrize("spoil", [loose, linked, GIVEN_AWAY])
def test_a_folder_that_is_not_ones_own_alone_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Whoever can write it could put another session in the place of one's own."""
    folder = kept(tmp_path).parent
    spoil(folder)
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    refused(folder, lambda: saved_session.read(URL))
    refused(folder, lambda: saved_session.write(URL, "another"), ConfigError)
    refused(folder, lambda: saved_session.remove(URL))
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_what_is_removed_is_gone(tmp_path: Path) -> None:
    saved_session.remove(URL)
    path = kept(tmp_path)
    saved_session.write("sqlite:////b.db", "another")
    saved_session.remove(URL)
    saved_session.remove(URL)
    assert saved_session.read(URL) is None
    assert saved_session.read("sqlite:////b.db") == "another"
    other = tmp_path / "other"
    other.write_text("precious")
    path.symlink_to(other)
    saved_session.remove(URL)
    assert not os.path.lexists(path)
    assert other.exists()


def test_it_is_whole_or_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full, or a kill, before the new one has its name."""
    path = kept(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        saved_session.write(URL, "another")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert saved_session.read(URL) == "token"
    saved_session.write(URL, "another")  # what was left half done is no obstacle
    assert saved_session.read(URL) == "another"
    assert list(path.parent.iterdir()) == [path]


def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    path, other = kept(tmp_path), tmp_path / "other"
    other.write_text("precious")
    path.unlink()
    path.symlink_to(other)
    saved_session.write(URL, "token")
    assert (other.read_text(), saved_session.read(URL)) == ("precious", "token")


def test_nonsense_is_no_token_that_anybody_has(tmp_path: Path) -> None:
    path = kept(tmp_path)
    path.write_bytes(b"\xff\x00" * 10_000)
    assert len(saved_session.read(URL) or "") <= 1000


def test_a_folder_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match="Not a directory") as caught:
        saved_session.write(URL, "token")
    assert "XDG_STATE_HOME" in (caught.value.hint or "")

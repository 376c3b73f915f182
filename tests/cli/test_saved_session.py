"""The saved session: a token is saved and read back, and files that others can access are refused."""

import errno
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


def saved_file(tmp_path: Path) -> Path:
    """Save a session and return its file."""
    saved_session.write(URL, "token")
    (path,) = (tmp_path / "state/skychimp/sessions").iterdir()
    return path


def test_token_is_saved_per_store() -> None:
    assert saved_session.read(URL) is None
    saved_session.write(URL, "one")
    saved_session.write(URL, "two")
    saved_session.write("sqlite:////b/\udcff.db", "three")
    assert [saved_session.read(URL), saved_session.read("sqlite:////b/\udcff.db")] == ["two", "three"]


def test_each_caller_of_sudo_has_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also without `service.shared`: otherwise everybody would act as whoever logged in last."""
    callers = {"": "of the account", "65533": "of ada", "65532": "of grace", "-5": "of somebody"}

    def become(uid: str) -> None:
        monkeypatch.setenv("SUDO_UID", uid or str(os.geteuid()))

    for uid, token in callers.items():
        become(uid)
        assert saved_session.read(URL) is None
        saved_session.write(URL, token)
    become("65533")
    saved_session.remove(URL)
    for uid, token in callers.items():
        become(uid)
        assert saved_session.read(URL) == (None if uid == "65533" else token)
    monkeypatch.delenv("SUDO_UID")
    assert saved_session.read(URL) == "of the account"


def test_file_and_folder_are_private(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = saved_file(tmp_path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def make_readable_by_group(path: Path) -> None:
    path.chmod(0o640)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


def change_owner(path: Path) -> None:
    os.chown(path, 12345, 12345)


CHANGE_OWNER = pytest.param(
    change_owner, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner")
)


def assert_refused(path: Path, call: Callable[[], object], error: type[SkychimpError] = NotLoggedIn) -> None:
    """Assert that a session is refused with a command that helps. A pipe or a folder is not a session that was seen."""
    is_known = path.is_symlink() or path.is_file() or path.name == "sessions"
    command = f"rm -r {path}" if is_known else f"mv {path} {path}.old"
    with pytest.raises(error) as caught:
        call()
    assert str(path) in caught.value.message
    assert caught.value.hint == f'run "{command}" and log in again'


@pytest.mark.parametrize(
    "spoil", [make_readable_by_group, replace_by_link, replace_by_pipe, replace_by_folder, CHANGE_OWNER]
)
def test_file_that_is_not_private_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = saved_file(tmp_path)
    spoil(path)
    assert_refused(path, lambda: saved_session.read(URL))


@pytest.mark.parametrize("spoil", [make_readable_by_group, replace_by_link, CHANGE_OWNER])
def test_folder_that_is_not_private_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """Whoever can write to the folder could replace the session with another one."""
    folder = saved_file(tmp_path).parent
    spoil(folder)
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    assert_refused(folder, lambda: saved_session.read(URL))
    assert_refused(folder, lambda: saved_session.write(URL, "another"), ConfigError)
    assert_refused(folder, lambda: saved_session.remove(URL))
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_fault_that_is_not_about_safety_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state/skychimp"
    state.parent.mkdir()
    os.mkfifo(state)
    with pytest.raises(NotLoggedIn) as caught:
        saved_session.read(URL)
    assert caught.value.message == f"cannot read the saved session {state}/sessions: Not a directory"
    assert caught.value.hint == f'run "mv {state} {state}.old" and log in again'
    state.unlink()
    folder = saved_file(tmp_path).parent

    def deny(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", deny)  # root may open everything
    with pytest.raises(NotLoggedIn) as caught:
        saved_session.read(URL)
    assert caught.value.message == f"cannot read the saved session {folder}: Permission denied"
    assert caught.value.hint == f'run "chmod u+rwX {folder}"'


def test_removed_token_is_gone(tmp_path: Path) -> None:
    saved_session.remove(URL)
    path = saved_file(tmp_path)
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


def test_failed_write_keeps_the_old_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk may be full, or the process killed, before the new file gets its name."""
    path = saved_file(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        saved_session.write(URL, "another")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert saved_session.read(URL) == "token"
    saved_session.write(URL, "another")  # although an unfinished file was left behind
    assert saved_session.read(URL) == "another"
    assert list(path.parent.iterdir()) == [path]


def test_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    path, other = saved_file(tmp_path), tmp_path / "other"
    other.write_text("precious")
    path.unlink()
    path.symlink_to(other)
    saved_session.write(URL, "token")
    assert (other.read_text(), saved_session.read(URL)) == ("precious", "token")


def test_at_most_1000_characters_are_read(tmp_path: Path) -> None:
    path = saved_file(tmp_path)
    path.write_bytes(b"\xff\x00" * 10_000)
    assert len(saved_session.read(URL) or "") <= 1000


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"Not a directory|File exists") as caught:
        saved_session.write(URL, "token")
    assert "XDG_STATE_HOME" in (caught.value.hint or "")

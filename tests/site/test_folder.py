"""Test that only changes are written, other files are never touched, and an interrupted build is completed."""

import fcntl
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from skychimp.errors import Conflict, InvalidValue, SkychimpError
from skychimp.site import folder
from skychimp.site.folder import MANIFEST, Changes, ReadContent

FILES: dict[str, bytes | ReadContent] = {
    "style.css": b"s",
    "posts/a.html": b"a",
    "posts/b.html": b"b",
    "index.html": b"i",
}


def contents(path: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder but the manifest."""
    files = {str(file.relative_to(path)): file for file in path.rglob("*") if not file.is_dir()}
    return {name: file.read_bytes() for name, file in files.items() if name != MANIFEST}


def file_versions(path: Path) -> dict[str, tuple[int, int]]:
    """Return the inode and time of every file: they change whenever it is written."""
    files = [file for file in path.rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return tmp_path / "new" / "site"


def test_files_are_written(site: Path, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"p")
    made = folder.write_files(site, FILES | {"images/p.png": (tmp_path / "picture").read_bytes})
    assert made == Changes([*FILES, "images/p.png"], [], 0)
    assert contents(site) == FILES | {"images/p.png": b"p"}


def test_unchanged_files_are_not_written(site: Path) -> None:
    folder.write_files(site, FILES)
    before = file_versions(site)
    assert folder.write_files(site, FILES) == Changes([], [], len(FILES))
    assert file_versions(site) == before

    assert folder.write_files(site, FILES | {"posts/b.html": b"c"}) == Changes(["posts/b.html"], [], len(FILES) - 1)
    after = file_versions(site)
    assert {path for path in before if before[path] != after[path]} == {str(site / "posts/b.html")}


def test_obsolete_files_and_empty_folders_are_removed(site: Path) -> None:
    folder.write_files(site, FILES | {"page/1.html": b"1"})
    fewer = {path: content for path, content in FILES.items() if path != "posts/a.html"}
    assert folder.write_files(site, fewer).removed == ["page/1.html", "posts/a.html"]
    assert contents(site) == fewer
    assert not (site / "page").exists()
    assert folder.write_files(site, fewer) == Changes([], [], len(fewer))


def test_other_files_are_kept(site: Path) -> None:
    folder.write_files(site, FILES)
    (site / "CNAME").write_bytes(b"x")
    (site / "posts/mine.html").write_bytes(b"m")
    folder.write_files(site, {"index.html": b"new"})
    assert contents(site) == {"index.html": b"new", "CNAME": b"x", "posts/mine.html": b"m"}

    with pytest.raises(Conflict, match=r"posts/mine\.html already exists"):
        folder.write_files(site, FILES | {"posts/mine.html": b"ours"})
    assert contents(site) == {"index.html": b"new", "CNAME": b"x", "posts/mine.html": b"m"}


def test_folder_with_other_files_is_refused(site: Path) -> None:
    site.mkdir(parents=True)
    assert folder.write_files(site, {"index.html": b"i"}).written == ["index.html"]  # an empty folder is accepted
    (site / MANIFEST).unlink()
    with pytest.raises(Conflict, match="contains other files"):
        folder.write_files(site, FILES)
    assert contents(site) == {"index.html": b"i"}


def test_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for site in (tmp_path / "file", tmp_path / "file" / "site"):
        with pytest.raises(InvalidValue):
            folder.write_files(site, FILES)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', '{"files": [3]}', "\xff"])
def test_damaged_manifest_is_refused(site: Path, manifest: str) -> None:
    folder.write_files(site, FILES)
    (site / MANIFEST).write_text(manifest, encoding="latin-1")
    with pytest.raises(Conflict, match="is damaged"):
        folder.write_files(site, {"index.html": b"new"})
    assert contents(site) == FILES


def test_nothing_outside_the_folder_is_changed(site: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.html").write_bytes(b"theirs")
    (tmp_path / "victim").write_bytes(b"theirs")
    folder.write_files(site, FILES)
    (site.parent / "victim").write_bytes(b"theirs")

    for manifest in ('"../../victim"', '"../victim"', '"/etc/hostname"', '"posts/../../victim"', '".."', '"."'):
        (site / MANIFEST).write_text(f'{{"files": ["style.css", "posts/a.html", "posts/b.html", {manifest}]}}')
        folder.write_files(site, {"style.css": b"s", "posts/a.html": b"a", "posts/b.html": b"b"})
    assert (tmp_path / "victim").exists()
    assert (site.parent / "victim").exists()

    for content in (b"new", b"theirs"):
        (site / "posts/a.html").unlink()
        (site / "posts/a.html").symlink_to(tmp_path / "victim")
        folder.write_files(
            site, {"posts/a.html": content, "posts/b.html": b"b"}
        )  # the link is replaced, its target is not
        assert (tmp_path / "victim").read_bytes() == b"theirs"
        assert not (site / "posts/a.html").is_symlink()

    (site / "posts").rename(site / "moved")
    (site / "posts").symlink_to(tmp_path / "outside")
    for files in ({"posts/a.html": b"newer"}, {"posts/b.html": b"newer"}):
        with pytest.raises(SkychimpError, match="cannot write"):
            folder.write_files(site, files)
    folder.write_files(site, {"style.css": b"s"})
    assert contents(tmp_path / "outside") == {"a.html": b"theirs"}


@pytest.mark.parametrize(("umask", "modes"), [(0, {0o755, 0o644}), (0o022, {0o755, 0o644}), (0o077, {0o700, 0o600})])
def test_others_may_read_the_site_but_never_write_to_it(site: Path, umask: int, modes: set[int]) -> None:
    before = os.umask(umask)
    try:
        folder.write_files(site, FILES)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in [site.parent, site, *site.rglob("*")]} == modes


def test_concurrent_build_is_refused(site: Path) -> None:
    folder.write_files(site, FILES)
    other = os.open(site, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="another build"):
        folder.write_files(site, {})
    os.close(other)
    assert folder.write_files(site, {"index.html": b"i"}).removed == ["posts/a.html", "posts/b.html", "style.css"]


class Killed(BaseException):
    pass


def killed_at(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a system call that kills the process at the n-th call."""
    remaining_calls = number

    def step(*arguments: Any, **more: Any) -> Any:
        nonlocal remaining_calls
        remaining_calls -= 1
        if remaining_calls < 0:
            raise Killed
        return call(*arguments, **more)

    return step


@pytest.mark.parametrize("call", ["replace", "unlink", "open"])
def test_interrupted_build_is_completed_by_the_next(site: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """Every file is completely old or completely new at any time, and the next build knows the files of the last."""
    old: Mapping[str, bytes] = {"index.html": b"old", "posts/old.html": b"old", "style.css": b"s"}
    new: Mapping[str, bytes] = {"index.html": b"new", "posts/new.html": b"new", "style.css": b"s"}
    for number in range(50):
        folder.write_files(site, old)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, killed_at(number, getattr(os, call)))
            try:
                folder.write_files(site, new)
            except Killed:
                is_complete = False
            else:
                is_complete = True
        remaining = {path: content for path, content in contents(site).items() if not path.startswith(".")}
        assert remaining.items() <= {*old.items(), *new.items()}
        folder.write_files(site, new)
        assert contents(site) == new
        if is_complete:
            break
    assert is_complete
    assert number > 1

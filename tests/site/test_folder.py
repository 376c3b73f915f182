"""The folder: only what changed is written, nothing that is not ours is touched, and a cut-off build is made good."""

import fcntl
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from skychimp.errors import Conflict, InvalidValue, SkychimpError
from skychimp.site import folder
from skychimp.site.folder import MANIFEST, Changes

FILES: dict[str, bytes | Path] = {"style.css": b"s", "posts/a.html": b"a", "posts/b.html": b"b", "index.html": b"i"}


def there(place: Path) -> dict[str, bytes]:
    """Every file in a folder, but the manifest."""
    found = {str(path.relative_to(place)): path for path in place.rglob("*") if not path.is_dir()}
    return {name: path.read_bytes() for name, path in found.items() if name != MANIFEST}


def touched(place: Path) -> dict[str, tuple[int, int]]:
    found = [path for path in place.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "new" / "site"


def test_it_holds_the_files(place: Path, tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(b"p")
    made = folder.write(place, FILES | {"images/p.png": tmp_path / "picture"})
    assert made == Changes([*FILES, "images/p.png"], [], 0)
    assert there(place) == FILES | {"images/p.png": b"p"}


def test_what_is_the_same_is_not_written(place: Path) -> None:
    folder.write(place, FILES)
    before = touched(place)
    assert folder.write(place, FILES) == Changes([], [], len(FILES))
    assert touched(place) == before

    assert folder.write(place, FILES | {"posts/b.html": b"c"}) == Changes(["posts/b.html"], [], len(FILES) - 1)
    after = touched(place)
    assert {path for path in before if before[path] != after[path]} == {str(place / "posts/b.html")}


def test_what_is_gone_is_removed_and_an_empty_folder_with_it(place: Path) -> None:
    folder.write(place, FILES | {"page/1.html": b"1"})
    fewer = {path: content for path, content in FILES.items() if path != "posts/a.html"}
    assert folder.write(place, fewer).removed == ["page/1.html", "posts/a.html"]
    assert there(place) == fewer
    assert not (place / "page").exists()
    assert folder.write(place, fewer) == Changes([], [], len(fewer))


def test_what_somebody_put_beside_it_stays(place: Path) -> None:
    folder.write(place, FILES)
    (place / "CNAME").write_bytes(b"x")
    (place / "posts/mine.html").write_bytes(b"m")
    folder.write(place, {"index.html": b"new"})
    assert there(place) == {"index.html": b"new", "CNAME": b"x", "posts/mine.html": b"m"}

    with pytest.raises(Conflict, match=r"posts/mine\.html is not ours"):
        folder.write(place, FILES | {"posts/mine.html": b"ours"})
    assert there(place) == {"index.html": b"new", "CNAME": b"x", "posts/mine.html": b"m"}


def test_a_folder_of_somebody_elses_is_refused(place: Path) -> None:
    place.mkdir(parents=True)
    assert folder.write(place, {"index.html": b"i"}).written == ["index.html"]  # an empty one is not
    (place / MANIFEST).unlink()
    with pytest.raises(Conflict, match="not ours"):
        folder.write(place, FILES)
    assert there(place) == {"index.html": b"i"}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "site"):
        with pytest.raises(InvalidValue):
            folder.write(place, FILES)


@pytest.mark.parametrize("manifest", ["", "[]", "{}", '{"files": 3}', '{"files": [3]}', "\xff"])
def test_a_manifest_that_says_nothing_is_refused(place: Path, manifest: str) -> None:
    folder.write(place, FILES)
    (place / MANIFEST).write_text(manifest, encoding="latin-1")
    with pytest.raises(Conflict, match="what is ours"):
        folder.write(place, {"index.html": b"new"})
    assert there(place) == FILES


def test_no_way_leads_out_of_the_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/a.html").write_bytes(b"theirs")
    (tmp_path / "victim").write_bytes(b"theirs")
    folder.write(place, FILES)
    (place.parent / "victim").write_bytes(b"theirs")

    for manifest in ('"../../victim"', '"../victim"', '"/etc/hostname"', '"posts/../../victim"', '".."', '"."'):
        (place / MANIFEST).write_text(f'{{"files": ["style.css", "posts/a.html", "posts/b.html", {manifest}]}}')
        folder.write(place, {"style.css": b"s", "posts/a.html": b"a", "posts/b.html": b"b"})
    assert (tmp_path / "victim").exists()
    assert (place.parent / "victim").exists()

    for content in (b"new", b"theirs"):
        (place / "posts/a.html").unlink()
        (place / "posts/a.html").symlink_to(tmp_path / "victim")
        folder.write(place, {"posts/a.html": content, "posts/b.html": b"b"})  # the link goes, what it led to stays
        assert (tmp_path / "victim").read_bytes() == b"theirs"
        assert not (place / "posts/a.html").is_symlink()

    (place / "posts").rename(place / "moved")
    (place / "posts").symlink_to(tmp_path / "outside")
    for files in ({"posts/a.html": b"newer"}, {"posts/b.html": b"newer"}):
        with pytest.raises(SkychimpError, match="can't be written"):
            folder.write(place, files)
    folder.write(place, {"style.css": b"s"})
    assert there(tmp_path / "outside") == {"a.html": b"theirs"}


def test_two_do_not_build_at_once(place: Path) -> None:
    folder.write(place, FILES)
    other = os.open(place, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(Conflict, match="somebody else"):
        folder.write(place, {})
    os.close(other)
    assert folder.write(place, {"index.html": b"i"}).removed == ["posts/a.html", "posts/b.html", "style.css"]


class Killed(BaseException):
    pass


def killed_at(number: int, call: Callable[..., Any]) -> Callable[..., Any]:
    """A system call that is the process's last the n-th time."""
    left = number

    def step(*arguments: Any, **more: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return call(*arguments, **more)

    return step


@pytest.mark.parametrize("call", ["replace", "unlink", "open"])
def test_a_build_that_is_cut_off_anywhere_is_made_good_by_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A file is old or new, whole, at every moment; and the next build knows what is ours."""
    old: Mapping[str, bytes] = {"index.html": b"old", "posts/old.html": b"old", "style.css": b"s"}
    new: Mapping[str, bytes] = {"index.html": b"new", "posts/new.html": b"new", "style.css": b"s"}
    for number in range(50):
        folder.write(place, old)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, killed_at(number, getattr(os, call)))
            try:
                folder.write(place, new)
            except Killed:
                ended = False
            else:
                ended = True
        left = {path: content for path, content in there(place).items() if not path.startswith(".")}
        assert left.items() <= {*old.items(), *new.items()}
        folder.write(place, new)
        assert there(place) == new
        if ended:
            break
    assert ended
    assert number > 1

"""The cache: what is kept is given back, no longer than it may be, and a broken cache breaks nothing."""

import json
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from skychimp.config import sources
from skychimp.config.settings import Settings
from skychimp.errors import ConfigError
from skychimp.services.reporting.cache import LIFE, Cache

VALUE = {"some": ["JSON", 1, None, "吳"]}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(url: str | None = None) -> Settings:
    return sources.load({"store.url": "/somewhere/skychimp.db"} | ({"cache.url": url} if url else {}), environ={})


class Making:
    """Makes a value, and counts how often."""

    def __init__(self, value: object = None) -> None:
        self.value = VALUE if value is None else value
        self.times = 0

    def __call__(self) -> object:
        self.times += 1
        return self.value


def cache() -> Cache:
    """A cache that must not complain."""
    return Cache(settings(), pytest.fail)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def kept(tmp_path: Path) -> Path:
    """The one file, once something is kept."""
    cache().cached("place:1", Making())
    (file,) = files(tmp_path)
    return file


def test_what_is_kept_is_given_to_other_processes_too(tmp_path: Path) -> None:
    make = Making()

    assert [cache().cached("place:1", make) for _ in range(3)] == [VALUE] * 3
    assert make.times == 1


def test_another_version_takes_the_place_so_that_it_does_not_grow(tmp_path: Path) -> None:
    for version in range(20):
        assert cache().cached(f"place:{version}", Making(version)) == version
    assert cache().cached("other:1", Making("other")) == "other"
    assert cache().cached("place:19", Making("made anew")) == 19
    assert cache().cached("place:0", Making("made anew")) == "made anew"

    assert len(files(tmp_path)) == 2


def test_two_stores_have_a_cache_each(tmp_path: Path) -> None:
    other = sources.load({"store.url": "/elsewhere/skychimp.db"}, environ={})
    cache().cached("place:1", Making("here"))

    assert Cache(other, pytest.fail).cached("place:1", Making("there")) == "there"


def test_it_is_json_for_its_owner_alone(tmp_path: Path) -> None:
    file = kept(tmp_path)

    _, _, value = file.read_bytes().partition(b"\n")[2].partition(b"|")
    assert json.loads(value) == VALUE
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]


def test_nothing_is_kept_for_ever(tmp_path: Path) -> None:
    file = kept(tmp_path)
    key, _, rest = file.read_bytes().partition(b"\n")
    about, _, value = rest.partition(b"|")
    old = json.loads(about) | {"ct": time.time() - LIFE - 1}
    file.write_bytes(key + b"\n" + json.dumps(old).encode() + b"|" + value)

    assert cache().cached("place:1", Making("made anew")) == "made anew"


# Broken


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_what_others_could_have_written_is_not_believed(tmp_path: Path, mode: int) -> None:
    kept(tmp_path).chmod(mode)

    assert cache().cached("place:1", Making("made anew")) == "made anew"
    assert stat.S_IMODE(kept(tmp_path).stat().st_mode) == 0o600


def test_a_link_to_something_else_is_not_followed(tmp_path: Path) -> None:
    file = kept(tmp_path)
    target = tmp_path / "target"
    file.rename(target)
    file.symlink_to(target)
    before = target.read_bytes()

    assert cache().cached("place:1", Making("made anew")) == "made anew"
    assert target.read_bytes() == before
    assert not file.is_symlink()


@pytest.mark.parametrize("damage", [b"", b"\n", b"not ours", b"\0" * 100])
@pytest.mark.parametrize("keeps_key", [True, False])
def test_a_damaged_file_is_made_anew(tmp_path: Path, damage: bytes, keeps_key: bool) -> None:
    file = kept(tmp_path)
    key = file.read_bytes().partition(b"\n")[0]
    file.write_bytes(key + b"\n" + damage if keeps_key else damage)

    make = Making()
    assert [cache().cached("place:1", make) for _ in range(2)] == [VALUE] * 2
    assert make.times == 1


@pytest.fixture
def _no_space() -> Iterator[None]:
    """No file of this process can grow: as on a full disk, a write fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_no_space")
def test_a_full_disk_breaks_nothing_and_is_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    broken = Cache(settings(), told.append)

    assert [broken.cached(f"place:{number}", Making(number)) for number in range(3)] == [0, 1, 2]
    assert len(told) == 1
    assert files(tmp_path) == []


def test_a_place_that_can_not_be_written_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the folder's place")
    told: list[str] = []

    assert Cache(settings(), told.append).cached("place:1", Making()) == VALUE
    assert len(told) == 1


def test_what_fails_to_be_made_fails(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cache().cached("place:1", fail)


# Redis


def test_without_the_library_for_redis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigError) as caught:
        Cache(settings("redis://localhost"), pytest.fail)
    assert "skychimp[redis]" in (caught.value.hint or "")


def test_a_server_that_can_not_be_meant_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cache\.url"):
        Cache(settings("redis://localhost:port"), pytest.fail)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_a_server_that_is_away_breaks_nothing() -> None:
    told: list[str] = []

    assert Cache(settings(f"redis://127.0.0.1:{free_port()}"), told.append).cached("place:1", Making()) == VALUE
    assert len(told) == 1


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    told: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = Cache(settings(f"redis://127.0.0.1:{listener.getsockname()[1]}"), told.append)
        assert [silent.cached(f"place:{number}", Making(number)) for number in range(2)] == [0, 1]
    assert len(told) == 1


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    program = shutil.which("redis-server") or pytest.skip("Debian's redis-server is not installed")
    port = free_port()
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(lambda: socket.create_connection(("127.0.0.1", port)).close())
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait()


def _wait_for(attempt: Callable[[], None]) -> None:
    for _ in range(200):
        try:
            attempt()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("the server never came")


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by dogpile.cache
def test_a_redis_server_keeps_json_and_forgets_it(redis_url: str, tmp_path: Path) -> None:
    make = Making()
    assert [Cache(settings(redis_url), pytest.fail).cached("place:1", make) for _ in range(2)] == [VALUE] * 2
    assert make.times == 1
    assert Cache(settings(redis_url), pytest.fail).cached("place:2", Making("other")) == "other"

    with redis.Redis.from_url(redis_url) as server:
        for key in server.scan_iter():
            value = server.get(key)
            assert isinstance(value, bytes)
            assert json.loads(value.partition(b"|")[2]) in (VALUE, "other")
            assert 0 < server.ttl(key) <= LIFE
    assert files(tmp_path) == []

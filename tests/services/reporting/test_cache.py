"""Test that cached values are returned until they expire, and that a broken cache breaks nothing."""

import json
import os
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
from skychimp.services.reporting.cache import LIFETIME_S, Cached, open_cache

VALUE = {"some": ["JSON", 1, None, "吳"]}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def settings(url: str | None = None) -> Settings:
    return sources.load_settings(
        {"store.url": "/somewhere/skychimp.db"} | ({"cache.url": url} if url else {}), environ={}
    )


class Compute:
    """Return a value, and count the calls."""

    def __init__(self, value: object = None) -> None:
        self.value = VALUE if value is None else value
        self.calls = 0

    def __call__(self) -> object:
        self.calls += 1
        return self.value


def cached() -> Cached:
    """Return the function of a cache that must not warn."""
    return open_cache(settings(), pytest.fail)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def cached_file(tmp_path: Path) -> Path:
    """Cache a value, and return the one file of the cache."""
    cached()("name:1", Compute())
    (file,) = files(tmp_path)
    return file


def test_value_is_computed_once_for_all_processes(tmp_path: Path) -> None:
    compute = Compute()

    assert [cached()("name:1", compute) for _ in range(3)] == [VALUE] * 3
    assert compute.calls == 1


def test_new_version_replaces_the_old_one(tmp_path: Path) -> None:
    for version in range(20):
        assert cached()(f"name:{version}", Compute(version)) == version
    assert cached()("other:1", Compute("other")) == "other"
    assert cached()("name:19", Compute("computed again")) == 19
    assert cached()("name:0", Compute("computed again")) == "computed again"

    assert len(files(tmp_path)) == 2


def test_each_store_has_its_own_cache(tmp_path: Path) -> None:
    other = sources.load_settings({"store.url": "/elsewhere/skychimp.db"}, environ={})
    cached()("name:1", Compute("here"))

    assert open_cache(other, pytest.fail)("name:1", Compute("there")) == "there"


def test_file_is_private_json(tmp_path: Path) -> None:
    file = cached_file(tmp_path)

    _, _, value = file.read_bytes().partition(b"\n")[2].partition(b"|")
    assert json.loads(value) == VALUE
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]


def test_value_expires(tmp_path: Path) -> None:
    file = cached_file(tmp_path)
    key, _, rest = file.read_bytes().partition(b"\n")
    metadata, _, value = rest.partition(b"|")
    old = json.loads(metadata) | {"ct": time.time() - LIFETIME_S - 1}
    file.write_bytes(key + b"\n" + json.dumps(old).encode() + b"|" + value)

    assert cached()("name:1", Compute("computed again")) == "computed again"


# Broken caches


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_file_writable_by_others_is_ignored(tmp_path: Path, mode: int) -> None:
    cached_file(tmp_path).chmod(mode)

    assert cached()("name:1", Compute("computed again")) == "computed again"
    assert stat.S_IMODE(cached_file(tmp_path).stat().st_mode) == 0o600


def test_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    file = cached_file(tmp_path)
    target = tmp_path / "target"
    file.rename(target)
    file.symlink_to(target)
    before = target.read_bytes()

    assert cached()("name:1", Compute("computed again")) == "computed again"
    assert target.read_bytes() == before
    assert not file.is_symlink()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda folder: folder.chmod(0o777), "can be changed by others"),
        (lambda folder: (folder.rename(folder.with_name("docs")), folder.symlink_to("docs")), "is a link"),
    ],
)
def test_folder_that_others_can_change_is_not_written(
    tmp_path: Path, make: Callable[[Path], object], fault: str
) -> None:
    folder = cached_file(tmp_path).parent
    cached_file(tmp_path).unlink()
    make(folder)
    warnings: list[str] = []
    for _ in range(2):
        assert open_cache(settings(), warnings.append)("name:1", Compute("computed again")) == "computed again"
    assert [fault in warning for warning in warnings] == [True, True]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("umask", [0, 0o077])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cached()("name:1", Compute())
    finally:
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {True: 0o700, False: 0o600}


def test_file_of_another_user_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = cached_file(tmp_path).stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)

    assert cached()("name:1", Compute("computed again")) == "computed again"


@pytest.mark.parametrize(
    "damage",
    [b"", b"\n", b"not ours", b"\0" * 100, b"{}|1", b"[]|1", b'{"ct": "x", "v": 1}|1', b'{"ct": 9e9, "v": 2}|{'],
)
@pytest.mark.parametrize("key_is_intact", [True, False])
def test_damaged_file_is_replaced(tmp_path: Path, damage: bytes, key_is_intact: bool) -> None:
    file = cached_file(tmp_path)
    key = file.read_bytes().partition(b"\n")[0]
    file.write_bytes(key + b"\n" + damage if key_is_intact else damage)

    compute = Compute()
    assert [cached()("name:1", compute) for _ in range(2)] == [VALUE] * 2
    assert compute.calls == 1


@pytest.fixture
def _no_space() -> Iterator[None]:
    """Make every write to a file fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_no_space")
def test_full_disk_is_reported_once_and_breaks_nothing(tmp_path: Path) -> None:
    warnings: list[str] = []
    broken = open_cache(settings(), warnings.append)

    assert [broken(f"name:{number}", Compute(number)) for number in range(3)] == [0, 1, 2]
    assert len(warnings) == 1
    assert files(tmp_path) == []


def test_unwritable_folder_is_reported_and_breaks_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    warnings: list[str] = []

    assert open_cache(settings(), warnings.append)("name:1", Compute()) == VALUE
    assert len(warnings) == 1


def test_error_of_the_computation_is_raised(tmp_path: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cached()("name:1", fail)


# Redis


def test_missing_redis_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigError) as caught:
        open_cache(settings("redis://localhost"), pytest.fail)
    assert "skychimp[redis]" in (caught.value.hint or "")


def test_invalid_server_url_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cache\.url"):
        open_cache(settings("redis://localhost:port"), pytest.fail)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_unreachable_server_is_reported_and_breaks_nothing() -> None:
    warnings: list[str] = []

    assert open_cache(settings(f"redis://127.0.0.1:{free_port()}"), warnings.append)("name:1", Compute()) == VALUE
    assert len(warnings) == 1


def test_silent_server_is_not_waited_for_again() -> None:
    warnings: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        silent = open_cache(settings(f"redis://127.0.0.1:{listener.getsockname()[1]}"), warnings.append)
        assert [silent(f"name:{number}", Compute(number)) for number in range(2)] == [0, 1]
    assert len(warnings) == 1


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
    pytest.fail("the server did not start")


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by dogpile.cache
def test_redis_server_stores_json_that_expires(redis_url: str, tmp_path: Path) -> None:
    compute = Compute()
    assert [open_cache(settings(redis_url), pytest.fail)("name:1", compute) for _ in range(2)] == [VALUE] * 2
    assert compute.calls == 1
    assert open_cache(settings(redis_url), pytest.fail)("name:2", Compute("other")) == "other"

    with redis.Redis.from_url(redis_url) as server:
        for key in server.scan_iter():
            value = server.get(key)
            assert isinstance(value, bytes)
            assert json.loads(value.partition(b"|")[2]) in (VALUE, "other")
            assert 0 < server.ttl(key) <= LIFETIME_S
    assert files(tmp_path) == []

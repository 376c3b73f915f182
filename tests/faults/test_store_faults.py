"""A store that can't be written, is held by somebody else, or loses its power: no letter goes without its intent."""

import random
import re
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.scene import OLD_SQLITE, copied, due, prepared, scene
from support.sending import finish, wait_until
from support.servers import CountingReceiver
from support.tracing import Call, calls, failing, needs_strace, recording

from skychimp.store import schema
from skychimp.store.database import Store

RUN = ("run",)
FLUSHES = ("fsync", "fdatasync")
FAILED, NOT_READY, MAIL_LEFT = 1, 3, 75
SCRIBE = "from skychimp.delivery import recorder; recorder.FEW = 0"  # who has more calls than any other thread


@needs_strace
@pytest.mark.parametrize(
    ("names", "error", "words", "first", "letters", "step"),
    [
        pytest.param("pwrite64", "ENOSPC", "full", "", 60, 19, id="full"),
        pytest.param("pwrite64", "EIO", "I/O error", "", 6, 11, id="no write"),
        pytest.param(",".join(FLUSHES), "EIO", "I/O error", "", 6, 1, id="no flush"),
        pytest.param("pread64", "EIO", "malformed", "", 6, 5, id="no read"),
        pytest.param("pwrite64", "ENOSPC", "full", OLD_SQLITE, 6, 29, id="full, with an old SQLite"),
        pytest.param("pwrite64", "ENOSPC", "full", SCRIBE, 300, 151, id="full, with a scribe"),
        pytest.param(",".join(FLUSHES), "EIO", "I/O error", SCRIBE, 300, 53, id="no flush, with a scribe"),
    ],
)
def test_a_disk_that_fails(
    tmp_path: Path, names: str, error: str, words: str, first: str, letters: int, step: int
) -> None:
    """From the n-th call on, for n = 1, 1 + step and so on: a run stops with one line, and the next one ends it."""
    template = due(tmp_path, letters)

    def fail(number: int) -> str | None:
        folder = tmp_path / str(number)
        with scene(folder, template, CountingReceiver, connections=5) as here:
            tracer = failing(names, error, number, tmp_path / f"trace-{number}")
            status, said = run_forked(RUN, here.environ(), folder, first, tracer)
            here.receiver.wait()
            assert {letter.recipient for letter in here.receiver.arrivals()} <= here.risked()
            if status:
                assert status in (FAILED, NOT_READY)
                assert re.fullmatch(r"error: .*\nhint: .*\n", said), said
            assert run_forked(RUN, here.environ(), folder, first)[0] == 0
            assert here.faults(doubtful=here.connections) == [], number
            return said if status else None

    assert words in sweep(fail, step)[-1]


# Others at the store


@pytest.mark.parametrize("impatient", ["", "from skychimp.store import engine; engine.BUSY_TIMEOUT_MS = 20"])
def test_a_locked_store_is_waited_for(tmp_path: Path, impatient: str) -> None:
    """While somebody else writes, nothing goes but what has its intent; then it goes on, and nothing comes twice."""
    with scene(tmp_path / "scene", due(tmp_path, letters=100), CountingReceiver) as here:
        run = here.start(command=prepared(impatient))
        for wanted in (1, 20, 40):
            wait_until(lambda: here.receiver.taken >= wanted, run)  # noqa: B023
            with here.store.connect() as writer, writer.begin():
                before = here.receiver.taken
                time.sleep(0.2)
                assert here.receiver.taken - before <= here.connections
        here.store.close()
        assert finish(run)[0] == 0
        assert here.faults(doubtful=0) == []


def test_a_run_waits_for_the_store_at_its_start(tmp_path: Path) -> None:
    with scene(tmp_path / "scene", due(tmp_path, letters=3), CountingReceiver) as here:
        with here.store.connect() as writer, writer.begin():
            run = here.start()
            time.sleep(1)
            assert run.poll() is None
        here.store.close()
        assert finish(run)[0] == 0
        assert here.faults(doubtful=0) == []


def test_a_store_is_upgraded_once_while_a_run_sends(tmp_path: Path) -> None:
    """Three runs of a newer version come at once: one upgrades, after a backup, and the old run does not suffer."""
    migrations = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, migrations)
    (migrations / "versions" / "next.py").write_text(NEXT.format(schema.REVISION))
    newer = f"""
from pathlib import Path
from skychimp.store import engine
engine.MIGRATIONS, engine.REVISION = Path({str(migrations)!r}), "next"
"""
    with scene(tmp_path / "scene", due(tmp_path, letters=100), CountingReceiver) as here:
        old = here.start()
        wait_until(lambda: here.receiver.taken > 0, old)
        runs = [here.start(command=prepared(newer)) for _ in range(3)]
        for status, _, errors in map(finish, [old, *runs]):
            assert status in (0, MAIL_LEFT), errors
        assert here.faults(doubtful=0) == []
        backup = here.store.path.with_name(f"{here.store.path.name}.before-next")
        assert [revision(path) for path in (here.store.path, backup)] == ["next", schema.REVISION]


NEXT = """
import time
from alembic import op
revision, down_revision = "next", "{}"
def upgrade():
    op.execute("CREATE TABLE news (id INTEGER)")  # fails where it is there already
    time.sleep(0.3)
"""


def revision(path: Path) -> object:
    with closing(Store(path)) as store, store.connect() as db:
        assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        return db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


# The power


@needs_strace
@pytest.mark.parametrize(
    ("first", "step"), [pytest.param("", 1, id="each flush"), pytest.param(OLD_SQLITE, 4, id="some of an old SQLite")]
)
def test_a_power_loss(tmp_path: Path, first: str, step: int) -> None:
    """At each letter's dot, what was not flushed is gone; just before a flush is done, one half of it is, or is torn.

    Each letter that is on its way has its intent on the disk, and the next run ends the mailing.
    """
    template = due(tmp_path, letters=6)
    if not first:
        template = with_full_log(template)  # so that a checkpoint falls into the middle of the run
    trace = tmp_path / "trace"
    with scene(tmp_path / "scene", template, CountingReceiver) as here:
        before = files(here.store.path)
        assert run_forked(RUN, here.environ(), here.store.path.parent, first, recording(WRITES, trace))[0] == 0
        here.receiver.wait()
        arrivals = (tmp_path / "scene" / "arrived").read_text().splitlines(keepends=True)
    log = calls(trace)
    dots = {match[1].decode(): call.begun for call in log if (match := LETTER.match(call.data))}
    assert len(dots) == len(arrivals) == 6
    flushes = [call.ended for call in log if call.name in FLUSHES]
    assert len(flushes) >= 9
    assert any(call.name == "pwrite64" and call.file.endswith("/skychimp.db") for call in log)

    def lose(cut: int) -> None:
        folder = tmp_path / str(cut)
        folder.mkdir()
        chance = None if cut in dots.values() else random.Random(cut)
        for path, content in after_power_loss(before, log, cut, chance).items():
            (folder / Path(path).name).write_bytes(content)
        on_the_way = [line for line in arrivals if dots[line.partition("\t")[0]] <= cut]
        with scene(folder / "scene", folder / "skychimp.db", CountingReceiver) as here:
            (folder / "scene" / "arrived").write_text("".join(on_the_way))
            assert {line.partition("\t")[0] for line in on_the_way} <= here.risked()
            assert run_forked(RUN, here.environ(), folder / "scene", first)[0] == 0
            assert here.faults(doubtful=here.connections) == []

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lose, sorted({*dots.values(), *flushes[::step]})))


WRITES = "pwrite64,fsync,fdatasync,ftruncate,unlink,write,writev,sendto,sendmsg"
LETTER = re.compile(rb".*\nTo: [^\n]*<(.*?)>.*\r\n\.\r\n", re.DOTALL)


def with_full_log(path: Path) -> Path:
    """A store like this one, whose log has nearly as many pages as start a checkpoint."""
    full = path.with_name("full.db")
    with closing(Store(path)) as store, closing(store.engine.raw_connection()) as connection:
        execute = connection.driver_connection.execute  # type: ignore[union-attr]
        execute("PRAGMA wal_autocheckpoint = 0")
        execute("PRAGMA synchronous = OFF")
        for number in range(980):
            execute(f"PRAGMA user_version = {number}")  # one page
        return copied(path, full)


def files(store: Path) -> dict[str, bytes]:
    """The files of a store, by path."""
    return {str(path): path.read_bytes() for path in store.parent.glob(f"{store.name}*")}


@dataclass
class File:
    """A file as it is on the disk, and the calls that have changed it since without a flush."""

    content: bytearray = field(default_factory=bytearray)
    waiting: list[Call] = field(default_factory=list)

    def flush(self) -> None:
        for call in self.waiting:
            self.apply(call, len(call.data))
        self.waiting.clear()

    def apply(self, call: Call, length: int) -> None:
        start = call.number
        self.content.extend(bytes(max(0, start - len(self.content))))
        if call.name == "ftruncate":
            del self.content[start:]
        else:
            self.content[start : start + length] = call.data[:length]


def after_power_loss(
    before: dict[str, bytes], log: Sequence[Call], cut: int, chance: random.Random | None
) -> dict[str, bytearray]:
    """The files on the disk when the power goes at a line of the log.

    What was not flushed is gone; with `chance`, one half of it is, and the other half may be torn at a sector's end. A
    name that was made or taken away counts once its folder is flushed.
    """
    named = {path: File(bytearray(content)) for path, content in before.items()}
    on_disk = dict(named)
    for call in sorted(log, key=lambda call: call.ended):
        path = call.file.removesuffix(" (deleted)")
        if call.ended >= cut or path.endswith("-shm"):  # that one is made anew
            continue
        if call.name == "unlink":
            named.pop(path, None)
        elif call.name in ("pwrite64", "ftruncate"):
            named.setdefault(path, File()).waiting.append(call)
        elif call.name in FLUSHES and path in named:
            named[path].flush()
        elif call.name in FLUSHES:
            on_disk = dict(named)
    for file in on_disk.values():
        for call in file.waiting:
            if chance and chance.random() < 0.5:
                file.apply(call, chance.choice([512 * n for n in range(9)] + 8 * [len(call.data)]))
    return {path: file.content for path, file in on_disk.items()}

"""Test runs whose store cannot be written, is locked by another process, or loses power.

No email may be sent before its intent is on the disk.
"""

import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.harness import OLD_SQLITE, copy_store_files, make_due_store, overriding, sending_harness, with_preamble
from support.sending import wait_for_exit, wait_until
from support.servers import CountingReceiver
from support.tracing import Call, fail_from_call, needs_strace, read_calls, record_calls

from skychimp.store.migrations import revisions
from skychimp.store.sqlite import SqliteStore

RUN = ("run",)
FLUSHES = ("fsync", "fdatasync")
FAILED, NOT_READY, MAIL_LEFT = 1, 3, 75
SLOW = pytest.mark.slow


@needs_strace
@pytest.mark.parametrize(
    ("names", "error", "reason", "preamble", "clients", "step"),
    [
        pytest.param("pwrite64", "ENOSPC", "full", "", 30, 37, id="full"),
        pytest.param("pwrite64", "EIO", "I/O error", "", 6, 23, id="no write"),
        pytest.param(",".join(FLUSHES), "EIO", "I/O error", "", 6, 3, id="no flush"),
        pytest.param("pread64", "EIO", "malformed", "", 6, 7, id="no read"),
        pytest.param("pwrite64", "ENOSPC", "full", OLD_SQLITE, 6, 61, id="full, with an old SQLite"),
        pytest.param("pwrite64", "ENOSPC", "full", "", 60, 19, id="full, more often", marks=SLOW),
        pytest.param("pwrite64", "EIO", "I/O error", "", 6, 11, id="no write, more often", marks=SLOW),
        pytest.param(",".join(FLUSHES), "EIO", "I/O error", "", 6, 1, id="no flush, each", marks=SLOW),
        pytest.param("pread64", "EIO", "malformed", "", 6, 5, id="no read, more often", marks=SLOW),
        pytest.param("pwrite64", "ENOSPC", "full", OLD_SQLITE, 6, 29, id="full, an old SQLite, more often", marks=SLOW),
        pytest.param("pwrite64", "ENOSPC", "full", "", 300, 151, id="full, many emails", marks=SLOW),
        pytest.param(",".join(FLUSHES), "EIO", "I/O error", "", 300, 53, id="no flush, many emails", marks=SLOW),
    ],
)
def test_run_stops_with_one_error_when_its_disk_fails(
    tmp_path: Path, names: str, error: str, reason: str, preamble: str, clients: int, step: int
) -> None:
    """Let all calls fail from the n-th on, for n = 1, 1 + step and so on. The next run must complete the mailing."""
    template = make_due_store(tmp_path, clients)

    def fail(number: int) -> str | None:
        folder = tmp_path / str(number)
        with sending_harness(folder, template, CountingReceiver, connections=5) as harness:
            tracer = fail_from_call(names, error, number, tmp_path / f"trace-{number}")
            status, output = run_forked(RUN, harness.environ(), folder, preamble, tracer)
            harness.receiver.wait()
            assert {email.recipient for email in harness.receiver.received_emails()} <= harness.addresses_at_risk()
            if status:
                assert status in (FAILED, NOT_READY)
                assert re.fullmatch(r"(.* !! emails were sent, .*\n)?error: .*\nhint: .*\n", output), output
            assert run_forked(RUN, harness.environ(), folder, preamble)[0] == 0
            assert harness.find_faults(max_unknown=harness.connections) == [], number
            return output if status else None

    assert reason in sweep(fail, step)[-1]


@pytest.mark.parametrize("command", [("run", "--json"), pytest.param(("daemon",), marks=SLOW)], ids=["run", "daemon"])
def test_sending_goes_on_when_the_disk_can_be_written_again(tmp_path: Path, command: tuple[str, ...]) -> None:
    """Meanwhile, nothing is sent. Afterwards, nothing is sent twice."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=200), CountingReceiver) as harness:
        process = harness.start(*command, SKYCHIMP_RUN__PATIENCE="60s")
        wait_until(lambda: harness.receiver.accepted_count >= 20, process)
        with unwritable_disk(process):
            time.sleep(0.5)  # the emails whose intents were committed before
            before = harness.receiver.accepted_count
            time.sleep(1)
            assert harness.receiver.accepted_count == before < 200
        wait_until(lambda: harness.receiver.accepted_count == 200, process)
        if command == ("daemon",):
            process.terminate()
        status, _, errors = wait_for_exit(process)
        assert status == 0
        assert re.search(r"cannot write to the store: trying again.*I/O error", errors), errors
        assert "the store can be written again" in errors
        assert harness.find_faults(max_unknown=0) == []


@pytest.mark.parametrize("command", [("run", "--json"), ("daemon",)], ids=["run out of patience", "daemon stopped"])
def test_disk_that_stays_unwritable_ends_sending_with_an_error(tmp_path: Path, command: tuple[str, ...]) -> None:
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=200), CountingReceiver) as harness:
        process = harness.start(*command, SKYCHIMP_RUN__PATIENCE="1s")
        wait_until(lambda: harness.receiver.accepted_count >= 20, process)
        with unwritable_disk(process):
            if command == ("daemon",):
                time.sleep(1)
                process.terminate()
            status, _, errors = wait_for_exit(process)
        assert status == FAILED
        assert "cannot use the store" in errors.splitlines()[-1 if "--json" in command else -2]
        assert harness.run()[0] == 0
        assert harness.find_faults(max_unknown=harness.connections) == []


@contextmanager
def unwritable_disk(process: "subprocess.Popen[str]") -> Iterator[None]:
    """Let no file of a process grow, so that it cannot write its store."""
    _, most = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, most))
    try:
        yield
    finally:
        if process.poll() is None:
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, most))


# Other processes that use the store


@pytest.mark.parametrize(
    "preamble",
    [
        pytest.param("", id="default", marks=SLOW),
        pytest.param(overriding("skychimp.store.sqlite.BUSY_TIMEOUT_MS", 20), id="short timeout"),
    ],
)
def test_run_waits_for_a_locked_store(tmp_path: Path, preamble: str) -> None:
    """While another process writes, only emails with a recorded intent are sent. Afterwards, nothing is sent twice."""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=100), CountingReceiver) as harness:
        run = harness.start(command=with_preamble(preamble))
        for wanted in (1, 20, 40):
            wait_until(lambda: harness.receiver.accepted_count >= wanted, run)  # noqa: B023
            with harness.store.connect() as writer, writer.begin():
                before = harness.receiver.accepted_count
                time.sleep(0.2)
                assert harness.receiver.accepted_count - before <= harness.connections
        harness.store.close()
        assert wait_for_exit(run)[0] == 0
        assert harness.find_faults(max_unknown=0) == []


def test_run_waits_for_a_locked_store_at_its_start(tmp_path: Path) -> None:
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=3), CountingReceiver) as harness:
        with harness.store.connect() as writer, writer.begin():
            run = harness.start()
            time.sleep(1)
            assert run.poll() is None
        harness.store.close()
        assert wait_for_exit(run)[0] == 0
        assert harness.find_faults(max_unknown=0) == []


def test_store_is_upgraded_once_while_a_run_sends(tmp_path: Path) -> None:
    """Start two runs of a newer version. One of them makes a backup and upgrades; the old run is not disturbed."""
    migrations = tmp_path / "migrations"
    shutil.copytree(revisions.MIGRATIONS, migrations)
    (migrations / "versions" / "next.py").write_text(NEXT.format(revisions.REVISION))
    newer = f"""
from pathlib import Path
from skychimp.store.migrations import revisions
revisions.MIGRATIONS, revisions.REVISION = Path({str(migrations)!r}), "next"
"""
    with sending_harness(tmp_path / "harness", make_due_store(tmp_path, clients=100), CountingReceiver) as harness:
        old = harness.start()
        wait_until(lambda: harness.receiver.accepted_count > 0, old)
        runs = [harness.start(command=with_preamble(newer)) for _ in range(2)]
        for status, _, errors in map(wait_for_exit, [old, *runs]):
            assert status in (0, MAIL_LEFT), errors
        assert harness.find_faults(max_unknown=0) == []
        backup = harness.store.path.with_name(f"{harness.store.path.name}.before-next")
        assert [revision(path) for path in (harness.store.path, backup)] == ["next", revisions.REVISION]


NEXT = """
import time
from alembic import op
revision, down_revision = "next", "{}"
def upgrade():
    op.execute("CREATE TABLE news (id INTEGER)")  # fails if the table exists
    time.sleep(0.3)
"""


def revision(path: Path) -> object:
    with closing(SqliteStore(path)) as store, store.connect() as db:
        assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        return db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()


# Power loss


@needs_strace
@pytest.mark.parametrize(
    ("preamble", "step"),
    [
        pytest.param("", 3, id="some flushes"),
        pytest.param(OLD_SQLITE, 31, id="some of an old SQLite"),
        pytest.param("", 1, id="each flush", marks=SLOW),
        pytest.param(OLD_SQLITE, 4, id="more of an old SQLite", marks=SLOW),
    ],
)
def test_power_loss_at_any_moment_loses_nothing(tmp_path: Path, preamble: str, step: int) -> None:
    """Cut the power at each email's final dot and just before the end of each flush.

    At a dot, all that was not flushed is lost. In a flush, half of it is lost, and the rest may be incomplete. Each
    email that was sent must have its intent on the disk, and the next run must complete the mailing.
    """
    template = make_due_store(tmp_path, clients=6)
    if not preamble:
        template = with_nearly_full_log(template)  # a checkpoint then happens in the middle of the run
    trace = tmp_path / "trace"
    with sending_harness(tmp_path / "harness", template, CountingReceiver) as harness:
        before = read_files(harness.store.path)
        assert (
            run_forked(RUN, harness.environ(), harness.store.path.parent, preamble, record_calls(WRITES, trace))[0] == 0
        )
        harness.receiver.wait()
        arrivals = (tmp_path / "harness" / "arrived").read_text().splitlines(keepends=True)
    log = read_calls(trace)
    dots = {match[1].decode(): call.begun for call in log if (match := EMAIL.match(call.data))}
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
        sent = [line for line in arrivals if dots[line.partition("\t")[0]] <= cut]
        with sending_harness(folder / "harness", folder / "skychimp.db", CountingReceiver) as harness:
            (folder / "harness" / "arrived").write_text("".join(sent))
            assert {line.partition("\t")[0] for line in sent} <= harness.addresses_at_risk()
            assert run_forked(RUN, harness.environ(), folder / "harness", preamble)[0] == 0
            assert harness.find_faults(max_unknown=harness.connections) == []

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lose, sorted({*dots.values(), *flushes[::step]})))


WRITES = "pwrite64,fsync,fdatasync,ftruncate,unlink,write,writev,sendto,sendmsg"
EMAIL = re.compile(rb".*\nTo: [^\n]*<(.*?)>.*\r\n\.\r\n", re.DOTALL)


def with_nearly_full_log(path: Path) -> Path:
    """Return a copy of a store whose write-ahead log has nearly as many pages as start a checkpoint."""
    full = path.with_name("full.db")
    with closing(SqliteStore(path)) as store, closing(store.engine.raw_connection()) as connection:
        execute = connection.driver_connection.execute  # type: ignore[union-attr]
        execute("PRAGMA wal_autocheckpoint = 0")
        execute("PRAGMA synchronous = OFF")
        for number in range(980):
            execute(f"PRAGMA user_version = {number}")  # one page
        return copy_store_files(path, full)


def read_files(store: Path) -> dict[str, bytes]:
    """Return the contents of a store's files, by path."""
    return {str(path): path.read_bytes() for path in store.parent.glob(f"{store.name}*")}


@dataclass
class File:
    """The content of a file on the disk, and the calls that have changed it since its last flush."""

    content: bytearray = field(default_factory=bytearray)
    unflushed: list[Call] = field(default_factory=list)

    def flush(self) -> None:
        for call in self.unflushed:
            self.apply(call, len(call.data))
        self.unflushed.clear()

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
    """Return the contents of the files on the disk, by path, after a power loss at line `cut` of the log.

    All that was not flushed is lost. With `chance`, half of it is lost, and each other write may
    end at a sector's end. A name that was added or removed counts once its folder is flushed.
    """
    named = {path: File(bytearray(content)) for path, content in before.items()}
    on_disk = dict(named)
    for call in sorted(log, key=lambda call: call.ended):
        path = call.file.removesuffix(" (deleted)")
        if call.ended >= cut or path.endswith("-shm"):  # created again by the next process
            continue
        if call.name == "unlink":
            named.pop(path, None)
        elif call.name in ("pwrite64", "ftruncate"):
            named.setdefault(path, File()).unflushed.append(call)
        elif call.name in FLUSHES and path in named:
            named[path].flush()
        elif call.name in FLUSHES:
            on_disk = dict(named)
    for file in on_disk.values():
        for call in file.unflushed:
            if chance and chance.random() < 0.5:
                file.apply(call, chance.choice([512 * n for n in range(9)] + 8 * [len(call.data)]))
    return {path: file.content for path, file in on_disk.items()}

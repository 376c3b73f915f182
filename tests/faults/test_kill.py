"""SIGKILL at every moment of a run: nothing is lost; what comes twice is a letter whose reply was never recorded."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.scene import OLD_SQLITE, WITHOUT_UVLOOP, due, scene
from support.sending import finish, wait_until
from support.servers import CountingReceiver
from support.tracing import hit, killing, needs_strace

SENDS = "write,writev,sendto,sendmsg"  # uvloop writes, asyncio sends
FLUSHES = "fsync,fdatasync"  # builds of SQLite differ
RUN = ("run", "--json")
BODY_FIRST = "from skychimp.transport import smtp; smtp.AHEAD = 0"  # as that of a long letter
SMALL_BATCHES = "from skychimp.store import queue; queue.fill.__defaults__ = (2,)"
SOAK = (pytest.mark.soak, pytest.mark.timeout(1200))


def ledger_last(number: int) -> str:
    """Lets the thread that writes the ledger begin with so many calls on nothing.

    strace counts by thread, and the first thread at its n-th call dies. With about as many as the main thread makes on
    the store before, each of the ledger's own calls is the first one once.
    """
    return f"""
import contextlib, os, threading
def run(self, run=threading.Thread.run):
    if self.name.startswith("recorder"):
        null = os.open(os.devnull, os.O_WRONLY)
        for _ in range({number}):
            os.pwrite(null, b"", 0)
            for flush in (os.fsync, os.fdatasync):
                with contextlib.suppress(OSError):
                    flush(null)
    run(self)
threading.Thread.run = run
"""


@needs_strace
@pytest.mark.parametrize(
    ("names", "on", "first", "step", "hits"),
    [
        pytest.param(SENDS, "TCP:", "", 1, 14, id="send"),
        pytest.param(SENDS, "TCP:", WITHOUT_UVLOOP, 1, 14, id="send without uvloop"),
        pytest.param(SENDS, "TCP:", BODY_FIRST, 1, 20, id="send, the body before the dot"),
        pytest.param(FLUSHES, "skychimp.db", SMALL_BATCHES + ledger_last(6), 1, 9, id="flush"),
        pytest.param("pwrite64", "skychimp.db", ledger_last(20), 3, 16, id="some writes"),
        pytest.param(FLUSHES, "skychimp.db", OLD_SQLITE + ledger_last(16), 7, 4, id="some flushes of an old SQLite"),
        pytest.param("pwrite64", "skychimp.db", ledger_last(20), 1, 50, id="write", marks=SOAK),
        pytest.param(
            FLUSHES, "skychimp.db", OLD_SQLITE + ledger_last(16), 1, 20, id="flush of an old SQLite", marks=SOAK
        ),
        pytest.param(
            "pwrite64", "skychimp.db", OLD_SQLITE + ledger_last(40), 1, 90, id="write of an old SQLite", marks=SOAK
        ),
    ],
)
def test_a_kill_at_each_call(tmp_path: Path, names: str, on: str, first: str, step: int, hits: int) -> None:
    """Kill a run of six letters at its n-th call, for n = 1, 1 + step and so on; the next run ends what it began."""
    template = due(tmp_path, letters=6)

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / str(number), tmp_path / f"trace-{number}"
        with scene(folder, template, CountingReceiver) as here:
            tracer = killing(names, number, trace, all_threads=on != "TCP:")
            status, said = run_forked(RUN, here.environ(), folder, first, tracer)
            call = hit(trace, number)
            assert status == (-signal.SIGKILL if call else 0), said
            assert run_forked(RUN, here.environ(), folder, first)[0] == 0
            assert here.faults(doubtful=here.connections if call else 0) == [], call
            return call.file if call else None

    files = sweep(kill, step)  # a run that was not hit has fewer calls
    assert sum(on in file for file in files) >= hits
    is_hidden = "recorder" in first and not any(os.devnull in file for file in files)
    assert step > 1 or not is_hidden, "the main thread has more calls by now: give ledger_last a larger number"


@pytest.mark.parametrize(
    ("kills", "letters"),
    [
        pytest.param(6, 500, id="few"),
        pytest.param(300, 25_000, id="many", marks=SOAK),
    ],
)
def test_kills_at_random_moments(tmp_path: Path, kills: int, letters: int) -> None:
    """Kill run after run of one mailing, now and then before its first letter; the last one ends it."""
    chance = random.Random(3)
    with scene(tmp_path / "scene", due(tmp_path, letters), CountingReceiver, connections=10) as here:
        for _ in range(kills):
            wanted = here.receiver.taken + chance.randrange(100)
            run = here.start()
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.5))
            else:
                wait_until(lambda: here.receiver.taken >= wanted, run)  # noqa: B023
                time.sleep(chance.uniform(0, 0.004))
            assert finish(run, signal.SIGKILL)[0] == -signal.SIGKILL
        status, _, errors = here.run()
        assert status == 0, errors
        assert here.faults(doubtful=kills * here.connections) == []


def test_kills_of_the_scribe(tmp_path: Path) -> None:
    """The process that writes for a run, killed at random moments: the run stops at once, and the last one ends it."""
    chance, kills, hit = random.Random(5), 6, 0
    with scene(tmp_path / "scene", due(tmp_path, 2000), CountingReceiver, connections=10) as here:
        for _ in range(kills):
            run = here.start()
            scribes = Path(f"/proc/{run.pid}/task/{run.pid}/children")
            while run.poll() is None and not scribes.read_text():  # the last ones may have no letter left
                time.sleep(0.01)
            if run.poll() is None:
                scribe = int(scribes.read_text())
                time.sleep(chance.uniform(0, 0.15))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(scribe, signal.SIGKILL)
            status, _, errors = finish(run)
            hit += status == 1
            assert (status, "has ended" in errors) in ((1, True), (0, False)), errors
        assert hit > 0
        assert here.run()[0] == 0
        assert here.faults(doubtful=kills * here.connections) == []

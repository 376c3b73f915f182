"""SIGKILL at every moment of a run: nothing is lost, and no letter comes twice but one whose reply was never recorded."""

import itertools
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scene import SKYCHIMP, WITH_ROLLBACK_JOURNAL, WITHOUT_UVLOOP, due, prepared, scene
from sending import finish, wait_until
from tracing import hit, killing, needs_strace

SOAK = pytest.mark.soak

# strace counts by thread, and the first thread at its n-th call dies. The thread that writes the ledger begins with
# more calls on nothing than the main thread makes on the store, so that each of its own calls is the first somewhere.
LEDGER_LAST = """
import contextlib, os
from skychimp.delivery.recorder import Recorder
def work(self, work=Recorder._work):
    null = os.open(os.devnull, os.O_WRONLY)
    for _ in range(20):
        os.pwrite(null, b"", 0)
    for flush in 20 * [os.fsync, os.fdatasync]:
        with contextlib.suppress(OSError):
            flush(null)
    work(self)
Recorder._work = work
"""

SENDS = "write,writev,sendto,sendmsg"  # uvloop writes, asyncio sends
FLUSHES = "fsync,fdatasync"  # builds of SQLite differ


@needs_strace
@pytest.mark.parametrize(
    ("names", "on", "first", "step", "hits"),
    [
        pytest.param(SENDS, "TCP:", "", 1, 14, id="each send"),
        pytest.param(SENDS, "TCP:", WITHOUT_UVLOOP, 3, 4, id="sends of asyncio"),
        pytest.param(FLUSHES, "skychimp.db", LEDGER_LAST, 1, 9, id="each flush"),
        pytest.param("pwrite64", "skychimp.db", LEDGER_LAST, 4, 12, id="writes"),
        pytest.param(FLUSHES, "skychimp.db", WITH_ROLLBACK_JOURNAL + LEDGER_LAST, 7, 5, id="flushes of a journal"),
        pytest.param(SENDS, "TCP:", WITHOUT_UVLOOP, 1, 14, id="each send of asyncio", marks=SOAK),
        pytest.param("pwrite64", "skychimp.db", LEDGER_LAST, 1, 50, id="each write", marks=SOAK),
        pytest.param(
            FLUSHES, "skychimp.db", WITH_ROLLBACK_JOURNAL + LEDGER_LAST, 1, 30, id="each flush of a journal", marks=SOAK
        ),
        pytest.param(
            "pwrite64", "skychimp.db", WITH_ROLLBACK_JOURNAL + LEDGER_LAST, 1, 50, id="each write of a journal", marks=SOAK
        ),
    ],
)
def test_a_kill_at_any_call(tmp_path: Path, names: str, on: str, first: str, step: int, hits: int) -> None:
    """Kill a run of six letters at its n-th call, for n = 1, 1 + step and so on; the next run ends what it began."""
    template = due(tmp_path, letters=6)
    command = prepared(first) if first else SKYCHIMP

    def kill(number: int) -> tuple[str | None, list[str]]:
        folder = tmp_path / str(number)
        with scene(folder, template) as here:
            tracer = killing(names, number, folder / "trace", all_threads=on != "TCP:")
            status, _, errors = here.run(command=command, under=tracer)
            call = hit(folder / "trace", number)
            assert status == (-signal.SIGKILL if call else 0), errors
            after = here.run(command=command)
            assert after[0] == 0, after
            return call and call.file, here.faults(doubtful=here.connections if call else 0)

    hit_files = []
    with ThreadPoolExecutor(2) as pool:
        numbers = itertools.count(1, step)
        while None not in hit_files:  # a run that was not hit has fewer calls
            for file, faults in pool.map(kill, itertools.islice(numbers, 4)):
                hit_files.append(file)
                assert faults == [], file
    assert sum(on in (file or "") for file in hit_files) >= hits


@pytest.mark.parametrize(
    ("kills", "letters"), [pytest.param(8, 600, id="few"), pytest.param(250, 20_000, id="many", marks=SOAK)]
)
def test_kills_at_random_moments(tmp_path: Path, kills: int, letters: int) -> None:
    """Kill run after run of one mailing, now and then before its first letter; the last one ends it."""
    chance = random.Random(3)
    with scene(tmp_path / "scene", due(tmp_path, letters), connections=10) as here:
        for _ in range(kills):
            wanted = here.receiver.taken + chance.randrange(100)
            run = here.start()
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.5))
            else:
                wait_until(lambda: here.receiver.taken >= wanted, run)  # noqa: B023
                time.sleep(chance.uniform(0, 0.004))
            assert finish(run, signal.SIGKILL)[0] == -signal.SIGKILL
        status, out, errors = here.run()
        assert status == 0, errors
        assert here.faults(doubtful=kills * here.connections) == []

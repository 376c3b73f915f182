"""Test that a run killed with SIGKILL at any moment loses nothing.

Only an email whose reply was not recorded may arrive twice.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.harness import OLD_SQLITE, WITHOUT_UVLOOP, make_due_store, overriding, sending_harness
from support.old_stores import make_store_before_leases
from support.sending import attempts, state_counts, wait_for_exit, wait_until
from support.servers import CountingReceiver
from support.tracing import kill_at_call, killed_call, needs_strace

from skychimp.models import Outcome

SENDS = "write,writev,sendto,sendmsg"  # uvloop uses write and writev, asyncio uses send
FLUSHES = "fsync,fdatasync"  # which one depends on how SQLite was built
RUN = ("run", "--json")
# sends the body first, as for a long email
BODY_FIRST = overriding("skychimp.transport.smtp_connection.WRITE_AHEAD_BYTES", 0)
SMALL_BATCHES = "from skychimp.store.occurrences import opening; opening.create_deliveries.__defaults__ = (2,)"
SLOW = (pytest.mark.slow, pytest.mark.timeout(600))
SOAK = (pytest.mark.soak, pytest.mark.timeout(1200))


def add_ledger_calls(number: int) -> str:
    """Return a preamble that makes the ledger's thread begin with `number` calls on /dev/null.

    strace counts calls by thread, and kills the process at the n-th call of any thread. The main thread makes calls on
    the store before the ledger's thread starts. With about as many calls added to the ledger's thread, each of its own
    calls becomes the first n-th one at some n.
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
    ("names", "file", "preamble", "step", "min_kills"),
    [
        pytest.param(SENDS, "TCP:", "", 3, 4, id="some sends"),
        pytest.param(SENDS, "TCP:", WITHOUT_UVLOOP, 5, 2, id="some sends without uvloop", marks=SLOW),
        pytest.param(SENDS, "TCP:", BODY_FIRST, 5, 4, id="some sends, the body before the dot", marks=SLOW),
        pytest.param(FLUSHES, "skychimp.db", SMALL_BATCHES + add_ledger_calls(6), 2, 4, id="some flushes"),
        pytest.param(
            FLUSHES,
            "skychimp.db",
            OLD_SQLITE + add_ledger_calls(16),
            8,
            2,
            id="some flushes, old SQLite",
            marks=SLOW,
        ),
        pytest.param(SENDS, "TCP:", "", 1, 14, id="send", marks=SLOW),
        pytest.param(SENDS, "TCP:", WITHOUT_UVLOOP, 1, 14, id="send without uvloop", marks=SLOW),
        pytest.param(SENDS, "TCP:", BODY_FIRST, 1, 20, id="send, the body before the dot", marks=SLOW),
        pytest.param(FLUSHES, "skychimp.db", SMALL_BATCHES + add_ledger_calls(6), 1, 7, id="flush", marks=SLOW),
        pytest.param("pwrite64", "skychimp.db", add_ledger_calls(20), 3, 16, id="more writes", marks=SLOW),
        pytest.param(
            FLUSHES,
            "skychimp.db",
            OLD_SQLITE + add_ledger_calls(16),
            7,
            4,
            id="more flushes of an old SQLite",
            marks=SLOW,
        ),
        pytest.param("pwrite64", "skychimp.db", add_ledger_calls(20), 1, 50, id="write", marks=SOAK),
        pytest.param(
            FLUSHES, "skychimp.db", OLD_SQLITE + add_ledger_calls(16), 1, 20, id="flush of an old SQLite", marks=SOAK
        ),
        pytest.param(
            "pwrite64", "skychimp.db", OLD_SQLITE + add_ledger_calls(40), 1, 90, id="write of an old SQLite", marks=SOAK
        ),
    ],
)
def test_run_killed_at_any_call_is_completed_by_the_next(
    tmp_path: Path, names: str, file: str, preamble: str, step: int, min_kills: int
) -> None:
    """Kill a run of six emails at its n-th call, for n = 1, 1 + step and so on. The next run must complete it."""
    template = make_due_store(tmp_path, clients=6)

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / str(number), tmp_path / f"trace-{number}"
        with sending_harness(folder, template, CountingReceiver) as harness:
            tracer = kill_at_call(names, number, trace, all_threads=file != "TCP:")
            status, output = run_forked(RUN, harness.environ(), folder, preamble, tracer)
            call = killed_call(trace, number)
            assert status == (-signal.SIGKILL if call else 0), output
            assert run_forked(RUN, harness.environ(), folder, preamble)[0] == 0
            assert harness.find_faults(max_unknown=harness.connections if call else 0) == [], call
            return call.file if call else None

    files = sweep(kill, step)  # ends when a run makes fewer than n calls and is not killed
    assert sum(file in killed_at for killed_at in files) >= min_kills
    ledger_is_hidden = "recorder" in preamble and not any(os.devnull in killed_at for killed_at in files)
    assert step > 1 or not ledger_is_hidden, (
        "the main thread makes more calls: pass a larger number to add_ledger_calls"
    )


@needs_strace
@pytest.mark.parametrize(
    ("names", "step", "min_kills"),
    [
        pytest.param(FLUSHES, 1, 5, id="flush", marks=SLOW),
        pytest.param("pwrite64", 5, 15, id="some writes", marks=SLOW),
        pytest.param("pwrite64", 1, 75, id="write", marks=SOAK),
    ],
)
def test_upgrade_killed_at_any_call_is_completed_by_the_next_run(
    tmp_path: Path, names: str, step: int, min_kills: int
) -> None:
    """Kill the command that upgrades a store while a dead run still has deliveries. The next run must send them all."""
    template = make_due_store(tmp_path, clients=6)
    old = make_store_before_leases(template, tmp_path / "old.db", ["sending", "claimed", "claimed"])

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / str(number), tmp_path / f"trace-{number}"
        with sending_harness(folder, old, CountingReceiver) as harness:
            tracer = kill_at_call(names, number, trace)
            status, output = run_forked(("doctor", "--json"), harness.environ(), folder, "", tracer)
            call = killed_call(trace, number)
            assert (status == -signal.SIGKILL) == (call is not None), output
            assert run_forked(RUN, harness.environ(), folder)[0] == 0
            assert state_counts(harness.store) == {"sent": 6}
            assert len(harness.receiver.email_counts()) == 6
            assert [attempt.outcome for attempt in attempts(harness.store)].count(Outcome.UNKNOWN) == 1
            return call.file if call else None

    files = sweep(kill, step)
    assert sum("skychimp.db" in killed_at for killed_at in files) >= min_kills


@pytest.mark.parametrize(
    ("kills", "clients"),
    [
        pytest.param(3, 300, id="few"),
        pytest.param(6, 500, id="some", marks=SLOW),
        pytest.param(300, 25_000, id="many", marks=SOAK),
    ],
)
def test_runs_killed_at_random_moments_are_completed(tmp_path: Path, kills: int, clients: int) -> None:
    """Kill one run of a mailing after another, some of them before their first email. The last run must complete it."""
    chance, template = random.Random(3), make_due_store(tmp_path, clients)
    with sending_harness(tmp_path / "harness", template, CountingReceiver, connections=10) as harness:
        for _ in range(kills):
            wanted = harness.receiver.accepted_count + chance.randrange(100)
            run = harness.start()
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.5))
            else:
                wait_until(lambda: harness.receiver.accepted_count >= wanted, run)  # noqa: B023
                time.sleep(chance.uniform(0, 0.004))
            assert wait_for_exit(run, signal.SIGKILL)[0] == -signal.SIGKILL
        status, _, errors = harness.run()
        assert status == 0, errors
        assert harness.find_faults(max_unknown=kills * harness.connections) == []

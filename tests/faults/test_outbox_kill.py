"""Kill runs that write to the outbox, and runs that send what is in it: nothing is lost, and nothing is sent twice."""

import random
import shutil
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.forks import run_forked, sweep
from support.harness import SendingHarness, copy_store_files, make_due_store, sending_harness
from support.sending import (
    attempts,
    create_mailing,
    deliveries,
    make_addresses,
    make_settings,
    send,
    state_counts,
    wait_for_exit,
)
from support.servers import CountingReceiver
from support.tracing import kill_at_call, killed_call, needs_strace

from skychimp.permissions import Actor
from skychimp.store.database import SQLITE, Store
from skychimp.store.sqlite import SqliteStore

RUN, FROM_OUTBOX = ("run", "--json"), ("run", "--from-outbox", "--json")
OUTBOX = {"SKYCHIMP_MAIL__TRANSPORT": "outbox"}
RENAMES, REMOVALS = "rename,renameat,renameat2", "unlink,unlinkat"
FLUSHES = "fsync,fdatasync"
SLOW = (pytest.mark.slow, pytest.mark.timeout(600))


@needs_strace
@pytest.mark.parametrize(
    ("names", "step", "min_kills"),
    [
        pytest.param(RENAMES, 3, 2, id="some renames"),
        pytest.param(RENAMES, 1, 6, id="renames", marks=SLOW),
        pytest.param(FLUSHES, 2, 6, id="flushes", marks=SLOW),
    ],
)
def test_run_that_writes_to_the_outbox_is_completed_by_the_next(
    tmp_path: Path, names: str, step: int, min_kills: int
) -> None:
    template = make_due_store(tmp_path, clients=6)

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / str(number), tmp_path / f"trace-{number}"
        with sending_harness(folder, template, CountingReceiver) as harness:
            environ = harness.environ() | OUTBOX
            status, output = run_forked(RUN, environ, folder, "", kill_at_call(names, number, trace))
            call = killed_call(trace, number)
            assert status == (-signal.SIGKILL if call else 0), output
            assert run_forked(RUN, environ, folder)[0] == 0
            assert state_counts(harness.store) == {"outbox": 6}
            assert len(list((folder / "outbox" / "new").iterdir())) == 6
            assert list((folder / "outbox" / "tmp").iterdir()) == [] or call
            return call.file if call else None

    files = sweep(kill, step)
    assert len([file for file in files if file]) >= min_kills


@needs_strace
@pytest.mark.parametrize(
    ("names", "step", "min_kills"),
    [
        pytest.param(REMOVALS, 3, 2, id="some removals"),
        pytest.param(REMOVALS, 1, 6, id="removals", marks=SLOW),
        pytest.param(FLUSHES, 1, 6, id="flushes", marks=SLOW),
        pytest.param("write,writev,sendto,sendmsg", 2, 6, id="sends", marks=SLOW),
    ],
)
def test_run_from_the_outbox_killed_at_any_call_is_completed_by_the_next(
    tmp_path: Path, names: str, step: int, min_kills: int
) -> None:
    template = tmp_path / "written" / "skychimp.db"
    template.parent.mkdir()
    copy_store_files(make_due_store(tmp_path, clients=6), template)
    with closing(SqliteStore(template)) as store:
        assert send(store, make_settings(1, mail__transport="outbox")).outbox == 6

    def kill(number: int) -> str | None:
        folder, trace = tmp_path / str(number), tmp_path / f"trace-{number}"
        with sending_harness(folder, template, CountingReceiver) as harness:
            shutil.copytree(template.with_name("outbox"), folder / "outbox")
            tracer = kill_at_call(names, number, trace)
            status, output = run_forked(FROM_OUTBOX, harness.environ(), folder, "", tracer)
            call = killed_call(trace, number)
            assert status == (-signal.SIGKILL if call else 0), output
            assert run_forked(FROM_OUTBOX, harness.environ(), folder)[0] == 0
            assert harness.find_faults(max_unknown=harness.connections if call else 0) == [], call
            assert list((folder / "outbox" / "new").iterdir()) == []
            return call.file if call else None

    files = sweep(kill, step)
    assert len([file for file in files if file]) >= min_kills


@pytest.mark.parametrize("kills", [pytest.param(2, id="few"), pytest.param(20, marks=SLOW)])
def test_runs_killed_at_random_moments_empty_the_outbox(
    store: Store, store_url: str, ada: Actor, tmp_path: Path, kills: int
) -> None:
    """Kill runs while they write to the outbox, and others while they send what is in it."""
    create_mailing(store, ada, make_addresses(60))
    chance = random.Random(kills)
    url = None if store.dialect == SQLITE else store_url
    with CountingReceiver(tmp_path / "arrived") as receiver:
        harness = SendingHarness(store, receiver, url=url)
        for _ in range(kills):
            for arguments, environ in ((RUN, OUTBOX), (FROM_OUTBOX, {})):
                run = harness.start(*arguments, **environ)
                time.sleep(chance.uniform(0.3, 1.5))
                wait_for_exit(run, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while set(state_counts(store)) != {"sent"}:
            assert time.monotonic() < deadline, state_counts(store)
            status, _, errors = wait_for_exit(harness.start(*FROM_OUTBOX))
            assert status in (0, 75), errors
        of_outbox = sum(attempt.outcome == "unknown" and attempt.relay == "outbox" for attempt in attempts(store))
        assert len(deliveries(store)) == 60
        assert harness.find_faults(max_unknown=2 * kills * harness.connections + of_outbox) == []

"""Test several machines that send from one PostgreSQL store: each email once, whatever happens to them or the server.

A machine is a process with a data folder of its own, and so with its own id and lock files.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from conftest import create_user
from support.harness import SendingHarness, overriding, with_preamble
from support.postgres import Server, find_programs, running_server, running_standby
from support.proxy import TO_CLIENT, TO_SERVER, Proxy
from support.sending import attempts, create_mailing, make_addresses, rows, wait_for_exit, wait_until
from support.servers import CountingReceiver

from skychimp.models import Run
from skychimp.store.schema import create_store, open_store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_programs() is None, reason="PostgreSQL is not installed"),
]

CLIENTS = 600
MAIL_LEFT = 75

# A machine that is taken for dead after 3 seconds instead of 60, and trusts an intent for 1.5 instead of 30.
IMPATIENT = with_preamble(
    "import datetime\n"
    + overriding("skychimp.delivery.sending.dispatcher.HEARTBEAT_INTERVAL_S", 0.5)
    + overriding("skychimp.delivery.sending.recorder.MAX_INTENT_AGE_S", 1.5)
    + overriding("skychimp.store.runs.HEARTBEAT_LIMIT", timedelta(seconds=3))
    + overriding("skychimp.delivery.sending.due_work.HEARTBEAT_DELAY", timedelta(seconds=0.5))
)


class SlowReceiver(CountingReceiver):
    """A server that takes 20 ms for each email, so that a mailing lasts."""

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        if command == b".":
            time.sleep(0.02)
        return super().reply_to(command, recipient)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Return a server that this test may restart."""
    with running_server(tmp_path) as started:
        yield started


@contextmanager
def machines(server: Server, folder: Path, clients: int = CLIENTS) -> Iterator["SendingHarness[SlowReceiver]"]:
    """Provide a store with a due mailing, and a receiver for what the machines send."""
    url = server.url("postgres")
    with (
        closing(create_store(url)) as store,
        SlowReceiver(folder / "arrived") as receiver,
        closing(SendingHarness(store, receiver, url=url)) as harness,
    ):
        create_mailing(store, create_user(store, "ada"), make_addresses(clients))
        yield harness


def start(
    harness: "SendingHarness[SlowReceiver]", folder: Path, number: int, prefix: Sequence[str] = (), **environ: str
) -> "subprocess.Popen[str]":
    """Start a run on a machine. `prefix` is a command that executes it."""
    data_folder = str(folder / f"machine{number}")
    return harness.start(command=(*prefix, *IMPATIENT), XDG_DATA_HOME=data_folder, **environ)


def wait_until_all_send(harness: "SendingHarness[SlowReceiver]", *runs: "subprocess.Popen[str]") -> None:
    """Wait until each of these runs has connected to the receiver and sent a while."""
    for run in runs:
        wait_until(lambda: len(harness.receiver.conversations) >= len(runs) * harness.connections, run)
    wait_until(lambda: harness.receiver.accepted_count > CLIENTS // 6, runs[0])


def finish(harness: "SendingHarness[SlowReceiver]", folder: Path) -> None:
    """Send what is left from one more machine, after the others' heartbeats are too old."""
    deadline = time.monotonic() + 60
    status = MAIL_LEFT
    while status == MAIL_LEFT and time.monotonic() < deadline:
        time.sleep(1)
        status, out, err = wait_for_exit(start(harness, folder, 9))
        assert status in (0, MAIL_LEFT), out + err


def test_three_machines_share_a_mailing(server: Server, tmp_path: Path) -> None:
    with machines(server, tmp_path) as harness:
        runs = [start(harness, tmp_path, number) for number in range(3)]
        for status, out, err in map(wait_for_exit, runs):
            assert status in (0, MAIL_LEFT), out + err
        assert harness.find_faults(max_unknown=0) == []
        assert harness.receiver.accepted_count == CLIENTS
        with closing(open_store(harness.url or "")) as store:
            sent = [run.sent for run in rows(store, Run)]
            assert sum(sent) == CLIENTS
            assert min(sent) > 0
            assert len({run.host_id for run in rows(store, Run)}) == 3


def test_killed_machine_is_rescued_by_another(server: Server, tmp_path: Path) -> None:
    """What it was sending becomes unknown and is sent again: at most one email per connection is there twice."""
    with machines(server, tmp_path) as harness:
        first, second = (start(harness, tmp_path, number) for number in range(2))
        wait_until(lambda: harness.receiver.accepted_count > CLIENTS // 6, first)
        first.kill()
        wait_for_exit(first)
        wait_for_exit(second)
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=harness.connections) == []


def test_machine_killed_again_and_again(server: Server, tmp_path: Path) -> None:
    with machines(server, tmp_path) as harness:
        kills = 0
        for number in range(5):
            process = start(harness, tmp_path, number)
            goal = harness.receiver.accepted_count + 30
            while harness.receiver.accepted_count < goal and process.poll() is None:
                time.sleep(0.01)
            if process.poll() is None:
                process.kill()
                kills += 1
            wait_for_exit(process)
        finish(harness, tmp_path)
        assert kills >= 3
        assert harness.find_faults(max_unknown=kills * harness.connections, dead_at_once=kills) == []


def test_stopped_machine_loses_its_deliveries_and_goes_on(server: Server, tmp_path: Path) -> None:
    with machines(server, tmp_path) as harness:
        stopped = start(harness, tmp_path, 0)
        wait_until(lambda: harness.receiver.accepted_count > CLIENTS // 6, stopped)
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(4)
        other = start(harness, tmp_path, 1)
        wait_until(lambda: harness.receiver.accepted_count > CLIENTS // 2, other)
        stopped.send_signal(signal.SIGCONT)
        for status, out, err in map(wait_for_exit, (stopped, other)):
            assert status in (0, MAIL_LEFT), out + err
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=harness.connections) == []


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_wrong_clocks_of_machines_change_nothing(server: Server, tmp_path: Path) -> None:
    began = datetime.now(UTC)
    with machines(server, tmp_path) as harness:
        offsets = ("+7m", "-9m", "+0m")
        runs = [start(harness, tmp_path, number, ("faketime", "-f", one)) for number, one in enumerate(offsets)]
        for status, out, err in map(wait_for_exit, runs):
            assert status in (0, MAIL_LEFT), out + err
        assert harness.find_faults(max_unknown=0) == []
        assert harness.receiver.accepted_count == CLIENTS
        with closing(open_store(harness.url or "")) as store:
            assert min(run.sent for run in rows(store, Run)) > 0
            times = [at for attempt in attempts(store) for at in (attempt.started_at, attempt.finished_at)]
        assert began <= min(times) <= max(times) <= datetime.now(UTC)


@pytest.mark.parametrize("end", [Proxy.resume, Proxy.break_connections], ids=["heals", "breaks"])
@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT])
def test_machine_cut_off_one_way_is_replaced(
    server: Server, tmp_path: Path, direction: str, end: Callable[[Proxy], None]
) -> None:
    with machines(server, tmp_path) as harness, Proxy(server.port) as proxy:
        url = (harness.url or "").replace(f":{server.port}/", f":{proxy.port}/")
        cut_off, other = start(harness, tmp_path, 0, SKYCHIMP_STORE=url), start(harness, tmp_path, 1)
        wait_until_all_send(harness, cut_off, other)
        proxy.hold(direction)
        status, out, err = wait_for_exit(other)
        assert status in (0, MAIL_LEFT), out + err
        finish(harness, tmp_path)
        assert cut_off.poll() is None
        end(proxy)
        proxy.resume()
        status, out, err = wait_for_exit(cut_off)
        assert status in (0, MAIL_LEFT), out + err
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=harness.connections) == []


@pytest.mark.parametrize("end", [Server.stop, Server.kill], ids=["restarted", "crashed"])
def test_server_that_comes_back_stops_nobody(server: Server, tmp_path: Path, end: Callable[[Server], None]) -> None:
    with machines(server, tmp_path) as harness:
        runs = [start(harness, tmp_path, number) for number in range(2)]
        wait_until_all_send(harness, *runs)
        end(server)
        time.sleep(1)
        server.start()
        for status, out, err in map(wait_for_exit, runs):
            assert status in (0, MAIL_LEFT), out + err
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=0) == []
        assert harness.receiver.accepted_count == CLIENTS


def test_terminated_connections_cost_nothing(server: Server, tmp_path: Path) -> None:
    """An administrator ends all our connections, ten times a second, until nearly everything is sent."""

    with machines(server, tmp_path) as harness:
        runs = [start(harness, tmp_path, number) for number in range(2)]
        wait_until_all_send(harness, *runs)
        with psycopg.connect(server.url("postgres").replace("+psycopg", ""), autocommit=True) as db:
            while harness.receiver.accepted_count < CLIENTS - 100:
                time.sleep(0.1)
                assert [run.poll() for run in runs] == [None, None]
                db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'skychimp'")
        for status, out, err in map(wait_for_exit, runs):
            assert status in (0, MAIL_LEFT), out + err
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=0) == []
        assert harness.receiver.accepted_count == CLIENTS


def test_run_without_a_free_connection_says_so(server: Server, tmp_path: Path) -> None:
    with machines(server, tmp_path, clients=3) as harness:
        with psycopg.connect(server.url("postgres").replace("+psycopg", ""), autocommit=True) as db:
            db.execute("ALTER DATABASE postgres CONNECTION LIMIT 1")
            db.execute("CREATE ROLE plain LOGIN")
            db.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain")
            url = server.url("postgres").replace("skychimp@", "plain@")
            status, _, err = wait_for_exit(harness.start("run", XDG_DATA_HOME=str(tmp_path), SKYCHIMP_STORE=url))
            assert (status, "too many connections" in err, "PgBouncer" in err) == (1, True, True)
            db.execute("ALTER DATABASE postgres CONNECTION LIMIT -1")
        finish(harness, tmp_path)
        assert harness.find_faults(max_unknown=0) == []


def test_failover_to_a_synchronous_standby_loses_nothing(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as primary,
        running_standby(primary, tmp_path) as standby,
        machines(primary, tmp_path) as harness,
    ):
        with psycopg.connect(primary.url("postgres").replace("+psycopg", ""), autocommit=True) as db:
            db.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            db.execute("SELECT pg_reload_conf()")
        run = start(harness, tmp_path, 0)
        wait_until_all_send(harness, run)
        primary.kill()
        standby.promote()
        run.kill()
        wait_for_exit(run)
        url = standby.url("postgres")
        with closing(open_store(url)) as store:
            moved = SendingHarness(store, harness.receiver, url=url)
            wait_for_exit(start(moved, tmp_path, 0))  # it knows that its last commit is there
            finish(moved, tmp_path)
            assert moved.find_faults(max_unknown=moved.connections) == []


def test_failover_that_may_have_lost_commits_holds_the_store(tmp_path: Path) -> None:
    with (
        running_server(tmp_path) as primary,
        running_standby(primary, tmp_path) as standby,
        machines(primary, tmp_path) as harness,
    ):
        run = start(harness, tmp_path, 0)
        wait_until_all_send(harness, run)
        standby.stop()
        goal = harness.receiver.accepted_count + 60
        wait_until(lambda: harness.receiver.accepted_count > goal, run)
        primary.kill()
        standby.start()
        standby.promote()
        run.kill()
        wait_for_exit(run)
        require_hold(harness, standby, tmp_path, 1)


def test_failover_that_has_lost_commits_and_given_their_ids_to_others_holds_the_store(tmp_path: Path) -> None:
    """The store has noted that commits wait for the standby. Then it was away, and the primary went on without it."""
    with (
        running_server(tmp_path) as primary,
        running_standby(primary, tmp_path) as standby,
        machines(primary, tmp_path) as harness,
        closing(psycopg.connect(primary.url("postgres").replace("+psycopg", ""), autocommit=True)) as db,
    ):
        db.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        db.execute("SELECT pg_reload_conf()")
        run = start(harness, tmp_path, 0)
        wait_until_all_send(harness, run)
        standby.stop()
        db.execute("ALTER SYSTEM RESET synchronous_standby_names")
        db.execute("SELECT pg_reload_conf()")
        goal = harness.receiver.accepted_count + 60
        wait_until(lambda: harness.receiver.accepted_count > goal, run)
        primary.kill()
        run.kill()
        wait_for_exit(run)
        standby.start()
        standby.promote()
        with closing(psycopg.connect(standby.url("postgres").replace("+psycopg", ""), autocommit=True)) as other:
            for _ in range(2000):
                other.execute("SELECT pg_current_xact_id()")
        require_hold(harness, standby, tmp_path, 0)


def require_hold(harness: "SendingHarness[SlowReceiver]", server: Server, folder: Path, number: int) -> None:
    """Check that a run on a machine finds the store on hold, and sends nothing before a person has decided."""
    sent = harness.receiver.accepted_count
    moved = SendingHarness(harness.store, harness.receiver, url=server.url("postgres"))
    status, _, err = wait_for_exit(start(moved, folder, number))
    assert (status, "on hold after a fail-over" in err) == (3, True), err
    assert harness.receiver.accepted_count == sent

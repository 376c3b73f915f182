"""Test that several processes together keep the limits of a store: its rate, its connections, and one run at a time."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from support.command import Home
from support.sending import (
    attempts,
    create_mailing,
    make_addresses,
    make_settings,
    rows,
    send,
    start_run,
    state_counts,
    wait_for_exit,
    wait_until,
)
from support.servers import CountingReceiver

from skychimp.models import Run
from skychimp.permissions import Actor
from skychimp.store.database import Store

MAIL_LEFT = 75
ZEROS = dict.fromkeys(
    ("sent", "outbox", "deferred", "failed", "unknown", "expired", "replaced", "queued", "waiting", "opened"), 0
) | {"stopped": None, "from_outbox": None}


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[CountingReceiver]:
    with CountingReceiver(tmp_path / "arrived") as running:
        yield running


@pytest.fixture
def processes() -> "Iterator[list[subprocess.Popen[str]]]":
    """Return a list of processes to kill at the end."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        with suppress(ValueError):
            process.communicate()


# The rate


@pytest.mark.slow
@pytest.mark.parametrize("rate", ["25/s", '["25/s", "100000/d"]'])
def test_runs_of_cron_beside_others_do_not_multiply_the_rate(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]", rate: str
) -> None:
    create_mailing(store, ada, make_addresses(2000))
    for number in range(4):
        overrides = {"smtp__connections": 2 * number + 2, "smtp__rate": rate}  # two for each
        processes.append(start_run(store, receiver.port, *(["--join"] if number else []), **overrides))
        wait_until(lambda: len(receiver.conversations) >= 2 * len(processes), processes[0])
    time.sleep(3)
    for process in processes:
        assert wait_for_exit(process, signal.SIGTERM)[0] in (0, MAIL_LEFT, -signal.SIGTERM)  # if it has just begun

    sent_at = sorted(attempt.started_at for attempt in attempts(store))
    assert sum(run.sent > 0 for run in rows(store, Run)) >= 3
    duration_s = (sent_at[-1] - sent_at[0]).total_seconds()
    assert duration_s > 3
    assert 0.5 * 25 < len(sent_at) / duration_s < 1.02 * 25 + 2 / duration_s
    busiest = max(
        sum(first <= at < first + timedelta(seconds=2) for at in sent_at[number : number + 200])
        for number, first in enumerate(sent_at)
    )
    assert busiest <= 2 * 25 * 1.5, "no process saves up slots for later"


@pytest.mark.slow
def test_killed_run_loses_only_what_it_had_reserved(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    create_mailing(store, ada, make_addresses(200))
    rate = '["40/s", "120/d"]'
    processes.append(start_run(store, receiver.port, smtp__rate=rate))
    wait_until(lambda: receiver.accepted_count > 30, processes[0])
    wait_for_exit(processes[0], signal.SIGKILL)

    stats = send(store, make_settings(receiver.port, smtp__rate=["40/s", "120/d"]))

    assert stats.stopped.startswith("smtp.rate allows the next email at ")
    assert 120 - 21 <= receiver.accepted_count <= 121  # the killed run may have sent one whose outcome is unknown


def test_daily_rate_spreads_a_mailing_over_days(store: Store, ada: Actor, receiver: CountingReceiver) -> None:
    create_mailing(store, ada, make_addresses(25))
    settings = make_settings(receiver.port, smtp__rate=["1000/s", "10/d"], mail__timezone="UTC")

    first = send(store, settings)
    again = send(store, settings)
    second = send(store, settings, later=timedelta(days=1, minutes=1))
    third = send(store, settings, later=timedelta(days=2, minutes=2))

    assert [run.sent for run in (first, again, second, third)] == [10, 0, 10, 5]
    assert (first.queued, second.queued, third.queued) == (15, 5, 0)
    assert re.fullmatch(r"smtp\.rate allows the next email at \d{4}-\d\d-\d\d \d\d:\d\d", first.stopped)
    assert (again.stopped, third.stopped) == (first.stopped, "")
    assert set(receiver.email_counts().values()) == {1}


def test_run_that_would_wait_too_long_for_the_rate_says_when_to_go_on(
    store: Store, ada: Actor, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(5))
    status, out, err = wait_for_exit(start_run(store, receiver.port, smtp__rate="3/h"))
    assert (status, json.loads(out)["sent"], json.loads(out)["queued"]) == (MAIL_LEFT, 3, 2)
    assert re.fullmatch(r"stopped: smtp\.rate allows the next email at [\d: -]+\n", err)


def test_new_mailing_leaves_what_the_rate_does_not_allow_queued(
    store: Store, ada: Actor, home: Home, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(3))
    assert wait_for_exit(start_run(store, receiver.port, smtp__rate="3/h"))[0] == 0
    environ = _smtp_environ(receiver.port) | {"SKYCHIMP_SMTP__RATE": "3/h"}

    created = home.call(*_CREATE, "--json", environ=environ)

    assert (created.status, created.json["run"]["sent"], created.json["run"]["queued"]) == (0, 0, 3)
    assert "stopped: smtp.rate allows the next email at " in created.err


def test_single_emails_count_in_the_rate_but_do_not_wait_for_it(
    store: Store, ada: Actor, home: Home, receiver: CountingReceiver
) -> None:
    create_mailing(store, ada, make_addresses(5))
    environ = _smtp_environ(receiver.port) | {"SKYCHIMP_SMTP__RATE": "3/h"}
    for _ in range(2):
        assert home.call("messages", "test", "1", "--to", "eve@example.org", environ=environ).status == 0

    stats = send(store, make_settings(receiver.port, smtp__rate="3/h"))
    assert (stats.sent, stats.queued) == (1, 4)

    assert home.call("messages", "test", "1", "--to", "eve@example.org", environ=environ).status == 0
    assert receiver.accepted_count == 4


# Connections


@pytest.mark.slow
def test_processes_together_open_no_more_connections_than_allowed(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    """The second run waits until the first one, which has all, has ended, and then sends the rest."""
    create_mailing(store, ada, make_addresses(60))
    overrides = {"smtp__connections": 3, "smtp__rate": "60/s", "run__patience": "30s"}
    processes.append(start_run(store, receiver.port, "--limit", "40", **overrides))
    wait_until(lambda: receiver.accepted_count > 5, processes[0])
    processes.append(start_run(store, receiver.port, "--join", **overrides))
    most = 0
    while processes[0].poll() is None:
        most = max(most, _count_open(receiver))
        time.sleep(0.02)
    assert 1 < most <= 3
    assert wait_for_exit(processes[1])[0] == 0
    assert state_counts(store) == {"sent": 60}


@pytest.mark.slow
def test_run_without_a_free_connection_leaves_the_mail_queued(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    create_mailing(store, ada, make_addresses(100))
    processes.append(start_run(store, receiver.port, smtp__connections=2, smtp__rate="20/s"))
    wait_until(lambda: receiver.accepted_count > 3, processes[0])
    status, out, err = wait_for_exit(start_run(store, receiver.port, "--join", smtp__connections=1))
    assert (status, json.loads(out)["sent"]) == (MAIL_LEFT, 0)
    assert "stopped: other processes use all connections of smtp.connections\n" in err


def _count_open(receiver: CountingReceiver) -> int:
    return sum(thread.is_alive() for thread in receiver._threads[1:])


# One run at a time


def test_run_ends_at_once_if_another_one_sends_the_same(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    mailing_id = create_mailing(store, ada, make_addresses(400))
    processes.append(start_run(store, receiver.port, smtp__rate="20/s"))
    wait_until(lambda: receiver.accepted_count > 3, processes[0])

    for arguments in ([], ["--mailing", str(mailing_id)]):
        status, out, err = wait_for_exit(start_run(store, receiver.port, *arguments))
        found = json.loads(out)
        other = found.pop("other_run")
        assert (status, found, other["pid"]) == (0, ZEROS, processes[0].pid)
        pattern = rf"process {processes[0].pid} is already sending this, since [\d: -]+; use --join to help it\n"
        assert re.fullmatch(pattern, err)
    assert len(rows(store, Run)) == 1


@pytest.mark.slow
def test_run_of_another_mailing_goes_on(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    slow = create_mailing(store, ada, make_addresses(100))
    other = create_mailing(store, ada, ["eve@example.org"])
    processes.append(start_run(store, receiver.port, "--mailing", str(slow), smtp__rate="20/s", smtp__connections=1))
    wait_until(lambda: receiver.accepted_count > 3, processes[0])
    for arguments, sent in ((["--mailing", str(slow)], 0), (["--mailing", str(other)], 1)):
        status, out, _ = wait_for_exit(start_run(store, receiver.port, *arguments, smtp__connections=2))
        assert (status, json.loads(out)["sent"]) == (0, sent)
    status, out, _ = wait_for_exit(start_run(store, receiver.port, smtp__connections=2))
    assert json.loads(out)["other_run"] is None


@pytest.mark.slow
def test_new_mailing_is_sent_beside_a_run_of_everything(
    store: Store, ada: Actor, home: Home, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    create_mailing(store, ada, make_addresses(100))
    processes.append(start_run(store, receiver.port, smtp__rate="20/s", smtp__connections=1))
    wait_until(lambda: receiver.accepted_count > 3, processes[0])
    created = home.call(*_CREATE, "--json", environ=_smtp_environ(receiver.port))
    assert created.json["run"]["sent"] + created.json["run"]["queued"] == 100
    assert created.json["run"]["sent"] > 0


def test_exactly_one_of_two_runs_that_start_together_goes_on(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    create_mailing(store, ada, make_addresses(40))
    processes += [start_run(store, receiver.port, smtp__rate="20/s") for _ in range(3)]
    results = [wait_for_exit(process) for process in processes]
    assert [status for status, *_ in results] == [0, 0, 0]
    assert sorted(json.loads(out)["sent"] for _, out, _ in results) == [0, 0, 40]
    assert len(rows(store, Run)) == 1


@pytest.mark.slow
def test_killed_run_does_not_hold_up_the_next_one(
    store: Store, ada: Actor, receiver: CountingReceiver, processes: "list[subprocess.Popen[str]]"
) -> None:
    create_mailing(store, ada, make_addresses(30))
    processes.append(start_run(store, receiver.port, smtp__rate="20/s"))
    wait_until(lambda: receiver.accepted_count > 3, processes[0])
    wait_for_exit(processes[0], signal.SIGKILL)
    assert send(store, make_settings(receiver.port, delivery__unknown_after="0s")).sent > 0


_CREATE = ("mailings", "create", "--message", "1", "--start", "now", "--every", "once", "--all-clients")


def _smtp_environ(port: int) -> dict[str, str]:
    settings: dict[str, Any] = {"MAIL__TRANSPORT": "smtp", "SMTP__HOST": "127.0.0.1", "SMTP__PORT": port}
    settings |= {"SMTP__SECURITY": "none", "RUN__PATIENCE": "0s"}
    return {f"SKYCHIMP_{name}": str(value) for name, value in settings.items()}

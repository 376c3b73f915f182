"""Test minutes of load with a server that comes and goes: nothing is lost or repeated, and memory does not grow.

pytest -m soak tests/faults/test_long_load.py -n 0 -s
"""

import random
import re
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import create_user
from support.daemons import Daemon, clean_environ, write_config
from support.harness import SendingHarness
from support.sending import create_mailing, rows
from support.servers import CountingReceiver

from skychimp.models import Mailing, MailingStatus
from skychimp.store.database import Store
from skychimp.store.schema import create_store

MINUTES = 10
CLIENTS = 2_000  # of each mailing
CONNECTIONS = 10
SETTINGS = {
    "SKYCHIMP_SMTP__CONNECTIONS": str(CONNECTIONS),
    "SKYCHIMP_DELIVERY__RETRY_AFTER": '["1s"]',
    "SKYCHIMP_DELIVERY__UNKNOWN_AFTER": "1s",
}


class Size(NamedTuple):
    """What a daemon and its writer process use together."""

    memory_mib: float
    open_files: int


@pytest.mark.soak
@pytest.mark.timeout(60 * (2 * MINUTES + 5))
def test_daemon_with_a_server_that_comes_and_goes(tmp_path: Path) -> None:
    chance, sizes = random.Random(11), list[Size]()
    log = tmp_path / "arrived"
    with closing(create_store(f"sqlite:///{tmp_path / 'skychimp.db'}")) as store:
        ada = create_user(store, "ada")
        receiver = CountingReceiver(log)
        with Daemon(store, write_config(tmp_path, receiver.port), clean_environ(**SETTINGS)) as daemon:

            def load() -> None:
                """Record the size, and keep two mailings unfinished at all times."""
                sizes.append(measure_size(daemon.process.pid))
                number = len(rows(store, Mailing))
                if len(unfinished(store)) < 2:
                    create_mailing(store, ada, [f"client{number * CLIENTS + n}@example.org" for n in range(CLIENTS)])

            end, absences = time.monotonic() + 60 * MINUTES, 0
            while time.monotonic() < end:
                with receiver:
                    repeat_for(chance.uniform(3, 15), load)
                repeat_for(chance.uniform(1, 6), load)
                receiver, absences = CountingReceiver(log, receiver.port), absences + 1
            with receiver:
                daemon.wait_for(lambda: not unfinished(store), seconds=120)
                assert daemon.stop() == 0
                faults = SendingHarness(store, receiver, CONNECTIONS).find_faults(max_unknown=absences * CONNECTIONS)
    assert faults == []
    half = len(sizes) // 2
    for name, slack in (("memory_mib", 8), ("open_files", 4)):
        before, after = (max(getattr(size, name) for size in sample) for sample in (sizes[:half], sizes[half:]))
        print(f"{name}: at most {before:.0f} in the first half, {after:.0f} in the second")
        assert after <= before + slack
    accepted = len(log.read_text().splitlines())
    print(f"{accepted} emails in {MINUTES} minutes, the server was away {absences} times")
    assert accepted > 60 * MINUTES * 100, "this was not enough load"
    assert daemon.event_names.count("mail server unavailable") <= absences
    assert daemon.event_names.count("mail server available") <= absences


def repeat_for(seconds: float, action: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        action()
        time.sleep(0.5)


def unfinished(store: Store) -> list[Mailing]:
    return [mailing for mailing in rows(store, Mailing) if mailing.status != MailingStatus.COMPLETED]


def measure_size(pid: int) -> Size:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    processes = [Path(f"/proc/{process_id}") for process_id in (pid, *children)]
    memory = sum(int(re.findall(r"VmRSS:\s+(\d+)", (process / "status").read_text())[0]) for process in processes)
    return Size(memory / 1024, sum(len(list((process / "fd").iterdir())) for process in processes))

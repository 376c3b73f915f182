"""Minutes at load with a relay that comes and goes: nothing is lost or repeated, and the daemon does not grow.

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
from conftest import enrol
from support.daemons import Daemon, config, environ
from support.scene import Scene
from support.sending import mailing, rows
from support.servers import CountingReceiver

from skychimp.models import Mailing, MailingStatus
from skychimp.store.database import Store
from skychimp.store.schema import create_store

MINUTES = 10
LETTERS = 2_000  # a mailing
CONNECTIONS = 10
SETTINGS = {
    "SKYCHIMP_SMTP__CONNECTIONS": str(CONNECTIONS),
    "SKYCHIMP_DELIVERY__RETRY_AFTER": '["1s"]',
    "SKYCHIMP_DELIVERY__UNKNOWN_AFTER": "1s",
}


class Size(NamedTuple):
    """What a daemon and its scribe take up together."""

    memory_mib: float
    open_files: int


@pytest.mark.soak
@pytest.mark.timeout(60 * (2 * MINUTES + 5))
def test_a_relay_that_comes_and_goes_for_long(tmp_path: Path) -> None:
    chance, sizes = random.Random(11), list[Size]()
    log = tmp_path / "arrived"
    with closing(create_store(f"sqlite:///{tmp_path / 'skychimp.db'}")) as store:
        ada = enrol(store, "ada")
        receiver = CountingReceiver(log)
        with Daemon(store, config(tmp_path, receiver.port), environ(**SETTINGS)) as daemon:

            def load() -> None:
                """Two mailings are always under way."""
                sizes.append(size(daemon.process.pid))
                number = len(rows(store, Mailing))
                if len(unfinished(store)) < 2:
                    mailing(store, ada, [f"client{number * LETTERS + n}@example.org" for n in range(LETTERS)])

            end, absences = time.monotonic() + 60 * MINUTES, 0
            while time.monotonic() < end:
                with receiver:
                    during(chance.uniform(3, 15), load)
                during(chance.uniform(1, 6), load)
                receiver, absences = CountingReceiver(log, receiver.port), absences + 1
            with receiver:
                daemon.wait_for(lambda: not unfinished(store), seconds=120)
                assert daemon.stop() == 0
                found = Scene(store, receiver, CONNECTIONS).faults(doubtful=absences * CONNECTIONS)
    assert found == []
    half = len(sizes) // 2
    for name, slack in (("memory_mib", 8), ("open_files", 4)):
        before, after = (max(getattr(each, name) for each in part) for part in (sizes[:half], sizes[half:]))
        print(f"{name}: at most {before:.0f} in the first half, {after:.0f} in the second")
        assert after <= before + slack
    taken = len(log.read_text().splitlines())
    print(f"{taken} letters in {MINUTES} minutes, the relay was away {absences} times")
    assert taken > 60 * MINUTES * 100, "that was no load"
    assert daemon.said.count("relay away") <= absences
    assert daemon.said.count("relay back") <= absences


def during(seconds: float, what: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        what()
        time.sleep(0.5)


def unfinished(store: Store) -> list[Mailing]:
    return [one for one in rows(store, Mailing) if one.status != MailingStatus.COMPLETED]


def size(pid: int) -> Size:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    processes = [Path(f"/proc/{each}") for each in (pid, *children)]
    memory = sum(int(re.findall(r"VmRSS:\s+(\d+)", (each / "status").read_text())[0]) for each in processes)
    return Size(memory / 1024, sum(len(list((each / "fd").iterdir())) for each in processes))

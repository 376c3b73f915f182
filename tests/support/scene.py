"""Where a fault happens: a store with a mailing that is due, a receiver that keeps what it takes, and runs.

The judge is `Scene.faults`: what the receiver has on its disk against what the ledger says.
"""

import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from conftest import enrol

from skychimp.models import Delivery, DeliveryState, Mailing, MailingStatus, Outcome
from skychimp.store.database import Store
from skychimp.store.schema import create_store
from support.sending import SENDER, addresses, attempts, deliveries, finish, mailing, rows
from support.servers import Arrival, CountingReceiver

SKYCHIMP = (sys.executable, "-m", "skychimp")
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None"
OLD_SQLITE = "import sys; sys.modules['pysqlite3'] = None"  # the standard module's may be too old for WAL

HARMLESS = (DeliveryState.QUEUED, DeliveryState.CLAIMED)

Receiver = TypeVar("Receiver", bound=CountingReceiver)


def prepared(first: str) -> tuple[str, ...]:
    """The command line in a Python that has done something else first."""
    return (sys.executable, "-c", f"{first}\nfrom skychimp.cli.main import main\nmain()")


def due(folder: Path, letters: int) -> Path:
    """A store in a file of its own, with a mailing to so many clients that is due."""
    path = folder / f"due-{letters}.db"
    with closing(create_store(f"sqlite:///{path}")) as store:
        mailing(store, enrol(store, "ada"), addresses(letters))
    return path


@dataclass(frozen=True)
class Scene(Generic[Receiver]):
    """A store, and the receiver that its runs send to, over so many connections."""

    store: Store
    receiver: Receiver
    connections: int = 3
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def environ(self) -> dict[str, str]:
        """What tells a command where the store and the receiver are."""
        settings = {
            "mail__transport": "smtp",
            "mail__sender": SENDER,
            "smtp__host": "127.0.0.1",
            "smtp__port": self.receiver.port,
            "smtp__security": "none",
            "smtp__connections": self.connections,
            "run__patience": "0s",
            "delivery__unknown_after": "0s",
        }
        ours = {f"SKYCHIMP_{name.upper()}": str(value) for name, value in settings.items()}
        ours |= {"SKYCHIMP_STORE": str(self.store.path), "SKYCHIMP_CONFIG": os.devnull}
        return {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")} | ours

    def start(self, *words: str, command: Sequence[str] = SKYCHIMP) -> "subprocess.Popen[str]":
        """A command, `run` if not said otherwise, in a process of its own."""
        process = subprocess.Popen(
            [*command, *(words or ("run", "--json"))],
            env=self.environ(),
            cwd=self.store.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self) -> tuple[int, str, str]:
        """A run to its end: its status, stdout and stderr."""
        return finish(self.start())

    def close(self) -> None:
        """End what a test that failed has left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def faults(self, *, doubtful: int) -> list[str]:
        """All that is wrong now that everything is over; so many letters may have been in doubt.

        A letter that the ledger has as sent is never sent again, so that one the receiver does not have is lost.
        """
        self.receiver.wait()
        arrived = defaultdict(list)
        for letter in self.receiver.arrivals():
            arrived[letter.recipient].append(letter)
        known = deliveries(self.store)
        unknown = [tried for tried in attempts(self.store) if tried.outcome == Outcome.UNKNOWN]
        doubts = Counter(tried.delivery_id for tried in unknown)
        at_once = Counter(tried.started_at for tried in unknown)
        found = self._store_faults()
        found += [f"for nobody: {address}" for address in arrived.keys() - {one.address for one in known}]
        found += [line for one in known for line in _faults(one, arrived[one.address], doubts[one.id or 0])]
        if len(unknown) > doubtful or max(at_once.values(), default=0) > self.connections:
            found.append(f"unknown: {len(unknown)}, by rescue: {at_once}")
        return found

    def _store_faults(self) -> list[str]:
        unfinished = [one for one in rows(self.store, Mailing) if one.status != MailingStatus.COMPLETED]
        with self.store.connect() as db:
            check = db.exec_driver_sql("PRAGMA integrity_check").scalars().all()
        self.store.close()
        found = [f"the file: {line}" for line in check if line != "ok"]
        return found + [f"mailing {one.id} is {one.status}" for one in unfinished]

    def risked(self) -> set[str]:
        """The addresses that the ledger has more than a claim of, in a copy of its files: they are left as they are."""
        folder = self.store.path.parent / "copy"
        folder.mkdir(exist_ok=True)
        with closing(Store(copied(self.store.path, folder / self.store.path.name))) as store:
            found = {one.address for one in deliveries(store) if one.state not in HARMLESS}
        shutil.rmtree(folder)
        return found


def _faults(one: Delivery, copies: Sequence[Arrival], doubts: int) -> Iterator[str]:
    """What is wrong about one delivery."""
    if not copies:
        yield f"lost: {one.address}"
    if one.state != DeliveryState.SENT:
        yield f"{one.state}: {one.address}"
    if len(set(copies)) > 1:
        yield f"copies that differ: {copies}"
    if len(copies) - 1 > doubts:
        yield f"{len(copies)} copies, {doubts} times unknown: {one.address}"


@contextmanager
def scene(folder: Path, template: Path, receiver: type[Receiver], *, connections: int = 3) -> Iterator[Scene[Receiver]]:
    """A scene in a new folder, with a copy of a store and a receiver of its own."""
    folder.mkdir()
    path = copied(template, folder / "skychimp.db")
    with receiver(folder / "arrived") as listening, closing(Scene(Store(path), listening, connections)) as made:
        yield made


def copied(store: Path, to: Path) -> Path:
    """A store's files as they are on the disk, in another place."""
    for end in ("", "-wal", "-journal"):
        if os.path.exists(f"{store}{end}"):
            shutil.copy(f"{store}{end}", f"{to}{end}")
    return to

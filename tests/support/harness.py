"""Run the real command against a store with a due mailing and a server that records what it accepts.

`SendingHarness.find_faults` compares what the server has on its disk with what the ledger says.
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

from conftest import create_user

from skychimp.models import Delivery, DeliveryState, Mailing, MailingStatus, Outcome
from skychimp.store.database import Store
from skychimp.store.schema import create_store
from skychimp.store.sqlite import SqliteStore
from support.sending import SENDER, attempts, create_mailing, deliveries, make_addresses, rows, wait_for_exit
from support.servers import CountingReceiver, ReceivedEmail

SKYCHIMP = (sys.executable, "-m", "skychimp")

# Preambles: Python code that a command executes first.
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None"
OWN_CONNECTIONS = """
from skychimp.store.limits.connections import ConnectionSlots
ConnectionSlots.take, ConnectionSlots.release = lambda self: True, lambda self: None
"""  # a process may open all connections, whatever others have open
OLD_SQLITE = "import sys; sys.modules['pysqlite3'] = None"  # the sqlite3 of the standard library may be too old for WAL

NOT_YET_SENDING = (DeliveryState.QUEUED, DeliveryState.CLAIMED)

Receiver = TypeVar("Receiver", bound=CountingReceiver)


def overriding(constant: str, value: object) -> str:
    """Return a preamble that sets a module's constant. The command fails if there is no such constant."""
    module, _, name = constant.rpartition(".")
    return f"import {module} as module\nassert hasattr(module, {name!r}), {constant!r}\nmodule.{name} = {value!r}\n"


def with_preamble(preamble: str) -> tuple[str, ...]:
    """Return a command line for `skychimp` that executes some Python code first."""
    return (sys.executable, "-c", f"{preamble}\nfrom skychimp.cli.main import main\nmain()")


def make_due_store(tmp_path: Path, clients: int) -> Path:
    """Create a store with one due mailing to this many clients, and return its path.

    It is created once for all tests of a process, and copied.
    """
    template = tmp_path.parent / f"due-{clients}.db"
    if not template.exists():
        with closing(create_store(f"sqlite:///{template}")) as store:
            create_mailing(store, create_user(store, "ada"), make_addresses(clients))
    return copy_store_files(template, tmp_path / template.name)


@dataclass(frozen=True)
class SendingHarness(Generic[Receiver]):
    """A store, the server that its runs send to, and the number of connections that each run opens."""

    store: Store
    receiver: Receiver
    connections: int = 3
    url: str | None = None
    """The URL of the store, if it is not a file."""
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def environ(self) -> dict[str, str]:
        """Return the environment of a command: this process's own, with settings for the store and the server."""
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
        variables = {f"SKYCHIMP_{name.upper()}": str(value) for name, value in settings.items()}
        variables |= {"SKYCHIMP_STORE": self.url or str(self.store.path), "SKYCHIMP_CONFIG": os.devnull}
        return {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")} | variables

    def start(self, *arguments: str, command: Sequence[str] = SKYCHIMP, **environ: str) -> "subprocess.Popen[str]":
        """Start a command (default: `run`) in a process of its own."""
        process = subprocess.Popen(
            [*command, *(arguments or ("run", "--json"))],
            env=self.environ() | environ,
            cwd=None if self.url else self.store.path.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def start_beside(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command (default: `run`) that sends beside others, with as many connections of its own."""
        return self.start(*(arguments or ("run", "--json", "--join")), command=with_preamble(OWN_CONNECTIONS))

    def run(self) -> tuple[int, str, str]:
        """Execute `run`, and return its status, stdout and stderr."""
        return wait_for_exit(self.start())

    def close(self) -> None:
        """Kill the processes that a failed test has left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def find_faults(self, *, max_unknown: int, dead_at_once: int = 1) -> list[str]:
        """Return all that is wrong once every run has ended. At most `max_unknown` attempts may be unknown.

        At most `dead_at_once` runs may have been found dead at the same time.

        An email that the ledger calls sent is never sent again, so one that the server does not have is lost.
        """
        self.receiver.wait()
        arrived = defaultdict(list)
        for email in self.receiver.received_emails():
            arrived[email.recipient].append(email)
        expected = deliveries(self.store)
        unknown = [attempt for attempt in attempts(self.store) if attempt.outcome == Outcome.UNKNOWN]
        unknown_counts = Counter(attempt.delivery_id for attempt in unknown)
        rescues = Counter(attempt.started_at for attempt in unknown)
        faults = self._find_store_faults()
        faults += [f"unexpected: {address}" for address in arrived.keys() - {each.address for each in expected}]
        for delivery in expected:
            faults += _find_delivery_faults(delivery, arrived[delivery.address], unknown_counts[delivery.id or 0])
        if len(unknown) > max_unknown or max(rescues.values(), default=0) > dead_at_once * self.connections:
            faults.append(f"unknown: {len(unknown)}, by rescue: {rescues}")
        return faults

    def addresses_at_risk(self) -> set[str]:
        """Return the addresses whose deliveries have got further than a claim.

        It reads a copy of the store: opening the store itself would change its files.
        """
        folder = self.store.path.parent / "copy"
        folder.mkdir(exist_ok=True)
        with closing(SqliteStore(copy_store_files(self.store.path, folder / self.store.path.name))) as store:
            at_risk = {delivery.address for delivery in deliveries(store) if delivery.state not in NOT_YET_SENDING}
        shutil.rmtree(folder)
        return at_risk

    def _find_store_faults(self) -> list[str]:
        unfinished = [mailing for mailing in rows(self.store, Mailing) if mailing.status != MailingStatus.COMPLETED]
        check = []
        if isinstance(self.store, SqliteStore):
            with self.store.connect() as db:
                check = list(db.exec_driver_sql("PRAGMA integrity_check").scalars())
        self.store.close()
        faults = [f"damaged file: {line}" for line in check if line != "ok"]
        return faults + [f"mailing {mailing.id} is {mailing.status}" for mailing in unfinished]


def _find_delivery_faults(delivery: Delivery, copies: Sequence[ReceivedEmail], unknown_count: int) -> Iterator[str]:
    if not copies:
        yield f"lost: {delivery.address}"
    if delivery.state != DeliveryState.SENT:
        yield f"{delivery.state}: {delivery.address}"
    if len(set(copies)) > 1:
        yield f"different copies: {copies}"
    if len(copies) - 1 > unknown_count:
        yield f"{len(copies)} copies, {unknown_count} times unknown: {delivery.address}"


@contextmanager
def sending_harness(
    folder: Path, template: Path, receiver: type[Receiver], *, connections: int = 3
) -> Iterator[SendingHarness[Receiver]]:
    """Provide a harness in a new folder, with a copy of a store and a server of its own."""
    folder.mkdir()
    path = copy_store_files(template, folder / "skychimp.db")
    with (
        receiver(folder / "arrived") as server,
        closing(SendingHarness(SqliteStore(path), server, connections)) as harness,
    ):
        yield harness


def copy_store_files(store: Path, to: Path) -> Path:
    """Copy the files of a store as they are on the disk, and return the new path."""
    for suffix in ("", "-wal", "-journal"):
        if os.path.exists(f"{store}{suffix}"):
            shutil.copy(f"{store}{suffix}", f"{to}{suffix}")
    return to

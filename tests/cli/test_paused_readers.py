"""A reader that stops in the middle of a list does not keep SQLite from reusing its write-ahead log."""

import fcntl
import io
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from support import ledger_rows
from support.command import PROGRAM, Home

from skychimp.models import DeliveryState, Outcome, Role
from skychimp.permissions import Actor
from skychimp.services.blog import posts
from skychimp.services.clients import clients, suppressions
from skychimp.services.paging import PAGE
from skychimp.store.database import Store
from skychimp.store.sqlite import connect_file

pytestmark = pytest.mark.sqlite

COMMANDS = [
    "audit list", "blog list", "clients export", "clients export --format jsonl", "clients list",
    "clients list --sort name", "clients list --search example", "clients tags", "mailings audience 1",
    "mailings audience 1 --left-out", "mailings list", "mailings log 1",
    "mailings log 1 --last", "mailings log 1 --csv", "mailings log 1 --limit 10", "messages list", "report 1 --csv",
    "resolve", "run --dry-run", "run --plan", "sessions", "stats --range 7d", "store check",
    "suppressions export", "suppressions list", "suppressions list --everywhere", "users export", "users list",
    "why a@example.org",
]  # fmt: skip


class PausedReader(io.BytesIO):
    """Notes at each write whether the log could be emptied then, after another process has changed the store."""

    def __init__(self, other: Any) -> None:
        super().__init__()
        self._other = other
        self.could_empty: list[bool] = []

    def write(self, data: Any) -> int:
        self._other.execute("UPDATE store_info SET audience_version = random()")
        busy, *_ = self._other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.could_empty.append(not busy)
        return super().write(data)


@pytest.fixture
def other(store: Store) -> Iterator[Any]:
    """Return a connection of another process that also writes to the store."""
    with closing(connect_file(store.path)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("PRAGMA busy_timeout = 100")
        yield db


@pytest.fixture
def admins_home(store: Store, admin: Actor, home_of: Callable[[Actor], Home]) -> Home:
    """Return the command line of an administrator who has a few objects of each kind."""
    mailing_id = ledger_rows.mailing(store, admin)
    occurrence_id = ledger_rows.occurrence(store, mailing_id)
    for name in "abc":
        clients.create(store, admin, email=f"{name}@example.org")
        delivery_id = ledger_rows.delivery(store, occurrence_id, f"{name}@example.org", DeliveryState.UNKNOWN, None)
        ledger_rows.attempt(store, delivery_id, Outcome.UNKNOWN, "closed after the dot")
        ledger_rows.delivery(store, occurrence_id, f"waiting{name}@example.org", DeliveryState.QUEUED)
        posts.create(store, replace(admin, role=Role.EDITOR), title=name, content="Hello", publish=True)
    clients.create(store, admin, email="z@example.org", tags=["vip"])
    for everywhere in (False, True):
        new = [suppressions.new_suppression("z@example.org")]
        suppressions.add(store, admin, new, everywhere=everywhere)
    with store.write() as db:
        db.execute(text("UPDATE mailing SET all_clients = true"))
        # A fault, so that `store check` has something to show.
        db.execute(text("UPDATE delivery SET attempts = 7 WHERE address = 'a@example.org'"))
    return home_of(admin)


@pytest.mark.parametrize("command", COMMANDS)
def test_no_transaction_is_open_while_output_is_written(admins_home: Home, other: Any, command: str) -> None:
    reader = PausedReader(other)

    result = admins_home.call(*command.split(), reader=reader)

    assert result.out, result.err
    assert all(reader.could_empty)


def test_log_is_emptied_while_a_reader_has_stopped_in_the_middle_of_a_list(
    store: Store, ada: Actor, home: Home, other: Any, tmp_path: Path
) -> None:
    number = 3 * PAGE
    addresses = [f"client{i}@example.org" for i in range(number)]
    (tmp_path / "clients.csv").write_text("\n".join(["email", *addresses]))
    assert home.call("clients", "import", str(tmp_path / "clients.csv")).status == 0
    with subprocess.Popen(
        [PROGRAM, "clients", "list"], stdout=subprocess.PIPE, env=home.environ, cwd=home.folder
    ) as lister:
        assert lister.stdout is not None
        with suppress(OSError):
            fcntl.fcntl(lister.stdout, fcntl.F_SETPIPE_SZ, 4096)
        first = os.read(lister.stdout.fileno(), 4096)
        other.execute("UPDATE client SET comment = 'changed'")
        busy = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        rest = lister.stdout.read()

    assert not busy
    assert [line.split(b"\t")[1].decode() for line in (first + rest).splitlines()] == addresses

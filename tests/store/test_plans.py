"""How SQLite gets at what it is asked for: by indexes that stay as small as what waits, however long the ledger grows.

The statements are those that really run: they are heard on their way to the driver, and explained afterwards.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import enrol
from sqlalchemy import event, select, text
from support.queue_steps import (
    DAY,
    NOW,
    claim,
    delete_client,
    due,
    entry,
    intend,
    open_due,
    opened,
    record,
    release,
    rescue,
    sweep,
    write,
    write_at_once,
)

from skychimp.models import Delivery, DeliveryState, Outcome, Role
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions
from skychimp.services.operations import unknown_deliveries
from skychimp.services.reporting import address_history, delivery_log, reports, rollups
from skychimp.store import ledger, queue, runs
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import create_store

AT = "2026-01-01 09:00:00.000000"
OUTCOMES = (Outcome.SENT, Outcome.DEFERRED, Outcome.FAILED, Outcome.UNKNOWN)


@pytest.fixture
def busy(store: Store, ada: Actor) -> Store:
    make_busy(store, ada)
    return store


def make_busy(store: Store, ada: Actor) -> None:
    """An occurrence in the middle: of its 40 deliveries some have an outcome, some are held by run 1, some wait."""
    opened(store, ada, *(f"client{number}" for number in range(40)))
    claims = claim(store, limit=24)
    intend(store, 1, *claims[:20])
    record(store, 1, *(entry(claimed, OUTCOMES[number % 4]) for number, claimed in enumerate(claims[:16])))


def held(store: Store) -> list[ClaimedDelivery]:
    """What run 1 is sending."""
    delivery = Delivery.__table__
    chosen = select(*(delivery.c[name] for name in ClaimedDelivery._fields)).where(
        delivery.c.state == DeliveryState.SENDING
    )
    return [ClaimedDelivery(*row) for row in write(store, lambda connection: connection.execute(chosen).all())]


STEPS: dict[str, Callable[[Store, list[ClaimedDelivery]], object]] = {
    "claim": lambda store, _: claim(store, 2),
    "due": lambda store, _: due(store),
    "intend": lambda store, held: intend(store, 1, *held),
    "intend for what is not ours": lambda store, held: intend(store, 2, *held),
    "record": lambda store, held: record(store, 1, *(entry(claimed, Outcome.SENT) for claimed in held)),
    "write at once": lambda store, held: write_at_once(
        store, 1, [entry(one, Outcome.SENT) for one in held[1:]], held[:1]
    ),
    "record a deferral": lambda store, held: record(store, 1, *(entry(one, Outcome.DEFERRED) for one in held)),
    "record late": lambda store, held: record(store, 2, *(entry(claimed, Outcome.SENT) for claimed in held)),
    "record a bad address": lambda store, held: record(store, 1, entry(held[0], Outcome.FAILED, bad_address=True)),
    "release": lambda store, _: release(store, 1),
    "release by name": lambda store, held: release(store, 1, *held),
    "clock": lambda store, _: write(store, lambda db: runs.clock_behind(db, NOW)),
    "dead": lambda store, _: write(store, lambda db: runs.dead(db, store.path)),
    "rescue": lambda store, _: rescue(store, 1),
    "disable": lambda store, _: write(store, lambda db: queue.disable(db, 1, "why", NOW)),
    "sweep": lambda store, _: sweep(store),
    "expire": lambda store, _: sweep(store, NOW + 9 * DAY),
    "open": lambda store, _: open_due(store),
    "left": lambda store, _: write(store, ledger.left),
    "waiting": lambda store, _: write(store, ledger.waiting),
    "left of a mailing": lambda store, _: write(store, lambda db: ledger.left(db, 1)),
    "counts": lambda store, _: write(store, lambda db: ledger.counts(db, 1)),
    "resend": lambda store, _: write(store, lambda db: queue.resend(db, [4], NOW, NOW + DAY)),
    "settle": lambda store, _: write(store, lambda db: queue.resolve_as(db, [4], DeliveryState.SENT)),
    "delete a client": lambda store, _: delete_client(store, 40),
}
READS: dict[str, Callable[[Store, Actor], object]] = {
    "the log": lambda store, ada: list(delivery_log.log(store, ada, 1, ListOptions())),
    "the log from an attempt on": lambda store, ada: list(delivery_log.log(store, ada, 1, ListOptions(), after=3)),
    "the last of each": lambda store, ada: list(delivery_log.log(store, ada, 1, ListOptions(), last=True)),
    "the unknown ones": lambda store, ada: list(unknown_deliveries.unknown(store, ada)),
    "a report": lambda store, ada: reports.report(store, ada, 1),
    "a range of days": lambda store, ada: reports.range_report(store, ada, NOW.date(), NOW.date(), "UTC"),
    "everybody's range of days": lambda store, ada: reports.range_report(
        store, Actor(ada.user_id, ada.email, Role.MANAGER), NOW.date(), NOW.date(), "UTC"
    ),
    "why": lambda store, ada: address_history.address_history(store, ada, "client1@example.org"),
}
SMALL = ("ix_delivery_held", "ix_occurrence_unfinished", "ix_mailing_running")
"""What may be walked from end to end: an index that holds only what is held by a run, open or running."""
LARGE = ("delivery", "attempt", "client", "occurrence", "mailing", "pace", "result")


@contextmanager
def heard(store: Store) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are run in the block, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def hear(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        statements.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", hear)
    try:
        yield statements
    finally:
        event.remove(store.engine, "before_cursor_execute", hear)


def walks(store: Store, statements: list[tuple[str, Any]]) -> list[str]:
    """The lines of these statements' plans that read a large table, or too large an index, from end to end."""
    plans: list[str] = []
    with store.read() as db:
        for statement, parameters in statements:
            if not statement.startswith(("BEGIN", "PRAGMA")):
                plan = db.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans += [line.detail for line in plan]
    assert any(line.startswith(("SEARCH", "SCAN")) for line in plans), "nothing was heard"
    scans = [line.split() for line in plans if line.startswith("SCAN")]
    return [" ".join(line) for line in scans if line[1] in LARGE and line[-1] not in SMALL]


@pytest.mark.parametrize("step", STEPS)
def test_what_a_run_does_stays_on_indexes(busy: Store, step: str) -> None:
    sending = held(busy)
    with heard(busy) as statements:
        STEPS[step](busy, sending)

    assert walks(busy, statements) == []


@pytest.mark.parametrize("read", READS)
def test_what_a_person_looks_at_stays_on_indexes(busy: Store, ada: Actor, read: str) -> None:
    rollups.add_up(busy)  # SQLite plans a walk for a foreign key's sake, and never makes it
    with heard(busy) as statements:
        READS[read](busy, ada)

    assert walks(busy, statements) == []


def test_a_walk_would_be_seen(busy: Store) -> None:
    with heard(busy) as statements:
        write(busy, lambda connection: connection.exec_driver_sql("SELECT * FROM delivery WHERE run_id = 1").all())
        write(busy, lambda connection: connection.exec_driver_sql("SELECT id FROM delivery WHERE name = ''").all())

    assert len(walks(busy, statements)) == 2


# Cost

HISTORY = [
    """INSERT INTO mailing (owner_id, all_clients, start_local, timezone, start_at, every, catch_up, status,
           created_at)
       SELECT 1, 1, '2026-01-01T09:00:00', 'UTC', :at, 'once', 'latest', 'completed', :at FROM n LIMIT :number / 10""",
    """INSERT INTO occurrence (mailing_id, due_local, due_at, state, opened_at, deadline, finished_at, cursor, subject,
           body, format, sender, return_path, timezone)
       SELECT id, 'before', :at, 'finished', :at, :at, :at, 0, '', '', 'text', '', '', 'UTC' FROM mailing""",
    """INSERT INTO delivery (occurrence_id, client_id, address, address_key, name, comment, tags, state, attempts,
           given_back, run_id, token)
       SELECT 1 + i % 2, i, i, i, '', '', '[]', 'sent', 1, 0, 1, 1 FROM n""",
    """INSERT INTO attempt (delivery_id, number, started_at, finished_at, outcome, phase, enhanced, reply, relay)
       SELECT id, 1, :at, :at, 'sent', 'dot', '', '', '' FROM delivery WHERE run_id = 1 AND token = 1""",
    """INSERT INTO run (host, pid, started_at, heartbeat_at, ended_at, sent, deferred, failed, unknown)
       SELECT 'here', i, :at, :at, :at, 0, 0, 0, 0 FROM n""",
]
"""Mailings that are completed, runs that ended, and deliveries that were sent: half of them in the open occurrence."""


def add_history(store: Store, number: int) -> None:
    rows_of_n = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)"
    for statement in HISTORY:
        write(store, lambda c: c.execute(text(f"{rows_of_n} {statement}"), {"number": number, "at": AT}))  # noqa: B023


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same busy store twice: with little that is finished, and with a hundred times as much."""
    folder = tmp_path_factory.mktemp("stores")
    paths = [folder / "little.db", folder / "much.db"]
    for path, number in zip(paths, (200, 20_000), strict=True):
        store = create_store(f"sqlite:///{path}")
        make_busy(store, enrol(store, "ada"))
        add_history(store, number)
        store.close()
    return paths


def cost(path: Path, step: str) -> int:
    """How many instructions SQLite's virtual machine takes for a step on a copy of a store; in tens."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    store, tens = Store(copy), 0
    sending = held(store)

    def count() -> int:
        nonlocal tens
        tens += 1
        return 0

    event.listen(store.engine, "checkout", lambda connection, *_: connection.set_progress_handler(count, 10))
    STEPS[step](store, sending)
    store.close()
    return tens


@pytest.mark.parametrize("step", sorted(STEPS.keys() - {"counts"}))
def test_a_step_costs_the_same_however_much_is_finished(stores: list[Path], step: str) -> None:
    little, much = (cost(path, step) for path in stores)

    assert 0 < much <= 1.2 * little + 20


def test_a_cost_that_grows_would_be_seen(stores: list[Path]) -> None:
    little, much = (cost(path, "counts") for path in stores)

    assert much > 10 * little

"""SQLite finds rows by indexes that contain only what is pending, so that a long ledger makes nothing slower.

The tests record the statements that steps and reads really execute, and explain them afterwards.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from conftest import create_user
from sqlalchemy import event, select, text
from support.queue_steps import (
    DAY,
    NOW,
    claim,
    close_leases,
    create_client,
    create_deliveries,
    create_mailing,
    delete_client,
    due_occurrences,
    give_back,
    make_attempt,
    open_due,
    open_mailing,
    record_attempts,
    record_intents,
    rescue,
    sweep,
    write,
)

from skychimp.delivery.sending import due_work
from skychimp.models import Delivery, DeliveryState, Intent, Outcome, Role
from skychimp.permissions import Actor
from skychimp.services.listing import ListOptions
from skychimp.services.operations import status, unknown_deliveries
from skychimp.services.reporting import address_history, delivery_log, reports, rollups
from skychimp.store import holds, ledger, queue, runs
from skychimp.store.database import Store
from skychimp.store.occurrences import canary, opening, progress, sweeping
from skychimp.store.occurrences.progress import Progress, UnfinishedOccurrence
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import create_store
from skychimp.store.sqlite import SqliteStore

ADA = Actor(1, "ada@skychimp.test", Role.USER)
AT = "2026-01-01 09:00:00.000000"
OUTCOMES = (Outcome.SENT, Outcome.DEFERRED, Outcome.FAILED, Outcome.UNKNOWN)


@pytest.fixture(scope="module")
def busy_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("busy") / "skychimp.db"
    with closing(create_store(f"sqlite:///{path}")) as store:
        make_busy(store, create_user(store, "ada"))
        rollups.count_new_attempts(store)  # its foreign key check would be planned as a scan, which never runs
    return path


@pytest.fixture
def busy(busy_file: Path, tmp_path: Path) -> Iterator[Store]:
    """Return a copy of the busy store."""
    with closing(SqliteStore(Path(shutil.copy(busy_file, tmp_path)))) as store:
        yield store


def make_busy(store: Store, ada: Actor) -> None:
    """Open an occurrence with 40 deliveries: some are done, some in flight in run 1, some waiting."""
    open_mailing(store, ada, *(f"client{number}" for number in range(40)))
    claims = claim(store, limit=24)
    record_intents(store, 1, *claims[:20])
    record_attempts(store, 1, *map(make_attempt, claims[:16], cycle(OUTCOMES)))


def sending(store: Store) -> list[ClaimedDelivery]:
    """Return what run 1 is sending."""
    delivery, intent = Delivery.__table__, Intent.__table__
    columns = (*(delivery.c[name] for name in ClaimedDelivery._fields[:-2]), intent.c.lease_id)
    query = select(*columns).join(intent, intent.c.delivery_id == delivery.c.id)
    return [
        ClaimedDelivery._make((*row, NOW)) for row in write(store, lambda connection: connection.execute(query).all())
    ]


def record_all(store: Store, run_id: int, claims: list[ClaimedDelivery], outcome: Outcome) -> None:
    record_attempts(store, run_id, *(make_attempt(claimed, outcome) for claimed in claims))


def find_next_due_time(store: Store) -> None:
    close_leases(store)
    write(store, lambda db: due_work.next_due_at(db, NOW))


def change_content(store: Store) -> None:
    close_leases(store)
    write(store, lambda db: opening.change_content(db, 1, LATER_ATTEMPT, subject="Corrected"))


LATER_ATTEMPT = 1_000_000
NOT_BEGUN = Progress({1: UnfinishedOccurrence(1, NOW, has_begun=False, has_untried=True)}, LATER_ATTEMPT)

STEPS: dict[str, Callable[[Store, list[ClaimedDelivery]], object]] = {
    "claim": lambda store, _: claim(store, 2),
    "find what is due": lambda store, _: due_occurrences(store),
    "judge canaries": lambda store, _: write(store, lambda db: canary.count_results(db, NOW)),
    "list who waits for a canary": lambda store, _: write(store, canary.list_waiting),
    "find the next due time": lambda store, _: find_next_due_time(store),
    "record intents": lambda store, claims: record_intents(store, 1, *claims),
    "record intents of another run": lambda store, claims: record_intents(store, 2, *claims),
    "record successes": lambda store, claims: record_all(store, 1, claims, Outcome.SENT),
    "record deferrals": lambda store, claims: record_all(store, 1, claims, Outcome.DEFERRED),
    "record late successes": lambda store, claims: record_all(store, 2, claims, Outcome.SENT),
    "record a bad address": lambda store, claims: record_attempts(
        store, 1, make_attempt(claims[0], Outcome.FAILED, bad_address=True)
    ),
    "close leases": lambda store, _: close_leases(store),
    "give back": lambda store, claims: give_back(store, *claims),
    "check the clock": lambda store, _: write(store, lambda db: runs.clock_behind(db, NOW)),
    "find dead runs": lambda store, _: write(store, lambda db: runs.dead_runs(db, store.path, NOW)),
    "rescue": lambda store, _: rescue(store, 1),
    "disable": lambda store, _: write(store, lambda db: holds.disable_mailing(db, 1, "why", NOW)),
    "sweep": lambda store, _: sweep(store),
    "sweep again": lambda store, _: write(store, lambda db: sweeping.sweep(db, NOW, looked={(1, 2): LATER_ATTEMPT})),
    "expire": lambda store, _: sweep(store, NOW + 9 * DAY),
    "open": lambda store, _: open_due(store),
    "look what was sent since": lambda store, _: write(
        store, lambda db: progress.unfinished_occurrences(db, 1, NOT_BEGUN)
    ),
    "change the content of an open occurrence": lambda store, _: change_content(store),
    "count pending by state": lambda store, _: write(store, ledger.count_pending_by_state),
    "count pending": lambda store, _: write(store, ledger.count_pending),
    "count pending of a mailing": lambda store, _: write(store, lambda db: ledger.count_pending_by_state(db, 1)),
    "count all": lambda store, _: write(store, lambda db: ledger.count_by_state(db, 1)),
    "resend": lambda store, _: write(store, lambda db: queue.resend(db, [4], NOW)),
    "resolve": lambda store, _: write(store, lambda db: queue.resolve_as(db, [4], DeliveryState.SENT)),
    "delete a client": lambda store, _: delete_client(store, 40),
}
READS: dict[str, Callable[[Store, Actor], object]] = {
    "the log": lambda store, ada: list(delivery_log.list_attempts(store, ada, 1, ListOptions())),
    "the log after an attempt": lambda store, ada: list(
        delivery_log.list_attempts(store, ada, 1, ListOptions(), after=3)
    ),
    "the last attempts": lambda store, ada: list(delivery_log.list_attempts(store, ada, 1, ListOptions(), last=True)),
    "unknown deliveries": lambda store, ada: list(unknown_deliveries.list_unknown(store, ada)),
    "unknown deliveries of all users": lambda store, ada: list(
        unknown_deliveries.list_unknown(store, Actor(ada.user_id, ada.email, Role.ADMIN))
    ),
    "resolving an unknown delivery": lambda store, ada: unknown_deliveries.resolve(
        store,
        Actor(ada.user_id, ada.email, Role.ADMIN),
        unknown_deliveries.Resolution.SENT,
        ids=[4],
    ),
    "a report": lambda store, ada: reports.mailing_report(store, ada, 1),
    "a range of days": lambda store, ada: reports.range_report(store, ada, NOW.date(), NOW.date(), "UTC"),
    "a range of days of all users": lambda store, ada: reports.range_report(
        store, Actor(ada.user_id, ada.email, Role.MANAGER), NOW.date(), NOW.date(), "UTC"
    ),
    "status": lambda store, _: status.status(store),
    "an address history": lambda store, ada: address_history.address_history(store, ada, "client1@example.org"),
}
SMALL = (
    "ix_occurrence_unfinished",
    "ix_mailing_held",
    "ix_mailing_running",
    "ix_delivery_unknown",
    "ix_delivery_outbox",
)
"""Indexes that may be scanned: they contain only what is unknown, unfinished or running."""
LARGE = (
    "delivery", "attempt", "client", "client_tag", "occurrence", "mailing", "mailing_client", "mailing_tag", "pace",
    "result",
)  # fmt: skip


@contextmanager
def recorded_statements(store: Store) -> Iterator[list[str]]:
    """Collect the statements that are executed in the block, with the values of their parameters."""
    statements: list[str] = []

    def trace(connection: Any, *_: object) -> None:
        connection.set_trace_callback(statements.append)

    store.close()
    event.listen(store.engine, "checkout", trace)
    try:
        yield statements
    finally:
        event.remove(store.engine, "checkout", trace)
        store.close()


def full_scans(store: Store, statements: list[str]) -> list[str]:
    """Return the lines of the statements' plans that read all of a large table or index."""
    plans: list[str] = []
    with store.read() as db:
        for statement in statements:
            if not statement.startswith(("BEGIN", "PRAGMA", "COMMIT", "ROLLBACK", "--")):
                plan = db.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
                plans += [line.detail for line in plan]
    assert any(line.startswith(("SEARCH", "SCAN")) for line in plans), "no statement was recorded"
    scans = [line.split() for line in plans if line.startswith("SCAN")]
    return [" ".join(line) for line in scans if line[1] in LARGE and line[-1] not in SMALL]


@pytest.mark.parametrize("step", STEPS)
def test_step_of_a_run_uses_indexes(busy: Store, step: str) -> None:
    claims = sending(busy)
    with recorded_statements(busy) as statements:
        STEPS[step](busy, claims)

    assert full_scans(busy, statements) == []


@pytest.mark.parametrize("read", READS)
def test_read_uses_indexes(busy: Store, read: str) -> None:
    with recorded_statements(busy) as statements:
        READS[read](busy, ADA)

    assert full_scans(busy, statements) == []


@pytest.mark.parametrize("audience", [{}, {"tags": ["red"]}, {"client_ids": [1, 2]}], ids=["all", "tag", "named"])
def test_opening_uses_indexes(busy: Store, audience: dict[str, Any]) -> None:
    create_client(busy, ADA, "tagged", tags=["red"])
    create_mailing(busy, ADA, **audience)
    open_due(busy)
    with recorded_statements(busy) as statements:
        create_deliveries(busy, 2)

    assert full_scans(busy, statements) == []


def test_full_scan_is_noticed(busy: Store) -> None:
    with recorded_statements(busy) as statements:
        write(busy, lambda connection: connection.exec_driver_sql("SELECT * FROM delivery WHERE attempts = 1").all())
        write(busy, lambda connection: connection.exec_driver_sql("SELECT id FROM delivery WHERE name = ''").all())

    assert len(full_scans(busy, statements)) == 2


# Cost

HISTORY = [
    """INSERT INTO mailing (owner_id, all_clients, start_local, timezone, start_at, every, catch_up, status,
           created_at)
       SELECT 1, 1, '2026-01-01T09:00:00', 'UTC', :at, 'once', 'latest', 'completed', :at FROM n LIMIT :number / 10""",
    """INSERT INTO occurrence (mailing_id, due_local, due_at, state, opened_at, finished_at, cursor, subject,
           body, format, sender, return_path, timezone)
       SELECT id, 'before', :at, 'finished', :at, :at, 0, '', '', 'text', '', '', 'UTC' FROM mailing""",
    """INSERT INTO delivery (occurrence_id, client_id, address, address_key, name, comment, tags, state, attempts,
           given_back)
       SELECT 1 + i % 2, i, i, 'history ' || i, '', '', '[]', 'sent', 1, 0 FROM n""",
    """INSERT INTO attempt (delivery_id, number, started_at, finished_at, outcome, phase, enhanced, reply, relay)
       SELECT id, 1, :at, :at, 'sent', 'dot', '', '', '' FROM delivery WHERE address_key LIKE 'history %'""",
    """INSERT INTO run (host, pid, started_at, heartbeat_at, ended_at, sent, deferred, failed, unknown)
       SELECT 'here', i, :at, :at, :at, 0, 0, 0, 0 FROM n""",
]
"""Completed mailings, ended runs and sent deliveries, half of them in the open occurrence."""


def add_history(store: Store, number: int) -> None:
    rows_of_n = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)"
    for statement in HISTORY:
        write(store, lambda c: c.execute(text(f"{rows_of_n} {statement}"), {"number": number, "at": AT}))  # noqa: B023


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The busy store with a short history, and with one that is a hundred times as long."""
    folder = tmp_path_factory.mktemp("stores")
    paths = [folder / "short.db", folder / "long.db"]
    for path, number in zip(paths, (200, 20_000), strict=True):
        store = create_store(f"sqlite:///{path}")
        make_busy(store, create_user(store, "ada"))
        add_history(store, number)
        store.close()
    return paths


def cost(path: Path, step: str) -> int:
    """Return how many tens of instructions SQLite's virtual machine executes for a step, on a copy of a store."""
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    store, tens = SqliteStore(copy), 0
    claims = sending(store)

    def count() -> int:
        nonlocal tens
        tens += 1
        return 0

    event.listen(store.engine, "checkout", lambda connection, *_: connection.set_progress_handler(count, 10))
    STEPS[step](store, claims)
    store.close()
    return tens


@pytest.mark.parametrize("step", sorted(STEPS.keys() - {"count all"}))
def test_cost_of_a_step_does_not_depend_on_the_history(stores: list[Path], step: str) -> None:
    short, long = (cost(path, step) for path in stores)

    assert 0 < long <= 1.2 * short + 20


def test_growing_cost_is_noticed(stores: list[Path]) -> None:
    short, long = (cost(path, "count all") for path in stores)

    assert long > 10 * short

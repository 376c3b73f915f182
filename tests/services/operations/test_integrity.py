"""Test that `store check` finds no fault in a used store, and finds every kind of damage."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import create_user
from sqlmodel import col, update
from support.command import Home
from support.sending import create_mailing, make_settings, rows, send, state_counts
from support.servers import GREETING, ScriptedServer, accept_mail

from skychimp.models import Attempt, Delivery, Every, Occurrence, OccurrenceState, Post
from skychimp.services.clients import clients
from skychimp.services.operations import housekeeping, integrity, unknown_deliveries
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.store.database import SQLITE, Store

REPLIES = {"deferred": b"451 4.7.1 later\r\n", "failed": b"550 5.7.1 no\r\n", "unknown": b"", "resolved": b""}


@pytest.fixture
def used(store: Store) -> Store:
    """Return a store with a delivery in nearly every state."""
    ada = create_user(store, "ada")
    names = ("sent", "deferred", "failed", "unknown", "resolved", "erased")
    create_mailing(store, ada, [f"{name}@example.org" for name in names], every=Every.DAY)

    def answer(command: str, address: str) -> bytes | None:
        return REPLIES.get(address.partition("@")[0]) if command == "." else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        send(store, make_settings(server.port, delivery__unknown="hold"))
    resolved_id = delivery_id(store, "resolved")
    unknown_deliveries.resolve(store, ada, Resolution.SENT, ids=[resolved_id])
    clients.remove(store, ada, "erased@example.org")
    return store


def delivery_id(store: Store, name: str) -> int:
    return next(row.id or 0 for row in rows(store, Delivery) if row.address.startswith(name))


def faults(store: Store) -> list[tuple[str, str, int]]:
    """Return the faults as the command finds them."""
    damage = list(integrity.find_damage(store.path)) if store.dialect == SQLITE else []
    return [(fault.table, fault.fault, fault.number) for fault in damage or integrity.find_faults(store)]


def test_used_store_has_no_faults(used: Store) -> None:
    assert state_counts(used) == {"sent": 3, "deferred": 1, "failed": 1, "unknown": 1}
    assert faults(used) == []


def test_removed_old_attempts_are_no_fault(used: Store) -> None:
    at = datetime.now(UTC) - timedelta(days=10)
    with used.write() as db:
        db.execute(update(Attempt).where(col(Attempt.id) <= 3).values(finished_at=at))
    housekeeping.tidy(used, keep_attempts=timedelta(days=5))
    assert faults(used) == []


DAMAGE = {
    "number of attempts differs from the log": "UPDATE delivery SET attempts = 2 WHERE state = 'sent' AND id = 1",
    "an attempt is missing from the log": "UPDATE delivery SET attempts = 3 WHERE id = 1;"
    "UPDATE attempt SET number = 3 WHERE delivery_id = 1;"
    "INSERT INTO attempt (id, delivery_id, number, started_at, finished_at, outcome, phase, enhanced, reply, relay)"
    " SELECT 99, delivery_id, 1, started_at, finished_at, outcome, phase, enhanced, reply, relay FROM attempt"
    " WHERE delivery_id = 1",
    "sent, but no attempt was sent": "UPDATE attempt SET outcome = 'failed' WHERE delivery_id = 1",
    "in the outbox, but no attempt was written there": "UPDATE delivery SET state = 'outbox' WHERE id = 1",
    "failed, but no attempt failed": "UPDATE attempt SET outcome = 'deferred' WHERE outcome = 'failed'",
    "deferred, but no attempt was deferred": "UPDATE attempt SET outcome = 'failed' WHERE outcome = 'deferred'",
    "unknown, but no attempt is unknown": "UPDATE attempt SET outcome = 'failed' WHERE outcome = 'unknown'"
    " AND delivery_id IN (SELECT id FROM delivery WHERE state = 'unknown')",
    "tried, but no attempt is in the log": "DELETE FROM attempt WHERE delivery_id = 2;"
    "UPDATE occurrence SET opened_at = '2100-01-01 00:00:00'",
    "has an outcome without any attempt": "UPDATE delivery SET attempts = 0 WHERE id = 1;"
    "DELETE FROM attempt WHERE delivery_id = 1",
    "sent already, but queued to be sent again": "UPDATE delivery SET state = 'queued', next_try_at = '2026-01-01'"
    " WHERE id = 1",
    "finished, but has deliveries that are waiting": "UPDATE occurrence SET state = 'finished',"
    " finished_at = '2026-01-01'",
    "missed, but emails were sent": "UPDATE occurrence SET state = 'missed', finished_at = '2026-01-01'",
    "finished without a finish time, or unfinished with one": "UPDATE occurrence SET finished_at = '2026-01-01'",
    "completed, but not everything was sent": "UPDATE mailing SET status = 'completed'",
    "created, but has no due time": "UPDATE mailing SET status = 'created', next_at = NULL",
    "has no message": "UPDATE mailing SET message_id = NULL",
    "the row that describes the store is missing": "DELETE FROM store_info",
}


def test_every_rule_has_a_test() -> None:
    assert [rule.fault for rule in integrity.RULES] == list(DAMAGE)


@pytest.mark.parametrize("fault", DAMAGE)
def test_broken_rule_is_found(used: Store, fault: str) -> None:
    with used.write() as db:
        for statement in DAMAGE[fault].split(";"):
            db.connection().exec_driver_sql(statement)
    assert fault in [found for _, found, _ in faults(used)]
    assert all(row.remedy for row in integrity.find_faults(used))


def test_missing_image_is_found(used: Store) -> None:
    now = datetime.now(UTC)
    with used.write() as db:
        image = f"{'0' * 32}.png"
        db.add(Post(author_id=1, slug="a", title="a", content="", image=image, created_at=now, updated_at=now))
    assert faults(used) == [("post", "image file is missing", 1)]


@pytest.mark.sqlite
def test_orphaned_row_and_damaged_page_are_found(used: Store, tmp_path: Path) -> None:
    with used.engine.execution_options(begin=None).connect() as db:
        db.exec_driver_sql("PRAGMA foreign_keys = OFF")
        db.exec_driver_sql("DELETE FROM message")
    used.close()
    assert faults(used) == [("", "row 1 of mailing refers to a missing message", 1)]
    with used.write() as db:
        page = db.connection().exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'attempt'").scalar()
    used.close()
    with used.path.open("r+b") as file:
        file.seek((int(page or 0) - 1) * 4096)
        file.write(b"\xff" * 4096)
    home = Home(tmp_path, SKYCHIMP_STORE=str(used.path))
    done = home.call("store", "check", "--json")
    assert (done.status, done.json["ok"]) == (1, False), done.err
    assert done.json["faults"][0]["remedy"] == 'run "skychimp restore FILE --operator"'


def test_command_exit_status_and_output(used: Store, store_url: str, tmp_path: Path) -> None:
    used.close()
    home = Home(tmp_path, SKYCHIMP_STORE=store_url)
    assert home.call("store", "check").err == "no damage found\n"
    assert home.call("store", "check", "--json").json == {"ok": True, "faults": []}
    with used.write() as db:
        db.get_one(Occurrence, 1).state = OccurrenceState.FINISHED
    used.close()
    done = home.call("store", "check")
    assert done.status == 1
    assert done.out.startswith("occurrence\tfinished, but has deliveries that are waiting\t1\t1\t")

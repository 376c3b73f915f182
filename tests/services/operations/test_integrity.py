"""`store check` finds nothing in a store that was only used, and names what somebody, or a defect, has done to one."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import enrol
from support.command import Home
from support.sending import mailing, rows, send, settings, states
from support.servers import GREETING, ScriptedServer, obey

from skychimp.models import Delivery, Every, Occurrence, OccurrenceState, Post
from skychimp.services.clients import clients
from skychimp.services.operations import housekeeping, integrity, unknown_deliveries
from skychimp.services.operations.unknown_deliveries import Resolution
from skychimp.store.database import Store
from skychimp.store.schema import open_store

REPLIES = {"deferred": b"451 4.7.1 later\r\n", "failed": b"550 5.7.1 no\r\n", "unknown": b"", "settled": b""}


@pytest.fixture(scope="module")
def template(_new_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a daily mailing with a delivery in nearly each state there is; used once, and copied for each test."""
    path = tmp_path_factory.mktemp("used") / "skychimp.db"
    shutil.copy(_new_store, path)
    with closing(open_store(f"sqlite:///{path}")) as store:
        ada = enrol(store, "ada")
        names = ("sent", "deferred", "failed", "unknown", "settled", "erased")
        mailing(store, ada, [f"{name}@example.org" for name in names], every=Every.DAY)

        def answer(command: str, address: str) -> bytes | None:
            return REPLIES.get(address.partition("@")[0]) if command == "." else None

        with ScriptedServer([GREETING, obey(answer)]) as server:
            send(store, settings(server.port, delivery__unknown="hold"))
        settled = next(row.id or 0 for row in rows(store, Delivery) if row.address.startswith("settled"))
        unknown_deliveries.resolve(store, ada, Resolution.SENT, give_up_after=timedelta(days=3), ids=[settled])
        clients.remove(store, ada, "erased@example.org")
    return path


@pytest.fixture
def used(template: Path, tmp_path: Path) -> Iterator[Store]:
    with closing(open_store(f"sqlite:///{shutil.copy(template, tmp_path / 'skychimp.db')}")) as store:
        yield store


def found(store: Store) -> list[tuple[str, str, int]]:
    return [(fault.table, fault.fault, fault.number) for fault in integrity.check(store)]


def test_a_store_that_was_used_is_sound(used: Store) -> None:
    assert states(used) == {"sent": 3, "deferred": 1, "failed": 1, "unknown": 1}
    assert found(used) == []


def test_attempts_that_have_gone_by_age_are_no_fault(used: Store) -> None:
    at = datetime.now(UTC) - timedelta(days=10)
    with used.write() as db:
        db.connection().exec_driver_sql("UPDATE attempt SET finished_at = ? WHERE id <= 3", (str(at)[:26],))
    housekeeping.tidy(used, keep_attempts=timedelta(days=5))
    assert found(used) == []


BREAKS = {
    "its count of attempts is not that of the log": "UPDATE delivery SET attempts = 2 WHERE state = 'sent' AND id = 1",
    "an attempt is missing in the log": "UPDATE delivery SET attempts = 3 WHERE id = 1;"
    "UPDATE attempt SET number = 3 WHERE delivery_id = 1;"
    "INSERT INTO attempt SELECT 99, delivery_id, 1, started_at, finished_at, outcome, phase, code, enhanced, reply,"
    " relay FROM attempt WHERE delivery_id = 1",
    "it is sent, and no attempt says so": "UPDATE attempt SET outcome = 'failed' WHERE delivery_id = 1",
    "it is failed, and no attempt says so": "UPDATE attempt SET outcome = 'deferred' WHERE outcome = 'failed'",
    "it is deferred, and no attempt says so": "UPDATE attempt SET outcome = 'failed' WHERE outcome = 'deferred'",
    "it is unknown, and no attempt says so": "UPDATE attempt SET outcome = 'failed' WHERE outcome = 'unknown'"
    " AND delivery_id IN (SELECT id FROM delivery WHERE state = 'unknown')",
    "it was tried, and the log has nothing of it": "DELETE FROM attempt WHERE delivery_id = 2;"
    "UPDATE occurrence SET opened_at = datetime('now', '+1 day')",
    "its outcome is there without any attempt": "UPDATE delivery SET attempts = 0 WHERE id = 1;"
    "DELETE FROM attempt WHERE delivery_id = 1",
    "a letter was sent, and would be sent again": "UPDATE delivery SET state = 'queued', next_try_at = '2026-01-01'"
    " WHERE id = 1",
    "it is over, and a letter of it still waits": "UPDATE occurrence SET state = 'finished',"
    " finished_at = '2026-01-01'",
    "it was missed, and has letters": "UPDATE delivery SET state = 'cancelled', next_try_at = NULL;"
    "UPDATE occurrence SET state = 'missed', finished_at = '2026-01-01'",
    "it is over without an end, or has an end and is not over": "UPDATE occurrence SET finished_at = '2026-01-01'",
    "it is completed, and still has something to come": "UPDATE mailing SET status = 'completed'",
    "it has not begun, and will never be due": "UPDATE mailing SET status = 'created', next_at = NULL",
    "it has no message": "UPDATE mailing SET message_id = NULL",
    "the store does not know itself": "DELETE FROM store_info",
}


def test_each_rule_is_broken_below() -> None:
    assert [rule.says for rule in integrity.RULES] == list(BREAKS)


@pytest.mark.parametrize("fault", BREAKS)
def test_what_can_never_be_is_named(used: Store, fault: str) -> None:
    with used.write() as db:
        for statement in BREAKS[fault].split(";"):
            db.connection().exec_driver_sql(statement)
    assert fault in [says for _, says, _ in found(used)]
    assert all(row.remedy for row in integrity.check(used))


def test_an_image_that_is_not_there(used: Store) -> None:
    now = datetime.now(UTC)
    with used.write() as db:
        image = f"{'0' * 32}.png"
        db.add(Post(author_id=1, slug="a", title="a", content="", image=image, created_at=now, updated_at=now))
    assert found(used) == [("post", "its image is not there", 1)]


def test_a_row_astray_and_a_broken_page(used: Store, tmp_path: Path) -> None:
    with used.engine.execution_options(begin=None).connect() as db:
        db.exec_driver_sql("PRAGMA foreign_keys = OFF")
        db.exec_driver_sql("DELETE FROM message")
    used.close()
    assert found(used) == [("", "row 1 of mailing is without its message", 1)]
    with used.write() as db:
        page = db.connection().exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'attempt'").scalar()
    used.close()
    with used.path.open("r+b") as file:
        file.seek((int(page or 0) - 1) * 4096)
        file.write(b"\xff" * 4096)
    home = Home(tmp_path, SKYCHIMP_STORE=str(used.path))
    done = home.call("store", "check", "--json")
    assert (done.status, done.json["ok"]) == (1, False), done.err
    assert done.json["faults"][0]["remedy"] == "bring back a copy: skychimp restore FILE --operator"


def test_the_command(used: Store, tmp_path: Path) -> None:
    used.close()
    home = Home(tmp_path, SKYCHIMP_STORE=str(used.path))
    assert home.call("store", "check").err == "the store is sound\n"
    assert home.call("store", "check", "--json").json == {"ok": True, "faults": []}
    with used.write() as db:
        db.get_one(Occurrence, 1).state = OccurrenceState.FINISHED
    used.close()
    done = home.call("store", "check")
    assert done.status == 1
    assert done.out.startswith("occurrence\tit is over, and a letter of it still waits\t1\t1\t")

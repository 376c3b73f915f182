"""Test the recorder: results come after the commit, batches are written together, and failures reach everyone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection, select
from support.sending import attempts, create_mailing, deliveries, make_addresses, state_counts

from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import recorder as recorder_module
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.errors import StoreFailed
from skychimp.models import Delivery, DeliveryState, Outcome
from skychimp.permissions import Actor
from skychimp.store import holds, queue, sqlite
from skychimp.store.database import SQLITE, Store
from skychimp.store.ledger import AttemptRecord
from skychimp.store.occurrences import opening
from skychimp.store.postgres import server
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import open_store

T = TypeVar("T")
EMAILS = 30


@pytest.fixture
def due(store: Store, ada: Actor) -> int:
    """Create a mailing with its deliveries, and return its ID."""
    mailing_id, now = create_mailing(store, ada, make_addresses(EMAILS)), datetime.now(UTC)
    with store.connect() as db, db.begin():
        planner.open_due(db, now, sender="a@x.org", return_path="a@x.org")
        opening.create_deliveries(db, 1)
    return mailing_id


@asynccontextmanager
async def recording(
    store: Store, patience: timedelta | None = timedelta()
) -> AsyncIterator[tuple[Recorder, list[ClaimedDelivery]]]:
    """Yield the recorder of a run and the deliveries that the run has claimed."""
    with registered_run(store) as lock:
        with store.connect() as db, db.begin():
            now = datetime.now(UTC)
            claims = queue.lease(db, 1, lock.run_id, now, now, EMAILS)
        recorder = Recorder(store, lock.run_id, now=lambda: datetime.now(UTC), patience=patience)
        try:
            yield recorder, claims
        finally:
            await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def with_timeout() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(with_timeout())


def attempt(claimed: ClaimedDelivery, outcome: Outcome = Outcome.SENT, reply: str = "250 2.0.0 ok") -> AttemptRecord:
    now = datetime.now(UTC)
    return AttemptRecord(claimed, now, now, outcome, "dot", 250, "2.0.0", reply, "relay.example:25", None)


def intent(recorder: Recorder, claimed: ClaimedDelivery) -> "asyncio.Future[bool]":
    """Ask for an intent. The result is the answer."""
    answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    recorder.commit_intent(claimed, answer.set_result)
    return answer


@contextmanager
def locked(store: Store, *, by_reading: bool = False) -> Iterator[None]:
    """Keep another connection's write or read transaction open until the end of the block."""
    is_open, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        connected = store.engine.connect() if by_reading else store.connect()
        with connected as connection, connection.begin():
            connection.exec_driver_sql("SELECT count(*) FROM delivery").scalar()
            is_open.set()
            may_end.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    is_open.wait()
    yield
    may_end.set()
    thread.join()


def state_of(store: Store, claimed: ClaimedDelivery) -> DeliveryState:
    return next(row.state for row in deliveries(store) if row.id == claimed.id)


def test_results_come_after_the_commit(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            for claimed in claims[:3]:
                assert await intent(recorder, claimed)
                assert state_of(store, claimed) == DeliveryState.SENDING
                recorder.record(attempt(claimed))
            await recorder.submit(lambda db: queue.give_back(db, [claims[3]]))
            assert [state_of(store, claimed) for claimed in claims[:4]] == ["sent", "sent", "sent", "queued"]

    run(go())
    assert [(tried.number, tried.outcome) for tried in attempts(store)] == [(1, Outcome.SENT)] * 3


def test_writes_during_a_commit_form_the_next_batch(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (first, *others)):
            with locked(store):
                earlier = intent(recorder, first)
                await asyncio.sleep(0.05)
                futures = []
                for claimed in others:
                    recorder.record(attempt(claimed, Outcome.FAILED, "554 5.7.1 no"))
                    futures.append(recorder.submit(partial(_state, claimed.id)))
                    await asyncio.sleep(0)
                assert not earlier.done()
            assert await earlier
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            assert [future.result() for future in futures] == ["failed"] * len(others)

    run(go())
    assert state_counts(store) == {"sending": 1, "failed": EMAILS - 1}


def _state(delivery_id: int, db: Connection) -> str:
    """Return the state. Attempts are written before jobs, and jobs before intents."""
    return str(db.scalar(select(Delivery.__table__.c.state).where(Delivery.__table__.c.id == delivery_id)))


LOST: dict[str, Callable[[Connection, ClaimedDelivery, int], object]] = {
    "run ended": lambda db, claimed, mailing_id: queue.close_leases(db, 1),
    "run declared dead": lambda db, claimed, mailing_id: queue.rescue(db, 1, datetime.now(UTC), None, "relay"),
    "disabled": lambda db, claimed, mailing_id: holds.disable_mailing(db, mailing_id, "", datetime.now(UTC)),
    "cancelled": lambda db, claimed, mailing_id: queue.cancel_deliveries(db, [claimed.id]),
}


@pytest.mark.parametrize("event", LOST)
def test_intent_of_a_lost_delivery_is_refused(store: Store, due: int, event: str) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (claimed, other, *_)):
            with store.connect() as db, db.begin():
                LOST[event](db, claimed, due)
            results = await asyncio.gather(intent(recorder, claimed), intent(recorder, other))
            assert list(results) == [False, event == "cancelled"]

    run(go())


def test_intent_is_renewed_unless_the_run_was_declared_dead(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (claimed, *_)):
            assert await intent(recorder, claimed)
            assert await intent(recorder, claimed)
            with store.connect() as db, db.begin():
                queue.rescue(db, 1, datetime.now(UTC), None, "relay")
            assert not await intent(recorder, claimed)

    run(go())


def test_close_commits_what_is_left(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            await asyncio.gather(*(intent(recorder, claimed) for claimed in claims))
            for claimed in claims:
                recorder.record(attempt(claimed))

    run(go())
    assert state_counts(store) == {"sent": EMAILS}
    assert len(attempts(store)) == EMAILS


@pytest.mark.parametrize(
    "uses_wal", [True, pytest.param(False, marks=pytest.mark.sqlite)], ids=["WAL", "rollback journal"]
)
def test_recorder_waits_for_a_lock_longer_than_the_driver(
    store: Store, store_url: str, due: int, monkeypatch: pytest.MonkeyPatch, uses_wal: bool
) -> None:
    async def go(patient: Store) -> None:
        async with recording(patient) as (recorder, claims):
            with locked(patient):
                intents = [intent(recorder, claimed) for claimed in claims[:2]]
                job = recorder.submit(lambda db: 42)
                await asyncio.sleep(0.2)
            assert await asyncio.gather(*intents, job) == [True, True, 42]
            with locked(patient, by_reading=True):  # without WAL, a reader blocks a commit
                recorder.record(attempt(claims[0]))
                last = intent(recorder, claims[2])
                await asyncio.sleep(0.2)
            assert await last

    for module in (sqlite, server):
        monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 20)
    if not uses_wal:
        store.close()
        monkeypatch.setattr(sqlite, "SAFE_WAL_VERSION", (99, 0, 0))
    patient = open_store(store_url)
    run(go(patient))
    patient.close()
    assert state_counts(store) == {"sent": 1, "sending": 2, "claimed": EMAILS - 3}


def _fill_the_disk(db: Connection) -> None:
    db.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite raises it to the present size
    db.exec_driver_sql("UPDATE message SET body = hex(randomblob(1000000))")


def test_commit_is_tried_again_until_the_disk_is_writable(
    store: Store, due: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0

    def job(db: Connection) -> int:
        nonlocal tries
        tries += 1
        if tries <= 3:
            _raise_disk_full(db)
        return tries

    async def go() -> None:
        async with recording(store, patience=None) as (recorder, (first, second, *_)):
            assert await intent(recorder, first)
            recorder.record(attempt(first))
            answer = intent(recorder, second)
            assert await recorder.submit(job) == 4
            assert await answer
            assert not recorder.is_waiting

    monkeypatch.setattr(recorder_module, "MAX_PAUSE_S", 0.05)
    run(go())
    assert state_counts(store) == {"sent": 1, "sending": 1, "claimed": EMAILS - 2}
    assert [record.getMessage() for record in caplog.records] == [
        "cannot write to the store: trying again",
        "the store can be written again",
    ]


def _raise_disk_full(db: Connection) -> None:
    if db.dialect.name == SQLITE:
        _fill_the_disk(db)
    else:
        db.exec_driver_sql("DO $$ BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = '53100'; END $$")


FAILURES: dict[str, tuple[Callable[[Connection], object], str]] = {
    "full": (_fill_the_disk, "full"),
    "forbidden": (lambda db: db.exec_driver_sql("UPDATE occurrence SET state = 'nonsense'"), "(?i)check"),
    "defect": (lambda db: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("failure", [pytest.param("full", marks=pytest.mark.sqlite), "forbidden", "defect"])
def test_failed_commit_reaches_every_job_and_nothing_more_is_written(store: Store, due: int, failure: str) -> None:
    job, message = FAILURES[failure]

    async def go() -> None:
        async with recording(store) as (recorder, (first, second, third, *_)):
            watching = asyncio.create_task(recorder.watch())
            recorder.record(attempt(first))
            failing: list[asyncio.Future[Any]] = [recorder.submit(job), recorder.submit(lambda db: 1)]
            intents = [intent(recorder, second)]
            for future in failing:
                with pytest.raises(StoreFailed, match=message):
                    await future
            recorder.record(attempt(second))
            intents.append(intent(recorder, third))
            for future in (recorder.submit(lambda db: 2), watching):
                with pytest.raises(StoreFailed, match=message):
                    await future
            assert not any(answer.done() for answer in intents)

    with pytest.raises(StoreFailed, match=message):
        run(go())
    assert state_counts(store) == {"claimed": EMAILS}
    assert attempts(store) == []


def test_defect_in_one_answer_reaches_nobody_else(store: Store, due: int) -> None:
    def fail(is_granted: bool) -> None:
        raise RuntimeError("a defect")

    async def go() -> None:
        async with recording(store) as (recorder, (first, second, *_)):
            recorder.commit_intent(first, fail)
            assert await intent(recorder, second)
            with pytest.raises(StoreFailed, match="a defect"):
                await recorder.watch()

    with pytest.raises(StoreFailed, match="a defect"):
        run(go())


def test_failed_quick_job_holds_no_lock(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (first, *_)):
            recorder.record(attempt(first))
            with pytest.raises(StoreFailed, match="ZeroDivisionError"):
                await recorder.submit(lambda db: 1 / 0, is_quick=True)
            with store.write_soon() as db:
                db.connection().exec_driver_sql("UPDATE run SET pid = 1")

    with pytest.raises(StoreFailed, match="ZeroDivisionError"):
        run(go())
    assert attempts(store) == []


def test_attempt_and_state_are_in_one_commit(store: Store, due: int, tmp_path: Path) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            for claimed in claims:
                recorder.record(attempt(claimed))
            await recorder.submit(lambda db: db.exec_driver_sql("DELETE FROM nowhere"))

    with pytest.raises(StoreFailed, match="nowhere"):
        run(go())
    assert (state_counts(store), attempts(store)) == ({"claimed": EMAILS}, [])

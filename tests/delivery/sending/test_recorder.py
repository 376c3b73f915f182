"""The recorder: what is answered is committed, what gathers is committed together, what fails is told to all."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Connection
from support.sending import addresses, attempts, deliveries, mailing, states

from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending import recorder as delivery_recorder
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.errors import StoreFailed
from skychimp.models import DeliveryState, Outcome
from skychimp.permissions import Actor
from skychimp.store import database, queue
from skychimp.store.database import Store
from skychimp.store.ledger import AttemptRecord
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import open_store

T = TypeVar("T")
LETTERS = 30


@pytest.fixture
def due(store: Store, ada: Actor) -> int:
    """A mailing whose deliveries are made; its id."""
    mailing_id, now = mailing(store, ada, addresses(LETTERS)), datetime.now(UTC)
    with store.connect() as db, db.begin():
        planner.open_due(db, now, sender="a@x.org", return_path="a@x.org", give_up_after=timedelta(days=1))
        queue.fill(db, 1)
    return mailing_id


@pytest.fixture(params=[10**6, -1], ids=["alone", "with a scribe"], autouse=True)
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is promised holds before a scribe is hired, and after."""
    monkeypatch.setattr(delivery_recorder, "FEW", request.param)


@asynccontextmanager
async def recording(store: Store) -> AsyncIterator[tuple[Recorder, list[ClaimedDelivery]]]:
    """The recorder of a run, and the claims that the run holds."""
    with registered_run(store) as lock:
        with store.connect() as db, db.begin():
            now = datetime.now(UTC)
            claims = queue.claim(db, 1, lock.run_id, 1, now, now, LETTERS)
        recorder = Recorder(store, lock.run_id)
        if delivery_recorder.FEW < 0:
            recorder._hiring = asyncio.create_task(recorder._hire())
            await recorder._hiring
        try:
            yield recorder, claims
        finally:
            await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def within_reason() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(within_reason())


def entry(claimed: ClaimedDelivery, outcome: Outcome = Outcome.SENT, reply: str = "250 2.0.0 ok") -> AttemptRecord:
    now = datetime.now(UTC)
    return AttemptRecord(claimed, now, now, outcome, "dot", 250, "2.0.0", reply, "relay.example:25", None)


@contextmanager
def locked(store: Store, *, by_reading: bool = False) -> Iterator[None]:
    """Another process that writes, or reads, and keeps its transaction open for the length of the block."""
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        connected = store.engine.connect() if by_reading else store.connect()
        with connected as connection, connection.begin():
            connection.exec_driver_sql("SELECT count(*) FROM delivery").scalar()
            held.set()
            let_go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield
    let_go.set()
    thread.join()


def state_of(store: Store, claimed: ClaimedDelivery) -> DeliveryState:
    return next(row.state for row in deliveries(store) if row.id == claimed.id)


def test_what_is_answered_is_committed(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            for claimed in claims[:3]:
                assert await recorder.intend(claimed)
                assert state_of(store, claimed) == DeliveryState.SENDING
                recorder.record(entry(claimed))
            number = await recorder.submit(lambda db: queue.release(db, claims[0].token, [claims[3].id]))
            assert number == 1
            assert [state_of(store, claimed) for claimed in claims[:4]] == ["sent", "sent", "sent", "queued"]

    run(go())
    assert [(tried.number, tried.outcome) for tried in attempts(store)] == [(1, Outcome.SENT)] * 3


def test_what_gathers_during_a_commit_goes_into_the_next_one_together(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (first, *others)):
            with locked(store):
                earlier = recorder.intend(first)
                await asyncio.sleep(0.05)
                futures = []
                for claimed in others:
                    recorder.record(entry(claimed, Outcome.FAILED, "554 5.7.1 no"))
                    futures.append(recorder.submit(partial(_state, claimed.id)))
                    await asyncio.sleep(0)
                assert not earlier.done()
            assert await earlier
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            assert [future.result() for future in futures] == ["failed"] * len(others)

    run(go())
    assert states(store) == {"sending": 1, "failed": LETTERS - 1}


def _state(delivery_id: int, db: Connection) -> str:
    """An outcome is written before the work that comes with it, and that before the next intents."""
    return str(db.exec_driver_sql("SELECT state FROM delivery WHERE id = ?", (delivery_id,)).scalar())


NOT_OURS: dict[str, Callable[[Connection, ClaimedDelivery, int], object]] = {
    "released": lambda db, claimed, mailing_id: queue.release(db, 1, [claimed.id]),
    "disabled": lambda db, claimed, mailing_id: queue.disable(db, mailing_id, "", datetime.now(UTC)),
    "taken by another run": lambda db, claimed, mailing_id: _take(db, claimed, run_id=2, token=1),
    "claimed again": lambda db, claimed, mailing_id: _take(db, claimed, run_id=1, token=2),
    "sent": lambda db, claimed, mailing_id: db.exec_driver_sql("UPDATE delivery SET state = 'sent'"),
}


def _take(db: Connection, claimed: ClaimedDelivery, *, run_id: int, token: int) -> None:
    words = "UPDATE delivery SET run_id = ?, token = ? WHERE id = ?"
    db.exec_driver_sql(words, (run_id, token, claimed.id))


@pytest.mark.parametrize("event", NOT_OURS)
@pytest.mark.parametrize("is_intended", [False, True])
def test_the_intent_to_send_what_is_not_ours_is_refused(store: Store, due: int, event: str, is_intended: bool) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, (claimed, other, *_)):
            if is_intended:
                assert await recorder.intend(claimed)
            with store.connect() as db, db.begin():
                NOT_OURS[event](db, claimed, due)
            answers = await asyncio.gather(recorder.intend(claimed), recorder.intend(other))
            stays = is_intended and event == "disabled"  # who is at it may end
            assert answers[0] == stays
            if event not in ("disabled", "sent"):
                assert answers[1]

    run(go())


def test_closing_commits_what_is_left(store: Store, due: int) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            assert await recorder.intend(claims[0])
            for claimed in claims:
                recorder.record(entry(claimed))

    run(go())
    assert states(store) == {"sent": LETTERS}
    assert len(attempts(store)) == LETTERS


@pytest.mark.parametrize("is_sound", [True, False], ids=["WAL", "rollback journal"])
def test_a_lock_is_waited_for_longer_than_the_driver_waits(
    store: Store, due: int, monkeypatch: pytest.MonkeyPatch, is_sound: bool
) -> None:
    async def go(patient: Store) -> None:
        async with recording(patient) as (recorder, claims):
            with locked(patient):
                intents = [recorder.intend(claimed) for claimed in claims[:2]]
                work = recorder.submit(lambda db: 42)
                await asyncio.sleep(0.2)
            assert await asyncio.gather(*intents, work) == [True, True, 42]
            with locked(patient, by_reading=True):  # without WAL, readers keep a writer from its commit
                recorder.record(entry(claims[0]))
                last = recorder.intend(claims[2])
                await asyncio.sleep(0.2)
            assert await last

    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)
    if not is_sound:
        store.engine.dispose()
        monkeypatch.setattr(database, "SOUND_WAL", (99, 0, 0))
    patient = open_store(f"sqlite:///{store.path}")
    run(go(patient))
    patient.close()
    assert states(store) == {"sent": 1, "sending": 2, "claimed": LETTERS - 3}


def _fill_the_disk(db: Connection) -> None:
    db.exec_driver_sql("PRAGMA max_page_count = 1")  # which is to say, as many as there are
    db.exec_driver_sql("UPDATE message SET body = hex(randomblob(1000000))")


FAILURES: dict[str, tuple[Callable[[Connection], object], str]] = {
    "full": (_fill_the_disk, "full"),
    "forbidden": (lambda db: db.exec_driver_sql("UPDATE occurrence SET state = 'nonsense'"), "CHECK"),
    "defect": (lambda db: 1 / 0, "ZeroDivisionError"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_where_the_ledger_fails_all_hear_of_it_and_nothing_more_is_written(
    store: Store, due: int, failure: str
) -> None:
    work, words = FAILURES[failure]

    async def go() -> None:
        async with recording(store) as (recorder, (first, second, third, *_)):
            recorder.record(entry(first))
            failing: list[asyncio.Future[Any]] = [
                recorder.submit(work),
                recorder.intend(second),
                recorder.submit(lambda db: 1),
            ]
            for future in failing:
                with pytest.raises(StoreFailed, match=words):
                    await future
            recorder.record(entry(second))
            for future in (recorder.intend(third), recorder.submit(lambda db: 2)):
                with pytest.raises(StoreFailed, match=words):
                    await future

    with pytest.raises(StoreFailed, match=words):
        run(go())
    assert states(store) == {"claimed": LETTERS}
    assert attempts(store) == []


def test_the_log_and_the_state_are_of_one_commit(store: Store, due: int, tmp_path: Path) -> None:
    async def go() -> None:
        async with recording(store) as (recorder, claims):
            for claimed in claims:
                recorder.record(entry(claimed))
            await recorder.submit(lambda db: db.exec_driver_sql("DELETE FROM nowhere"))

    with pytest.raises(StoreFailed, match="nowhere"):
        run(go())
    assert (states(store), attempts(store)) == ({"claimed": LETTERS}, [])

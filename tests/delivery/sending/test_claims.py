"""Claims: every delivery is given out once, in turns, and nobody waits behind another."""

import asyncio
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from conftest import enrol
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Connection
from support.sending import addresses, deliveries, mailing

from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending.claims import MOST_AT_ONCE, Claims, OpenOccurrence
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.models import DeliveryState
from skychimp.permissions import Actor
from skychimp.store import queue
from skychimp.store.database import Store
from skychimp.store.queue import ClaimedDelivery
from skychimp.store.schema import create_store, open_store

T = TypeVar("T")
Given = tuple[ClaimedDelivery, OpenOccurrence]


def opened(store: Store) -> list[int]:
    """Open what is due, as a run does; the occurrences."""
    now = datetime.now(UTC)
    with store.connect() as db, db.begin():
        planner.open_due(db, now, sender="a@x.org", return_path="a@x.org", give_up_after=timedelta(days=1))
        return queue.due(db, now)


@asynccontextmanager
async def claiming(store: Store, *, connections: int = 10, budget: int | None = None) -> AsyncIterator[Claims]:
    """The claims of a run over all that is due."""
    with registered_run(store) as lock:
        recorder = Recorder(store, lock.run_id)
        async with asyncio.TaskGroup() as tasks:
            claims = Claims(
                recorder,
                lock.run_id,
                tasks,
                now=lambda: datetime.now(UTC),
                due=lambda: datetime.now(UTC),
                load=lambda db, occurrence_id: None,
                connections=lambda: connections,
                budget=budget,
            )
            claims.add(opened(store))
            yield claims
            claims.stop()
        await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def within_reason() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(within_reason())


async def all_of(claims: Claims) -> list[str]:
    """The addresses of all that is given out, each answered before the next."""
    found = []
    while (given_out := await claims.next()) is not None:
        claims.off_the_wire(given_out[1])
        found.append(given_out[0].address)
    return found


@pytest.mark.parametrize("letters", [0, 1, 2, 39, 40, 41, 1100])
def test_each_is_given_out_once(store: Store, ada: Actor, letters: int) -> None:
    async def go() -> list[str]:
        async with claiming(store) as claims:
            return await all_of(claims)

    mailing(store, ada, addresses(max(letters, 1)))
    if not letters:
        with store.write() as db:
            db.connection().exec_driver_sql("UPDATE client SET bad_at = created_at")
    found = run(go())
    assert Counter(found) == Counter(addresses(letters))
    assert {row.state for row in deliveries(store)} <= {DeliveryState.CLAIMED}


def test_many_occurrences_take_turns_and_all_have_theirs(store: Store, ada: Actor) -> None:
    async def go() -> list[str]:
        async with claiming(store) as claims:
            return await all_of(claims)

    number = MOST_AT_ONCE + 6
    for name in range(number):
        mailing(store, ada, [f"a{name}@example.org", f"b{name}@example.org"])
    assert len(set(run(go()))) == 2 * number


def test_the_next_is_of_the_one_with_the_fewest_on_the_wire(store: Store, ada: Actor) -> None:
    async def go() -> None:
        async with claiming(store) as claims:
            first = [await claims.next() for _ in range(20)]
            by_occurrence = Counter(occurrence.id for _, occurrence in filter(None, first))
            assert by_occurrence == {1: 10, 2: 10}
            for claimed, occurrence in filter(None, first):  # those of the second are answered quickly
                if claimed.occurrence_id == 2:
                    claims.off_the_wire(occurrence)
            further = [await claims.next() for _ in range(10)]
            assert {occurrence.id for _, occurrence in filter(None, further)} == {2}

    mailing(store, ada, addresses(40))
    mailing(store, ada, [f"other{number}@example.org" for number in range(40)])
    run(go())


def test_one_that_has_none_ready_yet_keeps_its_share_free(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_fill = threading.Event()

    def fill(db: Connection, occurrence_id: int) -> bool:
        if occurrence_id == 2:
            may_fill.wait(30)
        return filled(db, occurrence_id)

    async def go() -> None:
        async with claiming(store, connections=4) as claims:
            first = [await claims.next() for _ in range(2)]
            third = asyncio.ensure_future(claims.next())
            await asyncio.wait([third], timeout=0.1)
            assert not third.done()
            may_fill.set()
            given_out = [*first, await third, await claims.next()]
            assert [occurrence.id for _, occurrence in filter(None, given_out)] == [1, 1, 2, 2]

    filled = queue.fill
    monkeypatch.setattr(queue, "fill", fill)
    mailing(store, ada, addresses(10))
    mailing(store, ada, [f"other{number}@example.org" for number in range(10)])
    run(go())


def test_a_small_mailing_is_not_opened_behind_a_large_one(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []

    def fill(db: Connection, occurrence_id: int) -> bool:
        order.append(occurrence_id)
        return filled(db, occurrence_id, batch=10)

    async def go() -> list[str]:
        async with claiming(store) as claims:
            return await all_of(claims)

    filled = queue.fill
    monkeypatch.setattr(queue, "fill", fill)
    mailing(store, ada, addresses(95))
    mailing(store, ada, [f"other{number}@example.org" for number in range(15)])
    assert Counter(run(go())).total() == 110
    assert order[:6] == [1, 2] * 3


@pytest.mark.parametrize("letters", [1, 2, 50])
def test_one_that_is_put_back_comes_again_also_the_last(store: Store, ada: Actor, letters: int) -> None:
    async def go() -> list[str]:
        async with claiming(store) as claims:
            found = []
            for _ in range(letters - 1):
                given_out = await claims.next()
                assert given_out is not None
                found.append(given_out[0].address)
            last = await claims.next()
            assert last is not None
            assert await claims.next() is None
            claims.put_back(*last)
            assert claims.has_work
            return found + await all_of(claims)

    mailing(store, ada, addresses(letters))
    assert Counter(run(go())) == Counter(addresses(letters))


def test_a_waiting_worker_hears_of_one_that_is_put_back_and_of_a_stop(store: Store, ada: Actor) -> None:
    async def go() -> None:
        async with claiming(store, budget=1) as claims:
            only = await claims.next()
            assert only is not None
            assert await claims.next() is None
            claims.put_back(*only)
            again = await claims.next()
            assert again is not None
            assert again[0] == only[0]
            claims.stop()
            assert await claims.next() is None

    mailing(store, ada, addresses(3))
    run(go())


def test_what_is_dropped_is_not_given_out_and_the_others_are(store: Store, ada: Actor) -> None:
    async def go() -> list[str]:
        async with claiming(store) as claims:
            given_out = await claims.next()
            while given_out is not None and given_out[1].id != 1:
                given_out = await claims.next()
            assert given_out is not None
            claims.drop(given_out[1])
            return await all_of(claims)

    mailing(store, ada, addresses(50))
    mailing(store, ada, others := [f"other{number}@example.org" for number in range(50)])
    found = set(run(go()))
    assert not found & set(addresses(50))
    assert len(found & set(others)) >= 48


@pytest.mark.parametrize("is_disabled", [True, False])
def test_starting_over_gives_out_what_is_still_ours_to_take(store: Store, ada: Actor, is_disabled: bool) -> None:
    async def go() -> list[str]:
        async with claiming(store) as claims:
            first = await claims.next()
            assert first is not None
            if is_disabled:
                with store.connect() as db, db.begin():
                    queue.disable(db, mailing_id, "by hand", datetime.now(UTC))
            claims.start_over(first[1])
            claims.off_the_wire(first[1])
            return await all_of(claims)

    mailing_id = mailing(store, ada, addresses(30))
    found = run(go())
    if is_disabled:
        assert found == []
        assert {row.state for row in deliveries(store)} == {DeliveryState.QUEUED}
    else:
        assert len(found) == len(set(found)) == 29


@pytest.fixture(scope="module")
def prepared() -> Iterator[Path]:
    """A store with three mailings that are due."""
    with TemporaryDirectory() as folder:
        store = create_store(f"sqlite:///{folder}/skychimp.db")
        ada = enrol(store, "ada")
        for number, letters in enumerate((1, 5, 30)):
            mailing(store, ada, [f"{name}@{number}.example.org" for name in range(letters)])
        store.close()
        yield Path(folder) / "skychimp.db"


@examples(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["take", "take", "take", "answer", "put back", "start over"]), max_size=80),
    st.none() | st.integers(1, 40),
    st.integers(0, 1000),
)
def test_whatever_is_done_each_is_answered_once(
    prepared: Path, actions: list[str], budget: int | None, chance: int
) -> None:
    async def go(store: Store) -> tuple[list[str], int]:
        wire: list[Given] = []
        answered: list[str] = []

        def one() -> Given:
            return wire.pop(chance % len(wire))

        def answer() -> None:
            claimed, occurrence = one()
            with store.connect() as db, db.begin():
                db.exec_driver_sql("UPDATE delivery SET state = 'sent' WHERE id = ?", (claimed.id,))
            answered.append(claimed.address)
            claims.off_the_wire(occurrence)

        async with claiming(store, budget=budget) as claims:
            for action in actions:
                if action == "take":
                    given_out = await claims.next()
                    wire += [given_out] if given_out is not None else []
                elif wire and action == "answer":
                    answer()
                elif wire and action == "put back":
                    claims.put_back(*one())
                elif wire:
                    claims.start_over(wire[-1][1])
            while wire or claims.has_work:
                while (given_out := await claims.next()) is not None:
                    wire.append(given_out)
                while wire:
                    answer()
        return answered, 36 if budget is None else min(budget, 36)

    with TemporaryDirectory() as folder:
        shutil.copy(prepared, folder)
        store = open_store(f"sqlite:///{folder}/skychimp.db")
        answered, expected = run(go(store))
        store.close()
    assert len(answered) == len(set(answered)) == expected

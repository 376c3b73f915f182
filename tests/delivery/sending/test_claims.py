"""Test claims: each delivery is handed out once, and occurrences take turns."""

import asyncio
import json
import threading
from collections import Counter, deque
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import Connection, Update, update
from support.saved_rows import restore_rows, save_rows
from support.sending import create_mailing, deliveries, make_addresses, rows

from skychimp.delivery.scheduling import planner
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.pacing.slow_domains import SLOW_IN_A_ROW, SLOW_S, SlowDomains
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.models import Delivery, DeliveryState, Lease
from skychimp.permissions import Actor
from skychimp.store import holds, queue
from skychimp.store.database import Store
from skychimp.store.ledger import ResultCounts
from skychimp.store.occurrences import opening
from skychimp.store.queue import ClaimedDelivery

T = TypeVar("T")
HandedOut = tuple[ClaimedDelivery, OpenOccurrence]


def open_due(store: Store) -> list[int]:
    """Open what is due, as a run does, and return the occurrences."""
    now = datetime.now(UTC)
    with store.connect() as db, db.begin():
        planner.open_due(db, now, sender="a@x.org", return_path="a@x.org")
        return queue.due_occurrences(db, now)


async def no_results(_: int) -> ResultCounts:
    return ResultCounts()


@asynccontextmanager
async def claim_all_due(
    store: Store, *, connections: int = 10, limit: int | None = None, slow_domains: SlowDomains | None = None
) -> AsyncIterator[Claims]:
    """Yield the claims of a run over everything that is due."""
    with registered_run(store) as lock:
        recorder = Recorder(store, lock.run_id, now=lambda: datetime.now(UTC))
        async with asyncio.TaskGroup() as tasks:
            claims = Claims(
                recorder,
                lock.run_id,
                tasks,
                now=lambda: datetime.now(UTC),
                due_by=lambda: datetime.now(UTC),
                count=no_results,
                load=lambda db, occurrence_id, counts: None,
                connections=lambda: connections,
                slow_domains=slow_domains or SlowDomains(),
                limit=limit,
            )
            claims.add(open_due(store))
            yield claims
            claims.stop()
        await recorder.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    async def with_timeout() -> T:
        async with asyncio.timeout(30):
            return await coroutine

    return asyncio.run(with_timeout())


async def take_all(claims: Claims) -> list[str]:
    """Take all deliveries, finishing each before the next, and return their addresses."""
    taken = []
    while (delivery := await claims.next()) is not None:
        record_as_sent(claims, delivery[0])
        claims.finish(*delivery)
        taken.append(delivery[0].address)
    return taken


def record_as_sent(claims: Claims, claimed: ClaimedDelivery) -> None:
    claims._recorder.submit(lambda db: db.execute(set_sent(claimed)))


def set_sent(claimed: ClaimedDelivery) -> Update:
    delivery = Delivery.__table__
    return update(delivery).where(delivery.c.id == claimed.id).values(state=DeliveryState.SENT)


@pytest.mark.parametrize("count", [0, 1, 2, 39, 40, 41, 1100])
def test_each_delivery_is_handed_out_once(store: Store, ada: Actor, count: int) -> None:
    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            return await take_all(claims)

    create_mailing(store, ada, make_addresses(max(count, 1)))
    if not count:
        with store.write() as db:
            db.connection().exec_driver_sql("UPDATE client SET bad_at = created_at")
    taken = run(go())
    assert Counter(taken) == Counter(make_addresses(count))
    assert {row.state for row in deliveries(store)} <= {DeliveryState.SENT}


def test_no_more_is_leased_than_the_limit(store: Store, ada: Actor) -> None:
    """What a limited run may not send is free for others at once."""

    async def go() -> set[int]:
        async with claim_all_due(store, limit=50) as claims:
            for _ in range(45):
                await claims.next()
            await asyncio.sleep(0.1)
            return {int(each) for lease in rows(store, Lease) for each in json.loads(lease.delivery_ids)}

    create_mailing(store, ada, make_addresses(120))
    assert len(run(go())) == 50


def test_slow_domains_get_half_of_the_connections_while_others_wait(store: Store, ada: Actor) -> None:
    async def go() -> list[str]:
        slow_domains = SlowDomains()
        for _ in range(20):
            slow_domains.note("a@quick.example", 0)
        for _ in range(SLOW_IN_A_ROW):
            slow_domains.note("a@slow.example", SLOW_S)
        taken: list[str] = []
        in_flight: deque[HandedOut] = deque()
        async with claim_all_due(store, connections=4, slow_domains=slow_domains) as claims:
            while (delivery := await claims.next()) is not None:
                record_as_sent(claims, delivery[0])
                taken.append(delivery[0].address)
                if slow_domains.has(taken[-1]) and len(in_flight) < 4:
                    in_flight.append(delivery)
                else:
                    claims.finish(*delivery)
            while in_flight:
                claims.finish(*in_flight.popleft())
        return taken

    slow, quick = ([f"a{number}@{name}.example" for number in range(100)] for name in ("slow", "quick"))
    create_mailing(store, ada, slow + quick)
    taken = run(go())
    assert Counter(taken) == Counter(slow + quick)
    assert set(taken[2:102]) == set(quick)


def test_more_occurrences_than_can_be_active_are_all_sent(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            return await take_all(claims)

    monkeypatch.setattr("skychimp.delivery.sending.claims.MAX_ACTIVE_OCCURRENCES", 4)
    for name in range(10):
        create_mailing(store, ada, [f"a{name}@example.org", f"b{name}@example.org"])
    assert len(set(run(go()))) == 20


def test_small_mailing_need_not_wait_until_one_of_many_ends(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has its turn, however many there are."""
    monkeypatch.setattr("skychimp.delivery.sending.claims.MAX_ACTIVE_OCCURRENCES", 2)

    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            return await take_all(claims)

    for _ in range(4):
        create_mailing(store, ada, make_addresses(200))
    create_mailing(store, ada, ["last@example.org"])
    taken = run(go())
    assert len(taken) == 801
    assert taken.index("last@example.org") < 400


def test_next_delivery_is_from_the_occurrence_with_the_fewest_in_flight(store: Store, ada: Actor) -> None:
    async def go() -> None:
        async with claim_all_due(store) as claims:
            first = [await claims.next() for _ in range(20)]
            by_occurrence = Counter(occurrence.id for _, occurrence in filter(None, first))
            assert by_occurrence == {1: 10, 2: 10}
            for claimed, occurrence in filter(None, first):  # the second occurrence's emails are finished quickly
                if claimed.occurrence_id == 2:
                    claims.finish(claimed, occurrence)
            further = [await claims.next() for _ in range(10)]
            assert {occurrence.id for _, occurrence in filter(None, further)} == {2}

    create_mailing(store, ada, make_addresses(40))
    create_mailing(store, ada, [f"other{number}@example.org" for number in range(40)])
    run(go())


def test_occurrence_without_ready_deliveries_keeps_its_share_of_the_connections(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_create = threading.Event()

    def create_slowly(db: Connection, occurrence_id: int, *, require_consent: bool) -> bool:
        if occurrence_id == 2:
            may_create.wait(30)
        return create_deliveries(db, occurrence_id, require_consent=require_consent)

    async def go() -> None:
        async with claim_all_due(store, connections=4) as claims:
            first = [await claims.next() for _ in range(2)]
            third = asyncio.ensure_future(claims.next())
            await asyncio.wait([third], timeout=0.1)
            assert not third.done()
            may_create.set()
            handed_out = [*first, await third, await claims.next()]
            assert [occurrence.id for _, occurrence in filter(None, handed_out)] == [1, 1, 2, 2]

    create_deliveries = opening.create_deliveries
    monkeypatch.setattr(opening, "create_deliveries", create_slowly)
    create_mailing(store, ada, make_addresses(10))
    create_mailing(store, ada, [f"other{number}@example.org" for number in range(10)])
    run(go())


def test_small_mailing_is_not_opened_after_a_large_one(
    store: Store, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []

    def create_in_batches(db: Connection, occurrence_id: int, *, require_consent: bool) -> bool:
        order.append(occurrence_id)
        return create_deliveries(db, occurrence_id, batch=10, require_consent=require_consent)

    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            return await take_all(claims)

    create_deliveries = opening.create_deliveries
    monkeypatch.setattr(opening, "create_deliveries", create_in_batches)
    create_mailing(store, ada, make_addresses(95))
    create_mailing(store, ada, [f"other{number}@example.org" for number in range(15)])
    assert Counter(run(go())).total() == 110
    assert order[:6] == [1, 2] * 3


@pytest.mark.parametrize("count", [1, 2, 50])
def test_returned_delivery_is_handed_out_again_even_the_last_one(store: Store, ada: Actor, count: int) -> None:
    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            taken = []
            for _ in range(count - 1):
                delivery = await claims.next()
                assert delivery is not None
                taken.append(delivery[0].address)
            last = await claims.next()
            assert last is not None
            assert await claims.next() is None
            claims.return_untried(*last)
            assert claims.has_work
            return taken + await take_all(claims)

    create_mailing(store, ada, make_addresses(count))
    assert Counter(run(go())) == Counter(make_addresses(count))


def test_returned_delivery_does_not_count_towards_the_limit(store: Store, ada: Actor) -> None:
    async def go() -> None:
        async with claim_all_due(store, limit=1) as claims:
            only = await claims.next()
            assert only is not None
            assert await claims.next() is None
            claims.return_untried(*only)
            again = await claims.next()
            assert again is not None
            assert again[0] == only[0]
            claims.stop()
            assert await claims.next() is None

    create_mailing(store, ada, make_addresses(3))
    run(go())


def test_discarded_occurrence_is_not_handed_out_and_others_are(store: Store, ada: Actor) -> None:
    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            delivery = await claims.next()
            while delivery is not None and delivery[1].id != 1:
                delivery = await claims.next()
            assert delivery is not None
            claims.discard(delivery[1])
            return await take_all(claims)

    create_mailing(store, ada, make_addresses(50))
    create_mailing(store, ada, others := [f"other{number}@example.org" for number in range(50)])
    taken = set(run(go()))
    assert not taken & set(make_addresses(50))
    assert len(taken & set(others)) >= 48


@pytest.mark.parametrize("is_disabled", [True, False])
def test_reclaim_hands_out_only_what_can_still_be_claimed(store: Store, ada: Actor, is_disabled: bool) -> None:
    async def go() -> list[str]:
        async with claim_all_due(store) as claims:
            first = await claims.next()
            assert first is not None
            if is_disabled:
                with store.connect() as db, db.begin():
                    holds.disable_mailing(db, mailing_id, "by hand", datetime.now(UTC))
            claims.reclaim(*first)
            return await take_all(claims)

    mailing_id = create_mailing(store, ada, make_addresses(30))
    taken = run(go())
    if is_disabled:
        assert taken == []
        assert {row.state for row in deliveries(store)} == {DeliveryState.QUEUED}
    else:
        assert len(taken) == len(set(taken)) == 30


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_each_delivery_is_sent_once_after_any_actions(store: Store, ada: Actor, number: int) -> None:
    @examples(max_examples=number)
    @given(
        st.lists(st.sampled_from(["take", "take", "take", "send", "return", "reclaim"]), max_size=80),
        st.none() | st.integers(1, 40),
        st.integers(0, 1000),
    )
    def check(actions: list[str], limit: int | None, chance: int) -> None:
        restore_rows(store, prepared)
        check_actions(store, actions, limit, chance)

    for domain, count in enumerate((1, 5, 30)):
        create_mailing(store, ada, [f"{name}@{domain}.example.org" for name in range(count)])
    prepared = save_rows(store)
    check()


def check_actions(store: Store, actions: list[str], limit: int | None, chance: int) -> None:
    """Take these actions, then send the rest. Each delivery must be sent once."""

    async def go() -> tuple[list[str], int]:
        in_flight: list[HandedOut] = []
        sent: list[str] = []

        def take_any() -> HandedOut:
            return in_flight.pop(chance % len(in_flight))

        def send() -> None:
            claimed, occurrence = take_any()
            with store.connect() as db, db.begin():
                db.execute(set_sent(claimed))
            sent.append(claimed.address)
            claims.finish(claimed, occurrence)

        async with claim_all_due(store, limit=limit) as claims:
            for action in actions:
                if action == "take":
                    delivery = await claims.next()
                    in_flight += [delivery] if delivery is not None else []
                elif in_flight and action == "send":
                    send()
                elif in_flight and action == "return":
                    claims.return_untried(*take_any())
                elif in_flight:
                    claims.reclaim(*take_any())
            while in_flight or claims.has_work:
                while (delivery := await claims.next()) is not None:
                    in_flight.append(delivery)
                while in_flight:
                    send()
        return sent, 36 if limit is None else min(limit, 36)

    sent, expected = run(go())
    assert len(sent) == len(set(sent)) == expected


def test_discarded_occurrence_keeps_no_lease_of_a_claim_in_progress(store: Store, ada: Actor) -> None:
    """The relay is paused while deliveries are created and claimed."""
    create_mailing(store, ada, make_addresses(50))

    async def go() -> None:
        async with claim_all_due(store) as claims:
            await asyncio.sleep(0)
            claims.discard_all()
            while not deliveries(store):
                await asyncio.sleep(0.01)

    run(go())
    assert rows(store, Lease) == []


def test_refused_delivery_can_be_claimed_at_once(store: Store, ada: Actor) -> None:
    create_mailing(store, ada, make_addresses(5))

    async def go() -> list[int]:
        async with claim_all_due(store) as claims:
            refused = await claims.next()
            assert refused is not None
            claims.reclaim(*refused)
            again = [await claims.next() for _ in range(5)]
            return sorted(claimed.id for claimed, _ in filter(None, again))

    assert run(go()) == [1, 2, 3, 4, 5]

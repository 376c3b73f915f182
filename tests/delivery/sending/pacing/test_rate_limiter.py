"""Test the time slots of one run: waiting for them, giving up, and giving back what is not used."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.sending import make_settings, rows

from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.pacing import rate_limiter as module
from skychimp.delivery.sending.pacing.rate_limiter import RateLimiter
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.runner import registered_run
from skychimp.models import RateCount, RateSlot
from skychimp.store.database import Store
from skychimp.store.limits.connections import ConnectionSlots
from skychimp.transport.smtp import SmtpTransport


class Harness:
    """A rate limiter with a real recorder, and the reasons with which it gave up."""

    def __init__(self, store: Store, recorder: Recorder, rate: object, *, waits_forever: bool) -> None:
        self.give_ups: list[str] = []
        settings = make_settings(25, smtp__rate=rate, mail__timezone="UTC")
        self.pool = ConnectionPool(
            SmtpTransport(settings.smtp),
            settings,
            recorder,
            ConnectionSlots(store.path, 1),
            now=store.now,
            give_up=lambda reason, hint: None,
        )
        self.limiter = RateLimiter(
            settings,
            recorder,
            self.pool,
            now=store.now,
            give_up=lambda reason, hint: self._give_up(reason),
            waits_forever=waits_forever,
        )

    async def wait(self, *, is_connected: bool = True) -> bool:
        return await self.limiter.wait(is_connected=is_connected)

    def _give_up(self, reason: str) -> None:
        self.give_ups.append(reason)
        self.pool.stop()


@asynccontextmanager
async def open_limiter(store: Store, rate: object, *, waits_forever: bool = False) -> AsyncIterator[Harness]:
    with registered_run(store) as lock:
        recorder = Recorder(store, lock.run_id, now=store.now)
        harness = Harness(store, recorder, rate, waits_forever=waits_forever)
        yield harness
        await harness.limiter.close()
        await recorder.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    async def with_timeout() -> None:
        async with asyncio.timeout(30):
            await coroutine

    asyncio.run(with_timeout())


def counted(store: Store) -> int:
    return sum(row.emails for row in rows(store, RateCount))


def test_without_a_rate_nobody_waits_and_nothing_is_written(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, None) as harness:
            assert await harness.wait()
            assert all(harness.limiter.take_slot() for _ in range(1000))
            harness.limiter.put_back()

    run(go())
    assert rows(store, RateSlot) == []


def test_emails_of_all_connections_are_spaced_evenly(store: Store) -> None:
    sent_at: list[float] = []

    async def go() -> None:
        async with open_limiter(store, "40/s") as harness:

            async def send_ten() -> None:
                for _ in range(10):
                    assert await harness.wait()
                    sent_at.append(time.monotonic())

            await asyncio.gather(*(send_ten() for _ in range(3)))

    run(go())
    assert sent_at[-1] - sent_at[0] > 29 / 40 - 0.15
    early = [number for number, at in enumerate(sent_at) if at - sent_at[0] < number / 40 - 0.15]
    assert early == []


def test_email_is_started_behind_another_only_in_a_reserved_slot(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, "10/s") as harness:
            assert not harness.limiter.take_slot()
            assert await harness.wait()
            assert not harness.limiter.take_slot()  # it is in the future
            await asyncio.sleep(0.15)
            assert [harness.limiter.take_slot() for _ in range(2)] == [True, False]

    run(go())


@pytest.mark.parametrize(("rate", "seconds"), [("1/min", 60), ("1/h", 3600), ("1/d", 86400), (["100/s", "1/h"], 3600)])
def test_run_gives_up_if_the_next_email_is_too_far_away(store: Store, rate: object, seconds: int) -> None:
    async def go() -> None:
        async with open_limiter(store, rate) as harness:
            started_at = datetime.now(UTC)
            assert await harness.wait()
            assert not await harness.wait()
            (reason,) = harness.give_ups
            match = re.fullmatch(r"smtp\.rate allows the next email at (\d{4}-\d\d-\d\d )?(\d\d:\d\d)", reason)
            assert match is not None
            is_another_day = (started_at + timedelta(seconds=seconds)).date() != started_at.date()
            assert (match[1] is not None) == is_another_day

    run(go())


def test_daemon_closes_connections_while_the_next_email_is_far_away(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, "1/h", waits_forever=True) as harness:
            assert await harness.wait()
            assert not await harness.wait()
            waiting = asyncio.create_task(harness.wait(is_connected=False))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            harness.pool.stop()
            assert not await waiting
            assert harness.give_ups == []

    run(go())


def test_unused_slots_are_given_back_at_the_end(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, ["10/s", "100/d"]) as harness:
            assert await harness.wait()
            assert counted(store) > 1

    run(go())
    assert counted(store) == 1


def test_unused_slots_are_given_back_after_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIFETIME_S", 0.2)

    async def go() -> None:
        async with open_limiter(store, "100/d") as harness:
            assert await harness.wait()
            assert counted(store) > 1
            await asyncio.sleep(0.5)
            assert counted(store) == 1
            harness.limiter.put_back()
            await asyncio.sleep(0.2)
            assert counted(store) == 0

    run(go())


def test_slot_of_an_email_that_was_not_sent_is_used_again(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, ["5/s", "3/d"]) as harness:
            assert await harness.wait()
            for _ in range(10):
                harness.limiter.put_back()
                assert await harness.wait()
            began_at = time.monotonic()
            assert [await harness.wait() for _ in range(2)] == [True, True]
            assert time.monotonic() - began_at < 0.6
            assert not await harness.wait()

    run(go())


def test_runs_with_windows_reserve_more_at_once_when_they_send_quickly(store: Store) -> None:
    async def go() -> None:
        async with open_limiter(store, "100000/d") as harness:
            for _ in range(3000):
                assert harness.limiter.take_slot() or await harness.wait()
            assert harness.limiter._wanted == module.MAX_RESERVED

    run(go())
    assert counted(store) == 3000

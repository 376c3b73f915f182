"""Test that a server that says "too much email" gets less of it, and slowly more again."""

import asyncio

import pytest

from skychimp.delivery.sending.pacing.throttle import (
    FASTER,
    FIRST_PAUSE_S,
    LAST_PAUSE_S,
    SLOWER,
    SPEED_UP_AFTER_S,
    Throttle,
)


class Clock:
    """A clock that is moved by sleeping only."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(clock: Clock) -> Throttle:
    return Throttle(clock.sleep, clock)


def wait(throttle: Throttle, clock: Clock) -> float:
    """Wait for the next time slot, and return for how many seconds that was."""
    before = clock.now
    asyncio.run(throttle.wait())
    return clock.now - before


def accept(throttle: Throttle, clock: Clock, number: int, per_s: float) -> None:
    """Let the server accept so many emails at this rate, whether they have a time slot or not."""
    for _ in range(number):
        throttle.record_success()
        clock.now += 1 / per_s


def test_it_costs_nothing_before_the_first_refusal(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 1_000, per_s=500)
    assert [wait(throttle, clock) for _ in range(3)] == [0, 0, 0]
    assert all(throttle.take_slot() for _ in range(100))


def test_refusal_pauses_and_slows_down(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 200, per_s=50)
    throttle.slow_down()
    waits = [wait(throttle, clock) for _ in range(3)]
    assert waits == pytest.approx([FIRST_PAUSE_S, 1 / (SLOWER * 50), 1 / (SLOWER * 50)], rel=0.02)


def test_burst_counts_as_the_emails_of_a_second(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 20, per_s=1_000)
    throttle.slow_down()
    wait(throttle, clock)
    assert wait(throttle, clock) == pytest.approx(1 / (SLOWER * 20))


def test_refusals_of_emails_that_were_on_their_way_change_nothing(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 100, per_s=50)
    for _ in range(10):
        throttle.slow_down()
        clock.now += 0.01
    waits = [wait(throttle, clock) for _ in range(2)]
    assert waits == pytest.approx([FIRST_PAUSE_S - 0.1, 1 / (SLOWER * 50)], rel=0.02)


def test_refusal_slows_down_while_other_connections_wait_for_their_slots(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 200, per_s=50)
    throttle.slow_down()
    ends_at = clock.now + FIRST_PAUSE_S

    async def wait_ten_times() -> None:
        waiting = [asyncio.create_task(throttle.wait()) for _ in range(10)]
        await asyncio.wait(waiting)

    asyncio.run(wait_ten_times())
    clock.now = ends_at + 0.001  # the first has gone out, and the slots of the others are ahead
    throttle.slow_down()
    waits = [wait(throttle, clock) for _ in range(2)]
    assert waits == pytest.approx([2 * FIRST_PAUSE_S, 1 / (SLOWER * SLOWER * 50)], rel=0.02)


def test_those_who_wait_at_a_refusal_wait_for_the_end_of_the_pause(clock: Clock) -> None:
    sleeping: list[asyncio.Future[None]] = []

    async def sleep(seconds: float) -> None:
        sleeping.append(asyncio.get_running_loop().create_future())
        await sleeping[-1]

    async def refuse_while_one_waits() -> None:
        throttle = Throttle(sleep, clock)
        accept(throttle, clock, 20, per_s=10)
        throttle.slow_down()
        clock.now += FIRST_PAUSE_S
        waiting = asyncio.create_task(throttle.wait())
        await asyncio.sleep(0)
        throttle.slow_down()
        sleeping[0].set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.now += 2 * FIRST_PAUSE_S
        sleeping[1].set_result(None)
        await waiting

    asyncio.run(refuse_while_one_waits())


def test_pause_doubles_up_to_a_minute_and_shrinks_with_each_success(throttle: Throttle, clock: Clock) -> None:
    pauses = []
    for _ in range(9):
        throttle.slow_down()
        pauses.append(wait(throttle, clock))
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60])
    for successes, pause_s in ((1, SLOWER * LAST_PAUSE_S), (2, SLOWER**2 * LAST_PAUSE_S), (20, FIRST_PAUSE_S)):
        for _ in range(successes):
            throttle.record_success()
        clock.now += 2 * LAST_PAUSE_S
        throttle.slow_down()
        assert wait(throttle, clock) == pytest.approx(pause_s)


def test_rate_never_falls_below_one_email_a_minute(throttle: Throttle, clock: Clock) -> None:
    for _ in range(30):
        throttle.slow_down()
        wait(throttle, clock)
    assert wait(throttle, clock) == pytest.approx(LAST_PAUSE_S)


def test_rate_grows_again_after_some_time_without_refusals(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 200, per_s=100)
    throttle.slow_down()
    wait(throttle, clock)
    slow = wait(throttle, clock)
    throttle.record_success()
    assert wait(throttle, clock) == pytest.approx(slow)
    clock.now += SPEED_UP_AFTER_S
    throttle.record_success()
    wait(throttle, clock)
    assert wait(throttle, clock) == pytest.approx(slow / FASTER)


def test_rate_is_not_limited_any_more_once_it_is_very_high(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 2_000, per_s=1_000)
    throttle.slow_down()
    for _ in range(40):
        clock.now += 1.01 * SPEED_UP_AFTER_S
        throttle.record_success()
    assert [wait(throttle, clock) for _ in range(3)] == [0, 0, 0]


def test_time_of_nothing_but_refusals(throttle: Throttle, clock: Clock) -> None:
    assert throttle.refused_for_s == 0
    throttle.slow_down()
    clock.now += 5
    throttle.slow_down()
    assert throttle.refused_for_s == 5
    throttle.record_success()
    assert throttle.refused_for_s == 0


def test_slot_that_is_taken_is_not_given_again(throttle: Throttle, clock: Clock) -> None:
    accept(throttle, clock, 20, per_s=10)
    throttle.slow_down()
    assert not throttle.take_slot()
    clock.now += FIRST_PAUSE_S
    assert throttle.take_slot()
    assert not throttle.take_slot()
    clock.now += 1 / (SLOWER * 9)
    assert throttle.take_slot()


def test_pause_alone_does_not_lower_the_rate(throttle: Throttle, clock: Clock) -> None:
    assert throttle.pause()
    assert not throttle.pause(), "it is paused already"
    assert not throttle.take_slot()
    assert wait(throttle, clock) == FIRST_PAUSE_S
    assert throttle.take_slot()
    assert wait(throttle, clock) == 0
    assert throttle.pause()
    assert wait(throttle, clock) == 2 * FIRST_PAUSE_S

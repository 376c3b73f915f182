"""Test that emails are spaced evenly."""

import asyncio
from types import SimpleNamespace

import pytest

from skychimp.config.types import Rate
from skychimp.delivery.sending import rate_limiter
from skychimp.delivery.sending.rate_limiter import RateLimiter


@pytest.mark.parametrize(
    ("rate", "waits_s"), [(None, []), (Rate(10, "s"), [0, 0.1, 0.2, 0.3]), (Rate(60, "min"), [0, 1, 2, 3])]
)
def test_each_email_waits_for_its_own_time_slot(
    monkeypatch: pytest.MonkeyPatch, rate: Rate | None, waits_s: list[float]
) -> None:
    slept_s: list[float] = []

    async def sleep(seconds: float) -> None:
        slept_s.append(seconds)

    async def wait_four_times() -> None:
        limiter = RateLimiter(rate, sleep)
        for _ in range(4):
            await limiter.wait()

    monkeypatch.setattr(rate_limiter, "time", SimpleNamespace(monotonic=lambda: 100.0))
    asyncio.run(wait_four_times())
    assert slept_s == pytest.approx(waits_s)


def test_email_is_started_behind_another_only_in_a_free_time_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((100.0, 100.05, 100.1, 100.11, 100.2))
    monkeypatch.setattr(rate_limiter, "time", SimpleNamespace(monotonic=lambda: next(times)))
    limiter = RateLimiter(Rate(10, "s"), asyncio.sleep)
    assert [limiter.take_slot() for _ in range(5)] == [True, False, True, False, True]


def test_without_a_rate_every_email_has_a_time_slot() -> None:
    limiter = RateLimiter(None, asyncio.sleep)
    assert all(limiter.take_slot() for _ in range(5))

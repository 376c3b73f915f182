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

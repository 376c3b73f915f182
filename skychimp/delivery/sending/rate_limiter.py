"""Space emails evenly, so that they do not exceed `smtp.rate`."""

import time
from collections.abc import Awaitable, Callable

from skychimp.config.types import Rate


class RateLimiter:
    """Gives each email its own time slot. `sleep` waits for a number of seconds. A `rate` of None is no limit."""

    def __init__(self, rate: Rate | None, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._interval_s = 0.0 if rate is None else 1 / rate.per_second
        self._sleep = sleep
        self._next_slot = 0.0

    async def wait(self) -> None:
        """Wait until the next email may be sent."""
        if not self._interval_s:
            return
        slot = max(self._next_slot, time.monotonic())
        self._next_slot = slot + self._interval_s
        await self._sleep(slot - time.monotonic())

    def take_slot(self) -> bool:
        """Return whether the next email may be sent at once, and take its time slot then."""
        now = time.monotonic()
        if self._interval_s and self._next_slot > now:
            return False
        self._next_slot = now + self._interval_s
        return True

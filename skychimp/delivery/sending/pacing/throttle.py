"""Send more slowly while the mail server says that there is too much email, and slowly faster again."""

import time
from collections import deque
from collections.abc import Awaitable, Callable

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
SLOWER, FASTER = 0.7, 1.1
"""What the rate is multiplied with after a refusal, and after some time without one.

A pause is multiplied with the first after each email that is accepted.
"""
SPEED_UP_AFTER_S = 10.0
_MEASURED_S, _SHORTEST_S = 2.0, 1.0
"""The rate so far is that of the last two seconds, at least of one: most servers count the emails of a second."""
_FASTEST_PER_S = 10_000.0


class Throttle:
    """Gives each email its time slot once the mail server has refused one for its rate. Before that it costs nothing.

    `sleep` waits for a number of seconds. `clock` returns the time in seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float] = time.monotonic) -> None:
        self._sleep = sleep
        self._clock = clock
        self._per_s: float | None = None
        self._next_slot = self._paused_until = 0.0
        self._pause_s = FIRST_PAUSE_S
        self._refused_since: float | None = None
        self._changed_at = 0.0
        self._accepted: deque[float] = deque()

    @property
    def refused_for_s(self) -> float:
        """For how many seconds nothing but refusals came."""
        return 0.0 if self._refused_since is None else self._clock() - self._refused_since

    def slow_down(self) -> None:
        """Pause, and then send more slowly. Emails that were on their way at the last refusal change nothing."""
        if self.pause():
            self._changed_at = now = self._clock()
            self._per_s = max(SLOWER * (self._per_s or self._measured_rate(now)), 1 / LAST_PAUSE_S)

    def pause(self) -> bool:
        """Send nothing for a while, for longer each time until an email is accepted. Return False while that lasts."""
        now = self._clock()
        if self._refused_since is None:
            self._refused_since = now
        if now < self._paused_until:
            return False
        self._next_slot = self._paused_until = now + self._pause_s
        self._pause_s = min(2 * self._pause_s, LAST_PAUSE_S)
        return True

    def record_success(self) -> None:
        """Note that the server takes email again.

        The next pause is shorter, but not at once as short as the first: a limit per minute or hour lets one email
        pass and refuses the next, and a server may count those that it refuses, too.
        """
        self._refused_since, self._pause_s = None, max(SLOWER * self._pause_s, FIRST_PAUSE_S)
        now = self._clock()
        self._accepted.append(now)
        while self._accepted[0] < now - _MEASURED_S:
            self._accepted.popleft()
        if self._per_s is not None and now - self._changed_at > SPEED_UP_AFTER_S:
            self._per_s, self._changed_at = self._per_s * FASTER, now
            if self._per_s > _FASTEST_PER_S:
                self._per_s = None

    async def wait(self) -> None:
        """Wait until the next email may be sent."""
        while self._per_s is not None or self._is_paused:
            now = self._clock()
            slot = max(self._next_slot, now)
            if self._per_s is not None:
                self._next_slot = slot + 1 / self._per_s
            await self._sleep(slot - now)
            if slot >= self._paused_until:  # else a pause has begun while it waited
                return

    def take_slot(self) -> bool:
        """Return whether the next email may be sent at once, and take its time slot then."""
        if self._per_s is None:
            return not self._is_paused
        now = self._clock()
        if self._next_slot > now:
            return False
        self._next_slot = now + 1 / self._per_s
        return True

    @property
    def _is_paused(self) -> bool:
        return self._paused_until > 0 and self._clock() < self._paused_until

    def _measured_rate(self, now: float) -> float:
        recent = [at for at in self._accepted if at > now - _MEASURED_S]
        return max(len(recent), 1) / max(now - recent[0] if recent else _MEASURED_S, _SHORTEST_S)

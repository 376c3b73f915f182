"""Give each email its time slot, so that all runs of a store together do not exceed `smtp.rate`.

A run reserves the slots of about half a second at once. What it has not used two seconds later is given back.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.recorder import Recorder
from skychimp.store.limits import rate
from skychimp.store.limits.rate import Reservation
from skychimp.translation import tr

MIN_RESERVED, MAX_RESERVED = 10, 1000  # emails
LIFETIME_S = 2.0
"""How long slots are kept. They are at most a second ahead when they are reserved, so they can be used that late."""
SHORT_WAIT = timedelta(seconds=2)
"""A run waits for a slot that is no further away, even if `run.patience` is less."""
HORIZON_S = rate.HORIZON.total_seconds()
IDLE_LIMIT_S = 5.0
"""A daemon keeps no connection open while it waits for a slot that is further away."""
MAX_SLEEP_S = 60.0
"""After this time the store is asked again, as its clock or the slots of others may have changed."""


class RateLimiter:
    """The time slots of one run. Without a rate, nothing is reserved and nobody waits.

    `give_up` is called with a reason and a hint if the next slot is further away than `run.patience`. With
    `waits_forever`, the run waits for it.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        pool: ConnectionPool,
        *,
        now: Callable[[], datetime],
        give_up: Callable[[str, str], None],
        waits_forever: bool = False,
    ) -> None:
        self._rates = settings.smtp.rate or ()
        self._patience = None if waits_forever else max(settings.run.patience, SHORT_WAIT)
        self._zone = ZoneInfo(settings.mail.timezone) if settings.mail.timezone else None  # None: the system's
        self._recorder = recorder
        self._pool = pool
        self._now = now
        self._give_up = give_up
        self._reserving = asyncio.Lock()
        self._wanted = MIN_RESERVED
        self._reserved: Reservation | None = None
        self._expires_at = 0.0
        self._expiry: asyncio.TimerHandle | None = None
        self._next_slot = 0.0
        self._left = 0
        self._none_before = 0.0

    async def wait(self, *, is_connected: bool) -> bool:
        """Wait until the next email may be sent, and take its slot.

        Return False if the run is stopped meanwhile, or if the wait is so long that a daemon closes its connections.
        """
        if not self._rates:
            return True
        while not self._pool.is_stopping and not (is_connected and self._is_far):
            if self._has_slot:
                slot = self._take()
                await self._pool.sleep(slot - time.monotonic())
                if not self._pool.is_stopping:
                    return True
                self.put_back()
            else:
                await self._reserve(is_connected=is_connected)
        return False

    def take_slot(self) -> bool:
        """Return whether the next email may be sent at once, and take its slot then."""
        if not self._rates:
            return True
        if not self._has_slot or self._next_slot > time.monotonic():
            return False
        self._take()
        return True

    def put_back(self) -> None:
        """Put back the slot of an email that was not sent."""
        if self._reserved is None:
            return
        if time.monotonic() < self._expires_at:
            self._left += 1
            self._next_slot -= self._reserved.interval.total_seconds()
        else:
            self._give_back(self._left + 1)

    async def close(self) -> None:
        """Give back the slots that were not used."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._left:
            await self._give_back(self._left)

    # Slots

    @property
    def _has_slot(self) -> bool:
        return self._left > 0 and time.monotonic() < self._expires_at

    @property
    def _is_far(self) -> bool:
        """Whether the next slot is so far away that a daemon closes its connections."""
        return self._patience is None and self._none_before - time.monotonic() > IDLE_LIMIT_S

    def _take(self) -> float:
        """Take the next slot, and return its time on the monotonic clock."""
        assert self._reserved is not None
        slot = self._next_slot
        self._left -= 1
        self._next_slot += self._reserved.interval.total_seconds()
        return slot

    async def _reserve(self, *, is_connected: bool) -> None:
        """Reserve slots. If none is free, wait a while, or give up."""
        async with self._reserving:
            if self._has_slot or self._pool.is_stopping:  # another worker has done it
                return
            self._adapt()
            self._expire()
            reserved, now, read_at = await self._recorder.submit(self._reserve_in, is_quick=True)
            self._none_before = read_at + (reserved.first_at - now).total_seconds()
            if reserved.number:
                self._keep(reserved)
            elif self._patience is not None and reserved.first_at - now > self._patience:
                self._give_up(
                    tr(
                        "smtp.rate allows the next email at {clock_time}",
                        clock_time=self._clock_time(reserved.first_at, now),
                    ),
                    "",
                )
            elif not (is_connected and self._is_far):
                await self._sleep_until_near()

    def _reserve_in(self, db: StoreConnection) -> tuple[Reservation, datetime, float]:
        """Reserve slots in a transaction. Return them with the present time, and with that of the monotonic clock."""
        now, read_at = self._now(), time.monotonic()
        return rate.reserve(db, self._rates, now, self._wanted), now, read_at

    def _keep(self, reserved: Reservation) -> None:
        self._reserved, self._left, self._next_slot = reserved, reserved.number, self._none_before
        self._expires_at = time.monotonic() + LIFETIME_S
        self._expiry = asyncio.get_running_loop().call_later(LIFETIME_S, self._expire)

    def _adapt(self) -> None:
        """Reserve twice as many from now on if the last slots were used up quickly, half if slowly."""
        elapsed_s = LIFETIME_S - (self._expires_at - time.monotonic())
        if elapsed_s < HORIZON_S / 2 and not self._left:
            self._wanted = min(2 * self._wanted, MAX_RESERVED)
        elif elapsed_s > LIFETIME_S:
            self._wanted = max(self._wanted // 2, MIN_RESERVED)

    def _expire(self) -> None:
        """Give back what was not used in time."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._left:
            self._give_back(self._left)

    def _give_back(self, unused: int) -> "asyncio.Future[None]":
        reserved = self._reserved
        assert reserved is not None
        self._left = 0
        return self._recorder.submit(lambda db: rate.give_back(db, reserved, unused), is_quick=True)

    async def _sleep_until_near(self) -> None:
        """Sleep until the next slot is near enough to be reserved, so that other processes are not always first."""
        left_s = self._none_before - time.monotonic()
        early_s = HORIZON_S if left_s > HORIZON_S else 0.0
        await self._pool.sleep(max(0.01, min(left_s - early_s, MAX_SLEEP_S)))

    def _clock_time(self, at: datetime, now: datetime) -> str:
        """Return a time as a person reads it, rounded up to a minute. The day is only named if it is another one."""
        local, today = (each.astimezone(self._zone) for each in (at + timedelta(seconds=59), now))
        return f"{local:%H:%M}" if local.date() == today.date() else f"{local:%Y-%m-%d %H:%M}"

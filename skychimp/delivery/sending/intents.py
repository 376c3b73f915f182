"""Commit the intent to send a delivery, and renew it if it became too old."""

import asyncio
import time

from skychimp.delivery.sending.recorder import Recorder
from skychimp.store.queue import ClaimedDelivery

MAX_INTENT_AGE_S = 30.0  # after this time another run may have taken the delivery, because this process was suspended


class IntentCommit:
    """Commits the intent to send a delivery. Awaiting a call returns whether it may be sent.

    With `starts_at_once` it is committed while the server replies to the envelope.
    """

    def __init__(self, recorder: Recorder, claimed: ClaimedDelivery, *, starts_at_once: bool = True) -> None:
        self._recorder = recorder
        self._claimed = claimed
        self._started_at = 0.0
        self._committing: asyncio.Future[bool] | None = None
        self.is_granted = False
        if starts_at_once:
            self._start()

    def _start(self) -> "asyncio.Future[bool]":
        self._started_at = _boot_time_s()
        self._committing = self._recorder.commit_intent(self._claimed)
        return self._committing

    async def __call__(self) -> bool:
        is_ours = await (self._committing or self._start())
        while is_ours and _boot_time_s() - self._started_at > MAX_INTENT_AGE_S:
            is_ours = await self._start()
        self.is_granted = is_ours
        return is_ours


def _boot_time_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # unlike the monotonic clock, it counts while the system sleeps

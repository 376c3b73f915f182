"""Commit the intent to send a delivery, and renew it if it became too old."""

import time

from skychimp.delivery.sending.recorder import Recorder
from skychimp.store.queue import ClaimedDelivery

MAX_INTENT_AGE_S = 30.0  # after this time another run may have taken the delivery, because this process was suspended


class IntentCommit:
    """Commits the intent to send a delivery, starting at once. Awaiting a call returns whether it may be sent."""

    def __init__(self, recorder: Recorder, claimed: ClaimedDelivery) -> None:
        self._recorder = recorder
        self._claimed = claimed
        self._started_at = _boot_time_s()
        self._committing = recorder.commit_intent(claimed)
        self.is_granted = False

    async def __call__(self) -> bool:
        is_ours = await self._committing
        while is_ours and _boot_time_s() - self._started_at > MAX_INTENT_AGE_S:
            self._started_at = _boot_time_s()
            is_ours = await self._recorder.commit_intent(self._claimed)
        self.is_granted = is_ours
        return is_ours


def _boot_time_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # unlike the monotonic clock, it counts while the system sleeps

"""The relay as a run sees it: how many connections it takes, and what is done while it is away or wants a person.

A connection that can't be had while there are others means that it takes no more than those. Nothing here spends an
attempt: a letter that finds no connection stays where it is.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.sending.recorder import Recorder
from skychimp.errors import RelayRefused, RelayUnavailable
from skychimp.store import relay_pauses
from skychimp.transport.interfaces import Connection, Transport

log = logging.getLogger("skychimp")

LONGEST_WAIT = 60.0  # s between two probes
GROWS_EVERY = 60.0  # s; then one more connection is tried again


class ConnectionPool:
    """Connections to one relay, up to `allowed` at once.

    `give_up` is told, with a reason and a hint, that none can be had. With `waits` a relay that is away is waited for
    without end, else as long as `run.patience`.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        recorder: Recorder,
        *,
        now: Callable[[], datetime],
        give_up: Callable[[str, str], None],
        waits: bool = False,
    ) -> None:
        self._transport = transport
        self._recorder = recorder
        self._now = now
        self._give_up = give_up
        self._most = settings.smtp.connections
        self._patience = None if waits else settings.run.patience
        self._smtp = settings.smtp
        self._settings_hash = ""
        self._connections = 0
        self._door = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._grown_at = asyncio.get_running_loop().time()
        self._may_be_paused = True  # by an earlier run
        self.allowed = self._most

    @property
    def is_crowded(self) -> bool:
        """Whether there are more connections than it takes."""
        return self._connections > self.allowed

    def read_pause(self, db: StoreConnection, secret: bytes) -> str | None:
        """Why it is paused, to be heeded; None where it is not, or its next probe is due. Part of a transaction."""
        self._settings_hash = self._hash(secret)
        return relay_pauses.paused(db, self._transport.relay, self._settings_hash, self._now())

    def apply_pause(self, pause: str | None) -> None:
        """Do as the store says: give up, or go on with one connection where it was paused."""
        if pause is None:
            self.allowed = self.allowed or 1
        elif self.allowed:
            self.allowed, self._may_be_paused = 0, True
            self._give_up(f"the relay is paused: {pause}", "mend its settings, then run again")

    async def exchange(self, spent: Connection | None) -> Connection | None:
        """A new connection for one that is spent; None where there is none to be had."""
        await self.hang_up(spent)
        async with self._door:
            if self._stopping.is_set() or self._connections >= self.allowed:
                return None
            fresh = await self._connect()
            self._connections += fresh is not None
            return fresh

    async def hang_up(self, connection: Connection | None) -> None:
        """End a conversation."""
        if connection is not None:
            self._connections -= 1
            await connection.close()

    def take_fewer(self) -> None:
        """It has said that this is too much, or broken off."""
        self.allowed = min(self.allowed, max(1, self._connections - 1))
        self._grown_at = asyncio.get_running_loop().time()

    def grow(self) -> None:
        """Try one connection more, once it has borne with these for a minute."""
        now = asyncio.get_running_loop().time()
        if 0 < self.allowed < self._most and now - self._grown_at >= GROWS_EVERY:
            self.allowed, self._grown_at = self.allowed + 1, now

    def stop(self) -> None:
        """Wait for nothing more."""
        self._stopping.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but not through a stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def pause(self, reason: str, hint: str = "check smtp.username and smtp.password") -> None:
        """A person must act: nothing more is sent through it until the settings change or the next probe."""
        if not self.allowed:  # another connection has heard it already: it is one probe, not many
            return
        relay, settings_hash, now = self._transport.relay, self._settings_hash, self._now()
        self.allowed, self._may_be_paused = 0, True
        await self._recorder.submit(lambda c: relay_pauses.pause(c, relay, settings_hash, reason, now))
        self._give_up(f"the relay is paused: {reason}", hint)

    def took_mail(self) -> None:
        """It has taken a letter: whatever was wrong is mended. What was in flight when it was paused does not count."""
        if self._may_be_paused and self.allowed:
            self._may_be_paused, relay = False, self._transport.relay
            self._recorder.submit(lambda db: relay_pauses.resume(db, relay))

    async def _connect(self) -> Connection | None:
        try:
            return await self._dial()
        except _StoppedError:
            return None
        except RelayUnavailable as away:
            if self._connections:  # it takes no more than these
                self.allowed = min(self.allowed, self._connections)
                self._grown_at = asyncio.get_running_loop().time()
                return None
            return await self._probe(away)
        except RelayRefused as refusal:
            await self.pause(refusal.message, refusal.hint or "")
            return None

    async def _probe(self, away: RelayUnavailable) -> Connection | None:
        """Ask again, longer and longer apart, as long as patience lasts."""
        from tenacity import (
            AsyncRetrying,
            RetryError,
            retry_if_exception_type,
            stop_after_delay,
            stop_never,
            wait_exponential_jitter,
        )

        if self._patience is not None and self._patience <= timedelta(0):
            self._give_up(f"the relay is away: {away.message}", away.hint or "")
            return None
        patience = float("inf") if self._patience is None else self._patience.total_seconds()
        loop, ends = asyncio.get_running_loop(), asyncio.get_running_loop().time() + patience
        first_wait = min(1.0, patience)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RelayUnavailable),
            wait=wait_exponential_jitter(initial=1, max=LONGEST_WAIT),
            stop=stop_never if self._patience is None else stop_after_delay(patience - first_wait),
            sleep=lambda seconds: self._sleep_or_leave(min(seconds, ends - loop.time())),
        )
        log.warning("relay away", extra={"relay": self._transport.relay, "reason": away.message})
        try:
            await self._sleep_or_leave(first_wait)
            connection: Connection = await retrying(self._dial)
            log.warning("relay back", extra={"relay": self._transport.relay})
            self.allowed = self._most  # its connections broke off because it was away, not because they were too many
            return connection
        except RetryError as error:
            reason = error.last_attempt.exception()
            self._give_up(f"the relay is away: {reason}", away.hint or "")
        except RelayRefused as refusal:
            await self.pause(refusal.message, refusal.hint or "")
        except _StoppedError:
            pass
        return None

    async def _dial(self) -> Connection:
        """A new connection. Raises RelayAway, RelayRefuses, and _StoppedError where the run is to end meanwhile."""
        dialling = asyncio.create_task(self._transport.connect())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((dialling, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not dialling.done():
                raise _StoppedError
            return await dialling
        finally:
            dialling.cancel()
            stopping.cancel()

    async def _sleep_or_leave(self, seconds: float) -> None:
        await self.sleep(seconds)
        if self._stopping.is_set():
            raise _StoppedError

    def _hash(self, secret: bytes) -> str:
        """Of all that a person may have mended, the password included; keyed, so that it tells nothing."""
        smtp = self._smtp
        said = repr((smtp.host, smtp.effective_port, smtp.security, smtp.username, smtp.secret(), smtp.ca_file))
        return hmac.new(secret, said.encode(), "sha256").hexdigest()


class _StoppedError(Exception):
    """The run ends while the relay is waited for."""

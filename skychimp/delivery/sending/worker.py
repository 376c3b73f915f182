"""Send one delivery after another over one connection."""

import asyncio
from collections.abc import Callable
from datetime import datetime

from skychimp.delivery.attachments.folder import FileUnavailable, hash_files
from skychimp.delivery.sending.claims import Claims, OpenOccurrence
from skychimp.delivery.sending.connection_pool import ConnectionPool
from skychimp.delivery.sending.outcomes import Outcomes, RunStats, Sending
from skychimp.delivery.sending.pacing.rate_limiter import RateLimiter
from skychimp.delivery.sending.pacing.throttle import Throttle
from skychimp.delivery.sending.recorder import Recorder
from skychimp.delivery.sending.retry_policy import Reaction
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.store.queue import ClaimedDelivery
from skychimp.transport.interfaces import Connection, OutgoingEmail, SendResult


class Worker:
    """Has one connection at a time, and is the source of its emails.

    `secret` returns the store's secret. `on_connected` is called after each connect.
    """

    def __init__(
        self,
        claims: Claims,
        pool: ConnectionPool,
        rate_limiter: RateLimiter,
        throttle: Throttle,
        recorder: Recorder,
        outcomes: Outcomes,
        stats: RunStats,
        *,
        now: Callable[[], datetime],
        secret: Callable[[], bytes],
        on_connected: Callable[[], None],
    ) -> None:
        self._claims = claims
        self._pool = pool
        self._rate_limiter = rate_limiter
        self._throttle = throttle
        self._recorder = recorder
        self._outcomes = outcomes
        self._stats = stats
        self._now = now
        self._secret = secret
        self._on_connected = on_connected
        self._current: Sending | None = None
        self._following: Sending | None = None
        self._started_at = now()
        self._connection: Connection | None = None
        self._emails_on_connection, self._connected_at = 0, now()
        self._is_one_too_many = False
        """Whether the server counts the connection as one too many, and so may refuse each further email over it."""
        self._is_behind = self._is_granted = self._is_recording = False
        self._answer: Callable[[bool], None] = lambda is_granted: None

    async def run(self) -> None:
        """Send until nothing is left, the run is stopped, or the mail server accepts fewer connections."""
        connection: Connection | None = None
        try:
            while self._current is not None or await self._take_first(is_connected=connection is not None):
                if connection is None or not connection.is_usable or self._is_used_up(connection, 0):
                    connection = self._connection = await self._pool.replace(connection)
                    self._emails_on_connection, self._connected_at = 0, self._now()
                    self._is_one_too_many = False
                    if connection is not None:
                        self._on_connected()
                if connection is None or self._stats.stopped:
                    break
                await self._send(connection)
                if self._pool.is_over_limit:
                    break
            self._return_untried()
        finally:
            self._current = None  # so that a late answer changes nothing
            await self._pool.close(connection)

    # The source of a connection's emails

    def commit_intent(self, answer: Callable[[bool], None]) -> None:
        """Commit the intent to send the current email. After a stop, drop one that was only started behind another."""
        assert self._current is not None
        if self._is_behind and self._stats.stopped:
            answer(False)
            return
        self._answer = answer
        self._recorder.commit_intent(self._current.claimed, self._on_intent)

    def take_next(self) -> OutgoingEmail | None:
        """Take the next delivery of the same mailing, unless it has to wait for something. Return its email."""
        if self._current is None or self._stats.stopped or self._pool.is_over_limit:
            return None
        if self._connection is None or self._is_used_up(self._connection, 1):  # the current email is not counted yet
            return None
        delivery = self._claims.take_another(self._current.occurrence)
        if delivery is None:
            return None
        if not (self._throttle.take_slot() and self._rate_limiter.take_slot()):
            self._claims.return_untried(*delivery)
            return None
        self._following = self._prepare(*delivery)
        return self._following.email

    def finish(self, result: SendResult) -> None:
        """Take the result of the current email, and go on with the next one, if it was taken."""
        assert self._current is not None
        self._is_recording = True
        reaction = self._outcomes.take(
            self._current, result, self._started_at, self._emails_on_connection, self._connected_at
        )
        self._is_one_too_many |= reaction == Reaction.FEWER_CONNECTIONS
        self._emails_on_connection += 1
        self._is_recording = False
        self._advance()

    # One delivery

    async def _take_first(self, *, is_connected: bool) -> bool:
        """Wait for the next delivery. Return False if none is left or may be sent."""
        delivery = await self._claims.next()
        if delivery is None:
            return False
        await self._throttle.wait()
        if not await self._rate_limiter.wait(is_connected=is_connected):
            self._claims.return_untried(*delivery)
            return False
        self._current, self._started_at = self._prepare(*delivery), self._now()
        return True

    def _prepare(self, claimed: ClaimedDelivery, occurrence: OpenOccurrence) -> Sending:
        emails = occurrence.emails
        assert emails is not None
        try:
            own = emails.read_files(claimed)
            if own:
                claimed = claimed._replace(files_hash=hash_files(own))
            return Sending(claimed, occurrence, emails.compose(claimed, self._secret(), own), "")
        except InvalidValue as error:
            return Sending(claimed, occurrence, None, error.message, isinstance(error, FileUnavailable))

    async def _send(self, connection: Connection) -> None:
        """Send the current delivery, and those that are started behind it."""
        assert self._current is not None
        if self._current.email is None:
            self._outcomes.take_uncomposed(self._current, self._started_at)
            self._advance()
        else:
            await self._send_over(connection, self._current.email)
        await asyncio.sleep(0)  # if nothing was sent, nothing else lets other emails and signals have their turn

    async def _send_over(self, connection: Connection, email: OutgoingEmail) -> None:
        try:
            await connection.send(email, self)
        except SkychimpError:
            raise
        except Exception as error:
            if self._current is None or self._is_recording:
                raise
            self._outcomes.take_defect(self._current, error, self._started_at, dot_written=self._is_granted)
            self._advance()

    def _on_intent(self, is_ours: bool) -> None:
        """Let the current email be sent, or not if its delivery is no longer ours."""
        if self._current is None:
            return
        self._is_granted = is_ours
        if not is_ours:
            self._claims.reclaim(self._current.claimed, self._current.occurrence)
            self._advance()
        self._answer(is_ours)

    def _is_used_up(self, connection: Connection, more: int) -> bool:
        return self._is_one_too_many or self._pool.is_used_up(connection, self._emails_on_connection + more)

    def _advance(self) -> None:
        self._current, self._following = self._following, None
        self._is_behind, self._is_granted, self._started_at = self._current is not None, False, self._now()

    def _return_untried(self) -> None:
        if self._current is not None:
            self._claims.return_untried(self._current.claimed, self._current.occurrence)
            self._rate_limiter.put_back()
            self._current = None

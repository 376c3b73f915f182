"""Manage a run's connections to the mail server: how many there are, and what happens while it is unavailable.

If a connection fails while others are open, the server does not accept more than those. Nothing here counts an attempt:
an email without a connection stays in the queue.
"""

import asyncio
import hmac
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from sqlalchemy import Connection as StoreConnection

from skychimp.config.settings import Settings
from skychimp.delivery.attachments.folder import AttachmentsFolder
from skychimp.delivery.sending.recorder import Recorder
from skychimp.errors import ConfigError, OutboxFailed, RelayRefused, RelayUnavailable
from skychimp.store import relay_pauses
from skychimp.store.limits.connections import ConnectionSlots
from skychimp.translation import Phrase, tr
from skychimp.transport.interfaces import Connection, Transport

log = logging.getLogger("skychimp")

MAX_PROBE_INTERVAL_S = 60.0
SLOT_INTERVAL_S = 0.25  # how often to look for a slot of smtp.connections that another process has given back
GROWTH_INTERVAL_S = 60.0  # after this time without trouble, one more connection is tried


class ConnectionPool:
    """Connections to one mail server, at most `limit` at once. Each has one of the `slots` that all processes share.

    `give_up` is called with a reason and a hint if no connection can be had. With `waits_forever`, the pool waits until
    the mail server is available again, otherwise for at most `run.patience`.
    """

    def __init__(
        self,
        transport: Transport,
        settings: Settings,
        recorder: Recorder,
        slots: ConnectionSlots,
        *,
        now: Callable[[], datetime],
        give_up: Callable[[str, str], None],
        waits_forever: bool = False,
    ) -> None:
        self._transport = transport
        self._recorder = recorder
        self._slots = slots
        self._now = now
        self._give_up = give_up
        self.max_connections = settings.smtp.connections
        self._patience = None if waits_forever else settings.run.patience
        self._smtp = settings.smtp
        self._mail = settings.mail
        self._dkim = settings.dkim
        self._links = (settings.web.url, settings.inbound.address)
        self._fixable: tuple[object, ...] = ()
        self.settings_hash = ""
        self._open_count = self._opening_count = 0
        self._connecting = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._limit_changed_at = asyncio.get_running_loop().time()
        self._may_be_paused = True  # an earlier run may have paused it
        self._is_probe_due = self._is_probing = False
        self._emails_per_connection: int | None = None
        self.limit = self.max_connections

    @property
    def is_over_limit(self) -> bool:
        """Return whether more connections are open than the mail server accepts."""
        return self._open_count > self.limit

    @property
    def is_stopping(self) -> bool:
        """Return whether the pool is stopped."""
        return self._stopping.is_set()

    # Pauses

    def read_settings(self) -> None:
        """Read the settings that a person may fix to end a pause, with the files that they name.

        Call it before `read_pause`, and outside of its transaction: a file can be slow to read.
        """
        smtp = self._smtp
        self._fixable = (
            smtp.host, smtp.effective_port, smtp.security, smtp.username, _content(smtp.read_password), smtp.ca_file,
            _content(smtp.read_certificates), smtp.auth, smtp.token_command, self._mail.sender, self._mail.return_path,
            self._dkim, _content(self._dkim.read_keys),
            *self._links, self._mail.attachments_folder,
            AttachmentsFolder(self._mail.attachments_folder).problem,
        )  # fmt: skip

    def read_pause(self, db: StoreConnection, secret: bytes) -> str | None:
        """Return why the relay is paused, or None if it is not or a probe is due. Part of a transaction."""
        self.settings_hash = self._hash_settings(secret)
        reason = relay_pauses.pause_reason(db, self._transport.relay, self.settings_hash, self._now())
        self._is_probe_due = reason is None and relay_pauses.is_paused(db, self._transport.relay, self.settings_hash)
        return reason

    def apply_pause(self, reason: str | None) -> None:
        """Give up if there is a reason for a pause. If there is none, end a pause with a single connection."""
        if reason is None:
            if not self.limit or (self._is_probe_due and self._may_be_paused):  # not if it took an email meanwhile
                self._is_probing, self.limit = True, 1
        elif self.limit:
            self.limit, self._may_be_paused = 0, True
            self._give_up(_paused(reason), tr('run "skychimp doctor"'))

    def pause(self, reason: str, hint: Phrase) -> None:
        """Pause the relay until its settings change or the next probe is due: it takes no email, whatever the email."""
        if not self.limit:  # another connection has already paused it, and counts as the same probe
            return
        relay, settings_hash, now = self._transport.relay, self.settings_hash, self._now()
        self.limit, self._may_be_paused = 0, True
        self._recorder.submit(lambda db: relay_pauses.pause(db, relay, settings_hash, reason, now))
        self._give_up(_paused(reason), hint)

    def record_success(self) -> None:
        """End a pause, because an email was accepted. Emails that were in flight at the pause do not count."""
        if self._may_be_paused and self.limit:
            self._may_be_paused, relay, now = False, self._transport.relay, self._now()
            self._recorder.submit(lambda db: relay_pauses.resume(db, relay, now))
            if self._is_probing:
                self._is_probing, self.limit = False, self.max_connections

    def lose_patience(self, refused_for_s: float, reason: str, hint: Phrase) -> None:
        """Give up if the mail server has taken nothing for longer than `run.patience`."""
        if self._patience is not None and refused_for_s > self._patience.total_seconds():
            self._give_up(tr("the mail server takes no more email for now: {reason}", reason=reason), hint)

    # Connections

    async def replace(self, connection: Connection | None) -> Connection | None:
        """Close a connection, if there is one, and open a new one. Return None if there is none to be had."""
        await self.close(connection)
        while not self._stopping.is_set():
            if self._open_count:
                with suppress(RelayUnavailable):  # the others were lost meanwhile
                    return await self._open_within_limit(probes=False)
            async with self._connecting:  # while none is open, a single one probes the mail server
                if not self._open_count:
                    return await self._open_within_limit(probes=True)
        return None

    async def close(self, connection: Connection | None) -> None:
        """Close a connection, if there is one."""
        if connection is not None:
            self._open_count -= 1
            await connection.close()
            self._slots.release()

    def close_slots(self) -> None:
        """Leave all connections to other processes, after the last one was closed."""
        self._slots.close()

    def reduce_limit(self) -> None:
        """Allow one connection less than are open, because the mail server closed one or refused to take more."""
        self.limit = min(self.limit, max(1, self._open_count - 1))
        self._limit_changed_at = asyncio.get_running_loop().time()

    def limit_emails_per_connection(self, number: int) -> None:
        """Send no more emails over one connection than this, because the mail server refused the next one.

        The first refusals may have looked like too many connections, so as many as before are allowed again.
        """
        if not number:  # it takes none at all: there are too many connections
            self.reduce_limit()
            return
        if self._emails_per_connection is None and self.limit and not self._is_probing:
            self.limit = self.max_connections
        self._emails_per_connection = min(number, self._emails_per_connection or number)
        self._limit_changed_at = asyncio.get_running_loop().time()

    def is_used_up(self, connection: Connection, emails: int) -> bool:
        """Return whether a connection has taken as many emails as the mail server allows, or is said to allow."""
        limits = (self._emails_per_connection, connection.mail_limit)
        return any(limit is not None and emails >= limit for limit in limits)

    def grow(self) -> None:
        """Allow one connection more, or more emails over each, if there was no trouble for a while."""
        now = asyncio.get_running_loop().time()
        if now - self._limit_changed_at < GROWTH_INTERVAL_S:
            return
        if 0 < self.limit < self.max_connections:
            self.limit, self._limit_changed_at = self.limit + 1, now
        elif self._emails_per_connection is not None:
            self._emails_per_connection += max(1, self._emails_per_connection // 10)
            self._limit_changed_at = now

    def stop(self) -> None:
        """End all waiting, and open no more connections."""
        self._stopping.set()

    async def sleep(self, seconds: float) -> None:
        """Sleep, but wake up when the pool is stopped."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _open_within_limit(self, *, probes: bool) -> Connection | None:
        if self.is_stopping or self._open_count + self._opening_count >= self.limit:
            return None
        self._opening_count += 1
        opened, has_slot = None, False
        try:
            has_slot = await self._take_slot()
            if has_slot:
                opened = await self._open(probes=probes)
        finally:
            self._opening_count -= 1
            if has_slot and opened is None:
                self._slots.release()
        self._open_count += opened is not None
        return opened

    async def _take_slot(self) -> bool:
        """Take a slot for a connection. Only if this process has none yet, wait until another process frees one."""
        loop, patience = asyncio.get_running_loop(), self._patience
        gives_up_at = float("inf") if patience is None else loop.time() + patience.total_seconds()
        while not self._slots.take():
            if self._open_count:
                return False
            if loop.time() >= gives_up_at:
                self._give_up(_ALL_IN_USE, tr("try again later, or raise smtp.connections"))
                return False
            await self.sleep(min(SLOT_INTERVAL_S, gives_up_at - loop.time()))
            if self.is_stopping:
                return False
        return True

    async def _open(self, *, probes: bool) -> Connection | None:
        """Open a connection. Raises RelayUnavailable if no other is open, unless this one `probes` the mail server."""
        try:
            return await self._connect()
        except _StoppedError:
            return None
        except (RelayUnavailable, RelayRefused) as error:
            if self._open_count:  # the mail server accepts others, so this one was too many
                self.limit = min(self.limit, self._open_count + self._opening_count - 1)
                self._limit_changed_at = asyncio.get_running_loop().time()
                return None
            if isinstance(error, RelayUnavailable):
                if not probes:
                    raise
                return await self._probe(error)
            self.pause(error.message, error.hint or "")
            return None

    async def _probe(self, unavailable: RelayUnavailable) -> Connection | None:
        """Try again at growing intervals until there is a connection or `run.patience` is over."""
        from tenacity import (
            AsyncRetrying,
            RetryError,
            retry_if_exception_type,
            stop_after_delay,
            stop_never,
            wait_exponential_jitter,
        )

        hint = unavailable.hint or ""
        is_outbox = isinstance(unavailable, OutboxFailed)
        relay, reason, now = self._transport.relay, unavailable.message, self._now()
        self._may_be_paused = True  # so that the next email that is accepted ends this record, too
        self._recorder.submit(lambda db: relay_pauses.record_unavailable(db, relay, reason, now))
        if self._patience is not None and (is_outbox or self._patience <= timedelta(0)):
            self._give_up(_unavailable(unavailable), hint)
            return None
        patience_s = float("inf") if self._patience is None else self._patience.total_seconds()
        loop, ends_at = asyncio.get_running_loop(), asyncio.get_running_loop().time() + patience_s
        first_wait_s = min(1.0, patience_s)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(RelayUnavailable),
            wait=wait_exponential_jitter(initial=1, max=MAX_PROBE_INTERVAL_S),
            stop=stop_never if self._patience is None else stop_after_delay(patience_s - first_wait_s),
            sleep=lambda seconds: self._sleep_unless_stopped(min(seconds, ends_at - loop.time())),
        )
        name = "outbox" if is_outbox else "mail server"
        log.warning("%s unavailable", name, extra={"relay": relay, "reason": reason})
        try:
            await self._sleep_unless_stopped(first_wait_s)
            connection: Connection = await retrying(self._connect)
            log.warning("%s available", name, extra={"relay": relay})
            self._recorder.submit(relay_pauses.record_available)
            # Its connections broke because it was unavailable, not because they were too many.
            self.limit = self.max_connections
            return connection
        except RetryError as error:
            self._give_up(_unavailable(error.last_attempt.exception()), hint)
        except RelayRefused as error:
            self.pause(error.message, error.hint or "")
        except _StoppedError:
            pass
        return None

    async def _connect(self) -> Connection:
        """Open a connection. Raises RelayUnavailable, RelayRefused, and _StoppedError if the pool is stopped."""
        connecting = asyncio.create_task(self._transport.connect())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not connecting.done():
                raise _StoppedError
            return await connecting
        finally:
            connecting.cancel()
            stopping.cancel()

    async def _sleep_unless_stopped(self, seconds: float) -> None:
        await self.sleep(seconds)
        if self._stopping.is_set():
            raise _StoppedError

    def _hash_settings(self, secret: bytes) -> str:
        """Return a hash of what `read_settings` has read. Its key keeps the password secret."""
        return hmac.new(secret, repr(self._fixable).encode(), "sha256").hexdigest()


class _StoppedError(Exception):
    """The pool was stopped while it waited for the mail server."""


_ALL_IN_USE = tr("other processes use all connections of smtp.connections")


def _content(read_file: Callable[[], object]) -> object:
    """Return what a file contains, or why it cannot be used: a pause ends when either changes."""
    try:
        return read_file()
    except ConfigError as error:
        return error.message


def _paused(reason: str) -> str:
    return f"the mail server is paused: {reason}"


def _unavailable(error: object) -> str:
    return str(error) if isinstance(error, OutboxFailed) else f"the mail server is unavailable: {error}"

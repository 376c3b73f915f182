"""Send emails over one SMTP connection: sockets and timeouts around `smtp_protocol`."""

import asyncio
import os
import select
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from ipaddress import ip_address
from typing import Protocol, cast

from skychimp.config.settings import SmtpSettings
from skychimp.translation import Phrase, tr, verbatim
from skychimp.transport.interfaces import EmailSource, OutgoingEmail, Phase, Reply, SendResult
from skychimp.transport.smtp_protocol import Event, ProtocolError, SmtpProtocol, Write, dot_stuff

QUIT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 10.0  # for the first reply to an email that was started behind the last one
WRITE_AHEAD_BYTES = 16 * 1024  # a longer body is written before the intent is committed
BATCH_BYTES = 256 * 1024  # of a body with attachments, which are written at once
UNREAD_INPUT_S = 0.001  # enough for the event loop to read it


class _Step(Enum):
    """What a connection that sends an email waits for."""

    REPLIES = auto()
    SIGNATURE = auto()  # to be made
    LONG_BODY = auto()  # all of it to be written
    INTENT = auto()


# Module-level names, because reading an Enum's attributes is slow.
_REPLIES, _SIGNATURE, _LONG_BODY, _INTENT = _Step
_BEFORE_INTENT = (_SIGNATURE, _LONG_BODY)
"""The server has no reason to say anything."""


class Server(Protocol):
    """What all connections to one mail server know about it."""

    has_stalled: bool
    """Whether it once did not reply to an email that was started behind the last one."""


class SmtpConnection(asyncio.Protocol):
    """One connection to a mail server. Created by `SmtpTransport.connect`.

    While it sends, each step is a callback: what the server sends is handled when it arrives, without a task, future or
    timer per email.
    """

    def __init__(self, settings: SmtpSettings, server: Server) -> None:
        self.protocol = SmtpProtocol()
        self._server = server
        self._timeout_s = settings.timeout.total_seconds()
        self._dot_timeout_s = settings.dot_timeout.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._retires_at = time.monotonic() + settings.connection_age.total_seconds()
        self._emails_left = settings.emails_per_connection
        self._transport: asyncio.Transport  # set by connection_made
        self._replies: list[Reply] = []
        self._waiter: asyncio.Future[None] | None = None
        self._error: str = ""
        self._deadline = float("inf")
        self._wait_timeout_s = 0.0
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0
        # While emails are sent:
        self._source: EmailSource | None = None
        self._body = b""
        self._batches: Iterator[list[memoryview]] = iter(())
        """What is not yet written of a body that has attachments."""
        self._following: OutgoingEmail | None = None
        self._step = _REPLIES
        self._early_result: SendResult | None = None
        self._defect: Exception | None = None
        self._is_started_behind = False
        self._is_write_buffer_full = False

    @property
    def is_usable(self) -> bool:
        return self._is_connected and self._emails_left > 0 and time.monotonic() < self._retires_at

    @property
    def mail_limit(self) -> int | None:
        return self.protocol.mail_limit

    @property
    def is_loopback(self) -> bool:
        """Return whether the server is on this machine."""
        return ip_address(self.ip_address("peername")).is_loopback

    def ip_address(self, end: str) -> str:
        """Return the IP address of our end ("sockname") or the server's ("peername"), without an IPv6 zone."""
        return str(self._transport.get_extra_info(end)[0]).partition("%")[0]

    async def read_reply(self, timeout_s: float | None = None) -> Reply:
        """Wait for the next reply, by default for `smtp.timeout`. Raises EOFError if there is none.

        The timeout is for the whole reply. A server that sends single bytes does not extend it.
        """
        self._expect_within(self._timeout_s if timeout_s is None else timeout_s)
        while not self._replies:
            if self._error:
                raise EOFError(self._error)
            await self._wait()
        self._deadline = float("inf")
        return self._replies.pop(0)

    async def send_command(self, line: bytes, timeout_s: float | None = None) -> Reply:
        """Send one command and return its reply. Raises EOFError, ProtocolError."""
        data = self.protocol.start_command(line)
        if self._error:
            raise EOFError(self._error)
        self._transport.write(data)
        return await self.read_reply(timeout_s)

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Switch to TLS. Raises EOFError if the server sent anything after its 220 (an injected reply)."""
        if self._error:
            raise EOFError(self._error)
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self.protocol = SmtpProtocol(greeted=True)
        self.connection_made(cast(asyncio.Transport, transport))

    async def send(self, email: OutgoingEmail, source: EmailSource) -> None:
        """Send an email, and the following ones that the source has in time to start each behind the last one.

        If an intent is not granted, the connection is closed without the dot.
        """
        self._source = source
        try:
            self._start(email)
            while self._source is not None:
                await self._wait()
            if self._defect is not None:
                raise self._defect
        except BaseException:
            self.abort()
            raise
        finally:
            self._source = None

    async def try_envelope(self, email: OutgoingEmail) -> SendResult | None:
        """Ask whether the server takes an email by MAIL and RCPT, and end with RSET. Nothing is sent.

        Return None if it does, and otherwise the refusal, or what happened instead of a reply.
        """
        lines = self.protocol.envelope_lines(email)
        if isinstance(lines, SendResult):
            return lines
        refusal = None
        for phase, line in zip((Phase.MAIL, Phase.RCPT), lines, strict=True):
            try:
                reply = await self.send_command(line)
            except (EOFError, ProtocolError) as error:
                return SendResult(phase, None, describe_error(error))
            if not 200 <= reply.code < 300:
                refusal = SendResult(phase, reply)
                break
        with suppress(EOFError, ProtocolError):  # it may have closed after a refusal
            await self.send_command(b"RSET")
        return refusal

    async def close(self) -> None:
        """Send QUIT if the connection is still good, and close it."""
        try:
            await self.send_command(b"QUIT", QUIT_TIMEOUT_S)
        except (EOFError, ProtocolError):
            pass  # the connection is broken, so there is nobody to send QUIT to
        finally:
            self.abort()

    def abort(self) -> None:
        """Close the connection at once, and drop what is not yet written."""
        self._error = self._error or "closed"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # With these limits an empty buffer means that the system has everything that was written.
        self._transport.set_write_buffer_limits(high=1, low=0)

    def data_received(self, data: bytes) -> None:
        try:
            if self._source is not None and (result := self.protocol.receive_usual(data)) is not None:
                self._go_on(result)
                return
            for event in self.protocol.receive(data):
                if type(event) is Reply:
                    self._replies.append(event)
                elif self._source is not None:
                    self._handle(event)
        except ProtocolError as error:
            self._set_error(describe_error(error))
        except Exception as error:
            self._break(error)
        if self._is_started_behind and not self.protocol.is_unanswered:
            self._is_started_behind = False
            self._expect_within(self._timeout_s)
        elif self._step in _BEFORE_INTENT and not self.protocol.is_idle:  # the server interrupts; the rest will follow
            self._step = _REPLIES
            self._expect_within(self._timeout_s)
        if self._replies:
            self._wake()

    def eof_received(self) -> None:
        self._set_error(tr("connection closed"))

    def connection_lost(self, exc: Exception | None) -> None:
        reason = tr("connection closed") if exc is None else tr("connection lost: {reason}", reason=describe_error(exc))
        self._set_error(reason)

    def pause_writing(self) -> None:
        self._is_write_buffer_full = True

    def resume_writing(self) -> None:
        self._is_write_buffer_full = False
        if self._step is _LONG_BODY:
            self._guarded(self._write_batches)

    # Sending emails

    def _start(self, email: OutgoingEmail) -> None:
        self._emails_left -= 1
        self._following = self._early_result = None
        try:
            event = self.protocol.start_email(email)
        except ProtocolError as error:
            self._error = self._error or describe_error(error)
        if self._error:
            self._fail()
            return
        self._email, self._step = email, _REPLIES
        self._handle(event)

    def _handle(self, event: Event) -> None:
        """Go on after what the server replied to an email."""
        if type(event) is SendResult:
            if self._step is _INTENT:
                self._early_result = event  # so that the intent is committed before this result
            else:
                self._finish(event)
        elif type(event) is Write:
            self._transport.write(event.data)
            self._expect_within(self._timeout_s)
        else:
            self._write_body()

    def _write_body(self) -> None:
        """Write a long body now, and a short one together with its dot."""
        self._is_started_behind = False
        signature = self._email.signature
        if signature is not None and not signature.made.done():
            self._step, self._deadline = _SIGNATURE, float("inf")
            signature.made.add_done_callback(partial(self._on_signature, self._email))
            return
        self._body = dot_stuff(self._email.data) if self._email.has_dots else self._email.data
        if signature is not None:
            self._body = signature.made.result() + self._body
        if self._email.tail:
            self._batches = _in_batches((self._body, *self._email.tail))
            self._body = b""
            self._write_batches()
            return
        if len(self._body) > WRITE_AHEAD_BYTES:
            self._transport.write(self._body)
            self._body = b""
            if self._is_write_buffer_full:
                self._await_writing()
                return
        self._ask()

    def _write_batches(self) -> None:
        """Write a body as fast as the server takes it, so that no connection needs a copy of all of it."""
        for batch in self._batches:
            self._transport.writelines(batch)
            if self._is_write_buffer_full:
                self._await_writing()
                return
        self._ask()

    def _await_writing(self) -> None:
        self._step = _LONG_BODY
        self._expect_within(self._dot_timeout_s)

    def _on_signature(self, email: OutgoingEmail, _: object) -> None:
        """Write the body, unless the server has ended the email before its signature was made."""
        if self._source is not None and self._step is _SIGNATURE and self._email is email:
            self._guarded(self._write_body)

    def _ask(self) -> None:
        assert self._source is not None
        self._step, self._deadline = _INTENT, float("inf")
        self._source.commit_intent(self._on_answer)

    def _on_answer(self, is_granted: bool) -> None:
        if self._source is None:
            return
        try:
            if not is_granted:
                self._end()
            elif self._has_unread_input():
                self._loop.call_later(UNREAD_INPUT_S, self._on_answer, True)
            else:
                self._write_dot()
        except Exception as error:
            self._break(error)

    def _has_unread_input(self) -> bool:
        """Return whether the server has said something while a long body was written, and nobody has read it yet.

        It may be a refusal. If the dot were written before that is read, it might get lost when the server closes.
        """
        if self._body or self._error or not self.protocol.is_idle:
            return False
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    def _write_dot(self) -> None:
        """Write the final dot, and the next envelope behind it, unless the server has said something before."""
        self._step = _REPLIES
        if self._early_result is not None:
            self._finish(self._early_result)
        elif self._error:
            self._fail()
        elif self._transport.is_closing() or not self.protocol.is_idle:  # the end or the rest of a reply will follow
            self._expect_within(self._timeout_s)
        else:
            self._following = self._take_following()
            self._transport.write(self._body + self.protocol.end_email(self._following))
            self._expect_within(self._dot_timeout_s)

    def _take_following(self) -> OutgoingEmail | None:
        """Return the email to start behind this one's final dot, or None if nothing can be started there."""
        assert self._source is not None
        is_last = self._emails_left <= 0 or time.monotonic() >= self._retires_at
        if is_last or self._server.has_stalled or not self.protocol.has_pipelining:
            return None
        following = self._source.take_next()
        if following is None or not self.protocol.can_follow(following):
            return None
        self._emails_left -= 1
        return following

    def _finish(self, result: SendResult) -> None:
        """Report a result, and go on with the email that was started behind this one."""
        assert self._source is not None
        self._source.finish(result)
        if self._following is None or not self._is_connected:
            self._end()
            return
        self._email, self._following, self._is_started_behind = self._following, None, True
        self._expect_within(min(STALL_TIMEOUT_S, self._timeout_s))

    def _go_on(self, result: SendResult) -> None:
        """Report that an email was accepted, and write the body of the one that was started behind it."""
        assert self._source is not None
        assert self._following is not None
        self._source.finish(result)
        self._email, self._following = self._following, None
        self._write_body()

    def _fail(self) -> None:
        """End because the connection broke. An email that was started in vain has no result."""
        assert self._source is not None
        if not (self._is_started_behind and self.protocol.is_unanswered):
            self._source.finish(self.protocol.fail(self._error))
        self._end()

    def _end(self) -> None:
        """Let `send` return. If an email was started and did not end, the connection is closed."""
        has_no_result = self._step is _INTENT
        self._source, self._step, self._is_started_behind, self._deadline = None, _REPLIES, False, float("inf")
        if has_no_result or not self._is_connected:
            self.abort()
        self._wake()

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:
            self._break(error)

    def _break(self, error: Exception) -> None:
        """Let `send` raise what was raised in a callback."""
        self._source, self._defect = None, error
        self._wake()

    # Waiting

    @property
    def _is_connected(self) -> bool:
        return not self._error and self.protocol.is_usable

    async def _wait(self) -> None:
        """Wait until `_wake` is called."""
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expect_within(self, timeout_s: float) -> None:
        """Set the time within which the server must complete what it has to send now.

        A connection has one timer, which is renewed when it fires and not for every reply.
        """
        self._wait_timeout_s = timeout_s
        self._deadline = deadline = self._loop.time() + timeout_s
        if self._timer is None or self._timer_at > deadline:
            self._set_timer(deadline)

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._check_deadline)
        self._timer_at = at  # the handle may have no when(): uvloop does not use a timer if it is due at once

    def _check_deadline(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline:
            if self._deadline != float("inf"):
                self._set_timer(self._deadline)
            return
        self._server.has_stalled |= self._is_started_behind and self.protocol.is_unanswered
        self._set_error(tr("timed out after {seconds:g} s", seconds=self._wait_timeout_s))

    def _set_error(self, error: Phrase) -> None:
        self._error = self._error or error
        if self._source is not None and self._step is not _INTENT:
            self._guarded(self._fail)
        self._wake()


def _in_batches(pieces: Sequence[bytes]) -> Iterator[list[memoryview]]:
    """Yield a body in batches of at most BATCH_BYTES, without copying it."""
    batch: list[memoryview] = []
    room = BATCH_BYTES
    for whole in pieces:
        piece = memoryview(whole)
        while len(piece) > room:
            yield [*batch, piece[:room]]
            piece, batch, room = piece[room:], [], BATCH_BYTES
        batch.append(piece)
        room -= len(piece)
    yield batch


_SYSTEM_ERRORS = (
    tr("connection refused"),
    tr("connection reset by peer"),
    tr("connection timed out"),
    tr("name or service not known"),
    tr("network is unreachable"),
    tr("no route to host"),
    tr("temporary failure in name resolution"),
)
_PHRASES = {str(phrase): phrase for phrase in _SYSTEM_ERRORS}


def describe_error(error: Exception) -> Phrase:
    """Return what went wrong: never an empty text, and without numbers of errors and the file names of OpenSSL."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return verbatim(error.reason.lower().replace("_", " "))
    if isinstance(error, OSError) and error.errno and error.strerror:
        reason = error.strerror.partition(" (_ssl.c")[0]
        if reason.startswith("Connect call failed"):  # asyncio hides the reason behind the address
            reason = os.strerror(error.errno)
        reason = reason[:1].lower() + reason[1:]
        return _PHRASES.get(reason) or verbatim(reason)
    if error.args and isinstance(error.args[0], Phrase):
        return error.args[0]
    return verbatim(str(error) or type(error).__name__)

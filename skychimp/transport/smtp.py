"""SMTP over asyncio: the driver of `smtp_protocol`, with TLS, login and a deadline for each reply."""

import asyncio
import re
import socket
import ssl
import time
from functools import cached_property
from ipaddress import ip_address
from typing import cast

from skychimp.config.settings import SmtpSettings
from skychimp.config.types import Security
from skychimp.errors import RelayRefused, RelayUnavailable
from skychimp.transport.interfaces import CommitIntent, OutgoingEmail, Reply, SendResult
from skychimp.transport.smtp_protocol import Event, ProtocolError, SmtpProtocol, Write, login, stuffed

GOODBYE = 5.0  # s to wait for the reply to QUIT
AHEAD = 16 * 1024  # bytes; a longer body is written while the permit is still asked for
_DOMAIN = re.compile(
    r"(?=.{1,255}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)


class SmtpTransport:
    """A relay that is spoken to in SMTP, as the settings say; `hostname` is this machine's, if not the system's."""

    def __init__(self, settings: SmtpSettings, hostname: str | None = None) -> None:
        self._settings = settings
        self._hostname = hostname or socket.gethostname()

    @property
    def relay(self) -> str:
        return f"{self._settings.host}:{self._settings.effective_port}"

    async def connect(self) -> "SmtpConnection":
        """Connect, secure, log in. Raises RelayAway where it may help to wait, RelayRefuses where a person must act."""
        try:
            return await self._opened(await self._dial())
        except (OSError, UnicodeError, ProtocolError, EOFError) as error:
            raise self._relay_error(error) from None

    async def _dial(self) -> "SmtpConnection":
        settings = self._settings
        over_tls = settings.security == Security.TLS
        async with asyncio.timeout(settings.timeout.total_seconds()):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: SmtpConnection(settings),
                settings.host,
                settings.effective_port,
                ssl=self._tls if over_tls else None,
                server_hostname=settings.host if over_tls else None,
            )
        return connection

    async def _opened(self, connection: "SmtpConnection") -> "SmtpConnection":
        settings = self._settings
        try:
            _accept(await connection.reply(), "the greeting")
            await self._hello(connection)
            if settings.security == Security.STARTTLS:
                await self._start_tls(connection)
            if settings.username is not None:
                await self._log_in(connection, settings.username, settings.secret())
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _hello(self, connection: "SmtpConnection") -> None:
        name = ehlo_name(self._hostname, connection.address("sockname")).encode()
        reply = await connection.command(b"EHLO " + name)
        if reply.code >= 500:  # RFC 5321, section 3.2
            _accept(await connection.command(b"HELO " + name), "HELO")
            return
        _accept(reply, "EHLO")
        connection.protocol.learn(reply)

    async def _start_tls(self, connection: "SmtpConnection") -> None:
        if "STARTTLS" not in connection.protocol.capabilities:
            hint = 'set smtp.security to "tls", or to "none" if you mean it'
            raise RelayRefused(f"{self.relay} offers no STARTTLS", hint)
        _accept(await connection.command(b"STARTTLS"), "STARTTLS")
        async with asyncio.timeout(self._settings.timeout.total_seconds()):
            await connection.start_tls(self._tls, self._settings.host)
        await self._hello(connection)

    async def _log_in(self, connection: "SmtpConnection", username: str, password: str | None) -> None:
        if password is None:
            raise RelayRefused("smtp.username is set without a password", "set smtp.password_file, too")
        if self._settings.security == Security.NONE and not connection.is_loopback:
            raise RelayRefused("a password is sent over TLS only", 'set smtp.security to "starttls" or "tls"')
        lines = login(connection.protocol.capabilities.get("AUTH", ""), username, password)
        if not lines:
            hint = "check smtp.username and smtp.security"
            raise RelayRefused(f"{self.relay} offers no login by PLAIN or LOGIN", hint)
        for line in lines:
            reply = await connection.command(line)
            if reply.code != 334:
                break
        if reply.code == 235:
            return
        words = _one_line(reply)
        for secret in (password, *(line.split()[-1].decode() for line in lines)):  # some servers repeat what they heard
            words = words.replace(secret, "...")
        if 400 <= reply.code < 500:
            raise RelayUnavailable(f"{self.relay} can't log in now: {words}", "it is tried again later")
        raise RelayRefused(f"{self.relay} refuses the login: {words}", "check smtp.username and smtp.password")

    def _relay_error(self, error: Exception) -> RelayUnavailable | RelayRefused:
        """What a connect that failed comes to."""
        match error:
            case ssl.SSLCertVerificationError():
                return RelayRefused(
                    f"the certificate of {self.relay} is not trusted: {error.verify_message}",
                    "check smtp.host, or name the certificate's authority in smtp.ca_file",
                )
            case UnicodeError():
                return RelayRefused(f"{self._settings.host!a} is no host name", "mend smtp.host")
            case TimeoutError():
                return RelayUnavailable(f"{self.relay} does not answer", "check smtp.host, smtp.port and smtp.security")
            case ssl.SSLError():
                return RelayUnavailable(f"{self.relay} can't speak TLS: {error}", "check smtp.port and smtp.security")
        return RelayUnavailable(f"{self.relay} can't be talked to: {error}", "check smtp.host and smtp.port; is it up?")

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._settings.ca_file)
        except OSError as error:
            reason = error.strerror or error
            raise RelayRefused(f"{self._settings.ca_file} can't be used: {reason}", "mend smtp.ca_file") from None


class SmtpConnection(asyncio.Protocol):
    """One conversation. Made by SmtpTransport.connect."""

    def __init__(self, settings: SmtpSettings) -> None:
        self.protocol = SmtpProtocol()
        self._timeout = settings.timeout.total_seconds()
        self._dot_timeout = settings.dot_timeout.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._retires_at = time.monotonic() + settings.connection_age.total_seconds()
        self._letters_left = settings.letters_per_connection
        self._transport: asyncio.Transport  # from connection_made on
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._fault = ""
        self._deadline = float("inf")
        self._patience = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False

    @property
    def usable(self) -> bool:
        return (
            not self._fault and self.protocol.usable and self._letters_left > 0 and time.monotonic() < self._retires_at
        )

    @property
    def is_loopback(self) -> bool:
        return ip_address(self.address("peername")).is_loopback

    def address(self, which: str) -> str:
        """The IP address of this end ("sockname") or the other ("peername"), without an IPv6 zone."""
        return str(self._transport.get_extra_info(which)[0]).partition("%")[0]

    async def reply(self, patience: float | None = None) -> Reply:
        """The next reply. Raises EOFError where none comes, within `patience` seconds or the usual timeout."""
        return cast(Reply, await self._event(self._timeout if patience is None else patience))

    async def command(self, line: bytes, patience: float | None = None) -> Reply:
        """Send one command and wait for its reply. Raises EOFError, ProtocolError."""
        self._write(self.protocol.command(line))
        return await self.reply(patience)

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Go on in TLS. Raises EOFError where the server said more than its 220 (an injected reply)."""
        if self._fault:
            raise EOFError(self._fault)
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self.protocol = SmtpProtocol(greeted=True)
        self.connection_made(cast(asyncio.Transport, transport))

    async def send(self, letter: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        """One letter; None where `permit` said no, and then the connection is closed without the dot."""
        self._letters_left -= 1
        try:
            answer = await self._send(letter, commit_intent)
        except (EOFError, ProtocolError) as error:
            answer = self.protocol.fault(str(error))
        except BaseException:
            self.abort()
            raise
        if answer is None or not self.protocol.usable:
            self.abort()
        return answer

    async def close(self) -> None:
        """QUIT where the connection still is good, and close."""
        try:
            await self.command(b"QUIT", GOODBYE)
        except (EOFError, ProtocolError):
            pass  # then there is nothing to be polite to
        finally:
            self.abort()

    def abort(self) -> None:
        """Close at once; what is not written yet is dropped."""
        self._fault = self._fault or "closed"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1, low=0)  # not full means: all is with the system

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.protocol.receive(data):
                self._events.append(event)
        except ProtocolError as error:
            self._fault = self._fault or str(error)
        self._wake()

    def eof_received(self) -> None:
        self._lose("connection closed")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(f"connection lost: {exc}" if exc else "connection closed")

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._wake()

    # One letter

    async def _send(self, letter: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        event: Event = self.protocol.begin(letter)
        while isinstance(event, Write):
            self._write(event.data)
            event = await self._event(self._timeout)
        if isinstance(event, SendResult):
            return event
        rest = stuffed(letter.data)
        if len(rest) > AHEAD:
            await self._write_ahead(rest)
            rest = b""
        if self._is_quiet and not await commit_intent():
            return None
        if not self._is_quiet:  # the server's word, or its end, came before the dot
            return cast(SendResult, await self._event(self._timeout))
        self._write(rest + self.protocol.dot())
        return cast(SendResult, await self._event(self._dot_timeout))

    @property
    def _is_quiet(self) -> bool:
        """Nothing has come, and no write has failed (a transport that is closing may not have told us yet)."""
        return not (self._events or self._fault or self._transport.is_closing()) and self.protocol.is_silent

    async def _write_ahead(self, body: bytes) -> None:
        """Write a long body, and wait until the system has it all or the server interrupts."""
        self._write(body)
        deadline = self._loop.time() + self._dot_timeout
        while self._is_full and self._is_quiet:
            await self._wait(deadline, self._dot_timeout)

    async def _event(self, patience: float) -> Event:
        """The next event, by a deadline that a reply's single bytes don't move. Raises EOFError where none comes."""
        deadline = self._loop.time() + patience
        while not self._events:
            if self._fault:
                raise EOFError(self._fault)
            await self._wait(deadline, patience)
        return self._events.pop(0)

    async def _wait(self, deadline: float, patience: float) -> None:
        """Wait until something happens; the deadline's passing is a fault."""
        self._waiter = self._loop.create_future()
        self._patience = patience
        self._expect_by(deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None
            self._deadline = float("inf")

    def _expect_by(self, deadline: float) -> None:
        """One timer a connection: it is set anew only when it fires, not for every reply."""
        self._deadline = deadline
        if self._timer is None or self._timer.when() > deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._look_at_clock)

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._lose(f"timed out after {self._patience:g} s")
        elif self._deadline != float("inf"):
            self._expect_by(self._deadline)

    def _lose(self, reason: str) -> None:
        self._fault = self._fault or reason
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _write(self, data: bytes) -> None:
        if self._fault:
            raise EOFError(self._fault)
        self._transport.write(data)


def ehlo_name(hostname: str, address: str) -> str:
    """What EHLO says: the host's full name, or else its address as a literal (RFC 5321, section 4.1.3)."""
    if _DOMAIN.fullmatch(hostname):
        return hostname
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _accept(reply: Reply, what: str) -> None:
    """Raises RelayAway where the reply says "later", RelayRefuses where it says no."""
    if 200 <= reply.code < 300:
        return
    if reply.code >= 500:
        raise RelayRefused(f"the relay refuses {what}: {_one_line(reply)}", "ask its administrator, or check smtp.host")
    raise RelayUnavailable(f"the relay can't take mail now, at {what}: {_one_line(reply)}", "it is tried again later")


def _one_line(reply: Reply) -> str:
    return reply.text.replace("\n", " ")

"""SMTP over asyncio: the driver of `smtp_protocol`, with TLS, login and a deadline for each reply."""

import asyncio
import re
import socket
import ssl
import time
from ipaddress import ip_address
from typing import cast

from skychimp.config import Security, SmtpSettings
from skychimp.errors import RelayAway, RelayRefuses
from skychimp.transport.exchange import Answer, Letter, Permit, Reply
from skychimp.transport.smtp_protocol import Event, GoAhead, ProtocolError, Session, Write, stuffed

GOODBYE = 5.0  # s to wait for the reply to QUIT
_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")


class SmtpTransport:
    """A relay that is spoken to in SMTP, as the settings say."""

    def __init__(self, settings: SmtpSettings) -> None:
        self._settings = settings

    @property
    def relay(self) -> str:
        return f"{self._settings.host}:{self._settings.effective_port}"

    async def connect(self) -> "SmtpConnection":
        """Connect, secure, log in. Raises RelayAway where it may help to wait, RelayRefuses where a person must act."""
        connection = SmtpConnection(self._settings)
        try:
            await self._open(connection)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _open(self, connection: "SmtpConnection") -> None:
        settings = self._settings
        try:
            async with asyncio.timeout(settings.timeout.total_seconds()):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    settings.host,
                    settings.effective_port,
                    ssl=self._tls() if settings.security == Security.TLS else None,
                    server_hostname=settings.host if settings.security == Security.TLS else None,
                )
            _accept(await connection.greeting(), "the greeting")
            await _hello(connection)
            if settings.security == Security.STARTTLS:
                await self._start_tls(connection)
            await self._log_in(connection)
        except ssl.SSLCertVerificationError as error:
            raise RelayRefuses(
                f"the certificate of {self.relay} is not trusted: {error.verify_message}",
                "check smtp.host, or name the certificate's authority in smtp.ca_file",
            ) from None
        except TimeoutError:
            raise RelayAway(f"{self.relay} does not answer in time", "is smtp.host right, and is it up?") from None
        except (OSError, ssl.SSLError, ProtocolError, EOFError) as error:
            raise RelayAway(f"{self.relay} can't be talked to: {error}", "is smtp.host right, and is it up?") from None

    async def _start_tls(self, connection: "SmtpConnection") -> None:
        if "STARTTLS" not in connection.session.capabilities:
            raise RelayRefuses(f"{self.relay} offers no STARTTLS", 'set smtp.security to "tls", or to "none" if you mean it')
        _accept(await connection.command(b"STARTTLS"), "STARTTLS")
        async with asyncio.timeout(self._settings.timeout.total_seconds()):
            await connection.start_tls(self._tls(), self._settings.host)
        await _hello(connection)

    async def _log_in(self, connection: "SmtpConnection") -> None:
        username, password = self._settings.username, self._settings.secret()
        if username is None or password is None:
            return
        if self._settings.security == Security.NONE and not connection.is_loopback:
            raise RelayRefuses("a password is sent over TLS only", 'set smtp.security to "starttls" or "tls"')
        mechanisms = connection.session.capabilities.get("AUTH", "").upper().split()
        if "PLAIN" in mechanisms:
            reply = await connection.command(connection.session.auth_plain(username, password))
        elif "LOGIN" in mechanisms:
            reply = await _log_in_by_login(connection, username, password)
        else:
            raise RelayRefuses(f"{self.relay} offers no login by PLAIN or LOGIN", "check smtp.username and smtp.security")
        if 400 <= reply.code < 500:
            raise RelayAway(f"{self.relay} can't log in now: {reply.text}")
        if reply.code != 235:
            raise RelayRefuses(f"{self.relay} refuses the login: {reply.text}", "check smtp.username and smtp.password")

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._settings.ca_file)


class SmtpConnection(asyncio.Protocol):
    """One conversation. Made by SmtpTransport.connect."""

    def __init__(self, settings: SmtpSettings) -> None:
        self.session = Session()
        self._timeout = settings.timeout.total_seconds()
        self._dot_timeout = settings.dot_timeout.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._retires_at = time.monotonic() + settings.connection_age.total_seconds()
        self._letters_left = settings.letters_per_connection
        self._transport: asyncio.Transport | None = None
        self._events: list[Event] = []
        self._waiter: asyncio.Future[None] | None = None
        self._fault = ""
        self._deadline = float("inf")
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self.session.greet()

    @property
    def usable(self) -> bool:
        return (
            not self._fault and self.session.usable and self._letters_left > 0 and time.monotonic() < self._retires_at
        )

    @property
    def is_loopback(self) -> bool:
        address = self._peer("peername")
        return address is not None and ip_address(address).is_loopback

    @property
    def name(self) -> str:
        """What EHLO says: this machine's full name, or else its address (RFC 5321, section 4.1.3)."""
        host = socket.gethostname()
        if _DOMAIN.fullmatch(host):
            return host
        address = self._peer("sockname") or "127.0.0.1"
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    async def greeting(self) -> Reply:
        return await self._reply(self._timeout)

    async def command(self, line: bytes) -> Reply:
        """Send one command and wait for its reply. Raises EOFError, TimeoutError, ProtocolError."""
        self._write(self.session.command(line))
        return await self._reply(self._timeout)

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        assert self._transport is not None
        transport = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        self._transport = cast(asyncio.Transport, transport)
        self.session = Session()

    async def send(self, letter: Letter, permit: Permit) -> Answer | None:
        """One letter; None where `permit` said no, and then the connection is closed without the dot."""
        self._letters_left -= 1
        try:
            answer = await self._send(letter, permit)
        except (EOFError, TimeoutError, ProtocolError, OSError) as error:
            answer = self.session.fault(str(error))
        except BaseException:
            self.abort()
            raise
        if answer is None or not self.session.usable:
            self.abort()
        return answer

    async def close(self) -> None:
        """QUIT where the connection still is good, and close."""
        if not self._fault and self.session.usable and self._transport is not None:
            try:
                self._write(self.session.command(b"QUIT"))
                await self._reply(GOODBYE)
            except (EOFError, TimeoutError, ProtocolError, OSError):
                pass
        self.abort()

    def abort(self) -> None:
        """Close at once; what is not written yet is dropped."""
        self._fault = self._fault or "closed"
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._events += self.session.receive(data)
        except ProtocolError as error:
            self._fault = self._fault or str(error)
        self._wake()

    def eof_received(self) -> None:
        self._lose("connection closed by the relay")

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(f"connection lost: {exc}" if exc else "connection closed by the relay")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def _send(self, letter: Letter, permit: Permit) -> Answer | None:
        event: Event = self.session.begin(letter)
        while not isinstance(event, GoAhead):
            if isinstance(event, Answer):
                return event
            assert isinstance(event, Write)
            self._write(event.data)
            event = await self._event(self._timeout)
        self._write(stuffed(letter.data))
        if not self._writable.is_set():
            async with asyncio.timeout(self._dot_timeout):
                await self._writable.wait()
        if not await permit():
            return None
        if self._events or self._fault:  # a reply, or the end, that came before the dot
            return cast(Answer, await self._event(self._timeout))
        self._write(self.session.dot())
        return cast(Answer, await self._event(self._dot_timeout))

    async def _reply(self, timeout: float) -> Reply:  # noqa: ASYNC109
        return cast(Reply, await self._event(timeout))

    async def _event(self, timeout: float) -> Event:  # noqa: ASYNC109
        """The next event, by a deadline that a reply's single bytes don't move. Raises EOFError, TimeoutError."""
        if not self._events and not self._fault:
            self._waiter = self._loop.create_future()
            self._expect_by(self._loop.time() + timeout)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._deadline = float("inf")
        if self._events:
            return self._events.pop(0)
        raise EOFError(self._fault)

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
            self._lose("timed out")
        elif self._deadline != float("inf"):
            self._expect_by(self._deadline)

    def _lose(self, reason: str) -> None:
        self._fault = self._fault or reason
        self._writable.set()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and (self._events or self._fault):
            self._waiter.set_result(None)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def _peer(self, which: str) -> str | None:
        address = self._transport.get_extra_info(which) if self._transport is not None else None
        return str(address[0]) if address else None


async def _hello(connection: SmtpConnection) -> None:
    reply = await connection.command(f"EHLO {connection.name}".encode())
    if 500 <= reply.code < 600:  # RFC 5321, section 3.2
        _accept(await connection.command(f"HELO {connection.name}".encode()), "HELO")
        return
    _accept(reply, "EHLO")
    connection.session.learn(reply)


async def _log_in_by_login(connection: SmtpConnection, username: str, password: str) -> Reply:
    import base64

    reply = await connection.command(b"AUTH LOGIN")
    for secret in (username, password):
        if reply.code != 334:
            break
        reply = await connection.command(base64.b64encode(secret.encode()))
    return reply


def _accept(reply: Reply, what: str) -> None:
    """Raises RelayAway where the reply says "later", RelayRefuses where it says no."""
    if 200 <= reply.code < 300:
        return
    if reply.code >= 500:
        raise RelayRefuses(f"the relay refuses {what}: {reply.text}", "ask its administrator, or check smtp.host")
    raise RelayAway(f"the relay can't take mail now, at {what}: {reply.text}")

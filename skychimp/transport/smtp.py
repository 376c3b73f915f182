"""Connect to a mail server by SMTP: TLS and login, and what went wrong in words."""

import asyncio
import re
import socket
import ssl
from functools import cached_property

from skychimp.config.settings import SmtpSettings
from skychimp.config.types import Security
from skychimp.errors import ConfigError, RelayRefused, RelayUnavailable
from skychimp.translation import tr, verbatim
from skychimp.transport.interfaces import Reply
from skychimp.transport.smtp_connection import SmtpConnection, describe_error
from skychimp.transport.smtp_login import Login
from skychimp.transport.smtp_protocol import ProtocolError

_DOMAIN = re.compile(
    r"(?=.{1,255}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]"
)

_PORT_AND_SECURITY = tr('smtp.port and smtp.security ("tls" for port 465, "starttls" for 587 and 25)')
_CHECK_PORT = tr("check {port_and_security}", port_and_security=_PORT_AND_SECURITY)
_UNKNOWN_AUTHORITY = (
    tr("its certificate authority is unknown"),
    tr("set smtp.ca_file to the file of the certificate authority, or check smtp.host"),
)
_OTHER_NAME = (
    tr("it is not valid for the name in smtp.host"),
    tr("set smtp.host to one of the certificate's alternative names (its common name does not count)"),
)
_CERTIFICATE_PROBLEMS = {
    9: (tr("it is not valid yet"), tr("check this machine's clock")),
    10: (tr("it has expired"), tr("renew the mail server's certificate, or check this machine's clock")),
    18: (tr("it is self-signed"), tr("set smtp.ca_file to a file with this certificate, or check smtp.host")),
    19: _UNKNOWN_AUTHORITY,
    20: _UNKNOWN_AUTHORITY,
    21: _UNKNOWN_AUTHORITY,
    62: _OTHER_NAME,
    64: _OTHER_NAME,
    87: _OTHER_NAME,  # no alternative name at all; Python 3.13 checks this first
}
"""What is wrong with a certificate, and a hint, by OpenSSL's code (X509_V_ERR_ in x509_vfy.h)."""

_OLD_TLS = (tr("the server has no TLS 1.2 or later"), tr("update the mail server, or use another one"))
_NO_TLS = (tr("the server does not speak TLS"), _CHECK_PORT)
_NOT_FROM_THE_START = (
    tr("the server does not speak TLS from the start"),
    tr('set smtp.security = "starttls" if the port is 587 or 25, or set smtp.port to one with TLS, such as 465'),
)
_TLS_PROBLEMS = {
    "HTTP_REQUEST": _NO_TLS,
    "TLSV1_ALERT_PROTOCOL_VERSION": _OLD_TLS,
    "UNSUPPORTED_PROTOCOL": _OLD_TLS,
    "WRONG_VERSION_NUMBER": _NO_TLS,
}
"""What is wrong with a handshake, and a hint, by OpenSSL's name (SSL_R_ in sslerr.h)."""


class SmtpTransport:
    """Connects to the mail server in the settings. `hostname` is this machine's name (default: the system's)."""

    def __init__(self, settings: SmtpSettings, hostname: str | None = None) -> None:
        self._settings = settings
        self._hostname = hostname or socket.gethostname()
        self._login = Login(settings, self.relay)
        self.has_stalled = False
        """Whether the server once did not reply to an email that was started behind the last one."""

    @property
    def relay(self) -> str:
        return self._settings.relay

    async def connect(self) -> SmtpConnection:
        """Connect, start TLS and log in.

        Raises RelayUnavailable if it may work later, and RelayRefused if a person must act, also because a file that
        the settings name cannot be used.
        """
        unsupported = len(self._login.unsupported)
        try:
            return await self._set_up(await self._open_connection())
        except (OSError, UnicodeError, ProtocolError, EOFError) as error:
            if len(self._login.unsupported) > unsupported:  # the server closes after it refused a mechanism
                return await self.connect()
            raise self._connect_error(error) from None
        except ConfigError as error:
            raise RelayRefused(error.message, error.hint) from None

    async def _open_connection(self) -> SmtpConnection:
        settings = self._settings
        uses_tls = settings.security == Security.TLS
        async with asyncio.timeout(settings.timeout.total_seconds()):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: SmtpConnection(settings, self),
                settings.host,
                settings.effective_port,
                ssl=self._tls_context if uses_tls else None,
                server_hostname=settings.host if uses_tls else None,
            )
        return connection

    async def _set_up(self, connection: SmtpConnection) -> SmtpConnection:
        settings = self._settings
        try:
            _require_success(await self._read_greeting(connection), tr("the connection"))
            await self._send_ehlo(connection)
            if settings.security == Security.STARTTLS:
                await self._start_tls(connection)
            if settings.username is not None:
                await self._login.log_in(connection, settings.username)
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _read_greeting(self, connection: SmtpConnection) -> Reply:
        """Return the greeting. A server that wants TLS at once sends none, because it waits for us."""
        try:
            return await connection.read_reply()
        except EOFError as error:
            if connection.protocol.got_tls:
                raise RelayRefused(
                    tr("{relay} speaks TLS from the start", relay=self.relay), tr('set smtp.security = "tls"')
                ) from None
            hint = tr("check smtp.host and smtp.port")
            if self._settings.security != Security.TLS:
                hint = tr(
                    'set smtp.security = "tls" if it expects TLS from the start, as on port 465, or {hint}', hint=hint
                )
            raise RelayUnavailable(
                tr("{relay} sends no valid greeting: {error}", relay=self.relay, error=describe_error(error)), hint
            ) from None

    async def _send_ehlo(self, connection: SmtpConnection) -> None:
        name = ehlo_name(self._hostname, connection.ip_address("sockname")).encode()
        reply = await connection.send_command(b"EHLO " + name)
        if reply.code >= 500:  # a server without extensions knows only HELO (RFC 5321, section 3.2)
            _require_success(await connection.send_command(b"HELO " + name), "HELO")
            return
        _require_success(reply, "EHLO")
        connection.protocol.read_capabilities(reply)

    async def _start_tls(self, connection: SmtpConnection) -> None:
        if "STARTTLS" not in connection.protocol.capabilities:
            hint = tr('set smtp.security to "tls", or to "none" if you trust the network')
            raise RelayRefused(tr("{relay} does not offer STARTTLS", relay=self.relay), hint)
        _require_success(await connection.send_command(b"STARTTLS"), "STARTTLS")
        async with asyncio.timeout(self._settings.timeout.total_seconds()):
            await connection.start_tls(self._tls_context, self._settings.host)
        await self._send_ehlo(connection)

    def _connect_error(self, error: Exception) -> RelayUnavailable | RelayRefused:
        """Return the error for a failed connect."""
        match error:
            case ssl.SSLError():
                return self._tls_error(error)
            case UnicodeError():
                return RelayRefused(tr("invalid host name {host!a}", host=self._settings.host), tr("check smtp.host"))
            case TimeoutError():
                return RelayUnavailable(
                    tr("{relay} does not respond", relay=self.relay),
                    tr("check smtp.host, {port_and_security}", port_and_security=_PORT_AND_SECURITY),
                )
            case ConnectionError() if error.errno is None:  # what asyncio raises if it is closed during the handshake
                hint = tr(
                    "check {port_and_security}, and that the mail server has TLS 1.2 or later",
                    port_and_security=_PORT_AND_SECURITY,
                )
                return RelayUnavailable(
                    tr("TLS with {relay} failed: the server closed the connection", relay=self.relay), hint
                )
        hint = tr("check smtp.host, smtp.port and smtp.security, and that the mail server is running")
        return RelayUnavailable(
            tr("cannot connect to {relay}: {reason}", relay=self.relay, reason=describe_error(error)),
            hint,
        )

    def _tls_error(self, error: ssl.SSLError) -> RelayUnavailable | RelayRefused:
        """Return the error for a failed handshake."""
        if isinstance(error, ssl.SSLCertVerificationError):
            reason, hint = _CERTIFICATE_PROBLEMS.get(
                error.verify_code, (verbatim(error.verify_message), _UNKNOWN_AUTHORITY[1])
            )
            return RelayRefused(
                tr("the certificate of {relay} is not trusted: {reason}", relay=self.relay, reason=reason), hint
            )
        reason, hint = _TLS_PROBLEMS.get(error.reason or "", (describe_error(error), _CHECK_PORT))
        if (reason, hint) == _NO_TLS and self._settings.security == Security.TLS:
            reason, hint = _NOT_FROM_THE_START
        return RelayUnavailable(tr("TLS with {relay} failed: {reason}", relay=self.relay, reason=reason), hint)

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        certificates = self._settings.read_certificates()
        try:
            # An empty text would stand for the system's certificates.
            context = ssl.create_default_context(cadata=None if certificates is None else certificates or "\n")
        except ssl.SSLError:
            hint = tr("set smtp.ca_file to a PEM file with certificates")
            raise RelayRefused(tr("no valid certificate in {ca_file}", ca_file=self._settings.ca_file), hint) from None
        context.hostname_checks_common_name = False  # RFC 9525, section 2
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
        return context


def ehlo_name(hostname: str, address: str) -> str:
    """Return the name for EHLO: the full host name, or else the address as a literal (RFC 5321, section 4.1.3)."""
    if _DOMAIN.fullmatch(hostname):
        return hostname
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _require_success(reply: Reply, command: str) -> None:
    """Raise RelayRefused for a 5xx reply and RelayUnavailable for any other that is not 2xx."""
    if 200 <= reply.code < 300:
        return
    text = _on_one_line(reply)
    if reply.code >= 500:
        hint = tr("ask the mail server's administrator, or check smtp.host")
        raise RelayRefused(tr("the mail server refused {command}: {reply}", command=command, reply=text), hint)
    raise RelayUnavailable(
        tr("the mail server did not accept {command}: {reply}", command=command, reply=text), tr("try again later")
    )


def _on_one_line(reply: Reply) -> str:
    return reply.text.replace("\n", " ")

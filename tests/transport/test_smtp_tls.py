"""Test TLS with real servers: which certificates are refused, and that every message names what is wrong."""

import asyncio
import re
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from support.servers import EHLO, GREETING, Conversation, ScriptedServer, Step, hang, read_line, stop_reading, tls

from skychimp.config.settings import SmtpSettings
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable
from skychimp.transport.smtp import SmtpTransport

LOOPS: dict[str, Callable[..., None]] = {"asyncio": asyncio.run, "default": run_in_event_loop}
HOST = "localhost"
STARTTLS: tuple[Step, ...] = (GREETING, read_line, b"250-test\r\n250 STARTTLS\r\n", read_line, b"220 go\r\n")
DAY = timedelta(days=1)
BYE = b"221 bye\r\n"
"""The reply to QUIT, for which the client would wait."""

LONG, SHORT = timedelta(seconds=20), timedelta(milliseconds=200)
"""Time-outs. The short one is for servers that do not answer: it may pass at any step, and the error is the same."""


@pytest.fixture(params=LOOPS, autouse=True)
def _event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPS, "chosen", LOOPS[request.param])


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def connect(steps: Sequence[Step], security: str, ca_file: Path | None, timeout: timedelta = LONG) -> None:
    """Connect to a server that takes these steps where TLS begins."""
    before = STARTTLS if security == "starttls" else ()

    async def open_and_close(port: int) -> None:
        values = {"host": HOST, "port": port, "security": security, "timeout": timeout, "ca_file": ca_file}
        connection = await SmtpTransport(SmtpSettings.model_validate(values)).connect()
        await connection.close()

    with ScriptedServer([*before, *steps]) as server:
        LOOPS["chosen"](open_and_close(server.port))


def refusal(steps: Sequence[Step], security: str, ca_file: Path | None, timeout: timedelta = LONG) -> RelayError:
    """Return the error of a connection, whose message has a reason and whose hint names a setting or a server."""
    with pytest.raises(RelayError) as raised:
        connect(steps, security, ca_file, timeout)
    message, hint = raised.value.message, raised.value.hint or ""
    assert not message.endswith(":")
    assert "_ssl.c" not in message
    assert "smtp." in hint or "mail server" in hint or "clock" in hint
    return raised.value


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_current_versions_are_accepted(
    authority: trustme.CA, ca_file: Path, security: str, version: ssl.TLSVersion
) -> None:
    context = server_context(authority.issue_cert(HOST))
    context.minimum_version = context.maximum_version = version
    greeting = [GREETING] if security == "tls" else []
    connect([tls(context), *greeting, read_line, EHLO, read_line, BYE], security, ca_file)


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize(
    ("issue", "reason", "hint"),
    [
        (lambda ca: ca.issue_cert(common_name=HOST), "not valid for the name in smtp.host", "smtp.host"),
        (lambda ca: ca.issue_cert("other.example", common_name=HOST), "not valid for the name", "smtp.host"),
        (lambda ca: ca.issue_cert("*.localhost", "127.0.0.1"), "not valid for the name", "smtp.host"),
        (lambda ca: ca.issue_cert(HOST, not_after=datetime.now(UTC) - DAY), "has expired", "clock"),
        (lambda ca: ca.issue_cert(HOST, not_before=datetime.now(UTC) + DAY), "not valid yet", "clock"),
        (lambda _: trustme.CA().issue_cert(HOST), "authority is unknown", "smtp.ca_file"),
        (lambda ca: ca.create_child_ca().issue_cert(HOST, not_after=datetime.now(UTC) - DAY), "has expired", "clock"),
    ],
    ids=["common name", "other and common name", "wildcard", "expired", "future", "unknown", "expired of a child"],
)
def test_certificate_is_refused(
    authority: trustme.CA,
    ca_file: Path,
    security: str,
    issue: Callable[[trustme.CA], trustme.LeafCert],
    reason: str,
    hint: str,
) -> None:
    error = refusal([tls(server_context(issue(authority)))], security, ca_file)
    assert isinstance(error, RelayRefused)
    assert "is not trusted: " in error.message
    assert reason in error.message
    assert hint in (error.hint or "")


def test_self_signed_certificate_is_refused_until_it_is_the_ca_file(tmp_path: Path) -> None:
    signer = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = {"cert": signer.cert_pem.bytes(), "key": signer.private_key_pem.bytes()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    error = refusal([tls(context)], "tls", None)

    assert isinstance(error, RelayRefused)
    assert "is self-signed" in error.message
    assert "smtp.ca_file" in (error.hint or "")
    assert "name in smtp.host" in refusal([tls(context)], "tls", tmp_path / "cert").message


@pytest.mark.filterwarnings("ignore:.*TLSVersion.TLSv1.* is deprecated")
@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_old_versions_are_refused(authority: trustme.CA, ca_file: Path, security: str) -> None:
    context = server_context(authority.issue_cert(HOST))
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    error = refusal([tls(context)], security, ca_file)

    assert isinstance(error, RelayUnavailable)
    assert "the server has no TLS 1.2 or later" in error.message


def read_hello(conversation: Conversation) -> None:
    conversation.socket.recv(4096)


def reset(conversation: Conversation) -> None:
    conversation.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conversation.socket.close()


@pytest.mark.parametrize("security", ["tls", "starttls"])
@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([read_hello, b"500 what?\r\n", hang], "does not speak TLS"),
        ([read_hello, b"HTTP/1.1 400 Bad Request\r\n\r\n", hang], "does not speak TLS"),
        ([read_hello], "server closed the connection|connection reset by peer"),
        ([], "server closed the connection|connection reset by peer"),
        ([read_hello, reset], "connection reset by peer"),
        ([read_hello, b"\x15\x03\x03\x00\x02\x02\x28"], "handshake failure"),
        ([read_hello, b"\x15\x03\x03\x00\x02\x02\x46"], "no TLS 1.2"),
        ([read_hello, b"\x15\x03\x03\x00\x02\x02\xff"], "failed: "),
        ([read_hello, b"\x16\x03\x03\xff\xff" + bytes(300), hang], "failed: packet length too long"),
    ],
)
def test_broken_handshake_has_a_reason(ca_file: Path, security: str, steps: Sequence[Step], reason: str) -> None:
    error = refusal(steps, security, ca_file)
    assert isinstance(error, RelayUnavailable)
    assert re.search(reason, error.message)


@pytest.mark.parametrize(
    ("security", "timeout"), [("tls", SHORT), ("starttls", timedelta(seconds=1))], ids=["tls", "starttls"]
)
def test_handshake_without_an_answer_times_out(ca_file: Path, security: str, timeout: timedelta) -> None:
    """The time-out for STARTTLS is longer, because the server has to greet us before."""
    error = refusal([stop_reading], security, ca_file, timeout)
    assert isinstance(error, RelayUnavailable)
    assert "does not respond" in error.message


def test_plain_server_on_the_tls_port(ca_file: Path) -> None:
    error = refusal([GREETING, hang], "tls", ca_file)
    assert "the server does not speak TLS from the start" in error.message
    assert 'set smtp.security = "starttls"' in (error.hint or "")


def plain_error(steps: Sequence[Step], security: str, timeout: timedelta = LONG) -> RelayError:
    """Return the error of a connection that does not begin with TLS."""

    async def connect() -> None:
        values = {"host": HOST, "port": server.port, "security": security, "timeout": timeout}
        await SmtpTransport(SmtpSettings.model_validate(values)).connect()

    with ScriptedServer(steps) as server, pytest.raises(RelayError) as raised:
        LOOPS["chosen"](connect())
    return raised.value


@pytest.mark.parametrize("security", ["starttls", "none"])
def test_tls_server_on_a_plain_port(authority: trustme.CA, security: str) -> None:
    """Test that a server that waits for a handshake, while we wait for its greeting, is a matter of smtp.security."""
    error = plain_error([tls(server_context(authority.issue_cert(HOST))), GREETING], security, SHORT)
    assert isinstance(error, RelayUnavailable)
    assert "sends no valid greeting: timed out after 0.2 s" in error.message
    assert 'set smtp.security = "tls"' in (error.hint or "")


@pytest.mark.parametrize(
    "alert", [b"\x15\x03\x03\x00\x02\x02\x28", b"\x15\x03\x01\x00\x02\x02\n", b"\x16\x03\x03\x00\x05hello"]
)
@pytest.mark.parametrize("security", ["starttls", "none"])
def test_tls_instead_of_a_greeting(security: str, alert: bytes) -> None:
    error = plain_error([alert[:1], alert[1:]], security)
    assert isinstance(error, RelayRefused)
    assert error.message.endswith(" speaks TLS from the start")
    assert error.hint == 'set smtp.security = "tls"'


def test_server_that_closes_before_its_greeting() -> None:
    error = plain_error([], "none")
    assert "sends no valid greeting: connection closed" in error.message
    assert 'set smtp.security = "tls"' in (error.hint or "")


def test_required_client_certificate_is_named(authority: trustme.CA, ca_file: Path) -> None:
    context = server_context(authority.issue_cert(HOST))
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refusal([tls(context), GREETING, hang], "tls", ca_file).message

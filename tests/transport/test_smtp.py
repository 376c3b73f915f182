"""Test the SMTP transport against servers that misbehave, and against real ones."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from support.email_source import Emails, refuse, send_email
from support.servers import (
    EHLO,
    ENVELOPE_ACCEPTED,
    GREETING,
    SENT,
    Conversation,
    CountingReceiver,
    ScriptedServer,
    Step,
    hang,
    read_body,
    read_envelope,
    read_line,
    send_slowly,
    stop_reading,
    tls,
)
from support.storing_server import storing_server

from skychimp.config.settings import SmtpSettings
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable
from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult, Signature
from skychimp.transport.smtp import SmtpTransport, ehlo_name
from skychimp.transport.smtp_connection import WRITE_AHEAD_BYTES, SmtpConnection

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a deprecation warning of the library at import
    from aiosmtpd.smtp import AuthResult

T = TypeVar("T")
EMAIL = OutgoingEmail("ada@example.org", "bob@example.net", b"Message-ID: <1@x>\r\n\r\nhello\r\n.\r\n")
LONG_EMAIL = EMAIL._replace(data=b"Message-ID: <2@x>\r\n\r\n" + b"0123456789abcde\r\n" * 1_000_000)
OPENED = (GREETING, read_line, EHLO)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with suppress(ImportError):  # uvloop does not support every system
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=LOOPS, autouse=True)
def _event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPS, "chosen", LOOPS[request.param])


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=LOOPS["chosen"]) as runner:
        return runner.run(coroutine)


def smtp_settings(port: int, **overrides: Any) -> SmtpSettings:
    return SmtpSettings.model_validate(
        {"host": "127.0.0.1", "port": port, "security": "none", "timeout": "20s"} | overrides
    )


def connect(port: int, **overrides: Any) -> None:
    """Open a connection and close it."""

    async def go() -> None:
        await (await SmtpTransport(smtp_settings(port, **overrides)).connect()).close()

    run(go())


def send(
    port: int, emails: Sequence[OutgoingEmail] = (EMAIL,), **overrides: Any
) -> tuple[list[SendResult | None], bool]:
    """Send emails over one connection. Return their results, and whether the connection is still usable."""

    async def go() -> tuple[list[SendResult | None], bool]:
        connection = await SmtpTransport(smtp_settings(port, **overrides)).connect()
        async with asyncio.timeout(30):  # in case the transport's own timeout fails
            results = [await send_email(connection, email) for email in emails]
        usable = connection.is_usable
        await connection.close()
        return results, usable

    return run(go())


# Connecting


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ([b"554 no service\r\n"], RelayRefused, "refused the connection: 554 no service"),
        ([b"421 later\r\n"], RelayUnavailable, "421 later"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], RelayUnavailable, "invalid reply"),
        ([b"220 hi\r\n220 hi again\r\n", read_line], RelayUnavailable, ""),
        ([], RelayUnavailable, "closed"),
        ([b"220-endless\r\n" * 1000, hang], RelayUnavailable, "too long"),
        ([b"2200 hi\r\n", hang], RelayUnavailable, "invalid reply"),
        ([GREETING, read_line], RelayUnavailable, "closed"),
        ([GREETING, read_line, b"250-a\r\n251 b\r\n", hang], RelayUnavailable, "two codes"),
        ([GREETING, read_line, b"421 bye\r\n"], RelayUnavailable, "421 bye"),
        (
            [GREETING, read_line, b"502-no\r\n502 EHLO\r\n", read_line, b"550-go\r\n550 away\r\n"],
            RelayRefused,
            "550-go 550 away",
        ),
    ],
)
def test_refused_connection(script: list[Step], error: type[RelayError], message: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port)
    assert message in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_closed_port_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RelayUnavailable, match=f"cannot connect to 127.0.0.1:{port}: connection refused$"):
        connect(port)


@pytest.mark.parametrize(("host", "error"), [("relay.invalid", RelayUnavailable), ("a..b", RelayRefused)])
def test_unknown_or_invalid_host_name(host: str, error: type[RelayError]) -> None:
    with pytest.raises(error):
        connect(25, host=host)


@pytest.mark.parametrize(
    "script",
    [
        [hang],
        [send_slowly(b"220-x\r\n" * 1000, 0.02), hang],
        [GREETING, read_line, send_slowly(b"250-x\r\n" * 1000, 0.02)],
    ],
)
def test_timeout_is_for_the_whole_reply(script: list[Step]) -> None:
    with ScriptedServer(script) as server, pytest.raises(RelayUnavailable, match=r"timed out after 0\.3 s"):
        connect(server.port, timeout=timedelta(seconds=0.3))


def test_helo_is_sent_if_ehlo_is_refused() -> None:
    with ScriptedServer([GREETING, read_line, b"502 what?\r\n", read_line, b"250 hi\r\n", read_line]) as server:
        connect(server.port)
    assert [line.partition(b" ")[0].strip() for line in server.conversations[0].received_lines[:3]] == [
        b"EHLO",
        b"HELO",
        b"QUIT",
    ]


@pytest.mark.parametrize(
    ("hostname", "address", "name"),
    [
        ("mail.example.org", "192.0.2.1", "mail.example.org"),
        ("box", "192.0.2.1", "[192.0.2.1]"),
        ("", "2001:db8::1", "[IPv6:2001:db8::1]"),
        ("a_b.example.org", "192.0.2.1", "[192.0.2.1]"),
        ("a.example.org\r\nMAIL", "192.0.2.1", "[192.0.2.1]"),
        ("a.example.org\n", "192.0.2.1", "[192.0.2.1]"),
        ("bücher.example", "192.0.2.1", "[192.0.2.1]"),
        ("192.0.2.7", "192.0.2.1", "[192.0.2.1]"),
        ("a" * 64 + ".example", "192.0.2.1", "[192.0.2.1]"),
    ],
)
def test_ehlo_name(hostname: str, address: str, name: str) -> None:
    assert ehlo_name(hostname, address) == name


# Sending one email

SHORT: dict[str, Any] = {"timeout": timedelta(seconds=1), "dot_timeout": timedelta(seconds=1.4)}
ENDS: list[Step] = [read_body, SENT, read_line, b"221 bye\r\n"]


@pytest.mark.parametrize(
    ("script", "phase", "code", "error", "dot_written", "is_usable"),
    [
        ([read_envelope, ENVELOPE_ACCEPTED, read_body, SENT, read_line], "dot", 250, "", True, True),
        ([read_envelope, b"451 no\r\n503 no\r\n503 no\r\n", read_line], "mail", 451, "", False, True),
        (
            [read_envelope, b"250 ok\r\n450 no\r\n503 no\r\n", read_line, b"250 ok\r\n", read_line],
            "rcpt",
            450,
            "",
            False,
            True,
        ),
        (
            [read_envelope, b"250 ok\r\n550 no\r\n354 go\r\n", read_line, b"554 none\r\n", read_line],
            "rcpt",
            550,
            "",
            False,
            True,
        ),
        (
            [read_envelope, b"250 ok\r\n250 ok\r\n554 no\r\n", read_line, b"250 ok\r\n", read_line],
            "data",
            554,
            "",
            False,
            True,
        ),
        ([read_envelope, b"421 bye\r\n"], "mail", 421, "", False, False),
        ([read_envelope, b"250 ok\r\n421 bye\r\n"], "rcpt", 421, "", False, False),
        ([read_envelope, b"250 ok\r\n250 ok\r\n421 bye\r\n"], "data", 421, "", False, False),
        ([read_envelope, ENVELOPE_ACCEPTED, read_body, b"421 bye\r\n"], "dot", 421, "", True, False),
        ([read_envelope, ENVELOPE_ACCEPTED, read_body, b"554 no\r\n", read_line], "dot", 554, "", True, True),
        ([read_envelope, ENVELOPE_ACCEPTED, read_body], "dot", None, "closed", True, False),
        ([read_envelope, ENVELOPE_ACCEPTED, read_body, hang], "dot", None, "timed out after 1.4 s", True, False),
        (
            [read_envelope, ENVELOPE_ACCEPTED, read_body, b"354 more\r\n", hang],
            "dot",
            None,
            "invalid reply to the final dot",
            True,
            False,
        ),
        (
            [read_envelope, ENVELOPE_ACCEPTED, read_body, b"2500 ok\r\n", hang],
            "dot",
            None,
            "invalid reply",
            True,
            False,
        ),
        (
            [read_envelope, ENVELOPE_ACCEPTED, read_body, send_slowly(b"250-x\r\n" * 999, 0.02)],
            "dot",
            None,
            "timed out",
            True,
            False,
        ),
        ([read_envelope], "mail", None, "closed", False, False),
        ([read_envelope, b"250 ok\r\n"], "rcpt", None, "closed", False, False),
        ([read_envelope, b"250 ok\r\n250 ok\r\n"], "data", None, "closed", False, False),
        ([read_envelope, b"250 ok\r\nwhat?\r\n", hang], "rcpt", None, "invalid reply", False, False),
        ([read_envelope, b"250-ok\r\n" * 5000, hang], "mail", None, "too long", False, False),
        ([read_envelope, b"250 ok\r\n", hang], "rcpt", None, "timed out after 1 s", False, False),
        ([read_envelope, ENVELOPE_ACCEPTED + b"550 too much\r\n", hang], "data", 550, "", False, False),
        ([read_envelope, ENVELOPE_ACCEPTED + b"250 sent?\r\n", hang], "data", None, "unexpected", False, False),
    ],
)
def test_result_of_one_email(
    script: list[Step], phase: str, code: int | None, error: str, dot_written: bool, is_usable: bool
) -> None:
    with ScriptedServer([*OPENED, *script]) as server:
        results, still_usable = send(server.port, **(SHORT if "timed out" in error else {}))
    (result,) = results
    assert result is not None
    assert (result.phase, result.reply and result.reply.code) == (phase, code)
    assert error in result.error
    assert (result.dot_written, still_usable) == (dot_written, is_usable)
    assert (b"\r\n.\r\n" in server.received and b"hello" in server.received) == dot_written


def test_slow_reply_to_the_dot_does_not_extend_the_next_timeout() -> None:
    async def go(port: int) -> SendResult | None:
        timeouts = {"timeout": timedelta(seconds=0.5), "dot_timeout": timedelta(hours=1)}
        connection = await SmtpTransport(smtp_settings(port, **timeouts)).connect()
        async with asyncio.timeout(20):
            await send_email(connection, EMAIL)
            return await send_email(connection, EMAIL)

    def slow(conversation: Conversation) -> None:
        conversation.test_ended.wait(0.8)

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, slow, SENT, hang]) as server:
        assert run(go(server.port)) == SendResult(Phase.MAIL, None, "timed out after 0.5 s")


def test_refusal_during_a_long_body_stops_it() -> None:
    """The server reads nothing more, so the body cannot end. Its 552 is the result, and no intent is committed."""
    commits = []

    async def commit_intent() -> bool:
        commits.append(True)
        return True

    async def go(port: int) -> SendResult | None:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        result = await send_email(connection, LONG_EMAIL, commit_intent)
        assert connection._timer is None
        return result

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, b"552 5.3.4 too big\r\n", stop_reading]) as server:
        result = run(go(server.port))
    assert result == SendResult(Phase.DATA, Reply(552, "5.3.4", "552 5.3.4 too big"))
    assert not commits


def test_long_email_arrives_complete() -> None:
    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, *ENDS]) as server:
        results, usable = send(server.port, [LONG_EMAIL])
    assert results == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 queued as 1"), dot_written=True)]
    assert usable
    assert LONG_EMAIL.data + b".\r\nQUIT\r\n" in server.received


def test_the_dot_is_not_written_before_the_intent_is_committed() -> None:
    """While the intent is committed, the server has no dot, but all of a long body."""
    seen = []

    async def go(server: ScriptedServer, email: OutgoingEmail) -> None:
        async def commit_intent() -> bool:
            for _ in range(500):  # a long body is still being written
                if len(email.data) <= WRITE_AHEAD_BYTES or email.data in server.received:
                    break
                await asyncio.sleep(0.01)
            seen.append(server.received)
            return True

        connection = await SmtpTransport(smtp_settings(server.port)).connect()
        await send_email(connection, email, commit_intent)
        await connection.close()

    body = EMAIL._replace(data=b"x\r\n" * WRITE_AHEAD_BYTES)
    for email in (EMAIL, body):
        with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, *ENDS]) as server:
            run(go(server, email))
    assert not any(b"\r\n.\r\n" in heard for heard in seen)
    assert body.data in seen[1]


def test_email_with_a_refused_intent_is_not_delivered() -> None:
    async def go(port: int) -> tuple[SendResult | None, bool]:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        return await send_email(connection, EMAIL, refuse), connection.is_usable

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body]) as server:
        assert run(go(server.port)) == (None, False)
    assert b".\r\n" not in server.conversations[0].received_lines


@pytest.mark.parametrize(
    ("last_reply", "expected"),
    [
        (b"", SendResult(Phase.DATA, None, "connection closed")),
        (b"451 shutting down\r\n", SendResult(Phase.DATA, Reply(451, "", "451 shutting down"))),
    ],
)
def test_connection_ends_while_the_intent_is_committed(last_reply: bytes, expected: SendResult) -> None:
    async def go(port: int) -> SendResult | None:
        connection = await SmtpTransport(smtp_settings(port)).connect()

        async def commit_intent() -> bool:
            while connection.is_usable:
                await asyncio.sleep(0.01)
            return True

        return await send_email(connection, EMAIL, commit_intent)

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, last_reply]) as server:
        assert run(go(server.port)) == expected
    assert b"hello" not in server.received


NEXT_EMAIL = EMAIL._replace(recipient="eve@example.net")
IN_ONE_GO: list[Step] = [read_body, read_envelope, SENT + ENVELOPE_ACCEPTED]
"""One more email, whose envelope comes behind the dot of the last one."""


# Signatures that are still in the making


async def send_while_signing(port: int, sign: Callable[["asyncio.Future[bytes]"], None]) -> SendResult | None:
    """Send an email whose signature is made by what `sign` arranges."""
    made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    connection = await SmtpTransport(smtp_settings(port)).connect()
    sign(made)
    try:
        return await send_email(connection, EMAIL._replace(signature=Signature(20, made)))
    finally:
        await connection.close()


def test_body_waits_for_the_signature() -> None:
    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, SENT, hang]) as server:

        def sign(made: "asyncio.Future[bytes]") -> None:
            asyncio.get_running_loop().call_later(0.05, made.set_result, b"DKIM-Signature: x\r\n")

        result = run(send_while_signing(server.port, sign))
        assert result is not None
        assert result.is_success
        server.wait()
        assert server.emails == [b"DKIM-Signature: x\r\nMessage-ID: <1@x>\r\n\r\nhello\r\n..\r\n"]
    assert f" SIZE={len(EMAIL.data) + 20}\r\n".encode() in server.received


@pytest.mark.parametrize("last_words", [b"", b"421 4.3.2 shutting down\r\n"])
def test_server_that_ends_before_the_signature_is_made(last_words: bytes) -> None:
    """What is made later is not sent, and the email was not."""
    late: list[asyncio.Future[bytes]] = []

    async def go(port: int) -> SendResult | None:
        result = await send_while_signing(port, late.append)
        late[0].set_result(b"DKIM-Signature: x\r\n")
        await asyncio.sleep(0)
        return result

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED + last_words]) as server:
        result = run(go(server.port))
        assert server.emails == []
    assert result is not None
    assert (result.phase, result.dot_written) == (Phase.DATA, False)
    assert result.reply is None or result.reply.code == 421


def test_defect_while_signing_is_raised_by_send() -> None:
    with (
        ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, hang]) as server,
        pytest.raises(ValueError, match="no key"),
    ):
        run(send_while_signing(server.port, lambda made: made.set_exception(ValueError("no key"))))


@asynccontextmanager
async def connected(server: SmtpTransport) -> AsyncIterator[SmtpConnection]:
    """Open a connection until the end of the block, which must take less than 30 seconds."""
    async with asyncio.timeout(30):
        connection = await server.connect()
        try:
            yield connection
        finally:
            connection.abort()


async def send_two(server: SmtpTransport) -> list[SendResult]:
    """Send two emails over one connection, the second one started behind the first one."""
    emails = Emails([NEXT_EMAIL])
    async with connected(server) as connection:
        await connection.send(EMAIL, emails)
    return emails.results


async def send_in_turn(server: SmtpTransport) -> list[SendResult | None]:
    """Send two emails over one connection, of which the second one may not be started behind the first one."""
    emails = Emails([NEXT_EMAIL])
    async with connected(server) as connection:
        await connection.send(EMAIL, emails)
        return [*emails.results, await send_email(connection, NEXT_EMAIL)]


def test_next_email_is_started_behind_the_dot() -> None:
    first, *following = [EMAIL._replace(recipient=f"client{number}@example.net") for number in range(5)]

    async def go(port: int) -> list[SendResult]:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        emails = Emails(following)
        await connection.send(first, emails)
        await connection.close()
        return emails.results

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, *IN_ONE_GO * 4, *ENDS]) as server:
        results = run(go(server.port))
    assert [result.reply and result.reply.code for result in results] == [250] * 5
    assert [line[9:-2] for line in server.conversations[0].received_lines if line.startswith(b"RCPT")] == [
        f"client{number}@example.net>".encode() for number in range(5)
    ]
    assert server.received.endswith(b"\r\n.\r\nQUIT\r\n")


def test_server_without_pipelining_gets_no_command_behind_the_dot() -> None:
    offers = EHLO.replace(b"250-PIPELINING\r\n", b"")
    envelope: list[Step] = [read_line, b"250 ok\r\n", read_line, b"250 ok\r\n", read_line, b"354 go\r\n"]
    with ScriptedServer([GREETING, read_line, offers, *(*envelope, read_body, SENT) * 2, hang]) as server:
        results = run(send_in_turn(SmtpTransport(smtp_settings(server.port))))
    assert [result and result.dot_written for result in results] == [True, True]


def test_server_that_stalls_behind_a_dot_gets_no_more_commands_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skychimp.transport.smtp_connection.STALL_TIMEOUT_S", 0.2)
    steps: list[Step] = [read_envelope, ENVELOPE_ACCEPTED, read_body, SENT]

    async def go(port: int) -> tuple[list[SendResult], list[SendResult | None]]:
        server = SmtpTransport(smtp_settings(port))
        return await send_two(server), await send_in_turn(server)

    with ScriptedServer([*OPENED, *steps, hang], [*OPENED, *steps, *steps, hang]) as scripted:
        first, second = run(go(scripted.port))
    assert [result.dot_written for result in first] == [True]
    assert [result and result.dot_written for result in second] == [True, True]


def test_server_that_closes_after_an_email_leaves_the_next_one_untried() -> None:
    async def go(port: int) -> None:
        server, emails = SmtpTransport(smtp_settings(port)), Emails([NEXT_EMAIL])
        async with connected(server) as connection:
            await connection.send(EMAIL, emails)
            assert not connection.is_usable
        assert [result.reply and result.reply.code for result in emails.results] == [250]
        assert not server.has_stalled

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, read_envelope, SENT]) as scripted:
        run(go(scripted.port))


def test_last_words_to_the_next_email_are_its_result() -> None:
    """The server says 421 and closes."""
    last_words = b"421 4.7.0 too many\r\n"
    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, read_envelope, SENT + last_words]) as it:
        results = run(send_two(SmtpTransport(smtp_settings(it.port))))
    assert results[1:] == [SendResult(Phase.MAIL, Reply(421, "4.7.0", "421 4.7.0 too many"))]


def test_started_email_whose_intent_is_refused_never_ends() -> None:
    """The server waits for its body. Nothing else may become that body."""
    answers = iter([True, False])

    async def commit_intent() -> bool:
        return next(answers)

    async def go(port: int) -> None:
        async with connected(SmtpTransport(smtp_settings(port))) as connection:
            emails = Emails([NEXT_EMAIL], commit_intent)
            await connection.send(EMAIL, emails)
            assert len(emails.results) == 1
            assert not connection.is_usable
            await connection.close()

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, *IN_ONE_GO, hang]) as server:
        run(go(server.port))
    assert server.received.endswith(b"DATA\r\n")


def test_defect_in_a_callback_is_raised_by_send() -> None:
    """The connection ends at the same moment."""

    class Defective(Emails):
        def finish(self, result: SendResult) -> None:
            raise RuntimeError("a defect")

    async def go(port: int) -> None:
        async with connected(SmtpTransport(smtp_settings(port))) as connection:

            async def commit_intent() -> bool:
                connection.eof_received()
                return True

            with pytest.raises(RuntimeError, match="a defect"):
                await connection.send(EMAIL, Defective([], commit_intent))
            assert not connection.is_usable

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, hang]) as server:
        run(go(server.port))


def test_cancelled_email_closes_the_connection_without_the_dot() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        asked = asyncio.Event()

        async def commit_intent() -> bool:
            asked.set()
            await asyncio.Event().wait()
            return True

        sending = asyncio.create_task(send_email(connection, EMAIL, commit_intent))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not connection.is_usable

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body]) as server:
        run(go(server.port))
    assert b".\r\n" not in server.conversations[0].received_lines


def test_connection_that_ends_between_emails_is_not_usable() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        assert await send_email(connection, EMAIL)
        while connection.is_usable:
            await asyncio.sleep(0.01)
        assert await send_email(connection, EMAIL) == SendResult(Phase.MAIL, None, "connection closed")
        await connection.close()

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, SENT]) as server:
        run(go(server.port))


def test_unexpected_bytes_end_the_connection() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(smtp_settings(port)).connect()
        while connection.is_usable:
            await asyncio.sleep(0.01)
        result = await send_email(connection, EMAIL)
        assert result is not None
        assert (result.phase, result.reply, result.dot_written) == (Phase.MAIL, None, False)
        await connection.close()

    with ScriptedServer([*OPENED, b"250 ok\r\n250 ok\r\n354 go\r\n250 sent\r\n", hang]) as server:
        run(go(server.port))
    assert b"MAIL" not in server.received


@pytest.mark.parametrize(
    ("setting", "emails"), [({"emails_per_connection": 2}, 2), ({"connection_age": timedelta(microseconds=1)}, 1)]
)
def test_connection_retires_by_count_and_age(setting: dict[str, Any], emails: int) -> None:
    steps: list[Step] = [read_envelope, ENVELOPE_ACCEPTED, read_body, SENT]
    with ScriptedServer([*OPENED, *steps * emails, read_line, b"221 bye\r\n"]) as server:
        results, usable = send(server.port, [EMAIL] * emails, **setting)
    assert [result and result.dot_written for result in results] == [True] * emails
    assert not usable
    assert server.received.endswith(b"QUIT\r\n")


@pytest.mark.parametrize("setting", [{"emails_per_connection": 1}, {"connection_age": timedelta(microseconds=1)}])
def test_connection_that_retires_starts_no_further_email(setting: dict[str, Any]) -> None:
    async def go(port: int) -> None:
        emails = Emails([NEXT_EMAIL])
        async with connected(SmtpTransport(smtp_settings(port, **setting))) as connection:
            await connection.send(EMAIL, emails)
            assert not connection.is_usable
        assert (len(emails.results), emails.asked) == (1, 0)

    with ScriptedServer([*OPENED, read_envelope, ENVELOPE_ACCEPTED, read_body, SENT, hang]) as server:
        run(go(server.port))


# TLS and login


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


STARTTLS = (GREETING, read_line, b"250-test\r\n250 STARTTLS\r\n", read_line)
EMAIL_STEPS: list[Step] = [read_line, EHLO, read_envelope, ENVELOPE_ACCEPTED, *ENDS]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_email_over_tls(authority: trustme.CA, ca_file: Path, security: str) -> None:
    upgrade = tls(server_context(authority))
    first = [*STARTTLS, b"220 go\r\n", upgrade] if security == "starttls" else [upgrade, GREETING]
    with ScriptedServer([*first, *EMAIL_STEPS]) as server:
        results, usable = send(server.port, security=security, ca_file=ca_file)
    assert results == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 queued as 1"), dot_written=True)]
    assert usable
    commands = [line.partition(b" ")[0].strip() for line in server.conversations[0].received_lines]
    assert commands.count(b"EHLO") == (2 if security == "starttls" else 1)  # EHLO is repeated after STARTTLS


def test_long_email_over_tls(authority: trustme.CA, ca_file: Path) -> None:
    with ScriptedServer([tls(server_context(authority)), GREETING, *EMAIL_STEPS]) as server:
        results, _ = send(server.port, [LONG_EMAIL], security="tls", ca_file=ca_file)
    assert results[0] is not None
    assert results[0].reply is not None
    assert LONG_EMAIL.data + b".\r\nQUIT\r\n" in server.received


def test_certificate_for_another_name_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    upgrade = tls(server_context(authority, "relay.example.org"))
    with (
        ScriptedServer([*STARTTLS, b"220 go\r\n", upgrade]) as server,
        pytest.raises(RelayRefused, match="not trusted"),
    ):
        connect(server.port, security="starttls", ca_file=ca_file)


def test_certificate_of_an_unknown_authority_is_refused(authority: trustme.CA) -> None:
    with (
        ScriptedServer([tls(server_context(authority)), GREETING]) as server,
        pytest.raises(RelayRefused, match="not trusted") as raised,
    ):
        connect(server.port, security="tls")
    assert "smtp.ca_file" in (raised.value.hint or "")


def test_ca_file_may_have_comments_and_several_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    others = b"".join(trustme.CA().cert_pem.bytes() for _ in range(2))
    path.write_bytes("# Főtanúsítvány\n".encode() + b"# \xff\n" + others + authority.cert_pem.bytes() + b"\nthe end\n")
    with ScriptedServer([tls(server_context(authority)), GREETING, *EMAIL_STEPS]) as server:
        results, _ = send(server.port, security="tls", ca_file=path)
    assert results[0] is not None


@pytest.mark.parametrize("setting", ["ca_file", "password_file"])
def test_file_that_cannot_be_used_is_a_refusal(tmp_path: Path, setting: str) -> None:
    missing = tmp_path / "missing"
    values = {"security": "tls", "ca_file": missing}
    if setting == "password_file":
        values = {"security": "none", "username": "ada", "password_file": missing}
    with ScriptedServer([GREETING, read_line, EHLO, hang]) as server, pytest.raises(RelayRefused) as raised:
        connect(server.port, **values)
    assert raised.value.message == f"cannot read {missing}: No such file or directory"
    assert f"smtp.{setting}" in (raised.value.hint or "")


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_invalid_ca_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(text)
    with ScriptedServer([hang]) as server, pytest.raises(RelayRefused) as raised:
        connect(server.port, security="tls", ca_file=path)
    assert "smtp.ca_file" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("security", "script", "error", "message"),
    [
        ("starttls", [*OPENED, hang], RelayRefused, "does not offer STARTTLS"),
        ("starttls", [*STARTTLS, b"454 not now\r\n", hang], RelayUnavailable, "454 not now"),
        ("starttls", [*STARTTLS, b"502 no\r\n", hang], RelayRefused, "502 no"),
        ("starttls", [*STARTTLS, b"220 go\r\n250 injected\r\n", hang], RelayUnavailable, "unexpected"),
        ("starttls", [*STARTTLS, b"220 go\r\n2", hang], RelayUnavailable, "unexpected"),
        ("starttls", [*STARTTLS, b"220 go\r\n"], RelayUnavailable, ""),
        ("starttls", [*STARTTLS, b"220 go\r\n", read_line, b"no TLS\r\n", hang], RelayUnavailable, "TLS"),
        ("starttls", [*STARTTLS, b"220 go\r\n", stop_reading], RelayUnavailable, "does not respond"),
        ("tls", [GREETING, hang], RelayUnavailable, "TLS"),
        ("tls", [stop_reading], RelayUnavailable, "does not respond"),
    ],
)
def test_tls_failure(ca_file: Path, security: str, script: list[Step], error: type[RelayError], message: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port, security=security, ca_file=ca_file, **(SHORT if "respond" in message else {}))
    assert message in raised.value.message
    assert raised.value.hint
    assert b"MAIL" not in server.received


LOGIN = {"username": "ada", "password": "sesam"}
PLAIN = (GREETING, read_line, b"250-test\r\n250 AUTH LOGIN PLAIN\r\n", read_line)
BY_LOGIN = (GREETING, read_line, b"250-test\r\n250 AUTH LOGIN\r\n", read_line)


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        ([*OPENED, hang], RelayRefused, "does not offer login"),
        ([*PLAIN, b"535 5.7.8 no\r\n", hang], RelayRefused, "535 5.7.8 no"),
        ([*PLAIN, b"534 weak\r\n", read_line, b"534 too\r\n", hang], RelayRefused, "534 too"),
        ([*PLAIN, b"500 what is AUTH PLAIN AGFkYQBzZXNhbQ==\r\n", hang], RelayRefused, "AUTH PLAIN ..."),
        ([*PLAIN, b"535-no sesam\r\n535 here\r\n", hang], RelayRefused, "535-no ... 535 here"),
        ([*PLAIN, b"454 later\r\n", hang], RelayUnavailable, "454 later"),
        ([*PLAIN, b"334 more\r\n", hang], RelayRefused, "334 more"),
        ([*BY_LOGIN, b"334 VXNlcm5hbWU6\r\n", read_line, b"535 c2VzYW0= no\r\n", hang], RelayRefused, "535 ... no"),
        ([*BY_LOGIN, b"504 no\r\n", hang], RelayRefused, "504 no"),
    ],
)
def test_login_failure_hides_the_password(script: list[Step], error: type[RelayError], message: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port, **LOGIN)
    assert message in raised.value.message
    assert not any(secret in raised.value.message for secret in ("sesam", "c2VzYW0=", "AGFkYQBzZXNhbQ=="))


def test_capabilities_from_before_tls_are_forgotten(authority: trustme.CA, ca_file: Path) -> None:
    upgrade = tls(server_context(authority))
    script: list[Step] = [
        GREETING,
        read_line,
        b"250-test\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
        read_line,
        b"220 go\r\n",
        upgrade,
    ]
    with (
        ScriptedServer([*script, read_line, b"502 no\r\n", read_line, b"250 hi\r\n", hang]) as server,
        pytest.raises(RelayRefused, match="does not offer login"),
    ):
        connect(server.port, security="starttls", ca_file=ca_file, **LOGIN)


def test_username_without_a_password_is_refused() -> None:
    with ScriptedServer([*OPENED, hang]) as server, pytest.raises(RelayRefused, match="no password"):
        connect(server.port, username="ada")


def test_password_is_not_sent_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmtpConnection, "is_loopback", False)  # as if the server were on another machine
    with ScriptedServer([*PLAIN, b"235 ok\r\n", hang]) as server, pytest.raises(RelayRefused, match="without TLS"):
        connect(server.port, **LOGIN)
    assert b"AUTH" not in server.received


def test_connection_has_the_limit_that_the_server_offers() -> None:
    limited = b"250-test\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=20 RCPTMAX=100\r\n"

    async def go(port: int) -> int | None:
        async with connected(SmtpTransport(smtp_settings(port))) as connection:
            return connection.mail_limit

    for offers, mail_limit in ((limited, 20), (EHLO, None)):
        with ScriptedServer([GREETING, read_line, offers, read_line, b"221 bye\r\n"]) as server:
            assert run(go(server.port)) == mail_limit


def test_email_that_is_too_large_leaves_the_connection_usable() -> None:
    small = b"250-test\r\n250 SIZE 100\r\n"
    large = EMAIL._replace(data=EMAIL.data + b"x" * 100 + b"\r\n")
    script: list[Step] = [GREETING, read_line, small]
    for reply in ENVELOPE_ACCEPTED.splitlines(keepends=True):
        script += [read_line, reply]
    with ScriptedServer([*script, *ENDS]) as server:
        (refused, sent), is_usable = send(server.port, [large, EMAIL])
    assert refused
    assert refused.reply is not None
    assert (refused.reply.enhanced, refused.dot_written) == ("5.3.4", False)
    assert sent
    assert (sent.is_success, is_usable) == (True, True)
    assert server.received.count(b"MAIL FROM") == 1


# Other SMTP servers


def authenticate(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"ada", b"sesam"), handled=False)


RECEIVED = ("ada@example.org", ["bob@example.net"], EMAIL.data)


@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
def test_aiosmtpd_with_starttls_and_login(authority: trustme.CA, ca_file: Path, excluded: list[str]) -> None:
    options: dict[str, Any] = {
        "tls_context": server_context(authority),
        "require_starttls": True,
        "auth_required": True,
        "authenticator": authenticate,
        "auth_exclude_mechanism": excluded,
    }
    with storing_server(**options) as (port, handler):
        results, _ = send(port, [EMAIL] * 3, security="starttls", ca_file=ca_file, **LOGIN)
        with pytest.raises(RelayRefused, match="535"):
            connect(port, security="starttls", ca_file=ca_file, username="ada", password="simsalabim")
        (without_login,), _ = send(port)
    assert without_login
    assert without_login.reply
    assert (without_login.phase, without_login.reply.code) == (Phase.MAIL, 530)
    assert results == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 stored"), dot_written=True)] * 3
    assert handler.emails == [RECEIVED] * 3


def test_aiosmtpd_without_tls() -> None:
    emails = [EMAIL, EMAIL._replace(recipient="ü@bücher.example", data="ж\r\n".encode())]
    with storing_server(enable_SMTPUTF8=True) as (port, handler):
        results, usable = send(port, emails)
    assert [result.reply.code if result and result.reply else result for result in results] == [250, 250]
    assert usable
    assert handler.emails == [RECEIVED, ("ada@example.org", ["ü@bücher.example"], "ж\r\n".encode())]


@pytest.mark.parametrize("address", ["a..b@docomo.ne.jp", "a.@docomo.ne.jp", '"a..b"@docomo.ne.jp'])
def test_aiosmtpd_takes_unusual_address(address: str) -> None:
    with storing_server() as (port, handler):
        (result,), usable = send(port, [EMAIL._replace(recipient=address)])
    assert result
    assert usable
    assert handler.emails == [("ada@example.org", [address.replace('"', "")], EMAIL.data)]


def test_many_connections_at_once(tmp_path: Path) -> None:
    async def go(port: int) -> None:
        transport = SmtpTransport(smtp_settings(port, emails_per_connection=7))

        async def send(number: int) -> None:
            connection = await transport.connect()
            for n in range(7):
                name = f"<{number}.{n}@x>"
                email = OutgoingEmail("a@x.org", f"{number}.{n}@x.org", f"Message-ID: {name}\r\n\r\n.\r\n".encode())
                result = await send_email(connection, email)
                assert result is not None
                assert result.phase == Phase.DOT
            await connection.close()

        await asyncio.gather(*(send(number) for number in range(8)))

    with CountingReceiver(tmp_path / "log") as receiver:
        run(go(receiver.port))
    assert receiver.email_counts() == {(f"{i}.{n}@x.org", f"<{i}.{n}@x>"): 1 for i in range(8) for n in range(7)}


SINK = shutil.which("smtp-sink") or shutil.which("smtp-sink", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def smtp_sink(*options: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    as_root = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = subprocess.Popen([str(SINK), *as_root, *options, f"127.0.0.1:{port}", "100"])
    try:
        while process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


@pytest.mark.skipif(SINK is None, reason="smtp-sink (it comes with Postfix) is not installed")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], [("dot", 250), ("dot", 250), ("dot", 250)]),
        (["-e"], [("dot", 250), ("dot", 250), ("dot", 250)]),
        (["-p", "-8"], [("dot", 250), ("dot", 250), ("dot", 250)]),
        (["-f", "MAIL"], [("mail", 500), ("mail", 500), ("mail", 500)]),
        (["-r", "RCPT"], [("rcpt", 450), ("rcpt", 450), ("rcpt", 450)]),
        (["-f", "DATA"], [("data", 500), ("data", 500), ("data", 500)]),
        (["-f", "."], [("dot", 500), ("dot", 500), ("dot", 500)]),
        (["-Q", "RCPT"], [("rcpt", 421)]),
        (["-q", "DATA"], [("data", None)]),
        (["-q", "."], [("dot", None)]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else "",
)
def test_smtp_sink(options: list[str], expected: list[tuple[str, int | None]]) -> None:
    with smtp_sink(*options) as port:
        results, _ = send(port, [EMAIL] * len(expected))
    assert [(result.phase, result.reply and result.reply.code) for result in results if result] == expected


@pytest.mark.skipif(SINK is None, reason="smtp-sink (it comes with Postfix) is not installed")
def test_smtp_sink_refuses_a_long_body_during_transfer() -> None:
    with smtp_sink("-A", "0") as port:
        results, usable = send(port, [LONG_EMAIL])
    assert results[0] is not None
    assert (results[0].phase, results[0].dot_written, usable) == (Phase.DATA, False, False)


def test_new_deadline_replaces_one_that_has_just_passed() -> None:
    async def go() -> None:
        settings = smtp_settings(25)
        connection = SmtpConnection(settings, SmtpTransport(settings))
        connection._expect_within(0)  # uvloop returns a handle without when() for a timer that is due
        connection._expect_within(60)

    run(go())

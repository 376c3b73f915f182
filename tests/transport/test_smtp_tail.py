"""Test how an email with attachments is written: in pieces, without copies, and all of it."""

import asyncio
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.servers import GREETING, Conversation, ScriptedServer, Step, accept_mail, read_line

from skychimp.config.settings import Settings
from skychimp.transport import smtp_connection
from skychimp.transport.interfaces import OutgoingEmail, SendResult
from skychimp.transport.outbox import OutboxTransport
from skychimp.transport.smtp import SmtpTransport


class Source:
    """The source of one email."""

    result: SendResult

    def commit_intent(self, answer: Callable[[bool], None]) -> None:
        answer(True)

    def take_next(self) -> None:
        return None

    def finish(self, result: SendResult) -> None:
        self.result = result


async def send(transport: SmtpTransport | OutboxTransport, email: OutgoingEmail) -> SendResult:
    source, connection = Source(), await transport.connect()
    await connection.send(email, source)
    await connection.close()
    return source.result


def smtp(port: int) -> SmtpTransport:
    return SmtpTransport(
        Settings.model_validate({"smtp": {"host": "127.0.0.1", "port": port, "security": "none"}}).smtp
    )


def email(*tail: bytes) -> OutgoingEmail:
    return OutgoingEmail("a@x.org", "b@x.org", b"Message-ID: <1@x>\r\n\r\n.hello\r\n", tail=tail)


TAILS = [(b"\r\n--b\r\n", b"end\r\n"), (b"\r\n" + b"x" * 76 + b"\r\n",) * 20_000, (b"y\r\n" * 300_000, b"z\r\n")]


@pytest.mark.parametrize("tail", TAILS, ids=["short", "many", "long"])
def test_all_pieces_arrive(tail: tuple[bytes, ...]) -> None:
    with ScriptedServer([GREETING, accept_mail()]) as server:
        result = asyncio.run(send(smtp(server.port), email(*tail)))
    assert result.is_success
    assert server.emails == [email().data.replace(b"\r\n.", b"\r\n..") + b"".join(tail)]
    assert f"SIZE={len(email().data) + sum(map(len, tail))}".encode() in server.received


def test_too_large_email_is_refused_before_it_is_sent() -> None:
    ehlo = b"250-test\r\n250 SIZE 1000\r\n"
    script = accept_mail(lambda command, address: ehlo if command == "EHLO" else None)
    with ScriptedServer([GREETING, script]) as server:
        result = asyncio.run(send(smtp(server.port), email(bytes(2_000))))
    assert result.reply is not None
    assert "accepts at most 1000" in result.reply.text
    assert b"MAIL" not in server.received


def test_outbox_has_all_pieces(tmp_path: Path) -> None:
    folder = tmp_path / "outbox"
    assert asyncio.run(send(OutboxTransport(folder), email(b"\r\n--b\r\n", b"end\r\n"))).is_success
    (file,) = (folder / "new").iterdir()
    assert file.read_bytes().endswith(b".hello\n\n--b\nend\n")


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_batches_are_the_whole_email(pieces: list[bytes], size: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(smtp_connection, "BATCH_BYTES", size)
        batches = list(smtp_connection._in_batches(pieces))
    assert b"".join(piece for batch in batches for piece in batch) == b"".join(pieces)
    assert all(sum(map(len, batch)) <= size for batch in batches)


def test_memory_does_not_grow_with_connections() -> None:
    """Ten connections send the same 5 MB at once."""
    tail = b"x" * 76 + b"\r\n"
    large = email(tail * 64_000)

    def read_all(conversation: Conversation) -> None:
        end = b""
        while not end.endswith(b"\r\n.\r\n"):
            end = (end + conversation.socket.recv(65_536))[-5:]
        conversation.socket.sendall(b"250 ok\r\n")

    envelope: list[Step] = [read_line, b"250 ok\r\n", read_line, b"250 ok\r\n", read_line, b"354 go\r\n"]
    script: list[Step] = [GREETING, read_line, b"250 test\r\n", *envelope, read_all]

    async def send_all(port: int) -> None:
        results = await asyncio.gather(*(send(smtp(port), large) for _ in range(10)))
        assert all(result.is_success for result in results)

    with ScriptedServer(script) as server:
        tracemalloc.start()
        asyncio.run(send_all(server.port))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10_000_000

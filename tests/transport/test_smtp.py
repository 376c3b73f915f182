"""The driver against servers that misbehave in every way of the design's section 5, and against real ones."""

import asyncio
import os
import shutil
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trustme
from support.servers import (
    EHLO,
    GREETING,
    GROUP,
    SENT,
    Conversation,
    CountingReceiver,
    ScriptedServer,
    Step,
    deafen,
    dribble,
    hang,
    hear,
    hear_body,
    hear_group,
    tls,
)

from skychimp.config.settings import SmtpSettings
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable
from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult
from skychimp.transport.smtp import AHEAD, SmtpConnection, SmtpTransport, ehlo_name

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the library's own, at import
    from aiosmtpd.controller import Controller
    from aiosmtpd.smtp import AuthResult

T = TypeVar("T")
LETTER = OutgoingEmail("ada@example.org", "bob@example.net", b"Message-ID: <1@x>\r\n\r\nhello\r\n.\r\n")
LONG = LETTER._replace(data=b"Message-ID: <2@x>\r\n\r\n" + b"0123456789abcde\r\n" * 1_000_000)
OPENED = (GREETING, hear, EHLO)


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
with suppress(ImportError):  # there is none for some systems
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop


@pytest.fixture(params=LOOPS, autouse=True)
def _loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPS, "chosen", LOOPS[request.param])


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=LOOPS["chosen"]) as runner:
        return runner.run(coroutine)


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


def settings(port: int, **more: Any) -> SmtpSettings:
    return SmtpSettings.model_validate({"host": "127.0.0.1", "port": port, "security": "none", "timeout": "20s"} | more)


def connect(port: int, **more: Any) -> None:
    """Connect and close."""

    async def go() -> None:
        await (await SmtpTransport(settings(port, **more)).connect()).close()

    run(go())


def converse(
    port: int, letters: Sequence[OutgoingEmail] = (LETTER,), **more: Any
) -> tuple[list[SendResult | None], bool]:
    """The answers to these letters on one connection, and whether it is still usable."""

    async def go() -> tuple[list[SendResult | None], bool]:
        connection = await SmtpTransport(settings(port, **more)).connect()
        async with asyncio.timeout(30):  # where the driver's own clock stands still
            answers = [await connection.send(letter, yes) for letter in letters]
        usable = connection.usable
        await connection.close()
        return answers, usable

    return run(go())


# Connecting


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ([b"554 no service\r\n"], RelayRefused, "refuses the greeting: 554 no service"),
        ([b"421 later\r\n"], RelayUnavailable, "421 later"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], RelayUnavailable, "not a reply"),
        ([b"220 hi\r\n220 hi again\r\n", hear], RelayUnavailable, ""),
        ([], RelayUnavailable, "closed"),
        ([b"220-endless\r\n" * 1000, hang], RelayUnavailable, "too long"),
        ([b"2200 hi\r\n", hang], RelayUnavailable, "not a reply"),
        ([GREETING, hear], RelayUnavailable, "closed"),
        ([GREETING, hear, b"250-a\r\n251 b\r\n", hang], RelayUnavailable, "two codes"),
        ([GREETING, hear, b"421 bye\r\n"], RelayUnavailable, "421 bye"),
        ([GREETING, hear, b"502-no\r\n502 EHLO\r\n", hear, b"550-go\r\n550 away\r\n"], RelayRefused, "550-go 550 away"),
    ],
)
def test_a_relay_that_does_not_take_us(script: list[Step], error: type[RelayError], words: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port)
    assert words in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_a_relay_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(RelayUnavailable):
        connect(port)


@pytest.mark.parametrize(("host", "error"), [("relay.invalid", RelayUnavailable), ("a..b", RelayRefused)])
def test_a_name_that_leads_nowhere(host: str, error: type[RelayError]) -> None:
    with pytest.raises(error):
        connect(25, host=host)


@pytest.mark.parametrize(
    "script", [[hang], [dribble(b"220-x\r\n" * 1000, 0.02), hang], [GREETING, hear, dribble(b"250-x\r\n" * 1000, 0.02)]]
)
def test_one_deadline_for_a_whole_reply(script: list[Step]) -> None:
    with ScriptedServer(script) as server, pytest.raises(RelayUnavailable, match=r"timed out after 0\.3 s"):
        connect(server.port, timeout=timedelta(seconds=0.3))


def test_helo_where_ehlo_is_unknown() -> None:
    with ScriptedServer([GREETING, hear, b"502 what?\r\n", hear, b"250 hi\r\n", hear]) as server:
        connect(server.port)
    assert [line.partition(b" ")[0].strip() for line in server.conversations[0].heard[:3]] == [
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


# One letter

SHORT: dict[str, Any] = {"timeout": timedelta(seconds=0.5), "dot_timeout": timedelta(seconds=0.7)}
ENDS: list[Step] = [hear_body, SENT, hear, b"221 bye\r\n"]


@pytest.mark.parametrize(
    ("script", "phase", "code", "fault", "dot_written", "usable"),
    [
        ([hear_group, GROUP, hear_body, SENT, hear], "dot", 250, "", True, True),
        ([hear_group, b"451 no\r\n503 no\r\n503 no\r\n", hear], "mail", 451, "", False, True),
        ([hear_group, b"250 ok\r\n450 no\r\n503 no\r\n", hear, b"250 ok\r\n", hear], "rcpt", 450, "", False, True),
        ([hear_group, b"250 ok\r\n550 no\r\n354 go\r\n", hear, b"554 none\r\n", hear], "rcpt", 550, "", False, True),
        ([hear_group, b"250 ok\r\n250 ok\r\n554 no\r\n", hear, b"250 ok\r\n", hear], "data", 554, "", False, True),
        ([hear_group, b"421 bye\r\n"], "mail", 421, "", False, False),
        ([hear_group, b"250 ok\r\n421 bye\r\n"], "rcpt", 421, "", False, False),
        ([hear_group, b"250 ok\r\n250 ok\r\n421 bye\r\n"], "data", 421, "", False, False),
        ([hear_group, GROUP, hear_body, b"421 bye\r\n"], "dot", 421, "", True, False),
        ([hear_group, GROUP, hear_body, b"554 no\r\n", hear], "dot", 554, "", True, True),
        ([hear_group, GROUP, hear_body], "dot", None, "closed", True, False),
        ([hear_group, GROUP, hear_body, hang], "dot", None, "timed out after 0.7 s", True, False),
        ([hear_group, GROUP, hear_body, b"354 more\r\n", hang], "dot", None, "not a reply to the dot", True, False),
        ([hear_group, GROUP, hear_body, b"2500 ok\r\n", hang], "dot", None, "not a reply", True, False),
        ([hear_group, GROUP, hear_body, dribble(b"250-x\r\n" * 999, 0.02)], "dot", None, "timed out", True, False),
        ([hear_group], "mail", None, "closed", False, False),
        ([hear_group, b"250 ok\r\n"], "rcpt", None, "closed", False, False),
        ([hear_group, b"250 ok\r\n250 ok\r\n"], "data", None, "closed", False, False),
        ([hear_group, b"250 ok\r\nwhat?\r\n", hang], "rcpt", None, "not a reply", False, False),
        ([hear_group, b"250-ok\r\n" * 5000, hang], "mail", None, "too long", False, False),
        ([hear_group, b"250 ok\r\n", hang], "rcpt", None, "timed out after 0.5 s", False, False),
        ([hear_group, GROUP + b"550 too much\r\n", hang], "data", 550, "", False, False),
        ([hear_group, GROUP + b"250 sent?\r\n", hang], "data", None, "out of turn", False, False),
    ],
)
def test_a_letter(
    script: list[Step], phase: str, code: int | None, fault: str, dot_written: bool, usable: bool
) -> None:
    with ScriptedServer([*OPENED, *script]) as server:
        answers, still_usable = converse(server.port, **(SHORT if "timed out" in fault else {}))
    (answer,) = answers
    assert answer is not None
    assert (answer.phase, answer.reply and answer.reply.code) == (phase, code)
    assert fault in answer.fault
    assert (answer.dot_written, still_usable) == (dot_written, usable)
    assert (b"\r\n.\r\n" in server.heard and b"hello" in server.heard) == dot_written


def test_a_slow_reply_to_the_dot_leaves_the_next_deadline_short() -> None:
    async def go(port: int) -> SendResult | None:
        patience = {"timeout": timedelta(seconds=0.5), "dot_timeout": timedelta(hours=1)}
        connection = await SmtpTransport(settings(port, **patience)).connect()
        async with asyncio.timeout(20):
            await connection.send(LETTER, yes)
            return await connection.send(LETTER, yes)

    def slow(conversation: Conversation) -> None:
        conversation.over.wait(0.8)

    with ScriptedServer([*OPENED, hear_group, GROUP, hear_body, slow, SENT, hang]) as server:
        assert run(go(server.port)) == SendResult(Phase.MAIL, None, "timed out after 0.5 s")


def test_a_refusal_while_a_long_body_is_written_stops_it() -> None:
    """The server reads nothing more, so that the body can't end; its 550 is the answer, and no intent is asked for."""
    asked = []

    async def commit_intent() -> bool:
        asked.append(True)
        return True

    async def go(port: int) -> SendResult | None:
        connection = await SmtpTransport(settings(port)).connect()
        return await connection.send(LONG, commit_intent)

    with ScriptedServer([*OPENED, hear_group, GROUP, b"552 5.3.4 too big\r\n", deafen]) as server:
        answer = run(go(server.port))
    assert answer == SendResult(Phase.DATA, Reply(552, "5.3.4", "552 5.3.4 too big"))
    assert not asked


def test_a_long_letter_arrives_whole() -> None:
    with ScriptedServer([*OPENED, hear_group, GROUP, *ENDS]) as server:
        answers, usable = converse(server.port, [LONG])
    assert answers == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 queued as 1"), dot_written=True)]
    assert usable
    assert LONG.data + b".\r\nQUIT\r\n" in server.heard


def test_nothing_of_the_dot_leaves_before_the_permit() -> None:
    """What the server has when the permit is asked for: never the dot, and of a long body everything else."""
    seen = []

    async def go(server: ScriptedServer, letter: OutgoingEmail) -> None:
        async def commit_intent() -> bool:
            for _ in range(500):  # a long body is on its way
                if len(letter.data) <= AHEAD or letter.data in server.heard:
                    break
                await asyncio.sleep(0.01)
            seen.append(server.heard)
            return True

        connection = await SmtpTransport(settings(server.port)).connect()
        await connection.send(letter, commit_intent)
        await connection.close()

    body = LETTER._replace(data=b"x\r\n" * AHEAD)
    for letter in (LETTER, body):
        with ScriptedServer([*OPENED, hear_group, GROUP, *ENDS]) as server:
            run(go(server, letter))
    assert not any(b"\r\n.\r\n" in heard for heard in seen)
    assert body.data in seen[1]


def test_a_letter_without_permit_is_not_delivered() -> None:
    async def go(port: int) -> tuple[SendResult | None, bool]:
        connection = await SmtpTransport(settings(port)).connect()
        return await connection.send(LETTER, no), connection.usable

    with ScriptedServer([*OPENED, hear_group, GROUP, hear_body]) as server:
        assert run(go(server.port)) == (None, False)
    assert b".\r\n" not in server.conversations[0].heard


@pytest.mark.parametrize(
    ("last_word", "expected"),
    [
        (b"", SendResult(Phase.DATA, None, "connection closed")),
        (b"451 shutting down\r\n", SendResult(Phase.DATA, Reply(451, "", "451 shutting down"))),
    ],
)
def test_the_end_comes_while_the_permit_is_awaited(last_word: bytes, expected: SendResult) -> None:
    async def go(port: int) -> SendResult | None:
        connection = await SmtpTransport(settings(port)).connect()

        async def commit_intent() -> bool:
            while connection.usable:
                await asyncio.sleep(0.01)
            return True

        return await connection.send(LETTER, commit_intent)

    with ScriptedServer([*OPENED, hear_group, GROUP, last_word]) as server:
        assert run(go(server.port)) == expected
    assert b"hello" not in server.heard


def test_a_cancelled_letter_closes_without_the_dot() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(settings(port)).connect()
        asked = asyncio.Event()

        async def commit_intent() -> bool:
            asked.set()
            await asyncio.Event().wait()
            return True

        sending = asyncio.create_task(connection.send(LETTER, commit_intent))
        await asked.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not connection.usable

    with ScriptedServer([*OPENED, hear_group, GROUP, hear_body]) as server:
        run(go(server.port))
    assert b".\r\n" not in server.conversations[0].heard


def test_a_connection_that_ends_between_letters() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(settings(port)).connect()
        assert await connection.send(LETTER, yes)
        while connection.usable:
            await asyncio.sleep(0.01)
        assert await connection.send(LETTER, yes) == SendResult(Phase.MAIL, None, "connection closed")
        await connection.close()

    with ScriptedServer([*OPENED, hear_group, GROUP, hear_body, SENT]) as server:
        run(go(server.port))


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    async def go(port: int) -> None:
        connection = await SmtpTransport(settings(port)).connect()
        while connection.usable:
            await asyncio.sleep(0.01)
        answer = await connection.send(LETTER, yes)
        assert answer is not None
        assert (answer.phase, answer.reply, answer.dot_written) == (Phase.MAIL, None, False)
        await connection.close()

    with ScriptedServer([*OPENED, b"250 ok\r\n250 ok\r\n354 go\r\n250 sent\r\n", hang]) as server:
        run(go(server.port))
    assert b"MAIL" not in server.heard


@pytest.mark.parametrize(
    ("setting", "letters"), [({"letters_per_connection": 2}, 2), ({"connection_age": timedelta(microseconds=1)}, 1)]
)
def test_a_connection_retires(setting: dict[str, Any], letters: int) -> None:
    one: list[Step] = [hear_group, GROUP, hear_body, SENT]
    with ScriptedServer([*OPENED, *one * letters, hear, b"221 bye\r\n"]) as server:
        answers, usable = converse(server.port, [LETTER] * letters, **setting)
    assert [answer and answer.dot_written for answer in answers] == [True] * letters
    assert not usable
    assert server.heard.endswith(b"QUIT\r\n")


# TLS and login


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


STARTTLS = (GREETING, hear, b"250-test\r\n250 STARTTLS\r\n", hear)
LETTER_STEPS: list[Step] = [hear, EHLO, hear_group, GROUP, *ENDS]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_letter_over_tls(authority: trustme.CA, ca_file: Path, security: str) -> None:
    upgrade = tls(server_context(authority))
    first = [*STARTTLS, b"220 go\r\n", upgrade] if security == "starttls" else [upgrade, GREETING]
    with ScriptedServer([*first, *LETTER_STEPS]) as server:
        answers, usable = converse(server.port, security=security, ca_file=ca_file)
    assert answers == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 queued as 1"), dot_written=True)]
    assert usable
    said = [line.partition(b" ")[0].strip() for line in server.conversations[0].heard]
    assert said.count(b"EHLO") == (2 if security == "starttls" else 1)  # what was learnt in the clear is forgotten


def test_a_long_letter_over_tls(authority: trustme.CA, ca_file: Path) -> None:
    with ScriptedServer([tls(server_context(authority)), GREETING, *LETTER_STEPS]) as server:
        answers, _ = converse(server.port, [LONG], security="tls", ca_file=ca_file)
    assert answers[0] is not None
    assert answers[0].reply is not None
    assert LONG.data + b".\r\nQUIT\r\n" in server.heard


def test_a_certificate_of_another_name_is_refused(authority: trustme.CA, ca_file: Path) -> None:
    upgrade = tls(server_context(authority, "relay.example.org"))
    with (
        ScriptedServer([*STARTTLS, b"220 go\r\n", upgrade]) as server,
        pytest.raises(RelayRefused, match="not trusted"),
    ):
        connect(server.port, security="starttls", ca_file=ca_file)


def test_a_certificate_of_a_stranger_is_refused(authority: trustme.CA) -> None:
    with (
        ScriptedServer([tls(server_context(authority)), GREETING]) as server,
        pytest.raises(RelayRefused, match="not trusted") as raised,
    ):
        connect(server.port, security="tls")
    assert "smtp.ca_file" in (raised.value.hint or "")


@pytest.mark.parametrize("text", ["", "no certificate"])
def test_a_ca_file_that_holds_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ca.pem"
    path.write_text(text)
    with ScriptedServer([hang]) as server, pytest.raises(RelayRefused) as raised:
        connect(server.port, security="tls", ca_file=path)
    assert "smtp.ca_file" in (raised.value.hint or "")


@pytest.mark.parametrize(
    ("security", "script", "error", "words"),
    [
        ("starttls", [*OPENED, hang], RelayRefused, "offers no STARTTLS"),
        ("starttls", [*STARTTLS, b"454 not now\r\n", hang], RelayUnavailable, "454 not now"),
        ("starttls", [*STARTTLS, b"502 no\r\n", hang], RelayRefused, "502 no"),
        ("starttls", [*STARTTLS, b"220 go\r\n250 injected\r\n", hang], RelayUnavailable, "out of turn"),
        ("starttls", [*STARTTLS, b"220 go\r\n2", hang], RelayUnavailable, "out of turn"),
        ("starttls", [*STARTTLS, b"220 go\r\n"], RelayUnavailable, ""),
        ("starttls", [*STARTTLS, b"220 go\r\n", hear, b"no TLS\r\n", hang], RelayUnavailable, "TLS"),
        ("starttls", [*STARTTLS, b"220 go\r\n", deafen], RelayUnavailable, "does not answer"),
        ("tls", [GREETING, hang], RelayUnavailable, "TLS"),
        ("tls", [deafen], RelayUnavailable, "does not answer"),
    ],
)
def test_tls_that_fails(ca_file: Path, security: str, script: list[Step], error: type[RelayError], words: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port, security=security, ca_file=ca_file, **(SHORT if "answer" in words else {}))
    assert words in raised.value.message
    assert raised.value.hint
    assert b"MAIL" not in server.heard


LOGIN = {"username": "ada", "password": "sesam"}
PLAIN = (GREETING, hear, b"250-test\r\n250 AUTH LOGIN PLAIN\r\n", hear)
BY_LOGIN = (GREETING, hear, b"250-test\r\n250 AUTH LOGIN\r\n", hear)


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ([*OPENED, hang], RelayRefused, "offers no login"),
        ([*PLAIN, b"535 5.7.8 no\r\n", hang], RelayRefused, "535 5.7.8 no"),
        ([*PLAIN, b"534 weak\r\n", hang], RelayRefused, "534 weak"),
        ([*PLAIN, b"500 what is AUTH PLAIN AGFkYQBzZXNhbQ==\r\n", hang], RelayRefused, "AUTH PLAIN ..."),
        ([*PLAIN, b"535-no sesam\r\n535 here\r\n", hang], RelayRefused, "535-no ... 535 here"),
        ([*PLAIN, b"454 later\r\n", hang], RelayUnavailable, "454 later"),
        ([*PLAIN, b"334 more\r\n", hang], RelayRefused, "334 more"),
        ([*BY_LOGIN, b"334 VXNlcm5hbWU6\r\n", hear, b"535 c2VzYW0= no\r\n", hang], RelayRefused, "535 ... no"),
        ([*BY_LOGIN, b"504 no\r\n", hang], RelayRefused, "504 no"),
    ],
)
def test_a_login_that_fails(script: list[Step], error: type[RelayError], words: str) -> None:
    with ScriptedServer(script) as server, pytest.raises(error) as raised:
        connect(server.port, **LOGIN)
    assert words in raised.value.message
    assert not any(secret in raised.value.message for secret in ("sesam", "c2VzYW0=", "AGFkYQBzZXNhbQ=="))


def test_what_was_offered_in_the_clear_is_forgotten(authority: trustme.CA, ca_file: Path) -> None:
    upgrade = tls(server_context(authority))
    script: list[Step] = [
        GREETING,
        hear,
        b"250-test\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
        hear,
        b"220 go\r\n",
        upgrade,
    ]
    with (
        ScriptedServer([*script, hear, b"502 no\r\n", hear, b"250 hi\r\n", hang]) as server,
        pytest.raises(RelayRefused, match="offers no login"),
    ):
        connect(server.port, security="starttls", ca_file=ca_file, **LOGIN)


def test_a_name_without_a_password() -> None:
    with ScriptedServer([*OPENED, hang]) as server, pytest.raises(RelayRefused, match="without a password"):
        connect(server.port, username="ada")


def test_a_password_goes_over_tls_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmtpConnection, "is_loopback", False)  # a second machine is not at hand
    with ScriptedServer([*PLAIN, b"235 ok\r\n", hang]) as server, pytest.raises(RelayRefused, match="TLS only"):
        connect(server.port, **LOGIN)
    assert b"AUTH" not in server.heard


# Servers that others wrote


class Keeper:
    """An aiosmtpd handler that keeps what comes."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, list[str], bytes]] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - its name there
        self.kept.append((envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 kept"


def authenticate(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (b"ada", b"sesam"), handled=False)


@contextmanager
def aiosmtpd(**options: Any) -> Iterator[tuple[int, Keeper]]:
    keeper = Keeper()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(keeper, hostname="127.0.0.1", port=port, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller.start()
        try:
            yield port, keeper
        finally:
            controller.stop()


ARRIVED = ("ada@example.org", ["bob@example.net"], LETTER.data)


@pytest.mark.parametrize("excluded", [[], ["PLAIN"]])
def test_aiosmtpd_by_starttls_and_login(authority: trustme.CA, ca_file: Path, excluded: list[str]) -> None:
    options = {
        "tls_context": server_context(authority),
        "require_starttls": True,
        "auth_required": True,
        "authenticator": authenticate,
        "auth_exclude_mechanism": excluded,
    }
    with aiosmtpd(**options) as (port, keeper):
        answers, _ = converse(port, [LETTER] * 3, security="starttls", ca_file=ca_file, **LOGIN)
        with pytest.raises(RelayRefused, match="535"):
            connect(port, security="starttls", ca_file=ca_file, username="ada", password="simsalabim")
        (unknown,), _ = converse(port)
    assert unknown
    assert unknown.reply
    assert (unknown.phase, unknown.reply.code) == (Phase.MAIL, 530)
    assert answers == [SendResult(Phase.DOT, Reply(250, "2.0.0", "250 2.0.0 kept"), dot_written=True)] * 3
    assert keeper.kept == [ARRIVED] * 3


def test_aiosmtpd_in_the_clear() -> None:
    letters = [LETTER, LETTER._replace(recipient="ü@bücher.example", data="ж\r\n".encode())]
    with aiosmtpd(enable_SMTPUTF8=True) as (port, keeper):
        answers, usable = converse(port, letters)
    assert [answer.reply.code if answer and answer.reply else answer for answer in answers] == [250, 250]
    assert usable
    assert keeper.kept == [ARRIVED, ("ada@example.org", ["ü@bücher.example"], "ж\r\n".encode())]


def test_many_connections_and_the_counting_receiver(tmp_path: Path) -> None:
    async def go(port: int) -> None:
        transport = SmtpTransport(settings(port, letters_per_connection=7))

        async def send(number: int) -> None:
            connection = await transport.connect()
            for n in range(7):
                name = f"<{number}.{n}@x>"
                letter = OutgoingEmail("a@x.org", f"{number}.{n}@x.org", f"Message-ID: {name}\r\n\r\n.\r\n".encode())
                answer = await connection.send(letter, yes)
                assert answer is not None
                assert answer.phase == Phase.DOT
            await connection.close()

        await asyncio.gather(*(send(number) for number in range(8)))

    with CountingReceiver(tmp_path / "log") as receiver:
        run(go(receiver.port))
    assert receiver.arrived() == {(f"{i}.{n}@x.org", f"<{i}.{n}@x>"): 1 for i in range(8) for n in range(7)}


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
        answers, _ = converse(port, [LETTER] * len(expected))
    assert [(answer.phase, answer.reply and answer.reply.code) for answer in answers if answer] == expected


@pytest.mark.skipif(SINK is None, reason="smtp-sink (it comes with Postfix) is not installed")
def test_smtp_sink_refuses_a_long_body_on_its_way() -> None:
    with smtp_sink("-A", "0") as port:
        answers, usable = converse(port, [LONG])
    assert answers[0] is not None
    assert (answers[0].phase, answers[0].dot_written, usable) == (Phase.DATA, False, False)

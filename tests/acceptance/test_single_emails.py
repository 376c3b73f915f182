"""Emails sent outside of a mailing: `register` and `messages test` report the same error for the same reply."""

import pytest
from support.argon import fast_argon2  # noqa: F401
from support.command import CommandResult, Home
from support.servers import GREETING, ScriptedServer, accept_mail

SENT, UNAVAILABLE, REFUSED = "sent", "relay_away", "relay_refuses"
HANG_UP = b""

REPLIES = [
    ("EHLO", b"421 4.3.2 not now\r\n", UNAVAILABLE),
    ("EHLO", HANG_UP, UNAVAILABLE),
    ("MAIL", b"451 4.3.0 try later\r\n", UNAVAILABLE),
    ("MAIL", b"550 5.7.1 sender rejected\r\n", REFUSED),
    ("RCPT", b"450 4.2.0 greylisted\r\n", UNAVAILABLE),
    ("RCPT", b"451-4.3.0 try\r\n451 4.3.0 later\r\n", UNAVAILABLE),
    ("RCPT", b"550 5.1.1 no such mailbox\r\n", REFUSED),
    ("DATA", b"452 4.3.1 disk full\r\n", UNAVAILABLE),
    ("DATA", b"554 5.3.2 closed\r\n", REFUSED),
    ("DATA", HANG_UP, UNAVAILABLE),
    (".", b"451 4.3.0 try later\r\n", UNAVAILABLE),
    (".", b"552 5.3.4 too large\r\n", REFUSED),
    (".", HANG_UP, SENT),
    (".", b"354 what else?\r\n", SENT),
    (".", b"250 2.0.0 queued\r\n", SENT),
]
"""A command of ours, the server's reply to it, and what both commands must report."""

pytestmark = pytest.mark.usefixtures("fast_argon2")


def call(home: Home, server: ScriptedServer, *arguments: str) -> CommandResult:
    """Run a command that sends through this server."""
    relay = {
        "SKYCHIMP_MAIL__TRANSPORT": "smtp",
        "SKYCHIMP_SMTP__HOST": "127.0.0.1",
        "SKYCHIMP_SMTP__PORT": str(server.port),
        "SKYCHIMP_SMTP__SECURITY": "none",
        "SKYCHIMP_PASSWORD": "correct horse battery",
    }
    return home.call(*arguments, environ=relay)


def error_code(done: CommandResult) -> str:
    """Return the error code that a command reported, or SENT."""
    if done.status == 0:
        return SENT
    assert (done.status, done.out) == (75, "")
    return str(done.error["code"])


@pytest.mark.parametrize("arguments", ["register --email new@example.org", "messages test 1 --to me@example.org"])
@pytest.mark.parametrize(("command", "reply", "expected"), REPLIES)
def test_both_commands_report_the_same_error(
    home: Home, arguments: str, command: str, reply: bytes, expected: str
) -> None:
    assert home.call("messages", "create", "--subject", "Hello", "--body", "Hello").status == 0

    def answer(received: str, address: str) -> bytes | None:
        return reply if received == command else None

    with ScriptedServer([GREETING, accept_mail(answer)]) as server:
        done = call(home, server, *arguments.split(), "--json")

    assert error_code(done) == expected
    if expected != SENT and reply:
        assert reply.decode().strip().replace("\r\n", " ") in done.error["message"]


def test_lost_final_reply_is_no_error_and_is_reported(home: Home) -> None:
    home.call("messages", "create", "--subject", "Hello", "--body", "Hello")

    def hang_up(received: str, address: str) -> bytes | None:
        return HANG_UP if received == "." else None

    with ScriptedServer([GREETING, accept_mail(hang_up)]) as server:
        done = call(home, server, "messages", "test", "1", "--to", "me@example.org", "--json")

    assert done.json == {"to": "me@example.org", "reply": None, "relay": f"127.0.0.1:{server.port}"}
    assert "may have arrived" in done.err

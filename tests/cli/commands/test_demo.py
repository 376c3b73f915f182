"""Test `skychimp demo` and the mail server that it sends to."""

import smtplib
import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest
from support.command import PROGRAM, Home

from skychimp import shell
from skychimp.cli.commands import demo
from skychimp.transport.demo_server import MAX_EMAIL_BYTES, DemoServer, demo_server


@pytest.fixture
def server() -> Iterator[DemoServer]:
    with demo_server() as running:
        yield running


def test_every_step_is_shown_and_executed(tmp_path: Path) -> None:
    """The demo ignores the surrounding config and environment, and leaves no files."""
    (tmp_path / "skychimp.toml").write_text("this is not for the demo")
    (tmp_path / "tmp").mkdir()
    environ = {"TMPDIR": str(tmp_path / "tmp"), "SKYCHIMP_MAIL__TRANSPORT": "nonsense", "PATH": "/usr/bin:/bin"}
    done = Home(tmp_path).run("demo", environ=environ)
    assert (done.status, [line for line in done.err.splitlines() if line.startswith("error")]) == (0, [])
    shown = done.out
    for title, arguments in demo.STEPS:
        assert title in " ".join(shown.split())
        assert shown.count(f"$ {shell.command(*arguments)}\n") == 1
    log = [line.split("\t") for line in shown.splitlines() if line.startswith("20") and "@" in line]
    assert sorted((email, status) for _, email, status, _, _ in log) == [
        ("ada@example.org", "sent"),
        ("chien-shiung@example.org", "sent"),
        ("grace@example.org", "sent"),
        ("natalya@example.org", "sent"),
        ("nobody@example.org", "failed"),
    ]
    assert "\t1\t550 5.1.1 <nobody@example.org> user unknown" in shown
    steps, _, result = shown.partition(
        "\nWhat the mail server received\n4 emails, one for each accepted recipient. The first:\n"
    )
    assert steps.rpartition("$ skychimp run\n")[2].startswith("sent\t0\n")
    assert result.startswith("From: Skychimp <you@example.org>\nTo: ")
    assert "\n> EHLO " in result
    assert "$ skychimp init --email" in result
    script = PROGRAM.with_name("activate")
    assert (f"\n$ . {script}\n$ skychimp init" in result) == script.is_file(), "the shell does not find the command"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_json_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", (("Show the version.", ("--version",)),))
    done = Home(tmp_path).call("demo", "--json")
    assert (done.json, done.err) == ({"emails": 0, "letters": 0, "commands": ["skychimp --version"]}, "")


def test_failed_step_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STEPS", (("First.", ("clients", "list")), ("Never.", ("demo",))))
    done = Home(tmp_path).call("demo")
    assert done.status == 1
    assert "Never." not in done.out
    assert done.err == 'error: demo failed: "skychimp clients list" exited with status 3\n'


# The demo server


def test_email_arrives_complete(server: DemoServer) -> None:
    data = "Subject: й\r\n\r\n.\r\n..dots\r\n. dot\r\n".encode()
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        assert client.sendmail("a@example.org", ["b@example.org"], data) == {}
        assert {"pipelining", "8bitmime", "smtputf8", "size", "enhancedstatuscodes"} <= set(client.esmtp_features)
        client.sendmail("a@example.org", ["c@example.org"], data)
    first, second = server.emails
    assert (first.data, second.data) == (data, data)
    assert message_from_bytes(first.data, policy=policy.default)["Subject"] == "й"
    commands = [line for line in first.conversation if line.startswith("> ") and "HELP" not in line]
    assert [line.split()[1] for line in commands] == ["ehlo", "mail", "rcpt", "data", "..."]
    assert first.conversation[-1] == "  250 2.0.0 accepted as email 1"


def test_nobody_is_refused_and_the_next_recipient_is_accepted(server: DemoServer) -> None:
    with smtplib.SMTP("127.0.0.1", server.port) as client:
        with pytest.raises(smtplib.SMTPRecipientsRefused) as caught:
            client.sendmail("a@example.org", ["nobody@example.org"], "x")
        assert caught.value.recipients["nobody@example.org"][0] == 550
        client.sendmail("a@example.org", ["b@example.org"], "x")
        assert client.docmd("VRFY", "b")[0] == 502
        assert client.docmd("DATA")[0] == 503
        assert client.noop()[0] == 250
        assert client.helo()[0] == 250
    assert len(server.emails) == 1


def test_pipelined_commands_are_answered_in_order(server: DemoServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client, client.makefile("rb") as replies:
        client.sendall(
            b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<nobody@b>\r\nDATA\r\n"
            b"MAIL FROM:<a@b>\r\nRCPT TO:<c@b>\r\nDATA\r\nhello\r\n.\r\n\r\nQUIT\r\n"
        )
        codes = [line[:3] for line in replies if line[3:4] == b" "]
    assert codes == [b"220", b"250", b"250", b"550", b"503", b"250", b"250", b"354", b"250", b"502", b"221"]


@pytest.mark.parametrize(
    "cut", [b"RCPT TO:<b@c>\r\nDATA\r\nhalf an email", b"RCPT TO:<b@c>\r\nDATA\r\n" + b"x" * MAX_EMAIL_BYTES]
)
def test_incomplete_or_too_large_email_is_not_stored(server: DemoServer, cut: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        try:
            client.sendall(b"MAIL FROM:<a@b>\r\n" + cut + b"\r\n" * 10)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except ConnectionError:
            pass  # the server has closed the connection
    assert server.emails == []


def test_server_stops_while_a_client_is_connected() -> None:
    with demo_server() as server:
        client = socket.create_connection(("127.0.0.1", server.port))
    client.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))

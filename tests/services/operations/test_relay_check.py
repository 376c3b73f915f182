"""Test that `doctor` tries the sender at the mail server, says how to fix a refusal, and sends nothing."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from support.sending import make_settings
from support.servers import GREETING, ScriptedServer, Step, hang, read_line, send_slowly

from skychimp.services.operations import relay_check
from skychimp.services.operations.findings import Finding, Level

PLAIN = b"250-x\r\n250 SIZE 30000000\r\n"
WITH_AUTH = b"250-x\r\n250 AUTH PLAIN LOGIN\r\n"
OK, ADA = b"250 2.0.0 ok\r\n", "ada@skychimp.test"
QUIT: tuple[Step, ...] = (read_line, b"221 bye\r\n")
RSET_AND_QUIT: tuple[Step, ...] = (read_line, OK, *QUIT)
TAKES_SENDER: tuple[Step, ...] = (read_line, OK, read_line, OK, *RSET_AND_QUIT)


def check(steps: Sequence[Step], offers: bytes = PLAIN, **settings: Any) -> tuple[list[Finding], list[str]]:
    """Return the findings about a mail server, and the commands that it received."""
    with ScriptedServer([GREETING, read_line, offers, *steps]) as server:
        usual = {"mail__sender": f"Ada <{ADA}>", "smtp__security": "none"}
        chosen = {**usual, **settings}
        findings = list(relay_check.check_relay(make_settings(server.port, **chosen), None))
    lines = [line.decode().strip() for line in server.conversations[0].received_lines if line]
    return findings, [line for line in lines if not line.startswith("EHLO")]


def refuses_mail(reply: bytes) -> tuple[Step, ...]:
    return (read_line, reply, *RSET_AND_QUIT)


def refuses_recipient(reply: bytes) -> tuple[Step, ...]:
    return (read_line, OK, read_line, reply, *RSET_AND_QUIT)


def test_sender_is_tried_and_nothing_is_sent() -> None:
    (finding,), commands = check(TAKES_SENDER)
    assert finding.level == Level.OK
    assert f"accepts mail from {ADA} (security: none); extensions: SIZE" in finding.found
    assert commands == [f"MAIL FROM:<{ADA}> SIZE=2", f"RCPT TO:<{ADA}>", "RSET", "QUIT"]


def test_return_path_is_the_envelope_sender() -> None:
    (finding,), commands = check(TAKES_SENDER, mail__return_path="bounces@skychimp.test")
    assert finding.level == Level.OK
    assert commands[:2] == ["MAIL FROM:<bounces@skychimp.test> SIZE=2", f"RCPT TO:<{ADA}>"]


def test_no_sender_is_tried_if_none_is_set() -> None:
    (finding,), commands = check(QUIT, mail__sender=None)
    assert (finding.level, commands) == (Level.OK, ["QUIT"])
    assert "accepts connections" in finding.found


@pytest.mark.parametrize(
    ("steps", "offers", "found", "remedy"),
    [
        (refuses_mail(b"530 5.7.0 Must issue a STARTTLS command first\r\n"), PLAIN,
         f"refused MAIL FROM:<{ADA}>: 530 5.7.0 Must issue", 'set smtp.security = "starttls"'),
        (refuses_mail(b"530 5.7.0 Authentication required\r\n"), PLAIN,
         "530 5.7.0 Authentication required", "set smtp.username and smtp.password_file"),
        (refuses_recipient(b"554 5.7.1 Relay access denied\r\n"), WITH_AUTH,
         f"refused RCPT TO:<{ADA}>: 554 5.7.1 Relay", "set smtp.username and smtp.password_file"),
        (refuses_mail(b"553 5.7.1 Sender address rejected: not owned by user\r\n"), PLAIN,
         "553 5.7.1 Sender", "set mail.sender"),
        (refuses_mail(b"550 5.1.8 Sender domain not found\r\n"), PLAIN, "550 5.1.8", "check mail.sender"),
        (refuses_recipient(b"550-5.1.1 no such\r\n550 5.1.1 user\r\n"), PLAIN, "550-5.1.1 no such 550 5.1.1 user",
         "check mail.sender"),
    ],
)  # fmt: skip
def test_refused_sender_is_a_problem_with_its_reply(
    steps: Sequence[Step], offers: bytes, found: str, remedy: str
) -> None:
    (first, problem), commands = check(steps, offers)
    assert (first.level, problem.level) == (Level.OK, Level.PROBLEM)
    assert "accepts connections" in first.found
    assert found in problem.found
    assert remedy in (problem.remedy or "")
    assert "skychimp doctor" not in (problem.remedy or "")
    assert "RSET" in commands
    assert "DATA" not in commands


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (refuses_recipient(b"450 4.2.0 Greylisted\r\n"), f"does not accept RCPT TO:<{ADA}> now: 450 4.2.0 Greylisted"),
        (refuses_mail(b"452 4.3.1 disk full\r\n"), f"does not accept MAIL FROM:<{ADA}> now: 452 4.3.1 disk full"),
        ((read_line, b"421 4.7.0 bye\r\n"), f"does not accept MAIL FROM:<{ADA}> now: 421 4.7.0 bye"),
        ((read_line, OK, read_line), f"did not answer RCPT TO:<{ADA}>: connection closed"),
        ((read_line, b"no reply\r\n", hang), f"did not answer MAIL FROM:<{ADA}>: invalid reply"),
        ((read_line, OK, hang), f"did not answer RCPT TO:<{ADA}>: timed out after 1 s"),
    ],
)
def test_temporary_refusal_is_a_warning(steps: Sequence[Step], found: str) -> None:
    timeout: dict[str, Any] = {"smtp__timeout": timedelta(seconds=1)} if "timed out" in found else {}
    (_, warning), commands = check(steps, **timeout)
    assert warning.level == Level.WARNING
    assert found in warning.found
    assert "doctor" in (warning.remedy or "")
    assert "DATA" not in commands


def test_server_that_is_slow_throughout_does_not_hold_up_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_check, "LONGEST_CHECK", timedelta(milliseconds=300))
    (problem,), _ = check([read_line, send_slowly(OK * 20, 0.01), hang], smtp__timeout=timedelta(seconds=30))
    assert problem.level == Level.PROBLEM
    assert "very slow" in problem.found


@pytest.mark.parametrize("offers", [WITH_AUTH, PLAIN, b"250-x\r\n250 AUTH\r\n"])
@pytest.mark.parametrize("is_local", [True, False])
def test_offered_login_that_is_not_set_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, offers: bytes, is_local: bool
) -> None:
    """A mail server on this machine needs no login."""
    monkeypatch.setattr(relay_check, "_is_loopback", lambda address: is_local)
    findings, _ = check(TAKES_SENDER, offers)
    warnings = [finding for finding in findings if "no login is set" in finding.found]
    assert [finding.level for finding in warnings] == ([Level.WARNING] if offers == WITH_AUTH and not is_local else [])
    assert all("smtp.username" in (finding.remedy or "") for finding in warnings)


def test_login_that_is_set_is_shown() -> None:
    login: tuple[Step, ...] = (read_line, b"235 ok\r\n")
    (finding,), _ = check([*login, *TAKES_SENDER], WITH_AUTH, smtp__username="ada", smtp__password="sesam")
    assert "(security: none, logged in as ada)" in finding.found

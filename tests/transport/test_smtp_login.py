"""Test logging in to real servers: which mechanism is tried after a refusal, and tokens from a command."""

import asyncio
import base64
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.servers import EHLO, GREETING, ScriptedServer, Step, hang, read_line

from skychimp.config.settings import SmtpSettings
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.errors import RelayError, RelayRefused, RelayUnavailable
from skychimp.transport.smtp import SmtpTransport
from skychimp.transport.smtp_connection import SmtpConnection

LOOPS: dict[str, Callable[..., Any]] = {"asyncio": asyncio.run, "default": run_in_event_loop}
ACCEPTED = b"235 2.7.0 ok\r\n"
CHALLENGE = b"334 VXNlcm5hbWU6\r\n"
BY_LOGIN: tuple[Step, ...] = (read_line, CHALLENGE, read_line, CHALLENGE, read_line)
END: tuple[Step, ...] = (read_line, b"221 bye\r\n")
WRONG = b"535 5.7.8 Error: authentication failed\r\n"
PASSWORD, TOKEN = "sesam", "ya29.token-1"


@pytest.fixture(params=LOOPS, autouse=True)
def _event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOPS, "chosen", LOOPS[request.param])


def offering(*mechanisms: str) -> list[Step]:
    """Return the steps of a server up to its offer of mechanisms."""
    return [GREETING, read_line, b"250-test\r\n250 AUTH " + " ".join(mechanisms).encode() + b"\r\n"]


def log_in(*scripts: list[Step], connections: int = 1, **overrides: Any) -> list[str]:
    """Open connections, one after another. Return the login lines that the server received, in plain text."""
    server, _ = _log_in(scripts, connections, overrides)
    return server


def refusal(*scripts: list[Step], connections: int = 1, **overrides: Any) -> tuple[list[str], RelayError]:
    """Return the login lines that the server received, and the error of the last connection."""
    lines, error = _log_in(scripts, connections, overrides)
    assert error is not None
    assert not [secret for secret in (PASSWORD, TOKEN) if secret in f"{error.message} {error.hint}"]
    return lines, error


def _log_in(
    scripts: tuple[list[Step], ...], connections: int, overrides: dict[str, Any]
) -> tuple[list[str], RelayError | None]:
    async def connect(port: int) -> RelayError | None:
        values = {"host": "127.0.0.1", "port": port, "security": "none", "username": "ada", "timeout": "10s"}
        transport = SmtpTransport(SmtpSettings.model_validate(values | overrides))
        error = None
        for _ in range(connections):
            try:
                await (await transport.connect()).close()
            except RelayError as raised:
                error = raised
        return error

    with ScriptedServer(*scripts) as server:
        error = LOOPS["chosen"](connect(server.port))
    lines = [line for conversation in server.conversations for line in conversation.received_lines]
    return [_readable(line) for line in lines if line and not line.startswith((b"EHLO", b"QUIT", b"MAIL"))], error


def _readable(line: bytes) -> str:
    words = line.decode().split()
    if words[:1] == ["AUTH"]:
        return " ".join(words[1:2] + [base64.b64decode(word).decode() for word in words[2:]])
    return base64.b64decode(words[0]).decode() if words else ""


# Passwords


UNSUPPORTED = {
    "504": b"504 5.7.4 Unrecognized authentication type\r\n",
    "534": b"534 5.7.9 Authentication mechanism is too weak\r\n",
    "535": b"535 5.7.3 Authentication mechanism unsupported\r\n",
}


@pytest.mark.parametrize("code", UNSUPPORTED)
def test_next_mechanism_is_tried_if_one_is_unsupported(code: str) -> None:
    """The next connection does not try the first one again."""
    first = [*offering("PLAIN", "LOGIN"), read_line, UNSUPPORTED[code], *BY_LOGIN, ACCEPTED, *END]
    second = [*offering("PLAIN", "LOGIN"), *BY_LOGIN, ACCEPTED, *END]
    lines = log_in(first, second, connections=2, password=PASSWORD)
    assert lines == ["PLAIN \0ada\0sesam", "LOGIN", "ada", "sesam", "LOGIN", "ada", "sesam"]


def test_server_that_closes_after_an_unsupported_mechanism() -> None:
    closing = [*offering("PLAIN", "LOGIN"), read_line, UNSUPPORTED["504"]]
    lines = log_in(closing, [*offering("PLAIN", "LOGIN"), *BY_LOGIN, ACCEPTED, *END], password=PASSWORD)
    assert [line for line in lines if line != "LOGIN"] == ["PLAIN \0ada\0sesam", "ada", "sesam"]


def test_server_that_closes_after_each_mechanism_is_asked_once_for_each() -> None:
    lines, error = refusal([*offering("PLAIN", "LOGIN"), read_line, UNSUPPORTED["504"]], password=PASSWORD)
    assert isinstance(error, RelayRefused)
    assert "504 5.7.4" in error.message
    assert (lines.count("PLAIN \0ada\0sesam"), "ada" in lines) == (1, False)


def test_unsupported_mechanisms_are_tried_again_by_a_later_connection() -> None:
    """Otherwise a daemon would need a restart after the server was repaired."""
    refusing = [*offering("PLAIN"), read_line, UNSUPPORTED["504"], hang]
    assert (
        log_in(refusing, [*offering("PLAIN"), read_line, ACCEPTED, *END], connections=2, password=PASSWORD)
        == ["PLAIN \0ada\0sesam"] * 2
    )


@pytest.mark.parametrize(
    "reply",
    [
        WRONG,
        b"535 5.7.3 Authentication unsuccessful\r\n",
        b"534-5.7.9 Application-specific password required.\r\n534 5.7.9 gsmtp\r\n",
        b"550 5.7.1 go away\r\n",
    ],
)
def test_wrong_login_is_tried_exactly_once(reply: bytes) -> None:
    lines, error = refusal([*offering("PLAIN", "LOGIN", "XOAUTH2"), read_line, reply, hang], password=PASSWORD)
    assert isinstance(error, RelayRefused)
    assert lines == ["PLAIN \0ada\0sesam"]
    assert error.hint == "check smtp.username and smtp.password"


def test_empty_password_does_not_hide_the_reply() -> None:
    _, error = refusal([*offering("PLAIN"), read_line, WRONG, hang], password="")
    assert error.message.endswith("refused the login: 535 5.7.8 Error: authentication failed")


def test_login_that_is_not_possible_now_is_tried_exactly_once() -> None:
    script = [*offering("PLAIN", "LOGIN"), read_line, b"454 4.7.0 Temporary failure: mechanism unavailable\r\n", hang]
    lines, error = refusal(script, password=PASSWORD)
    assert (type(error), lines) == (RelayUnavailable, ["PLAIN \0ada\0sesam"])


@pytest.mark.parametrize(("auth", "lines"), [("plain", ["PLAIN \0ada\0sesam"]), ("login", ["LOGIN", "ada", "sesam"])])
def test_setting_names_the_mechanism(auth: str, lines: list[str]) -> None:
    steps: tuple[Step, ...] = BY_LOGIN if auth == "login" else (read_line,)
    script = [*offering("PLAIN", "LOGIN"), *steps, ACCEPTED, *END]
    assert log_in(script, auth=auth, password=PASSWORD) == lines
    refusing = [*offering("PLAIN", "LOGIN"), read_line, UNSUPPORTED["504"], hang]
    asked, error = refusal(refusing, auth=auth, password=PASSWORD)
    assert asked == lines[:1]
    assert "smtp.auth" in (error.hint or "")


OAUTH_HINT = 'set smtp.auth = "xoauth2" and smtp.token_command'


@pytest.mark.parametrize(
    ("script", "settings", "message", "hint"),
    [
        (offering("XOAUTH2", "OAUTHBEARER"), {}, "takes no passwords, only OAuth 2 tokens", OAUTH_HINT),
        (offering("XOAUTH2"), {"password": PASSWORD}, "takes no passwords, only OAuth 2 tokens", OAUTH_HINT),
        (offering("PLAIN"), {}, "there is no password", "smtp.password_file"),
        (offering("PLAIN", "XOAUTH2"), {"auth": "xoauth2"}, "there is no token", "smtp.token_command"),
        (offering("PLAIN"), {"auth": "login", "password": PASSWORD}, "login by LOGIN, only by PLAIN", "smtp.auth"),
        (offering("PLAIN"), {"auth": "xoauth2", "token_command": "true"}, "login by XOAUTH2, only by PL", "smtp.auth"),
        (offering("NTLM"), {"password": PASSWORD}, "by PLAIN or LOGIN, only by NTLM", "use a mail server"),
        ([GREETING, read_line, EHLO], {"password": PASSWORD}, "not offer login by PLAIN or LOGIN", "smtp.security"),
    ],
)
def test_no_login_is_possible(script: list[Step], settings: dict[str, Any], message: str, hint: str) -> None:
    lines, error = refusal([*script, hang], **settings)
    assert (type(error), lines) == (RelayRefused, [])
    assert message in error.message
    assert hint in (error.hint or "")


@pytest.mark.parametrize(
    ("reply", "hint"),
    [
        (b"530 5.7.0 Must issue a STARTTLS command first\r\n", 'set smtp.security = "starttls"'),
        (b"538 5.7.11 Encryption required\r\n", 'set smtp.security = "starttls"'),
        (b"535 5.7.139 Authentication unsuccessful, basic authentication is disabled.\r\n", OAUTH_HINT),
    ],
)
def test_refused_login_says_what_to_set(reply: bytes, hint: str) -> None:
    lines, error = refusal([*offering("PLAIN", "LOGIN", "XOAUTH2"), read_line, reply, hang], password=PASSWORD)
    assert (error.hint, len(lines)) == (hint, 1)


# Tokens


def command(folder: Path, *lines: str) -> str:
    """Return a command that notes that it ran, and runs these lines of Python."""
    script = folder / "token.py"
    note = f"import os, sys; log = open({str(folder / 'runs')!r}, 'a'); log.write('ran\\n'); log.close()"
    script.write_text("\n".join([note, *lines]))
    return shlex.join([sys.executable, "-S", "-E", str(script)])


def runs(folder: Path) -> int:
    log = folder / "runs"
    return len(log.read_text().splitlines()) if log.exists() else 0


def xoauth2(token: str) -> str:
    return f"user=ada\1auth=Bearer {token}\1\1"


def numbered_tokens(folder: Path) -> str:
    """Return a command that prints another token each time."""
    return command(folder, f"print('ya29.token-' + str(len(open({str(folder / 'runs')!r}).readlines())))", "print(1)")


TAKES_TOKEN = [*offering("XOAUTH2"), read_line, ACCEPTED, *END]
REFUSES_TOKEN: tuple[Step, ...] = (
    read_line,
    b"334 " + base64.b64encode(b'{"status":"401","schemes":"bearer","scope":"https://mail.example.org/"}') + b"\r\n",
    read_line,
    b"535-5.7.8 Username and Password\r\n535 5.7.8 not accepted\r\n",
)


@pytest.mark.parametrize("auth", ["xoauth2", None])
def test_token_is_kept_for_further_connections(tmp_path: Path, auth: str | None) -> None:
    lines = log_in(TAKES_TOKEN, connections=3, auth=auth, token_command=numbered_tokens(tmp_path))
    assert lines == ["XOAUTH2 " + xoauth2("ya29.token-1")] * 3
    assert runs(tmp_path) == 1


def test_long_token_is_sent_when_the_server_asks_for_it(tmp_path: Path) -> None:
    script = [*offering("XOAUTH2"), read_line, b"334 \r\n", read_line, ACCEPTED, *END]
    lines = log_in(script, auth="xoauth2", token_command=command(tmp_path, "print('x' * 2000)"))
    assert lines == ["XOAUTH2", xoauth2("x" * 2000)]


def test_kept_token_that_is_refused_is_replaced_once(tmp_path: Path) -> None:
    expired = [*offering("XOAUTH2"), *REFUSES_TOKEN, read_line, ACCEPTED, *END]
    lines = log_in(TAKES_TOKEN, expired, connections=2, auth="xoauth2", token_command=numbered_tokens(tmp_path))
    assert lines == [
        *["XOAUTH2 " + xoauth2("ya29.token-1")] * 2,
        "",  # the empty line that ends the exchange
        "XOAUTH2 " + xoauth2("ya29.token-2"),
    ]
    assert runs(tmp_path) == 2


def test_new_token_that_is_refused_is_an_error_with_the_reason(tmp_path: Path) -> None:
    lines, error = refusal(
        [*offering("XOAUTH2", "PLAIN"), *REFUSES_TOKEN, hang],
        auth="xoauth2",
        password=PASSWORD,
        token_command=numbered_tokens(tmp_path),
    )
    assert (type(error), runs(tmp_path)) == (RelayRefused, 1)
    assert lines == ["XOAUTH2 " + xoauth2("ya29.token-1"), ""]
    assert error.message.endswith(
        "refused the login: 535-5.7.8 Username and Password 535 5.7.8 not accepted "
        "(status: 401, schemes: bearer, scope: https://mail.example.org/)"
    )
    assert "smtp.token_command" in (error.hint or "")


def test_same_token_is_not_sent_again_after_a_refusal(tmp_path: Path) -> None:
    refusing = [*offering("XOAUTH2"), *REFUSES_TOKEN, hang]
    same = command(tmp_path, f"print({TOKEN!r})")
    lines, _ = refusal(TAKES_TOKEN, refusing, connections=2, auth="xoauth2", token_command=same)
    assert (len([line for line in lines if line]), runs(tmp_path)) == (2, 2)


def test_password_is_used_if_tokens_are_not_offered(tmp_path: Path) -> None:
    script = [*offering("PLAIN"), read_line, ACCEPTED, *END]
    lines = log_in(script, password=PASSWORD, token_command=numbered_tokens(tmp_path))
    assert (lines, runs(tmp_path)) == (["PLAIN \0ada\0sesam"], 0)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (["sys.exit('no refresh token\\nsecond line')"], RelayUnavailable, "failed with status 1: no refresh token"),
        (["sys.exit(3)"], RelayUnavailable, "failed with status 3: no error message"),
        ([f"print({TOKEN!r})", f"sys.exit('bad {TOKEN}')"], RelayUnavailable, "failed with status 1: bad ..."),
        (["os.kill(os.getpid(), 9)"], RelayUnavailable, "was stopped by signal 9: no error message"),
        (["sys.exit('x' * 100_000)"], RelayUnavailable, "failed with status 1: no error message"),
        (["pass"], RelayRefused, "printed no token"),
        (["print()", f"print({TOKEN!r})"], RelayRefused, "printed no token"),
        (["print('<html lang=\"en\">')"], RelayRefused, "printed no token"),
        (["print('x' * 100_000)"], RelayRefused, "printed no token"),
        (["print('токен')"], RelayRefused, "printed no token"),
    ],
)
def test_token_command_that_fails(tmp_path: Path, lines: list[str], error: type[RelayError], message: str) -> None:
    _, raised = refusal([*offering("XOAUTH2"), hang], auth="xoauth2", token_command=command(tmp_path, *lines))
    assert type(raised) is error
    assert raised.message == f"smtp.token_command {message}"
    assert raised.hint


def test_token_command_that_cannot_be_run(tmp_path: Path) -> None:
    for program in ("/nonexistent/token", str(tmp_path), "no-such-program-here"):
        _, error = refusal([*offering("XOAUTH2"), hang], auth="xoauth2", token_command=program)
        assert error.message.startswith(f"cannot run smtp.token_command: {program}: ")
        assert isinstance(error, RelayRefused)


def test_token_command_that_does_not_end_is_stopped_with_its_children(tmp_path: Path) -> None:
    child = tmp_path / "child"
    hanging = command(
        tmp_path,
        "import subprocess, time",
        "child = subprocess.Popen(['sleep', '60'])",
        f"open({str(child)!r}, 'w').write(str(child.pid))",
        "time.sleep(60)",
    )
    _, error = refusal([*offering("XOAUTH2"), hang], auth="xoauth2", token_command=hanging, timeout="1s")
    assert (type(error), error.message) == (RelayUnavailable, "smtp.token_command did not end within 1 s")
    assert _is_gone(int(child.read_text()))


def _is_gone(pid: int) -> bool:
    """Return whether a process has ended, also if nobody has waited for it yet."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True


def test_token_command_gets_no_secret_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SKYCHIMP_PASSWORD", "SKYCHIMP_TOKEN", "SKYCHIMP_SMTP__PASSWORD", "SKYCHIMP_STORE"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OTHER", "kept")
    seen = tmp_path / "seen"
    printing = command(tmp_path, f"open({str(seen)!r}, 'w').write(repr(dict(os.environ)))", f"print({TOKEN!r})")
    log_in(TAKES_TOKEN, auth="xoauth2", token_command=printing)
    assert "kept" in seen.read_text()
    assert "SKYCHIMP" not in seen.read_text()
    assert os.environ["SKYCHIMP_TOKEN"] == "secret"


def test_command_runs_once_for_connections_that_are_opened_together(tmp_path: Path) -> None:
    async def connect(port: int) -> None:
        values = {"host": "127.0.0.1", "port": port, "security": "none", "username": "ada", "auth": "xoauth2"}
        settings = SmtpSettings.model_validate(values | {"token_command": numbered_tokens(tmp_path)})
        transport = SmtpTransport(settings)
        for connection in await asyncio.gather(*(transport.connect() for _ in range(4))):
            await connection.close()

    with ScriptedServer(TAKES_TOKEN) as server:
        LOOPS["chosen"](connect(server.port))
    assert runs(tmp_path) == 1


@pytest.mark.parametrize("settings", [{"password": PASSWORD}, {"auth": "xoauth2", "token_command": "true"}])
def test_nothing_secret_is_sent_without_tls(monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> None:
    monkeypatch.setattr(SmtpConnection, "is_loopback", False)  # as if the server were on another machine
    lines, error = refusal([*offering("PLAIN", "XOAUTH2"), hang], **settings)
    assert (error.message, lines) == ("refusing to log in without TLS", [])
    assert 'smtp.security to "starttls" or "tls"' in (error.hint or "")

"""Test the lines that log in, and what servers' refusals of a login mean."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.transport import smtp_auth
from skychimp.transport.interfaces import Reply
from skychimp.transport.smtp_protocol import ReplyParser

TOKEN = "ya29.a0AfB_byC" * 90
"""A token of a usual length."""


def reply_of(text: str) -> Reply:
    (reply,) = ReplyParser().feed(text.replace("\n", "\r\n").encode() + b"\r\n")
    return reply


@pytest.mark.parametrize(
    ("mechanism", "secret", "lines"),
    [
        ("PLAIN", "sesam", [b"AUTH PLAIN AGFkYQBzZXNhbQ=="]),
        ("PLAIN", "ключ", [b"AUTH PLAIN AGFkYQDQutC70Y7Rhw=="]),
        ("LOGIN", "sesam", [b"AUTH LOGIN", b"YWRh", b"c2VzYW0="]),
        ("XOAUTH2", "tok", [b"AUTH XOAUTH2 dXNlcj1hZGEBYXV0aD1CZWFyZXIgdG9rAQE="]),
    ],
)
def test_lines_that_log_in(mechanism: str, secret: str, lines: list[bytes]) -> None:
    assert smtp_auth.login_lines(mechanism, "ada", secret) == lines


@given(st.sampled_from(["PLAIN", "LOGIN", "XOAUTH2"]), st.text(max_size=400), st.text(max_size=400))
def test_long_secret_follows_on_a_line_of_its_own(mechanism: str, username: str, secret: str) -> None:
    lines = smtp_auth.login_lines(mechanism, username, secret)
    assert len(lines[0]) + 2 <= 512
    assert lines[0].startswith(f"AUTH {mechanism}".encode())
    sent = "".join(base64.b64decode(part).decode() for part in smtp_auth.secrets_in(lines))
    assert username in sent
    assert secret in sent


def test_token_is_sent_after_the_server_asks_for_it() -> None:
    first, second = smtp_auth.login_lines("XOAUTH2", "ada@example.org", TOKEN)
    assert first == b"AUTH XOAUTH2"
    assert base64.b64decode(second) == f"user=ada@example.org\1auth=Bearer {TOKEN}\1\1".encode()


@pytest.mark.parametrize(
    "text",
    [
        "504 5.7.4 Unrecognized authentication type",
        "504 5.5.4 AUTH mechanism not supported",
        "504 PLAIN authentication mechanism not supported",
        "534 5.7.9 Authentication mechanism is too weak",
        "535 5.7.3 unsupported",
        "535 5.7.3 Authentication mechanism unsupported",
        "535 5.7.8 Error: authentication failed: Invalid authentication mechanism",
        "535 5.7.8 Error: authentication failed: no mechanism available",
        "535 5.7.1 Mechanism PLAIN is disabled",
        "535 authentication method not enabled",
        "535 5.7.3 Unrecognised authentication type",
        "535-5.7.8 This mechanism\n535 5.7.8 is not allowed here",
    ],
)
def test_mechanism_is_unsupported(text: str) -> None:
    assert smtp_auth.is_unsupported(reply_of(text))


@pytest.mark.parametrize(
    "text",
    [
        "535 5.7.8 Error: authentication failed: authentication failure",
        "535 5.7.8 Error: authentication failed: UGFzc3dvcmQ6",
        "535-5.7.8 Username and Password not accepted. For more information, go to\n"
        "535 5.7.8  https://support.google.com/mail/?p=BadCredentials gsmtp",
        "535 5.7.3 Authentication unsuccessful [AM0PR01CA0001.eurprd01.prod.exchangelabs.com]",
        "535 5.7.139 Authentication unsuccessful, the user credentials were incorrect.",
        "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant.",
        "535 5.7.139 Authentication unsuccessful, basic authentication is disabled.",
        "535 Incorrect authentication data",
        "535 5.7.0 Invalid login or password",
        "535 Authentication Credentials Invalid",
        "535 Authentication failed: account disabled",
        "535 5.7.8 authentication failed: user unknown",
        "535 5.7.8 Error: authentication failed: Invalid user or password!",
        "534-5.7.9 Application-specific password required. Learn more at\n534 5.7.9 https://support.google.com gsmtp",
        "534-5.7.14 Please log in via your web browser and then try again.\n534 5.7.14  Learn more gsmtp",
        "454 4.7.0 Temporary authentication failure: mechanism not available",
        "530 5.7.0 Must issue a STARTTLS command first",
        "500 5.5.1 unsupported command",
    ],
)
def test_refusal_of_the_user_is_not_about_the_mechanism(text: str) -> None:
    assert not smtp_auth.is_unsupported(reply_of(text))


@pytest.mark.parametrize(
    ("text", "is_wanted"),
    [
        ("530 Must issue a STARTTLS first", True),
        ("530 5.7.0 Must issue a STARTTLS command first", True),
        ("538 5.7.11 Encryption required for requested authentication mechanism", True),
        ("538 Encryption required", True),
        ("530-5.7.0 Please\n530 5.7.0 use TLS", True),
        ("550 5.7.10 Encryption needed", True),
        ("530 5.7.0 Authentication required", False),
        ("550 5.7.1 no STARTTLS, no relaying", False),
        ("530 5.7.1 Client was not authenticated", False),
    ],
)
def test_server_that_wants_encryption(text: str, is_wanted: bool) -> None:
    assert smtp_auth.wants_tls(reply_of(text)) == is_wanted


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (b'{"status":"401","schemes":"bearer mac","scope":"https://mail.google.com/"}',
         "status: 401, schemes: bearer mac, scope: https://mail.google.com/"),
        (b'{"status":400,"more":["x"]}', "status: 400"),
        (b'{"status":"a\\nb"}', "status: a b"),
        (b'["status"]', ""),
        (b"[" * 100_000, ""),
        (b"no JSON", ""),
        (b'{"status":"\xff"}', ""),
    ],
)  # fmt: skip
def test_error_of_a_token_is_readable(error: bytes, shown: str) -> None:
    assert smtp_auth.oauth_error(Reply(334, "", f"334 {base64.b64encode(error).decode()}")) == shown


@pytest.mark.parametrize("text", ["334", "334 ", "334 Go ahead", "334 e", "334 é"])
def test_challenge_without_an_error(text: str) -> None:
    assert smtp_auth.oauth_error(Reply(334, "", text)) == ""

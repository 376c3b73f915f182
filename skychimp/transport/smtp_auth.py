"""SMTP AUTH: the lines of each mechanism, and what a refusal means; pure (RFC 4954, 4616, and Google's XOAUTH2)."""

import base64
import json
import re

from skychimp.transport.interfaces import Reply

PLAIN, LOGIN, XOAUTH2 = "PLAIN", "LOGIN", "XOAUTH2"

MAX_COMMAND_BYTES = 512  # with its CRLF; a longer initial response follows on a line of its own (RFC 4954, section 4)

MAX_ERROR_LENGTH = 300

_MECHANISM = re.compile(r"mechanism|auth\w* (?:method|type|scheme)", re.IGNORECASE)
_NOT_AVAILABLE = re.compile(
    r"not (?:supported|recogni[sz]ed|available|allowed|enabled|implemented|permitted)"
    r"|no mechanism|unsupported|unrecogni[sz]ed|unavailable|unknown|invalid|disabled|too weak",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(r"unsupported|not supported", re.IGNORECASE)
_ACCOUNT = re.compile(r"password|browser|account", re.IGNORECASE)
_BASIC_DISABLED = re.compile(r"basic auth\w* is (?:disabled|not)", re.IGNORECASE)


def login_lines(mechanism: str, username: str, secret: str) -> list[bytes]:
    """Return the lines that log in by a mechanism, each but the first after a 334.

    `secret` is the password, or the OAuth 2 token for XOAUTH2.
    """
    start = f"AUTH {mechanism}".encode()
    if mechanism == LOGIN:
        return [start, _encode(username), _encode(secret)]
    if mechanism == PLAIN:
        response = _encode(f"\0{username}\0{secret}")
    else:
        response = _encode(f"user={username}\1auth=Bearer {secret}\1\1")
    command = start + b" " + response
    return [command] if len(command) + 2 <= MAX_COMMAND_BYTES else [start, response]


def secrets_in(lines: list[bytes]) -> list[str]:
    """Return the encoded parts of the lines that log in."""
    responses = (re.sub(rb"^AUTH \w+ ?", b"", line).decode() for line in lines)
    return [response for response in responses if response]


def is_unsupported(reply: Reply) -> bool:
    """Return whether a refusal of AUTH is about the mechanism, so that another one may work.

    Any other refusal is about the user or the password, and the same login must not be tried again: servers count wrong
    logins.
    """
    if reply.code == 504:
        return True
    if reply.code == 534:  # Gmail also asks for another password with this code
        return not _ACCOUNT.search(reply.text)
    is_mechanism_named = _MECHANISM.search(reply.text) and _NOT_AVAILABLE.search(reply.text)
    return reply.code == 535 and bool(is_mechanism_named or _UNSUPPORTED.search(reply.text))


def wants_oauth(reply: Reply) -> bool:
    """Return whether a server refused a password because it takes only OAuth 2."""
    return _BASIC_DISABLED.search(reply.text) is not None


def wants_tls(reply: Reply) -> bool:
    """Return whether a server refused a command because the connection is not encrypted (RFC 3207, section 4)."""
    has_code = reply.code == 538 or reply.enhanced in ("5.7.10", "5.7.11")
    return has_code or (reply.code == 530 and re.search(r"\b(?:START)?TLS\b", reply.text, re.IGNORECASE) is not None)


def oauth_error(challenge: Reply) -> str:
    """Return the error in a 334 that refuses a token, such as "status: 400", or "" if there is none."""
    try:
        error = json.loads(base64.b64decode(challenge.text[4:], validate=True))
    except (ValueError, RecursionError):
        return ""
    if not isinstance(error, dict):
        return ""
    text = ", ".join(f"{name}: {value}" for name, value in error.items() if isinstance(value, str | int))
    return " ".join(text.split())[:MAX_ERROR_LENGTH]


def _encode(text: str) -> bytes:
    return base64.b64encode(text.encode())

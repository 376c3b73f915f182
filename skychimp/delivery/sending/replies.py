"""Group servers' replies, find queue IDs in them, and explain what they mean; pure."""

import re
from typing import NamedTuple

from skychimp.models import Outcome

MAX_PATTERN_LENGTH = 240
PLACEHOLDER = "…"

_CODES = re.compile(r"^[2-5][0-9][0-9][ -]?(?:[245]\.[0-9]{1,3}\.[0-9]{1,3}(?: |$))?", re.MULTILINE)
_ERROR_NUMBER = r"[\[(][A-Z]{1,4}[0-9]{1,5}[\])]"  # such as (S3140), which is the same for every email
_VARYING = re.compile(rf"(?:(?<!\S)(?!{_ERROR_NUMBER})(?:[^\s@0-9]*[@0-9]\S*|[A-F]{{8,}}(?!\S))(?:\s+|$))+")
_SEPARATORS = re.compile(r"([^\w.+-]+)")
_COMMON_LOCAL_PARTS = {
    "account", "address", "client", "domain", "info", "mail", "mailbox", "message", "name", "office", "postmaster",
    "recipient", "relay", "sales", "sender", "server", "service", "spam", "support", "user",
}  # fmt: skip
"""Local parts that are also ordinary words in replies, and so are not replaced."""


def pattern(reply: str, address: str = "") -> str:
    """Return a reply without its codes, and with `…` for what differs between emails: addresses, IDs and numbers.

    `address` is the recipient's. Its local part and domain are also replaced where a server names them alone.
    """
    text = _CODES.sub("", reply) if "\n" in reply else reply
    if address:
        text = _replace_address_parts(text, address)
    text = _VARYING.sub("… ", text).removeprefix("… ")
    return " ".join(text[:MAX_PATTERN_LENGTH].split())


def _replace_address_parts(text: str, address: str) -> str:
    local_part, _, domain = address.rpartition("@")
    text = text.replace(domain, PLACEHOLDER)
    if len(local_part) < 3 or local_part in _COMMON_LOCAL_PARTS or local_part not in text.lower():
        return text
    return "".join(PLACEHOLDER if part.lower() == local_part else part for part in _SEPARATORS.split(text))


_QUEUE_IDS = tuple(
    re.compile(rf"{form}(?![^\s>,;)\]])", re.IGNORECASE)
    for form in (
        r"\[InternalId=(?P<id>[0-9]++)",  # Exchange
        r"\bqueued(?: for delivery)? as[: ]++<?(?P<id>[\w.-]{4,}+)",  # Postfix
        r"\bqueued \((?P<id>[\w.-]{4,}+)",  # Haraka
        r"\bid[=:] ?<?(?P<id>[\w.-]{6,}+)",  # Exim
        r"\bOK +[0-9]{10} (?P<id>[\w.-]++)(?= - gsmtp)",  # Gmail
        r"\bok [0-9]{10} (?P<id>qp [0-9]++)",  # qmail
        r"(?<![\w.-])(?P<id>[\w.-]{8,}+) Message accepted for delivery",  # Sendmail, OpenSMTPD
        r"^250 Ok (?P<id>[0-9a-f]{12}[0-9a-f-]++)",  # Amazon SES
        r"\boutbox as new/(?P<id>\S++)",
    )
)
"""The forms in which servers name a queue ID. The possessive `++` keeps the search linear in a reply of 64 kB."""
_INVALID_REPLY = ("invalid reply", "not a reply")  # the second in attempts that an earlier version recorded


def queue_id(reply: str) -> str:
    """Return the ID of the email in the server's own log, or "" if the reply has none."""
    if not reply.startswith("2") and not any(text in reply for text in _INVALID_REPLY):
        return ""
    matches = filter(None, (form.search(reply) for form in _QUEUE_IDS))
    return next((match["id"] for match in matches), "")


class Explanation(NamedTuple):
    """What a reply means, and what a person can do about it ("" if nothing needs to be done)."""

    meaning: str
    remedy: str = ""


_ASK_CLIENT = 'ask the client for another address, then run "skychimp clients update"'
_MARKED_BAD = f"the client is marked as bad and gets no more email; {_ASK_CLIENT}"
_CLIENT_REMEDIES = (_ASK_CLIENT, _MARKED_BAD)
_WAIT = "nothing to do: the email is retried automatically"
_SENDER = 'check mail.sender and its domain: run "skychimp doctor"'
_REPUTATION = 'check that your server is not on a block list and that SPF, DKIM and DMARC pass: run "skychimp doctor"'
_SHORTER = "make the email smaller"
_LOGIN = 'check smtp.username and smtp.password: run "skychimp doctor"'
_ASK_RELAY = "ask the administrator of your mail server"
_SLOWER = "send more slowly: set smtp.rate"
_USE_TLS = 'set smtp.security to "starttls" or "tls"'
_PREVIEW = 'check the email: run "skychimp messages preview"'
_DKIM = 'set up DKIM signing on your mail server: run "skychimp doctor"'
_READ_REPLY = "read the server's reply"

_BY_DETAIL = {
    "1.0": Explanation("there is a problem with the address", _ASK_CLIENT),
    "1.1": Explanation("the mailbox does not exist", _MARKED_BAD),
    "1.2": Explanation("the domain does not exist or does not accept email", _MARKED_BAD),
    "1.3": Explanation("the address is invalid", _MARKED_BAD),
    "1.4": Explanation("the address matches more than one mailbox", _ASK_CLIENT),
    "1.6": Explanation("the mailbox has moved to an unknown address", _MARKED_BAD),
    "1.7": Explanation("the sender's address is invalid", _SENDER),
    "1.8": Explanation("the sender's domain cannot receive email", _SENDER),
    "1.10": Explanation("the domain does not accept email", _ASK_CLIENT),
    "2.0": Explanation("there is a problem with the mailbox", _ASK_CLIENT),
    "2.1": Explanation("the mailbox is disabled", _MARKED_BAD),
    "2.2": Explanation("the mailbox is full", _ASK_CLIENT),
    "2.3": Explanation("the email is too large for this mailbox", _SHORTER),
    "2.4": Explanation("the receiving system cannot expand a mailing list", "contact the owner of the mailing list"),
    "3.0": Explanation("the receiving system has a problem", _WAIT),
    "3.1": Explanation("the receiving system's disk is full", _WAIT),
    "3.2": Explanation("the receiving system does not accept email at the moment", _WAIT),
    "3.3": Explanation("the receiving system lacks a feature that the email needs", _ASK_RELAY),
    "3.4": Explanation("the email is too large for the receiving system", _SHORTER),
    "3.5": Explanation("the receiving system is misconfigured", _ASK_RELAY),
    "4.0": Explanation("there is a network problem on the way to the client's mail server", _WAIT),
    "4.1": Explanation("the client's mail server does not respond", _WAIT),
    "4.2": Explanation("the connection to the client's mail server was lost", _WAIT),
    "4.3": Explanation("a directory or DNS server failed", _WAIT),
    "4.4": Explanation("your mail server found no route to the client's domain", f"check the address; {_ASK_RELAY}"),
    "4.5": Explanation("the receiving system is overloaded", _SLOWER),
    "4.6": Explanation("the email is in a forwarding loop", "contact the administrator of the client's mail server"),
    "4.7": Explanation("the email could not be delivered in time", _WAIT),
    "5.0": Explanation("SMTP protocol error between the two servers", _ASK_RELAY),
    "5.1": Explanation("the server did not expect that command", _ASK_RELAY),
    "5.2": Explanation("the server did not understand that command", _ASK_RELAY),
    "5.3": Explanation("too many recipients at once", "send more slowly: set smtp.rate or smtp.connections"),
    "5.4": Explanation("the server does not know that parameter", _ASK_RELAY),
    "5.5": Explanation("the two servers use different protocol versions", _ASK_RELAY),
    "6.0": Explanation("the email's content was refused", _PREVIEW),
    "6.1": Explanation("the email's content type was refused", _PREVIEW),
    "6.3": Explanation("the email needs a conversion that is not possible", _ASK_RELAY),
    "6.7": Explanation("the receiving system accepts only ASCII addresses", "ask the client for an ASCII address"),
    "6.9": Explanation("the receiving system accepts only ASCII headers", _ASK_RELAY),
    "7.0": Explanation("refused by the receiving system's policy", _REPUTATION),
    "7.1": Explanation("refused by policy: spam, a block list, or a restricted recipient", _REPUTATION),
    "7.2": Explanation("this sender may not write to that mailing list", "ask the owner of the mailing list"),
    "7.4": Explanation("a required security feature is missing", _ASK_RELAY),
    "7.5": Explanation("the encryption failed", _ASK_RELAY),
    "7.7": Explanation("the email was changed in transit", _ASK_RELAY),
    "7.8": Explanation("the username or password is wrong", _LOGIN),
    "7.9": Explanation("the login mechanism is too weak for that server", _LOGIN),
    "7.10": Explanation("the server requires encryption", _USE_TLS),
    "7.11": Explanation("the server requires encryption before login", _USE_TLS),
    "7.13": Explanation("your account on the mail server is disabled", _ASK_RELAY),
    "7.14": Explanation("the servers do not trust each other", _ASK_RELAY),
    "7.17": Explanation("the mailbox has a new owner", _ASK_CLIENT),
    "7.18": Explanation("the domain has a new owner", _ASK_CLIENT),
    "7.20": Explanation("no DKIM signature is valid", _DKIM),
    "7.21": Explanation("no acceptable DKIM signature is valid", _DKIM),
    "7.22": Explanation(
        "no valid DKIM signature is from the sender's domain",
        'sign with the domain of mail.sender: run "skychimp doctor"',
    ),
    "7.23": Explanation(
        "SPF does not allow your server", 'add your mail server to the SPF record of the domain: run "skychimp doctor"'
    ),
    "7.24": Explanation("the SPF record is invalid", 'fix the SPF record of the domain: run "skychimp doctor"'),
    "7.25": Explanation("the mail server's IP address has no matching host name (reverse DNS)", _ASK_RELAY),
    "7.26": Explanation("SPF, DKIM and DMARC all failed", _REPUTATION),
    "7.27": Explanation("the sender's domain says that it does not accept email", _SENDER),
    "7.28": Explanation("too much email at once", _SLOWER),
    "7.29": Explanation("an ARC signature is invalid", _ASK_RELAY),
    "7.30": Explanation("the email requires TLS on the whole route, which is not available", _ASK_RELAY),
}
"""By subject and detail of the enhanced code (RFC 3463 and the registry of RFC 5248). Codes of success are left out."""

_BY_CODE = {
    421: Explanation(
        "the server closed the connection, because it is overloaded or shutting down",
        "send more slowly: set smtp.connections",
    ),
    450: Explanation("the mailbox is unavailable at the moment, or the server uses greylisting", _WAIT),
    451: Explanation("the server has a temporary problem, or uses greylisting", _WAIT),
    452: Explanation("the server has no storage left", _WAIT),
    454: Explanation("encryption or login is not possible at the moment", _WAIT),
    455: Explanation("the server cannot apply a parameter at the moment", _WAIT),
    500: Explanation("the server did not understand that command", _ASK_RELAY),
    501: Explanation("the server did not understand that address or parameter", _ASK_RELAY),
    502: Explanation("the server does not know that command", _ASK_RELAY),
    503: Explanation("the server did not expect that command", _ASK_RELAY),
    504: Explanation("the server does not know that parameter", _ASK_RELAY),
    521: Explanation("the host does not accept email", _ASK_CLIENT),
    530: Explanation("the server requires a login", _LOGIN),
    534: Explanation("the login mechanism is too weak for that server", _LOGIN),
    535: Explanation("the username or password is wrong", _LOGIN),
    550: Explanation("the mailbox does not exist, or a policy refused the email", _READ_REPLY),
    551: Explanation("the mailbox is on another server", _ASK_CLIENT),
    552: Explanation("the email is too large, or the mailbox is full", _SHORTER),
    553: Explanation("the server does not accept the form of an address", _ASK_CLIENT),
    554: Explanation("the email was refused, often as spam", _REPUTATION),
    555: Explanation("the server does not know that parameter", _ASK_RELAY),
    556: Explanation("the domain does not accept email", _ASK_CLIENT),
}
"""By the reply code alone (RFC 5321, section 4.2; RFC 7504)."""

_ACCEPTED = Explanation("accepted for delivery by the mail server")
_UNKNOWN = Explanation(
    "the whole email was sent, but no valid reply came, so it may or may not have arrived",
    'it is sent again later, unless you run "skychimp resolve" first',
)
_NO_REPLY = Explanation("no valid reply came, and nothing was delivered", _WAIT)
_NOT_COMPOSED = Explanation("the email could not be composed", 'fix the message: run "skychimp messages preview"')


def explain(outcome: str, phase: str, code: int, enhanced: str) -> Explanation:
    """Return what the reply to an attempt means. `code` is 0 if there was no reply.

    The detail of the enhanced code decides, or the code if there is no useful detail.
    """
    if outcome == Outcome.SENT:
        return _ACCEPTED
    if outcome == Outcome.UNKNOWN:
        return _UNKNOWN
    if not code:
        return _NOT_COMPOSED if outcome == Outcome.FAILED else _NO_REPLY
    is_final = outcome == Outcome.FAILED
    detail = enhanced.partition(".")[2]
    by_code = _BY_CODE.get(code) or Explanation("refused" if is_final else "refused for now", _READ_REPLY)
    is_vague = detail == "0.0" or (not is_final and detail.endswith(".0"))
    meaning, remedy = by_code if is_vague else _BY_DETAIL.get(detail, by_code)
    return Explanation(meaning, _adapt_remedy(remedy, phase, is_final=is_final))


def _adapt_remedy(remedy: str, phase: str, *, is_final: bool) -> str:
    """Return a remedy that fits: no action on a client while the email is retried, and no waiting after a failure."""
    if not is_final and remedy in _CLIENT_REMEDIES:
        return _WAIT
    if is_final and remedy == _WAIT:
        return _ASK_RELAY
    if phase == "mail" and remedy in _CLIENT_REMEDIES:
        return _SENDER
    return remedy

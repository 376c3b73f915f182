"""Group servers' replies, and find queue IDs in them; pure."""

import re

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

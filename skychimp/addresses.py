"""Validate, normalize and compare email addresses; pure.

Two addresses are the same if their domains are the same in lower-case ASCII (IDNA), and their local parts apart from
upper and lower case. RFC 5321, section 2.4 lets a server distinguish `Ada@` from `ada@`. In practice none does, and a
person must not get the same email twice.
"""

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from skychimp.errors import InvalidValue
from skychimp.text import shortened

MAX_LENGTH = 254
"""Characters of an address (RFC 3696, erratum 1690)."""

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN_LOCAL_PART = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_DOMAIN = re.compile(rf"(?!.*--){_LABEL}(\.{_LABEL})*")
_MAX_PLAIN_DOMAIN_LENGTH = 200
_MAX_INPUT_LENGTH = 1_000  # of what is given to the library, which can take seconds for a longer text
_SENDER = re.compile(r'("(?P<quoted>(?:[^"\\]|\\.)*)"\s*|(?P<name>(?:[^"<>][^<>]*)?))<(?P<address>[^<>]*)>')
_FORBIDDEN_IN_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class Address(NamedTuple):
    """An email address as it is shown and sent, and the key by which it is compared."""

    email: str
    key: str


def parse(text: str) -> Address:
    """Return the address that a text contains.

    Special-use domains, and a domain without a dot, are allowed: people also send inside their own networks. Quoted
    local parts and address literals are not. Raises InvalidValue with the reason.
    """
    local, at, domain = text.rpartition("@")
    if at and len(text) <= MAX_LENGTH and _PLAIN_LOCAL_PART.fullmatch(local):
        with suppress(InvalidValue):  # raised again below, with the whole address in the message
            # A plain local part needs no more checks, so the library's 140 us are spent once per domain.
            shown_domain, ascii_domain = _normalized_domain(domain)
            if len(local) + len(ascii_domain) < MAX_LENGTH:
                return Address(f"{local}@{shown_domain}", f"{local.lower()}@{ascii_domain}")
    email, ascii_domain = _validated(text)
    local = unicodedata.normalize("NFC", email.rpartition("@")[0].lower())
    return Address(email, f"{local}@{ascii_domain}")


def parse_sender(text: str) -> tuple[str, str]:
    """Return the name (or "") and the address of `Name <address>` or of an address alone.

    A name in quotes may contain angle brackets. Commas and full stops need no quotes. Raises InvalidValue.
    """
    if _FORBIDDEN_IN_NAME.search(text):
        raise InvalidValue(f"the sender {shortened(text, MAX_LENGTH)} contains a control character or a line break")
    if "<" not in text:
        return "", parse(text.strip()).email
    match = _SENDER.fullmatch(text.strip())
    if match is None:
        raise InvalidValue(f"invalid sender {shortened(text, MAX_LENGTH)}", "use Name <address>")
    name = re.sub(r"\\(.)", r"\1", match["quoted"]) if match["quoted"] is not None else match["name"]
    return name.strip(), parse(match["address"].strip()).email


def with_ascii_domain(address: str) -> str:
    """Return an address with its domain in ASCII (IDNA), for servers without SMTPUTF8. Raises InvalidValue."""
    local, _, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}@{_normalized_domain(domain)[1]}"


@lru_cache(maxsize=65536)
def _normalized_domain(domain: str) -> tuple[str, str]:
    """Return a domain as it is shown, and in ASCII."""
    plain = domain.lower()
    if domain.isascii() and len(plain) <= _MAX_PLAIN_DOMAIN_LENGTH and _PLAIN_DOMAIN.fullmatch(plain):
        return plain, plain  # the library's result too, but without the time to import it
    email, ascii_domain = _validated(f"x@{domain}")
    return email.rpartition("@")[2], ascii_domain


def _validated(text: str) -> tuple[str, str]:
    """Return an address as it is shown, and its domain in lower-case ASCII. Raises InvalidValue."""
    if len(text) > _MAX_INPUT_LENGTH:
        raise InvalidValue(
            f"invalid email address {shortened(text, MAX_LENGTH)}: it is longer than {MAX_LENGTH} characters"
        )
    import email_validator

    email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()
    try:
        valid = email_validator.validate_email(text, check_deliverability=False, globally_deliverable=False)
    except email_validator.EmailNotValidError as error:
        reason = str(error).rstrip(".")
        raise InvalidValue(f"invalid email address {shortened(text, MAX_LENGTH)}: {reason}") from None
    return valid.normalized, str(valid.ascii_domain).lower()

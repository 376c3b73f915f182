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
from skychimp.translation import Phrase, tr, verbatim

MAX_LENGTH = 254
"""Characters of an address (RFC 3696, erratum 1690)."""

_ATOM_CHARACTERS = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_ATOM = f"[{_ATOM_CHARACTERS}]+"
_PLAIN_LOCAL_PART = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_UNUSUAL_LOCAL_PART = re.compile(rf'(?P<quote>"?)(?P<name>[.{_ATOM_CHARACTERS}]*)(?P=quote)')
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


class Rules(NamedTuple):
    """Which addresses are accepted besides the usual ones.

    `accept_unusual` takes local parts with a dot at an end or two dots in a row, and such ones in quotes. RFC 5321
    allows them only in quotes, but Japanese providers gave them out without. `allow_local` takes domains without a dot.
    """

    accept_unusual: bool = False
    allow_local: bool = False


USUAL = Rules()
LOCAL = Rules(allow_local=True)
"""For the operator's own addresses, and those of accounts."""
STORED = Rules(accept_unusual=True, allow_local=True)
"""For addresses that may have been stored under any rules."""


def parse(text: str, rules: Rules = USUAL) -> Address:
    """Return the address that a text contains.

    Special-use domains such as `localhost` and `printer.local` are allowed, address literals are not. Raises
    InvalidValue with the reason.
    """
    address = _parse_unusual(text) if rules.accept_unusual else None
    address = address or _parse_usual(text)
    domain = address.key.rpartition("@")[2]
    if not (rules.allow_local or "." in domain or domain == "localhost"):
        raise InvalidValue(
            tr("invalid email address {value}: the domain has no dot", value=shortened(text, MAX_LENGTH)),
            tr("set mail.allow_local = true to accept addresses in your own network"),
        )
    return address


def is_unusual(text: str) -> bool:
    """Return whether an address is valid only with `accept_unusual`."""
    return _parse_unusual(text) is not None


def in_protocol(address: str) -> str:
    """Return an address as SMTP and headers need it: with an unusual local part in quotes.

    A local part may have dots at its ends or in a row only as a quoted string (RFC 5321, section 4.1.2).
    """
    if address[:1] in ('"', ".") or ".." in address or ".@" in address:
        local, _, domain = address.rpartition("@")
        match = _UNUSUAL_LOCAL_PART.fullmatch(local)
        return f'"{match["name"]}"@{domain}' if match else address
    return address


def parse_sender(text: str) -> tuple[str, str]:
    """Return the name (or "") and the address of `Name <address>` or of an address alone.

    A name in quotes may contain angle brackets. Commas and full stops need no quotes. Raises InvalidValue.
    """
    if _FORBIDDEN_IN_NAME.search(text):
        raise InvalidValue(
            tr("the sender {value} contains a control character or a line break", value=shortened(text, MAX_LENGTH))
        )
    if "<" not in text:
        return "", parse(text.strip(), LOCAL).email
    match = _SENDER.fullmatch(text.strip())
    if match is None:
        raise InvalidValue(tr("invalid sender {value}", value=shortened(text, MAX_LENGTH)), tr("use Name <address>"))
    name = re.sub(r"\\(.)", r"\1", match["quoted"]) if match["quoted"] is not None else match["name"]
    return name.strip(), parse(match["address"].strip(), LOCAL).email


def with_ascii_domain(address: str) -> str:
    """Return an address with its domain in ASCII (IDNA), for servers without SMTPUTF8. Raises InvalidValue."""
    local, _, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}@{_normalized_domain(domain)[1]}"


def _parse_usual(text: str) -> Address:
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


def _parse_unusual(text: str) -> Address | None:
    """Return the address if its local part is an unusual one and its domain is valid, else None."""
    local, _, domain = text.rpartition("@")
    match = _UNUSUAL_LOCAL_PART.fullmatch(local) if len(text) <= MAX_LENGTH else None
    if match is None or not match["name"].strip(".") or _PLAIN_LOCAL_PART.fullmatch(local):
        return None
    try:
        shown_domain, ascii_domain = _normalized_domain(domain)
    except InvalidValue:
        return None
    if len(f'"{match["name"]}"@{ascii_domain}') > MAX_LENGTH:
        return None
    # Quotes are not part of the name, so both ways to write it have the same key.
    return Address(f"{local}@{shown_domain}", f"{match['name'].lower()}@{ascii_domain}")


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
            tr(
                "invalid email address {value}: it is longer than {most} characters",
                value=shortened(text, MAX_LENGTH),
                most=MAX_LENGTH,
            )
        )
    import email_validator

    email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()
    try:
        valid = email_validator.validate_email(text, check_deliverability=False, globally_deliverable=False)
    except email_validator.EmailNotValidError as error:
        raise InvalidValue(
            tr("invalid email address {value}: {reason}", value=shortened(text, MAX_LENGTH), reason=_reason(error))
        ) from None
    return valid.normalized, str(valid.ascii_domain).lower()


def _reason(error: ValueError) -> Phrase:
    """Return what the library says of an invalid address. What it says often can be translated."""
    known = (
        tr("An email address must have an @-sign"),
        tr("There must be something before the @-sign"),
        tr("There must be something after the @-sign"),
        tr("An email address cannot have two periods in a row"),
        tr("An email address cannot start with a period"),
        tr("An email address cannot end with a period"),
        tr("An email address cannot have a period immediately before the @-sign"),
        tr("An email address cannot have a period immediately after the @-sign"),
        tr("An email address cannot have a hyphen immediately after the @-sign"),
        tr("The email address contains invalid characters before the @-sign"),
        tr("The part after the @-sign contains invalid characters"),
        tr("A display name and angle brackets around the email address are not permitted here"),
    )
    problem, separator, characters = str(error).rstrip(".").partition(": ")
    reason = next((each for each in known if each == problem), verbatim(problem))
    return tr("{reason}: {characters}", reason=reason, characters=characters) if separator else reason

"""What an address is, how it is written and how two are compared; pure.

Two addresses are the same when their domains are, in lower-case ASCII (IDNA), and their local parts are without regard
to case. RFC 5321 lets a server tell `Ada@` from `ada@`; in practice none does, and one person must not get two letters.
"""

import re
import unicodedata
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from skychimp.errors import InvalidValue

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PLAIN_LOCAL_PART = re.compile(rf"{_ATOM}(\.{_ATOM})*")
_SENDER = re.compile(r'\s*("(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<name>(?:[^"<>][^<>]*)?))\s*<(?P<address>[^<>]*)>\s*')
_NOT_IN_A_NAME = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN_DOMAIN = re.compile(rf"(?!.*--){_LABEL}(\.{_LABEL})*")
LONGEST_PLAIN_DOMAIN = 200  # the library decides about longer ones
LONGEST = 254  # RFC 3696, erratum 1690


class Address(NamedTuple):
    """An address as it is shown and sent, and the key by which it is compared."""

    email: str
    key: str


def parse(text: str) -> Address:
    """The address that a text is. Raises InvalidValue with the reason.

    Special-use domains, and a domain without a dot, are fine: people write inside their own networks, too. Quoted local
    parts and address literals are not.
    """
    local, at, domain = text.rpartition("@")
    if at and len(text) <= LONGEST and _PLAIN_LOCAL_PART.fullmatch(local):
        with suppress(InvalidValue):  # it is raised again below, with the whole address in its words
            # A plain local part needs no more, and the library's 140 us are paid once a domain.
            shown, in_ascii = _domain(domain)
            if len(local) + len(in_ascii) < LONGEST:
                return Address(f"{local}@{shown}", f"{local.lower()}@{in_ascii}")
    email, in_ascii = _validated(text)
    local = unicodedata.normalize("NFC", email.rpartition("@")[0].lower())
    return Address(email, f"{local}@{in_ascii}")


def parse_sender(text: str) -> tuple[str, str]:
    """The name (or "") and the address of `Name <address>`. Raises InvalidValue.

    A name may stand in quotes, and then hold angle brackets too; it needs none for its commas and full stops.
    """
    if _NOT_IN_A_NAME.search(text):
        raise InvalidValue(f"{text!a} holds control characters or line breaks")
    if "<" not in text:
        return "", parse(text.strip()).email
    written = _SENDER.fullmatch(text)
    if written is None:
        raise InvalidValue(f"{text!r} is not a name and an address", "write: Name <address>")
    name = re.sub(r"\\(.)", r"\1", written["quoted"]) if written["quoted"] is not None else written["name"]
    return name.strip(), parse(written["address"].strip()).email


def with_ascii_domain(address: str) -> str:
    """The address with its domain in ASCII, as a server without SMTPUTF8 takes it. Raises InvalidValue."""
    local, _, domain = address.rpartition("@")
    return address if domain.isascii() else f"{local}@{_domain(domain)[1]}"


@lru_cache(maxsize=65536)
def _domain(domain: str) -> tuple[str, str]:
    plain = domain.lower()
    if domain.isascii() and len(plain) <= LONGEST_PLAIN_DOMAIN and _PLAIN_DOMAIN.fullmatch(plain):
        return plain, plain  # as the library says, too, but without the time that it takes to import
    email, ascii_form = _validated(f"x@{domain}")
    return email.rpartition("@")[2], ascii_form


def _validated(text: str) -> tuple[str, str]:
    import email_validator

    email_validator.SPECIAL_USE_DOMAIN_NAMES.clear()
    try:
        valid = email_validator.validate_email(text, check_deliverability=False, globally_deliverable=False)
    except email_validator.EmailNotValidError as error:
        raise InvalidValue(f"{text!a} is not an e-mail address: {str(error).rstrip('.')}") from None
    return valid.normalized, str(valid.ascii_domain).lower()

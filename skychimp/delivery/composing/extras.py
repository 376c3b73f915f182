"""Say what an occurrence's emails have besides the message: headers, links and the postal address; pure.

They come from the settings and from the mailing, and are kept with the occurrence, so that a resend repeats them. Only
the token of a delivery is filled in for each email.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from skychimp import addresses
from skychimp.delivery.composing import mime
from skychimp.text import folded

UNSUBSCRIBE_URL, POSTAL_ADDRESS = "unsubscribe_url", "postal_address"
"""The variables of templates that are filled in from here."""
GAP = "\0"
"""What stands in a link where the token of a delivery belongs."""
SAMPLE = "sample"
"""Stands for a token where there is no delivery. It is not valid."""
_SAMPLE_URL, _SAMPLE_ADDRESS = "https://mail.example.org", "Example Ltd, 1 Main Street, London"
_LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_LABEL_LENGTH = 40


class Extras(NamedTuple):
    """What else is in the emails of an occurrence.

    `headers` are names and values in the order of the email, without those for unsubscribing. `web_url` and
    `inbound_address` are where clients unsubscribe, "" if they can't there. Only if `is_bulk`, the headers have links
    to it. Tokens are made with the key of this number.
    """

    headers: Sequence[tuple[str, str]] = ()
    web_url: str = ""
    inbound_address: str = ""
    postal_address: str = ""
    is_bulk: bool = False
    key: int = 0

    @property
    def unsubscribe_url(self) -> str:
        """Return the link for unsubscribing, with GAP in it: https if possible, else mailto. "" if there is none."""
        return self.web_link or self.mail_link

    @property
    def web_link(self) -> str:
        """Return the link to the web page, with GAP in it, or ""."""
        return f"{self.web_url}/u/{GAP}" if self.web_url else ""

    @property
    def mail_link(self) -> str:
        """Return the link for writing an email (RFC 6068), with GAP in it, or ""."""
        return f"mailto:{self.tagged_address}?subject=unsubscribe" if self.inbound_address else ""

    @property
    def tagged_address(self) -> str:
        """Return the address for bounces and requests, with GAP in it. Its characters have no meaning in a URL."""
        local, _, domain = self.inbound_address.rpartition("@")
        return f"{local}+{GAP}@{domain}"


NO_EXTRAS = Extras()


class _Mail(Protocol):
    @property
    def sender(self) -> str | None: ...
    @property
    def reply_to(self) -> str | None: ...
    @property
    def postal_address(self) -> str | None: ...
    @property
    def headers(self) -> Mapping[str, str] | None: ...


class _Web(Protocol):
    @property
    def url(self) -> str | None: ...


class _Inbound(Protocol):
    @property
    def address(self) -> str | None: ...


class GivenSettings(Protocol):
    """The settings that extras are made of."""

    @property
    def mail(self) -> _Mail: ...
    @property
    def web(self) -> _Web: ...
    @property
    def inbound(self) -> _Inbound: ...


class MailingTraits(Protocol):
    """The columns of a mailing that its headers depend on."""

    @property
    def id(self) -> int: ...
    @property
    def owner_id(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def transactional(self) -> bool: ...


def make(settings: GivenSettings, mailing: MailingTraits, key: int) -> Extras:
    """Return what the settings add to the emails of a mailing. `key` is the number of the newest key for tokens.

    A transactional mailing has no header that says that it is bulk mail, or how to unsubscribe.
    """
    kind = "transactional" if mailing.transactional else "bulk"
    headers = [("Auto-Submitted", "auto-generated")]  # RFC 3834: no vacation notice replies to it
    if not mailing.transactional:
        headers.append(("Precedence", "bulk"))  # for older responders, which know nothing else
        headers.append(("List-Id", f"<{_list_id(mailing, settings.mail.sender or '')}>"))
    headers.append(("Feedback-ID", f"mailing-{mailing.id}:user-{mailing.owner_id}:{kind}:skychimp"))
    extras = _from_settings(settings)
    return extras._replace(headers=(*headers, *extras.headers), is_bulk=not mailing.transactional, key=key)


def make_sample(settings: GivenSettings) -> Extras:
    """Return what an email without a mailing has, for a preview or a test. It has a link of each kind that is set.

    The headers are those of `mail.reply_to` and `mail.headers`, and Auto-Submitted.
    """
    extras = _from_settings(settings)
    extras = extras._replace(headers=(("Auto-Submitted", "auto-generated"), *extras.headers))
    return extras if extras.unsubscribe_url else extras._replace(web_url=_SAMPLE_URL)


def sample_link(sample: Extras) -> str:
    """Return the link for unsubscribing in a preview or test."""
    return sample.unsubscribe_url.replace(GAP, SAMPLE)


LARGEST_SAMPLE = Extras(web_url=_SAMPLE_URL.ljust(200, "x"), postal_address=_SAMPLE_ADDRESS.ljust(200, "x"))
"""The longest values that the settings can have, for checks."""


def dump(extras: Extras) -> str:
    """Return extras as the store keeps them."""
    return json.dumps(extras._asdict(), ensure_ascii=False, sort_keys=True)


def parse(text: str) -> Extras:
    """Return extras from the store. Those of an older version's emails have nothing."""
    values = json.loads(text)
    return Extras(**values | {"headers": [(name, value) for name, value in values.get("headers", ())]})


def header_lines(extras: Extras) -> bytes:
    """Return the headers with their line ends, with GAP where a token belongs. Raises InvalidValue."""
    lines = [b"%b: %b\r\n" % (name.encode("ascii"), _header_value(name, value)) for name, value in extras.headers]
    links = [f"<{link}>" for link in (extras.web_link, extras.mail_link) if link]
    if links and extras.is_bulk:
        lines.append(b"List-Unsubscribe: %b\r\n" % ",\r\n ".join(links).encode("ascii"))  # RFC 2369
        if extras.web_link.startswith("https:"):
            lines.append(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n")  # RFC 8058
    return b"".join(lines)


def _header_value(name: str, text: str) -> bytes:
    """Encode a value. One that is ASCII stays on one line, as an identifier or a URL cannot be folded."""
    if name == "Reply-To":
        return mime.sender_header(text)
    return text.encode() if text.isascii() else mime.header_value(text)


def _from_settings(settings: GivenSettings) -> Extras:
    mail = settings.mail
    headers = list((mail.headers or {}).items())
    if mail.reply_to is not None:
        headers.insert(0, ("Reply-To", mail.reply_to))
    return Extras(
        headers,
        settings.web.url or "",
        settings.inbound.address or "",
        mail.postal_address or "",
    )


def _list_id(mailing: MailingTraits, sender: str) -> str:
    """Return the list's identifier (RFC 2919), which stays the same: of the topic, or else of the mailing.

    A topic whose name cannot be part of a domain is named by its hash.
    """
    domain = addresses.with_ascii_domain(addresses.parse_sender(sender)[1]).rpartition("@")[2] if sender else "invalid"
    if not mailing.topic:
        return f"mailing-{mailing.id}.{domain}"
    label = folded(mailing.topic)
    if not _LABEL.fullmatch(label) or len(label) > _MAX_LABEL_LENGTH:
        label = "topic-" + hashlib.blake2b(label.encode(), digest_size=8).hexdigest()
    return f"{label}.user-{mailing.owner_id}.{domain}"

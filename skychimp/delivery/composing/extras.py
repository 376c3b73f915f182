"""Say what an occurrence's emails have besides the message: headers, links and the postal address; pure.

They come from the settings and from the mailing, and are kept with the occurrence, so that a resend repeats them. Only
the token of a delivery is filled in for each email.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from skychimp.delivery.composing import mime

UNSUBSCRIBE_URL, POSTAL_ADDRESS = "unsubscribe_url", "postal_address"
"""The variables of templates that are filled in from here."""
GAP = "\0"
"""What stands in a link where the token of a delivery belongs."""
SAMPLE = "sample"
"""Stands for a token where there is no delivery. It is not valid."""
SAMPLE_URL, _SAMPLE_ADDRESS = "https://mail.example.org", "Example Ltd, 1 Main Street, London"


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


def sample_link(sample: Extras) -> str:
    """Return the link for unsubscribing in a preview or test."""
    return sample.unsubscribe_url.replace(GAP, SAMPLE)


LARGEST_SAMPLE = Extras(web_url=SAMPLE_URL.ljust(200, "x"), postal_address=_SAMPLE_ADDRESS.ljust(200, "x"))
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

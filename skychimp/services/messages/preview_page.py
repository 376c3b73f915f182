"""Show a composed email as one HTML file that needs no network, for a browser."""

import base64
import re
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from typing import cast

from skychimp.text import count_of
from skychimp.translation import current_language, tr, translate_templates, translated

_REMOTE_PICTURE = re.compile(r"<img\b[^>]*\bsrc\s*=\s*[\"']?\s*https?:", re.IGNORECASE)
_SHOWN_HEADERS = ("From", "To", "Reply-To", "List-Unsubscribe")


def make_page(email: bytes) -> str:
    """Return the page with an email's headers, its HTML part at two widths, its text part and its attachments' names.

    The HTML part is in a frame without scripts, forms and network. Its inline pictures are in the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    message = BytesParser(policy=default).parsebytes(email)
    html = _html(message)
    headers = [(name, str(message[name])) for name in _SHOWN_HEADERS if message[name] is not None]
    attached = [part for part in message.iter_attachments() if _is_attached(part)]
    if attachments := [part.get_filename() or translated(tr("unnamed")) for part in attached]:
        headers.append((translated(count_of(len(attachments), "attachment")).capitalize(), ", ".join(attachments)))
    environment = Environment(
        loader=PackageLoader("skychimp.services.messages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    translate_templates(environment)
    return environment.get_template("preview.html").render(
        language=current_language(),
        subject=str(message["Subject"]),
        headers=headers,
        html=html,
        text=_text(message),
        remote_pictures=len(_REMOTE_PICTURE.findall(html or "")),
    )


def _is_attached(part: Message) -> bool:
    """Return whether a part is a file of its own, not a picture that the HTML part shows."""
    return part.get_content_disposition() != "inline"


def _text(message: EmailMessage) -> str:
    part = message.get_body(("plain",))
    return "" if part is None else str(part.get_content())


def _html(message: EmailMessage) -> str | None:
    """Return the HTML part with its inline pictures as data URLs, or None."""
    part = message.get_body(("html",))
    if part is None:
        return None
    html = str(part.get_content())
    for each in message.walk():
        if each.get_content_maintype() == "image" and (content_id := each["Content-ID"]):
            data = base64.b64encode(cast("bytes", each.get_payload(decode=True))).decode()
            html = html.replace(f"cid:{content_id.strip('<> ')}", f"data:{each.get_content_type()};base64,{data}")
    return html

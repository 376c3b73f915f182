"""Take from the settings and the mailing what its emails have besides the message; pure."""

import hashlib
import re
from typing import Protocol

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.delivery.composing.extras import SAMPLE_URL, Extras
from skychimp.text import folded

_LABEL = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_LABEL_LENGTH = 40


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


def make(settings: Settings, mailing: MailingTraits, key: int) -> Extras:
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


def make_sample(settings: Settings) -> Extras:
    """Return what an email without a mailing has, for a preview or a test. It has a link of each kind that is set.

    The headers are those of `mail.reply_to` and `mail.headers`, and Auto-Submitted.
    """
    extras = _from_settings(settings)
    extras = extras._replace(headers=(("Auto-Submitted", "auto-generated"), *extras.headers))
    return extras if extras.unsubscribe_url else extras._replace(web_url=SAMPLE_URL)


def _from_settings(settings: Settings) -> Extras:
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

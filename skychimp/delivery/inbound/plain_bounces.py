"""Read bounces without a delivery status: those of Exim and qmail, and what flufl.bounce finds in others; pure."""

import email
import email.policy
import re
from collections.abc import Iterable, Iterator, Sequence

from skychimp.delivery.inbound import delivery_status, passages, severity
from skychimp.delivery.inbound.delivery_status import MAX_FAILURES, Failure, find_address
from skychimp.delivery.inbound.mime_parts import Part

_COPY_FOLLOWS = re.compile(
    r"^[ \t>]*(?:-{2,} ?(?:this is a copy|below this line is|.{0,40}(?:original|returned) (?:message|mail)|included is)"
    r"|received: |return-path: |message-id: )",
    re.IGNORECASE | re.MULTILINE,
)
_DELAYED = re.compile(
    r"delayed|delay notif|warning: (?:could not|message)|warning message only|not yet been delivered"
    r"|will (?:be retried|continue|keep trying|try)",
    re.IGNORECASE,
)
_STATUS_INSIDE = re.compile(r"^final-recipient:[^\n]{0,400}@", re.IGNORECASE | re.MULTILINE)
"""The fields of a delivery status (RFC 3464) in the text for people, as Amazon WorkMail sends them."""
_QMAIL = re.compile(r"^<([^\s<>]{1,320})>:[ \t]*\n((?:[^\n]{1,500}\n){1,20})", re.MULTILINE)
_QMAIL_SAYS = ("qmail-send program", "undeliverable mail", "I wasn't able to deliver")

_SERVERS = (
    "mailer-daemon",
    "mailer_daemon",
    "mailer daemon",
    "postmaster",
    "post_master",
    "post master",
    "mail delivery",
    "mdaemon",
    "ndr administrator",
)
_SUBJECTS = ("undeliver", "delivery", "failure", "returned mail", "non remis")

_MAX_LINES, _MAX_LINE = 1_500, 500
_MAX_BOUNDARIES = 20


def is_from_a_server(part: Part) -> bool:
    """Return whether a mail server says that it wrote an email."""
    sender = (part.header("from") + part.header("sender")).lower()
    return "x-failed-recipients" in part.headers or any(name in sender for name in _SERVERS)


def is_likely(part: Part) -> bool:
    """Return whether an email may be a bounce."""
    subject = part.header("subject").lower()
    return is_from_a_server(part) or any(word in subject for word in _SUBJECTS)


def is_delayed(part: Part, words: str) -> bool:
    """Return whether an email only says that the delivery takes longer."""
    return bool(_DELAYED.search(part.header("subject")) or _DELAYED.search(words[:2_000]))


def text_of(part: Part) -> str:
    """Return the text for people that an email begins with, without the copy of ours that may follow."""
    texts = (each for each in part.walk() if each.content_type.startswith("text/") and not each.parts)
    text = next((text for each in texts if "rfc822" not in each.content_type and (text := each.text()).strip()), "")
    copy = _COPY_FOLLOWS.search(text)
    return text[: copy.start()] if copy and copy.start() else text


def read(part: Part, data: bytes, senders: Sequence[str]) -> list[Failure]:
    """Return the failures that an email names in words.

    `data` is the whole email, and `senders` are the addresses that it was sent to: they are those of our own email.
    """
    words = text_of(part)
    if is_delayed(part, words):
        return []
    if _STATUS_INSIDE.search(words) and (failures := delivery_status.read(words, words)):
        return failures
    found = list(_qmail_recipients(words)) or list(_exim_recipients(part)) or list(_others(data))
    if not found and is_from_a_server(part) and severity.says_why(words):
        found = passages.named_recipients(words, {sender.lower() for sender in senders})
    recipients = list(dict.fromkeys(found))[:MAX_FAILURES]
    replies = passages.replies_about(recipients, words)
    return [_failure(recipient, replies[recipient] or "550") for recipient in recipients]


def _qmail_recipients(words: str) -> Iterator[str]:
    """Yield the recipients of the format of qmail (QSBMF): a paragraph for each."""
    if any(text in words for text in _QMAIL_SAYS):
        yield from (found[1] for found in _QMAIL.finditer(words))


def _exim_recipients(part: Part) -> Iterator[str]:
    for header in part.headers.get("x-failed-recipients", ()):
        yield from filter(None, map(find_address, header.split(",")))


def _others(data: bytes) -> Iterable[str]:
    """Yield the recipients that flufl.bounce finds.

    It gets what the standard library can parse in little time: a nested or long email is cut.
    """
    from flufl.bounce import all_failures

    lines = (line[:_MAX_LINE] for line in data.replace(b"\r\n", b"\n").split(b"\n", _MAX_LINES)[:_MAX_LINES])
    cut = b"\n".join(lines)
    if cut.lower().count(b"boundary") > _MAX_BOUNDARIES:
        return []
    try:
        temporary, permanent = all_failures(email.message_from_bytes(cut, policy=email.policy.compat32))
    except Exception:  # it raises whatever the standard library raises for an invalid email
        return []
    found = (recipient.decode("utf-8", "replace") for recipient in sorted(permanent - temporary))
    return [address for address in map(find_address, found) if address]


def _failure(recipient: str, reply: str) -> Failure:
    return Failure(recipient, "", severity.of_reply(reply), reply)

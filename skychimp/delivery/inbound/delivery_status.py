"""Read delivery status notifications (RFC 3464); pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from skychimp.delivery.inbound import mime_parts, severity
from skychimp.delivery.inbound.mime_parts import Part
from skychimp.delivery.inbound.severity import MAX_REPLY_LENGTH, Severity

STATUS_TYPES = ("message/delivery-status", "message/global-delivery-status")
MAX_FAILURES = 20
"""Recipients of one report that are looked at."""

_ADDRESS = re.compile(r"[^\s<>,;:\"()]{1,64}@[^\s<>,;:\"()]{1,255}")
_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})")
_NEXT_RECIPIENT = re.compile(r"\n(?=final-recipient:)", re.IGNORECASE)


class Failure(NamedTuple):
    """A recipient who did not get the email. `original` is the address that we had sent it to, "" if not known."""

    recipient: str
    original: str
    severity: Severity
    reply: str


def read(part: Part, words: str) -> list[Failure] | None:
    """Return the failures that a part of type message/delivery-status names, or None if it names no recipient.

    Delays and successes are no failures. `words` is the text for people, which says more where a server gives no reply.
    """
    recipients = list(_recipients(part.text()))[:MAX_FAILURES]
    return [failure for fields in recipients if (failure := _read_fields(fields, words))] if recipients else None


def find_address(text: str) -> str:
    """Return the first email address in a text, "" without any."""
    found = _ADDRESS.search(text[:1_000])
    return found[0] if found else ""


def _recipients(text: str) -> Iterator[Mapping[str, Sequence[str]]]:
    """Yield the fields of each recipient (section 2.3). Some servers leave out the empty lines between them."""
    for block in re.split(r"\n[ \t]*\n", text, maxsplit=2 * MAX_FAILURES):
        fields = mime_parts.read_headers(block)
        if len(fields.get("final-recipient", ())) > 1:
            yield from map(mime_parts.read_headers, _NEXT_RECIPIENT.split(block, maxsplit=2 * MAX_FAILURES))
        elif any(name in fields for name in ("final-recipient", "original-recipient", "action", "status")):
            yield fields


def _read_fields(fields: Mapping[str, Sequence[str]], words: str) -> Failure | None:
    def first(name: str) -> str:
        return next(iter(fields.get(name, ())), "")

    action = first("action").partition(" ")[0].lower()
    found = _STATUS.search(first("status"))
    status = found[0] if found else ""
    is_failed = action.startswith(("fail", "expire")) or (not action and status.startswith("5"))
    recipient, original = (find_address(first(f"{name}-recipient")) for name in ("final", "original"))
    if not is_failed or status.startswith("2"):
        return None
    reply = next((each for each in fields.get("diagnostic-code", ()) if each), "")
    if severity.says_little(reply, status):
        reply = f"{reply} {_words_about(recipient or original, words)}".strip()
    reply = (reply or f"{status} {action}")[:MAX_REPLY_LENGTH]
    return Failure(recipient or original, original, severity.of_reply(reply, status), reply)


def _words_about(address: str, words: str) -> str:
    """Return what the text for people says about an address: what follows it, or else all of it."""
    before, found, after = words.partition(address or "\0")
    return " ".join((after if found and after.strip() else before).split())[:MAX_REPLY_LENGTH]

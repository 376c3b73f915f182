"""Read delivery status notifications (RFC 3464); pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from skychimp.delivery.inbound import mime_parts, passages, severity
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


def read(status: str, words: str) -> list[Failure] | None:
    """Return the failures that the text of a delivery status names, or None if it names no recipient.

    Delays and successes are no failures. `words` is the text for people, which says more where a server gives no reply.
    """
    recipients = [_read_fields(fields) for fields in islice(_recipients(status), MAX_FAILURES)]
    failed = [each for each in recipients if each.is_failed]
    if any(each.says_little for each in failed):
        replies = passages.replies_about(list({each.address: None for each in recipients}), words)
        failed = [each.with_words(replies[each.address]) for each in failed]
    return [each.failure for each in failed] if recipients else None


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


class _Recipient(NamedTuple):
    """What a report says about a recipient."""

    address: str
    original: str
    is_failed: bool
    status: str
    reply: str

    @property
    def says_little(self) -> bool:
        return severity.says_little(self.reply, self.status)

    @property
    def failure(self) -> Failure:
        reply = self.reply[:MAX_REPLY_LENGTH]
        return Failure(self.address, self.original, severity.of_reply(reply, self.status), reply)

    def with_words(self, words: str) -> "_Recipient":
        """Add what the text for people says, if the reply says little."""
        return self._replace(reply=f"{self.reply} {words}".strip()) if self.says_little and words else self


def _read_fields(fields: Mapping[str, Sequence[str]]) -> _Recipient:
    def first(name: str) -> str:
        return next(filter(None, fields.get(name, ())), "")

    action = first("action").partition(" ")[0].lower()
    found = _STATUS.search(first("status"))
    status = found[0] if found else ""
    is_failed = action.startswith(("fail", "expire")) or (not action and status.startswith("5"))
    recipient, original = (find_address(first(f"{name}-recipient")) for name in ("final", "original"))
    # Some servers explain the status in a comment, and give no reply.
    reply = first("diagnostic-code") or first("status") or action
    return _Recipient(recipient or original, original, is_failed and not status.startswith("2"), status, reply)

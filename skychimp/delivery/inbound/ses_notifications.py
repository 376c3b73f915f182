"""Read the notifications of Amazon SES that come by email, through Amazon SNS; pure.

They are JSON, in the text of the email or in the field `Message` of another JSON object. See "Amazon SNS notification
contents for Amazon SES" in the SES Developer Guide.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from skychimp.delivery.inbound import severity
from skychimp.delivery.inbound.delivery_status import MAX_FAILURES, Failure, find_address
from skychimp.delivery.inbound.severity import MAX_REPLY_LENGTH

_LINE_BREAK = "!\n "
"""Sendmail breaks lines that are longer than 990 characters so."""


class Notification(NamedTuple):
    """The failures of a bounce, or the addresses of a complaint, and the Message-IDs of our email."""

    failures: Sequence[Failure]
    complaints: Sequence[str]
    message_ids: Sequence[str]


def read(text: str) -> Notification | None:
    """Return what a notification says, or None if a text is none, or says that an email was delivered."""
    found = _parse(text)
    if isinstance(message := found.get("Message"), str):
        found = _parse(message)
    kind = found.get("notificationType") or found.get("eventType")
    failures, complaints = list[Failure](), list[str]()
    if kind == "Bounce":
        failures = [_failure(each) for each in _objects(_object(found, "bounce"), "bouncedRecipients")]
    elif kind == "Complaint" and _object(found, "complaint").get("complaintFeedbackType") != "not-spam":
        recipients = _objects(_object(found, "complaint"), "complainedRecipients")
        complaints = [find_address(_text(each, "emailAddress")) for each in recipients]
    headers = _objects(_object(found, "mail"), "headers")
    message_ids = [_text(each, "value") for each in headers if _text(each, "name").lower() == "message-id"]
    return Notification(failures, list(filter(None, complaints)), message_ids) if failures or complaints else None


def _failure(recipient: Mapping[str, Any]) -> Failure:
    address, status = find_address(_text(recipient, "emailAddress")), _text(recipient, "status")
    reply = (_text(recipient, "diagnosticCode") or f"{status} {_text(recipient, 'action')}").strip()
    return Failure(address, "", severity.of_reply(reply, status), reply)


def _parse(text: str) -> Mapping[str, Any]:
    """Return the object that a text begins with, an empty one without any."""
    if not text.startswith("{"):
        return {}
    try:
        found, _ = json.JSONDecoder().raw_decode(text.replace(_LINE_BREAK, ""))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _object(fields: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = fields.get(name)
    return value if isinstance(value, dict) else {}


def _objects(fields: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    values = fields.get(name)
    yield from [each for each in values if isinstance(each, dict)][:MAX_FAILURES] if isinstance(values, list) else ()


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return value[:MAX_REPLY_LENGTH] if isinstance(value, str) else ""

"""Tell what an email that has come in is: a bounce, a complaint, an automatic reply, or something else; pure."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from skychimp.delivery.inbound import delivery_status, mime_parts, plain_bounces, ses_notifications
from skychimp.delivery.inbound.delivery_status import STATUS_TYPES, Failure
from skychimp.delivery.inbound.mime_parts import Part
from skychimp.delivery.inbound.ses_notifications import Notification


class Kind(StrEnum):
    """What an email is."""

    BOUNCE = "bounce"
    COMPLAINT = "complaint"
    AUTOMATIC = "automatic"
    """An automatic reply, a notice of delay, a receipt, or a question whether a person has sent the email."""
    OTHER = "other"


@dataclass(frozen=True)
class IncomingMail:
    """An email that has come in. Everything in it may be forged, but for a token that is valid.

    `addressees` are the addresses that it may have been sent to. `message_ids` and `possible_tokens` are in what it
    returns of our email, and `recipients` are the addresses that a complaint names. `digest` is the same for the same
    email, whichever way it comes.
    """

    kind: Kind
    digest: str
    addressees: Sequence[str]
    failures: Sequence[Failure] = ()
    recipients: Sequence[str] = ()
    message_ids: Sequence[str] = ()
    possible_tokens: Sequence[str] = ()


_COMPLAINT_TYPES = ("abuse", "fraud", "miscategorized", "opt-out", "opt-out-list")
_MAX_FOUND = 100
_ADDRESS_HEADERS = ("delivered-to", "x-original-to", "envelope-to", "to")
_ADDRESS = re.compile(r"[^\s<>,;:\"()]{1,100}@[^\s<>,;:\"()]{1,255}")
_MESSAGE_ID = re.compile(rb"^[ \t>]*message-id:\s{0,5}(<[^\s<>@]{1,200}@[^\s<>]{1,255}>)", re.IGNORECASE | re.MULTILINE)
_TOKEN = re.compile(rb"(?<![0-9A-Za-z])[0-9A-Va-v]{28,64}(?![0-9A-Za-z])")
_RECIPIENT_FIELDS = ("original-rcpt-to", "removal-recipient")
_MICROSOFT_COMPLAINT = re.compile(r"\s*complaint about message from \d", re.IGNORECASE)
_MICROSOFT_FIELDS = ("x-hmxmroriginalrecipient", "to")
_AMAZON_SNS = "@sns.amazonaws.com"
_AUTOMATIC_HEADERS = ("x-autoreply", "x-autorespond", "x-autoresponder", "x-auto-reply", "x-mail-autoreply")
_CHALLENGE_HEADERS = ("x-spamarrest-challenge", "x-tmda-confirm", "x-boxtrapper", "x-challenge", "x-confirmation")
_AUTOMATIC_SUBJECT = re.compile(
    r"\s*(?:auto(?:matic|mated)?[ -]?(?:reply|response|respon)|out of (?:the )?office"
    r"|on vacation|vacation reply|away from)",
    re.IGNORECASE,
)


def read(data: bytes) -> IncomingMail:
    """Return what an email is. Any bytes are an email, and only the first MAX_SIZE of them count."""
    data = data[: mime_parts.MAX_SIZE]
    part = mime_parts.parse(data)
    digest, addressees = _digest(part), _addressees(part)
    by_type = {each.content_type: each for each in reversed(list(part.walk()))}
    if report := by_type.get("message/feedback-report"):
        return _read_complaint(part, report, digest, addressees)
    if (returned := by_type.get("message/rfc822")) and _MICROSOFT_COMPLAINT.match(part.header("subject")):
        return _read_microsoft_complaint(part, returned, digest, addressees)
    if _AMAZON_SNS in part.header("from") and (said := ses_notifications.read(plain_bounces.text_of(part).lstrip())):
        return _read_notification(part, said, digest, addressees)
    failures = _failures(part, by_type, data, addressees)
    if failures:
        return IncomingMail(
            Kind.BOUNCE, digest, addressees, failures,
            message_ids=_message_ids(part), possible_tokens=_possible_tokens(part),
        )  # fmt: skip
    is_automatic = failures is not None or "message/disposition-notification" in by_type or _is_automatic(part)
    return IncomingMail(Kind.AUTOMATIC if is_automatic else Kind.OTHER, digest, addressees)


def _failures(part: Part, by_type: Mapping[str, Part], data: bytes, senders: Sequence[str]) -> list[Failure] | None:
    """Return the failures that an email names, or None if it is no report of a mail server."""
    status = next((by_type[name] for name in STATUS_TYPES if name in by_type), None)
    if status is not None:
        failures = delivery_status.read(status.text(), plain_bounces.text_of(part))
        if failures is not None:
            return failures
    return plain_bounces.read(part, data, senders) or None if plain_bounces.is_likely(part) else None


def _read_complaint(part: Part, report: Part, digest: str, addressees: Sequence[str]) -> IncomingMail:
    """Return the complaint of a feedback report (RFC 5965). Other reports are about authentication, or withdraw one."""
    fields = mime_parts.read_headers(report.text())
    feedback_type = next(iter(fields.get("feedback-type", ())), "").strip().lower()
    if feedback_type not in _COMPLAINT_TYPES:
        return IncomingMail(Kind.AUTOMATIC, digest, addressees)
    named = [delivery_status.find_address(value) for name in _RECIPIENT_FIELDS for value in fields.get(name, ())]
    return IncomingMail(
        Kind.COMPLAINT, digest, addressees,
        recipients=list(filter(None, named)), message_ids=_message_ids(part), possible_tokens=_possible_tokens(part),
    )  # fmt: skip


def _read_microsoft_complaint(part: Part, returned: Part, digest: str, addressees: Sequence[str]) -> IncomingMail:
    """Return the complaint of an Outlook.com user (the Junk Mail Reporting Program). It is no feedback report."""
    fields = mime_parts.read_headers(returned.text())
    named = next((value for name in _MICROSOFT_FIELDS for value in fields.get(name, ())), "")
    return IncomingMail(
        Kind.COMPLAINT, digest, addressees,
        recipients=list(filter(None, [delivery_status.find_address(named)])),
        message_ids=_message_ids(part), possible_tokens=_possible_tokens(part),
    )  # fmt: skip


def _read_notification(part: Part, said: Notification, digest: str, addressees: Sequence[str]) -> IncomingMail:
    kind = Kind.BOUNCE if said.failures else Kind.COMPLAINT
    return IncomingMail(
        kind, digest, addressees, said.failures, said.complaints, said.message_ids, _possible_tokens(part)
    )


def _is_automatic(part: Part) -> bool:
    """Return whether nobody has written an email (RFC 3834), or it asks whether anybody wrote ours."""
    submitted = part.header("auto-submitted").lower()
    precedence = part.header("precedence").strip().lower()
    return (
        (submitted not in ("", "no"))
        or precedence in ("auto_reply", "auto-reply", "bulk", "junk", "list")
        or any(name in part.headers for name in (*_AUTOMATIC_HEADERS, *_CHALLENGE_HEADERS))
        or bool(_AUTOMATIC_SUBJECT.match(part.header("subject")))
        or part.header("return-path").strip() == "<>"
    )


def _digest(part: Part) -> str:
    """Return the hash of what no mail server changes on the way."""
    known = f"{part.header('date')}\0{part.header('message-id')}\0".encode("utf-8", "replace")
    return hashlib.sha256(known + part.body.rstrip()).hexdigest()[:32]


def _addressees(part: Part) -> Sequence[str]:
    values = (value for name in _ADDRESS_HEADERS for value in part.headers.get(name, ()))
    found = (match[0] for value in values for match in _ADDRESS.finditer(value))
    return list(dict.fromkeys(found))[:_MAX_FOUND]


def _message_ids(part: Part) -> Sequence[str]:
    found = (match[1].decode("utf-8", "replace") for match in _MESSAGE_ID.finditer(part.body))
    return list(dict.fromkeys(found))[:_MAX_FOUND]


def _possible_tokens(part: Part) -> Sequence[str]:
    found = (match[0].decode() for match in _TOKEN.finditer(part.body))
    return list(dict.fromkeys(found))[:_MAX_FOUND]

"""Send mailings, make the tokens that their emails have, and write the mail that comes back for them."""

from collections.abc import Mapping
from typing import Any

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.models import Outcome
from skychimp.permissions import Actor
from skychimp.store import token_keys
from skychimp.store.database import Store
from support.queue_steps import claim, close_leases, open_mailing, send

INBOX = "bounces@skychimp.test"


def send_mailing(store: Store, owner: Actor, *names: str, **more: Any) -> list[int]:
    """Create clients `NAME@example.org`, send them a mailing, and return the ids of the deliveries."""
    open_mailing(store, owner, *names, **more)
    claims = claim(store)
    send(store, 1, Outcome.SENT, *claims)
    close_leases(store)
    return [claimed.id for claimed in claims]


def token_for(store: Store, purpose: Purpose, delivery_id: int) -> str:
    """Return a delivery's token, made with the newest key."""
    with store.read() as db:
        number, key = list(token_keys.read(db.connection(), store.now()).items())[-1]
    return tokens.make(TokenKey(number, key), purpose, delivery_id)


def return_path(store: Store, delivery_id: int) -> str:
    """Return the envelope sender of a delivery's email."""
    local, _, domain = INBOX.partition("@")
    return f"{local}+{token_for(store, Purpose.BOUNCE, delivery_id)}@{domain}"


def unsubscribe_address(store: Store, delivery_id: int) -> str:
    """Return the address that unsubscribes a delivery's recipient."""
    local, _, domain = INBOX.partition("@")
    return f"{local}+{token_for(store, Purpose.UNSUBSCRIBE, delivery_id)}@{domain}"


def bounce(
    recipient: str,
    reply: str,
    *,
    status: str = "5.1.1",
    action: str = "failed",
    to: str = INBOX,
    returned: str = "Subject: Hello\n",
    date: str = "Mon, 2 Mar 2026 09:00:00 +0000",
) -> bytes:
    """Return a delivery status notification (RFC 3464)."""
    fields = f"Final-Recipient: rfc822; {recipient}\nAction: {action}\nStatus: {status}\n"
    parts = {
        "text/plain": "Your email could not be delivered.\n",
        "message/delivery-status": f"Reporting-MTA: dns; mx.example.org\n\n{fields}Diagnostic-Code: smtp; {reply}\n",
        "text/rfc822-headers": returned,
    }
    sender = "Mail Delivery System <mailer-daemon@mx.example.org>"
    head = f"From: {sender}\nTo: {to}\nDate: {date}\nSubject: Undelivered mail returned to sender\n"
    return _report(head, "delivery-status", parts)


def complaint(returned: str, *, feedback_type: str = "abuse", to: str = "fbl@skychimp.test", more: str = "") -> bytes:
    """Return a feedback report (RFC 5965) about an email with these headers."""
    parts = {
        "text/plain": "This is an abuse report.\n",
        "message/feedback-report": f"Feedback-Type: {feedback_type}\nUser-Agent: ISP/1.0\nVersion: 1\n{more}",
        "message/rfc822": returned,
    }
    return _report(f"From: feedback@isp.example\nTo: {to}\nSubject: FW: Hello\n", "feedback-report", parts)


def _report(head: str, report_type: str, parts: Mapping[str, str]) -> bytes:
    content_type = f'Content-Type: multipart/report; report-type={report_type};\n\tboundary="=_b/1"\n'
    body = "".join(f"--=_b/1\nContent-Type: {name}\n\n{text}\n" for name, text in parts.items())
    return f"{head}MIME-Version: 1.0\n{content_type}\n{body}--=_b/1--\n".encode()

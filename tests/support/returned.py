"""Send mailings, make the tokens that their emails have, and write the mail that comes back for them."""

from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
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
    returned: str = "Subject: Hello\n\n",
) -> bytes:
    """Return a delivery status notification (RFC 3464)."""
    fields = f"Reporting-MTA: dns; mx.example.org\n\nFinal-Recipient: rfc822; {recipient}\nAction: {action}\n"
    fields += f"Status: {status}\nDiagnostic-Code: smtp; {reply}\n"
    message = MIMEMultipart("report", **{"report-type": "delivery-status"})
    message["From"] = "Mail Delivery System <mailer-daemon@mx.example.org>"
    message["To"] = to
    message["Subject"] = "Undelivered mail returned to sender"
    message.attach(MIMEText("Your email could not be delivered.\n"))
    message.attach(_part("message/delivery-status", fields))
    message.attach(_part("text/rfc822-headers", returned))
    return message.as_bytes()


def complaint(returned: str, *, feedback_type: str = "abuse", to: str = "fbl@skychimp.test", more: str = "") -> bytes:
    """Return a feedback report (RFC 5965) about an email with these headers."""
    message = MIMEMultipart("report", **{"report-type": "feedback-report"})
    message["From"] = "feedback@isp.example"
    message["To"] = to
    message["Subject"] = "FW: Hello"
    message.attach(MIMEText("This is an abuse report.\n"))
    fields = f"Feedback-Type: {feedback_type}\nUser-Agent: ISP/1.0\nVersion: 1\n{more}"
    message.attach(_part("message/feedback-report", fields))
    message.attach(_part("message/rfc822", returned))
    return message.as_bytes()


def _part(content_type: str, text: str) -> Message:
    part = Message()
    part["Content-Type"] = content_type
    part.set_payload(text)
    return part

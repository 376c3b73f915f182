"""Compose and send the emails about an account: they are sent at once, and never queued.

An email contains nothing that was typed by whoever asked for it, except the address itself. Otherwise anybody could
send text of their own to strangers.
"""

import secrets
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path

from skychimp import addresses, shell
from skychimp.config.settings import Settings
from skychimp.delivery.composing import mime
from skychimp.delivery.sending.single_email import send_single_email
from skychimp.transport.interfaces import OutgoingEmail


class AccountEmail(StrEnum):
    """What an email is about. Its templates, text and HTML, have the same name."""

    VERIFY = "verify"
    TAKEN = "taken"
    """The address that somebody tried to register already has an account."""
    RESET = "reset"


SUBJECTS = {
    AccountEmail.VERIFY: "Your Skychimp verification code",
    AccountEmail.TAKEN: "You already have a Skychimp account",
    AccountEmail.RESET: "Your Skychimp password reset code",
}


def send(settings: Settings, store: Path, kind: AccountEmail, *, to: str, code: str, complete: bool) -> None:
    """Send an email about an account now.

    If `complete` is false, stop before the final dot. So an email that nobody may get takes as much work as any other,
    and fails in the same way. Raises RelayUnavailable and RelayRefused if the email was certainly not delivered. If
    only the final reply was lost, it may have arrived, and no error is raised.
    """
    sender, return_path = settings.mail.sender or "", settings.mail.return_path or ""
    data = compose(kind, sender=sender, return_path=return_path, to=to, code=code)
    send_single_email(settings, store, OutgoingEmail(return_path, to, data), complete=complete)


def compose(kind: AccountEmail, *, sender: str, return_path: str, to: str, code: str) -> bytes:
    """Return the bytes of an email, as text and HTML, with CRLF line ends. Raises InvalidValue."""
    boundary = b"=_" + secrets.token_hex(16).encode()
    message_id = addresses.with_ascii_domain(f"account.{secrets.token_hex(16)}@{return_path.rpartition('@')[2]}")
    headers = (
        (b"From", mime.sender_header(sender)),
        (b"To", mime.mailbox("", to)),
        (b"Subject", mime.header_value(SUBJECTS[kind])),
        (b"Date", format_datetime(datetime.now(UTC)).encode()),
        (b"Message-ID", f"<{message_id}>".encode("ascii")),
        (b"Auto-Submitted", b"auto-generated"),  # RFC 3834
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b'multipart/alternative; boundary="%b"' % boundary),
    )
    text, html = _render(kind, to, code)
    return b"".join(
        (
            *(b"%b: %b\r\n" % header for header in headers),
            b"\r\n--%b\r\n" % boundary,
            mime.text_part((text,), "plain", avoid=boundary),
            b"\r\n--%b\r\n" % boundary,
            mime.text_part((html,), "html", avoid=boundary),
            b"\r\n--%b--\r\n" % boundary,
        )
    )


def _render(kind: AccountEmail, to: str, code: str) -> tuple[str, str]:
    """Return the text and the HTML of an email."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    templates = Environment(
        loader=PackageLoader("skychimp.services.accounts"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    values = {
        "code": code,
        "verify": shell.command("verify", "--email", to, code),
        "login": shell.command("login", "--email", to),
        "forgot_password": shell.command("password", "reset", "--email", to),
        "reset_password": shell.command("password", "reset", "--email", to, code),
    }
    text, html = (templates.get_template(f"{kind}.{suffix}").render(values) for suffix in ("txt", "html"))
    return text, html

"""Compose and send the emails about an account: they are sent at once, and never queued.

An email contains nothing that was typed by whoever asked for it, except the address itself. Otherwise anybody could
send text of their own to strangers.
"""

import secrets
from datetime import UTC, datetime
from email.utils import format_datetime
from textwrap import fill

from skychimp import addresses, shell
from skychimp.config.settings import Settings
from skychimp.delivery.composing import mime
from skychimp.delivery.sending.runner import with_own_sender
from skychimp.delivery.sending.single_email import send_single_email
from skychimp.errors import SkychimpError
from skychimp.services.accounts.email_kinds import EmailKind
from skychimp.store.database import Store
from skychimp.translation import Phrase, current_language, tr, translate_templates, translated
from skychimp.transport.interfaces import OutgoingEmail

SUBJECTS = {
    EmailKind.VERIFY: tr("Your Skychimp verification code"),
    EmailKind.RESET: tr("Your Skychimp password reset code"),
    EmailKind.TAKEN: tr("You already have a Skychimp account"),
    EmailKind.NO_ACCOUNT: tr("You have no Skychimp account"),
    EmailKind.BLOCKED: tr("Your Skychimp account is blocked"),
    EmailKind.PASSWORD_CHANGED: tr("Your Skychimp password was changed"),
    EmailKind.ROLE_CHANGED: tr("Your Skychimp role was changed"),
}

LINE_LENGTH = 79


def send(settings: Settings, store: Store, kind: EmailKind, *, to: str, code: str = "", role: str = "") -> None:
    """Send an email about an account now. `role` is the new one in ROLE_CHANGED.

    Raises RelayUnavailable and RelayRefused if the email was certainly not delivered. If only the final reply was lost,
    it may have arrived, and no error is raised.
    """
    sender, return_path = settings.mail.sender or "", settings.mail.return_path or ""
    data = compose(kind, sender=sender, return_path=return_path, to=to, code=code, role=role)
    send_single_email(settings, store, OutgoingEmail(return_path, to, data))


def send_notice(settings: Settings, store: Store, kind: EmailKind, *, to: str, role: str = "") -> Phrase | None:
    """Tell a user that their account was changed, and return a warning if that was not possible.

    The change is made already, so this raises no error.
    """
    try:
        send(with_own_sender(settings), store, kind, to=to, role=role)
    except SkychimpError as error:
        return tr("no email about this change was sent to {email}: {reason}", email=to, reason=error.message)
    return None


def compose(kind: EmailKind, *, sender: str, return_path: str, to: str, code: str = "", role: str = "") -> bytes:
    """Return the bytes of an email, as text and HTML, with CRLF line ends. Raises InvalidValue."""
    boundary = b"=_" + secrets.token_hex(16).encode()
    message_id = addresses.with_ascii_domain(f"account.{secrets.token_hex(16)}@{return_path.rpartition('@')[2]}")
    headers = (
        (b"From", mime.sender_header(sender)),
        (b"To", mime.mailbox("", to)),
        (b"Subject", mime.header_value(translated(SUBJECTS[kind]))),
        (b"Date", format_datetime(datetime.now(UTC)).encode()),
        (b"Message-ID", f"<{message_id}>".encode("ascii")),
        (b"Auto-Submitted", b"auto-generated"),  # RFC 3834
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b'multipart/alternative; boundary="%b"' % boundary),
    )
    text, html = _render(kind, to, code, role)
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


def _render(kind: EmailKind, to: str, code: str, role: str) -> tuple[str, str]:
    """Return the text and the HTML of an email."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    templates = Environment(
        loader=PackageLoader("skychimp.services.accounts"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    translate_templates(templates)
    values = {
        "language": current_language(),
        "code": code,
        "role": role,
        "verify": shell.command("verify", "--email", to, code),
        "login": shell.command("login", "--email", to),
        "forgot_password": shell.command("password", "reset", "--email", to),
        "register": shell.command("register", "--email", to),
        "reset_password": shell.command("password", "reset", "--email", to, code),
    }
    text, html = (templates.get_template(f"{kind}.{suffix}").render(values) for suffix in ("txt", "html"))
    return _wrapped(text), html


def _wrapped(text: str) -> str:
    """Return a text with its paragraphs in lines that are not too long. Commands, which are indented, are kept."""
    lines = (
        line if line.startswith(" ") else fill(line, LINE_LENGTH, break_on_hyphens=False) for line in text.split("\n")
    )
    return "\n".join(lines)

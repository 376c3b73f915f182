"""The letters about an account: they go out within the command, by the configured transport, and never by the queue.

They hold nothing that whoever asked for them has typed, but the address itself: nobody is to write to strangers by way
of them.
"""

import secrets
import shlex
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import StrEnum
from pathlib import Path

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.delivery.composing import mime
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.errors import RelayRefused, RelayUnavailable
from skychimp.transport import make_transport
from skychimp.transport.interfaces import OutgoingEmail, SendResult, Transport


class AccountEmail(StrEnum):
    """What a letter is about; its templates, text and HTML, have its name."""

    VERIFY = "verify"
    TAKEN = "taken"
    """The address that somebody wants to register has an account already."""
    RESET = "reset"


SUBJECTS = {
    AccountEmail.VERIFY: "Your code for Skychimp",
    AccountEmail.TAKEN: "You have an account at Skychimp already",
    AccountEmail.RESET: "A new password for Skychimp",
}


def send(settings: Settings, store: Path, kind: AccountEmail, *, to: str, code: str, really: bool) -> None:
    """Send a letter, now; one that is not meant to arrive goes as far as the final dot, which is never written.

    So a letter for nobody is as much work as any other, and fails as it would. Raises RelayAway, RelayRefuses where it
    has surely not gone out: where only the last reply is missing, the person will see.
    """
    sender, return_path = settings.mail.sender or "", settings.mail.return_path or ""
    letter = OutgoingEmail(return_path, to, compose(kind, sender=sender, return_path=return_path, to=to, code=code))

    answer = run_in_event_loop(deliver(make_transport(settings, store), letter, really=really))
    if answer is None or (answer.reply is None and answer.dot_written):
        return
    if answer.reply is None:
        raise RelayUnavailable(answer.fault)
    if answer.reply.code >= 300:
        raise (RelayRefused if answer.reply.code >= 500 else RelayUnavailable)(answer.reply.text)


async def deliver(transport: Transport, letter: OutgoingEmail, *, really: bool = True) -> SendResult | None:
    """Send one letter over a connection of its own, or all but its dot. Raises RelayAway, RelayRefuses."""

    async def commit_intent() -> bool:
        return really

    connection = await transport.connect()
    try:
        return await connection.send(letter, commit_intent)
    finally:
        await connection.close()


def compose(kind: AccountEmail, *, sender: str, return_path: str, to: str, code: str) -> bytes:
    """The bytes of a letter: text and HTML, with CRLF line ends. Raises InvalidValue."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    templates = Environment(
        loader=PackageLoader("skychimp.services.accounts"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    text, html = (
        templates.get_template(f"{kind}.{form}").render(email=to, quoted_email=shlex.quote(to), code=code)
        for form in ("txt", "html")
    )
    boundary = b"=_" + secrets.token_hex(16).encode()
    message_id = addresses.with_ascii_domain(f"account.{secrets.token_hex(16)}@{return_path.rpartition('@')[2]}")
    head = (
        (b"From", mime.sender(sender)),
        (b"To", mime.mailbox("", to)),
        (b"Subject", mime.header(SUBJECTS[kind])),
        (b"Date", format_datetime(datetime.now(UTC)).encode()),
        (b"Message-ID", f"<{message_id}>".encode("ascii")),
        (b"Auto-Submitted", b"auto-generated"),  # RFC 3834
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b'multipart/alternative; boundary="%b"' % boundary),
    )
    return b"".join(
        (
            *(b"%b: %b\r\n" % header for header in head),
            b"\r\n--%b\r\n" % boundary,
            mime.part((text,), "plain", avoid=boundary),
            b"\r\n--%b\r\n" % boundary,
            mime.part((html,), "html", avoid=boundary),
            b"\r\n--%b--\r\n" % boundary,
        )
    )

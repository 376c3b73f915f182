"""Send email to a mail server by SMTP, or to an outbox on this machine. Nothing here uses the store."""

from pathlib import Path
from typing import TYPE_CHECKING

from skychimp.config.settings import Settings
from skychimp.transport.interfaces import Transport

if TYPE_CHECKING:
    from skychimp.transport.outbox import OutboxTransport


def make_transport(settings: Settings, store: Path) -> Transport:
    """Return the transport in the settings."""
    if settings.mail.transport == "smtp":
        from skychimp.transport.smtp import SmtpTransport

        return SmtpTransport(settings.smtp)
    return make_outbox(store)


def make_outbox(store: Path) -> "OutboxTransport":
    """Return the outbox, a folder next to the store's file."""
    from skychimp.transport.outbox import OutboxTransport

    return OutboxTransport(store.with_name("outbox"))

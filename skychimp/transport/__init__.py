"""Send email to a mail server by SMTP, or to an outbox on this machine. Nothing here uses the store."""

from pathlib import Path

from skychimp.config.settings import Settings
from skychimp.transport.interfaces import Transport


def make_transport(settings: Settings, store: Path) -> Transport:
    """Return the transport in the settings. The outbox is a folder next to the store's file."""
    if settings.mail.transport == "smtp":
        from skychimp.transport.smtp import SmtpTransport

        return SmtpTransport(settings.smtp)
    from skychimp.transport.outbox import OutboxTransport

    return OutboxTransport(store.with_name("outbox"))

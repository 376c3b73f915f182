"""Where mail goes: an SMTP relay, or a Maildir. Knows nothing of the store."""

from pathlib import Path

from skychimp.config.settings import Settings
from skychimp.transport.interfaces import Transport


def make_transport(settings: Settings, store: Path) -> Transport:
    """The transport that the settings name; the outbox lies beside the store."""
    if settings.mail.transport == "smtp":
        from skychimp.transport.smtp import SmtpTransport

        return SmtpTransport(settings.smtp)
    from skychimp.transport.outbox import OutboxTransport

    return OutboxTransport(store.with_name("outbox"))

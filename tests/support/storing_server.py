"""An aiosmtpd server that keeps each email in memory."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, NamedTuple

from support.debian_servers import free_port

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # a deprecation warning of the library at import
    from aiosmtpd.controller import Controller


class StoredEmail(NamedTuple):
    """An email and its envelope."""

    sender: str
    recipients: list[str]
    data: bytes

    @property
    def message(self) -> EmailMessage:
        """The email, with the line ends of this system."""
        return message_from_bytes(self.data.replace(b"\r\n", b"\n"), policy=policy.default)


class StoringHandler:
    """An aiosmtpd handler that stores each email."""

    def __init__(self) -> None:
        self.emails: list[StoredEmail] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.emails.append(StoredEmail(envelope.mail_from, envelope.rcpt_tos, envelope.content))
        return "250 2.0.0 stored"


@contextmanager
def storing_server(
    port: int | None = None, handler: StoringHandler | None = None, **options: Any
) -> Iterator[tuple[int, StoringHandler]]:
    """Run the server on a port (default: a free one) until the end of the block. `options` are aiosmtpd's."""
    port, handler = port or free_port(), handler or StoringHandler()
    controller = Controller(handler, hostname="127.0.0.1", port=port, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        controller.start()
        try:
            yield port, handler
        finally:
            controller.stop()

"""Interfaces between sending and transports; pure.

A transport has two parts: `Transport.connect` opens a connection, and `Connection.send` sends one email over it. There
are two transports: SMTP and the outbox.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from asyncio import Future


OUTBOX = "outbox"
"""The name of the outbox in the ledger. A mail server's has a colon."""


class Phase(StrEnum):
    """The SMTP command at which an attempt ended (RFC 5321, section 3.3). DOT is the final dot after the body."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


class Signature(NamedTuple):
    """Header lines that sign an email, of `size` bytes. They may still be in the making."""

    size: int
    made: "Future[bytes]"


class OutgoingEmail(NamedTuple):
    """An email for one recipient.

    `sender` and `recipient` are the bare envelope addresses. `data` has CRLF line ends and is not dot-stuffed.
    `has_dots` is False if no line begins with a dot. `envelope_id` is what a bounce names the email by, if the server
    supports it: letters and digits, or "" for none. The `signature` is to be written before `data`. The pieces of
    `tail` follow `data`: ASCII in lines of which none begins with a dot.
    """

    sender: str
    recipient: str
    data: bytes
    has_dots: bool = True
    envelope_id: str = ""
    signature: Signature | None = None
    tail: tuple[bytes, ...] = ()

    @property
    def size(self) -> int:
        """The number of bytes with the signature."""
        size = len(self.data) if self.signature is None else len(self.data) + self.signature.size
        return size + sum(map(len, self.tail)) if self.tail else size


class Reply(NamedTuple):
    """A server's reply: its code, its enhanced code (RFC 3463) or "", and its whole text with the codes.

    The lines of a multi-line reply are joined by LF.
    """

    code: int
    enhanced: str
    text: str


class SendResult(NamedTuple):
    """The result of sending one email.

    If there was no valid reply, `reply` is None and `error` says what happened instead ("connection closed", "timed out
    after 60 s", "invalid reply: ..."). `dot_written` is True once any byte of the final dot may have been sent.
    """

    phase: Phase
    reply: Reply | None
    error: str = ""
    dot_written: bool = False

    @property
    def is_success(self) -> bool:
        """Return whether the server took the email."""
        return self.dot_written and self.reply is not None and 200 <= self.reply.code < 300


class EmailSource(Protocol):
    """What a connection asks and tells while it sends one email after another. Its methods return at once."""

    def commit_intent(self, answer: Callable[[bool], None]) -> None:
        """Commit the intent to send the current email, whose final dot is next.

        `answer` is called with True once the intent is committed, and with False if the email must not be sent.
        """

    def take_next(self) -> OutgoingEmail | None:
        """Return the email to start behind the current one's final dot, or None if there is none."""

    def finish(self, result: SendResult) -> None:
        """Take the result of the current email. The next one, if it was taken, is the current one from now on."""


class Connection(Protocol):
    """A connection that sends one email after another."""

    @property
    def is_usable(self) -> bool:
        """Return whether the connection can send another email."""

    @property
    def mail_limit(self) -> int | None:
        """Return how many emails the server takes over one connection at most, None if it does not say."""

    async def send(self, email: OutgoingEmail, source: EmailSource) -> None:
        """Send an email, and the following ones that the source has in time.

        An email whose `finish` was not called when this returns was not delivered, and nothing speaks against sending
        it again. Never raises an error because of what a server does.
        """

    async def close(self) -> None:
        """Close the connection, with QUIT if it is still usable."""


class Transport(Protocol):
    """A way to send email."""

    @property
    def relay(self) -> str:
        """Return the relay's name in the ledger, such as "mx.example.org:587" or "outbox"."""

    async def connect(self) -> Connection:
        """Open a connection. Raises RelayUnavailable (try again later) or RelayRefused (a person must act)."""

"""Interfaces between sending and transports; pure.

A transport has two parts: `Transport.connect` opens a connection, and `Connection.send` sends one email over it. There
are two transports: SMTP and the outbox.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple, Protocol


class Phase(StrEnum):
    """The SMTP command at which an attempt ended (RFC 5321, section 3.3). DOT is the final dot after the body."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


class OutgoingEmail(NamedTuple):
    """An email for one recipient.

    `sender` and `recipient` are the bare envelope addresses. `data` has CRLF line ends and is not dot-stuffed.
    """

    sender: str
    recipient: str
    data: bytes


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


CommitIntent = Callable[[], Awaitable[bool]]
"""Called before the final dot. Returns True once the intent is committed, False if the email must not be sent."""

TakeNext = Callable[[], OutgoingEmail | None]
"""Called at the final dot, if the next email can be started behind it. Returns that email, or None if there is none."""


class NotStartedError(Exception):
    """The connection ended before the server replied to an email that was started behind the last one."""


class Connection(Protocol):
    """A connection that sends one email after another."""

    @property
    def is_usable(self) -> bool:
        """Return whether the connection can send another email, or has the result of one that was started."""

    async def send(
        self, email: OutgoingEmail, commit_intent: CommitIntent, take_next: TakeNext = lambda: None
    ) -> SendResult | None:
        """Send one email. The email that `take_next` returns must be sent next.

        Returns None if `commit_intent` returned False; then nothing was delivered. Raises NotStartedError if the email
        can be sent over another connection as if it had not been tried. Never raises another error because of what a
        server does.
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

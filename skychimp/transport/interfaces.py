"""What a transport is given and what it gives back; pure.

A transport is two small interfaces: `Transport.connect` and `Connection.send`. SMTP and the outbox are
the two that exist.
"""

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import NamedTuple, Protocol


class Phase(StrEnum):
    """Where in the conversation an attempt ended (RFC 5321, section 3.3)."""

    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    DOT = "dot"


class OutgoingEmail(NamedTuple):
    """One message for one address: bare envelope addresses, and the bytes with CRLF line ends (not dot-stuffed)."""

    sender: str
    recipient: str
    data: bytes


class Reply(NamedTuple):
    """A server's reply: its code, the enhanced code (RFC 3463) or "", and the whole text, codes included.

    The lines of a multi-line reply are joined by one LF.
    """

    code: int
    enhanced: str
    text: str


class SendResult(NamedTuple):
    """What came of one letter.

    `reply` is None where no valid reply came; `fault` then says what came instead ("connection closed",
    "timed out after 60 s", "not a reply: ..."). `dot_written` is True once a byte of the final dot may have left.
    """

    phase: Phase
    reply: Reply | None
    fault: str = ""
    dot_written: bool = False


CommitIntent = Callable[[], Awaitable[bool]]
"""Awaited before the final dot: True once the intent is committed, False where the letter must not go."""


class Connection(Protocol):
    """A conversation that takes one letter after the other."""

    @property
    def usable(self) -> bool:
        """False once it must not take another letter."""

    async def send(self, letter: OutgoingEmail, commit_intent: CommitIntent) -> SendResult | None:
        """Send one letter; None where `permit` said no, and then nothing was delivered. Never raises for what a
        server does."""

    async def close(self) -> None:
        """End the conversation politely where it is still usable, at once where it is not."""


class Transport(Protocol):
    """Where mail goes."""

    @property
    def relay(self) -> str:
        """The name of the relay, as the ledger has it: "mx.example.org:587" or "outbox"."""

    async def connect(self) -> Connection:
        """Open a conversation. Raises RelayAway (try again later) or RelayRefuses (a person must act)."""

"""SMTP as a state machine: bytes in, bytes and events out; pure, no sockets (RFC 5321, 2920, 1870, 6152, 6531, 4954).

A reply that is not exactly by the book is a ProtocolError, and the connection must not be used again: who misreads one
reply misreads all that follow.
"""

import base64
import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple, cast

from skychimp.errors import InvalidValue
from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult

LONGEST_LINE = 4096  # bytes; RFC 5321, section 4.5.3.1.5 says 512, some servers say more
MOST_LINES = 128
LARGEST_REPLY = 64 * 1024

# Code, space or hyphen, and an enhanced code (RFC 2034) only where its class is the code's.
_LINE = re.compile(rb"(([2-5])[0-5][0-9])(?:([ -])(?:((?=[245])\2\.\d{1,3}\.\d{1,3})(?![^ ]))?[^\r]*)?")
_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x20\x7f-\x9f<>\ud800-\udfff]")


class ProtocolError(Exception):
    """The server said something that SMTP doesn't have."""


class ReplyParser:
    """Cuts a stream of bytes into replies, however it is fragmented."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[Reply] = []  # of a multi-line reply, each read as if it stood alone
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Reply]:
        """The replies that are complete with these bytes. Raises ProtocolError, after those that came before it."""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            reply, more = _read(line)
            if more or self._lines:
                self._collect(reply, len(line))
                if more:
                    continue
                reply = self._joined()
            yield reply
        if len(self._buffer) > LONGEST_LINE:
            raise ProtocolError("a line of a reply is too long")

    @property
    def is_empty(self) -> bool:
        """Whether no part of a reply is waiting for its rest."""
        return not self._buffer and not self._lines

    def _collect(self, line: Reply, size: int) -> None:
        if self._lines and line.code != self._lines[0].code:
            raise ProtocolError(f"a reply with two codes: {self._lines[0].code} and {line.code}")
        self._lines.append(line)
        self._size += size
        if len(self._lines) > MOST_LINES or self._size > LARGEST_REPLY:
            raise ProtocolError("a reply is too long")

    def _joined(self) -> Reply:
        first, text = self._lines[0], "\n".join(line.text for line in self._lines)
        self._lines, self._size = [], 0
        return first._replace(text=text)


@lru_cache(maxsize=64)  # a server says the same few lines for every letter
def _read(line: bytes) -> tuple[Reply, bool]:
    """One line as a reply, and whether more lines of it follow."""
    if len(line) > LONGEST_LINE:
        raise ProtocolError("a line of a reply is too long")
    match = _LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        raise ProtocolError(f"not a reply: {line[:100]!a}")
    code, mark, enhanced = match.group(1, 3, 4)
    return Reply(int(code), (enhanced or b"").decode(), match[0].decode("utf-8", "backslashreplace")), mark == b"-"


class GoAhead(NamedTuple):
    """354: the body may be written, and then, with permission, the dot."""


class Write(NamedTuple):
    """These bytes are to be written next."""

    data: bytes


Event = Reply | GoAhead | Write | SendResult


class _Stage(Enum):
    COMMAND = auto()
    ENVELOPE = auto()
    BODY = auto()
    DOT = auto()
    CLEARING = auto()  # a lone dot or RSET after a refusal: its reply says only whether the connection still is usable


_COMMAND, _ENVELOPE, _BODY, _DOT, _CLEARING = _Stage  # by name in the module: an Enum's attributes are slow to read


class SmtpProtocol:
    """One SMTP conversation: a command or a letter at a time, never the next before the last one's replies.

    Begins by expecting the greeting. Once it is not `usable`, it reads nothing more.
    """

    def __init__(self, *, greeted: bool = False) -> None:
        self.capabilities: dict[str, str] = {}
        self.usable = True
        self._parser = ReplyParser()
        self._stage = _COMMAND
        self._expected = 0 if greeted else 1
        self._phases: list[Phase] = []  # without a reply yet
        self._unasked: list[bytes] = []
        self._answer: SendResult | None = None
        self._mail_accepted = self._rcpt_accepted = self._lone_dot = False

    def command(self, line: bytes) -> bytes:
        """One command of one reply, as bytes to write. Raises ProtocolError where something unread is waiting."""
        self._require_silence()
        self._stage, self._expected = _COMMAND, 1
        return line + b"\r\n"

    def learn(self, reply: Reply) -> None:
        """Keep what the reply to EHLO offers (RFC 5321, section 4.1.1.1)."""
        words = (line[4:].strip().partition(" ") for line in reply.text.split("\n")[1:])
        self.capabilities = {keyword.upper(): rest for keyword, _, rest in words}

    def begin(self, letter: OutgoingEmail) -> Write | SendResult:
        """Start a letter: the bytes to write, or the answer where it can't go through this relay at all.

        Raises ProtocolError where something unread is waiting.
        """
        self._require_silence()
        refusal = self._refusal(letter)
        if refusal is not None:
            return refusal
        self._answer = None
        self._mail_accepted = self._rcpt_accepted = False
        self._stage = _ENVELOPE
        self._unasked = [self._mail(letter), b"RCPT TO:<%b>\r\n" % _path(letter, letter.recipient), b"DATA\r\n"]
        self._phases = [Phase.MAIL, Phase.RCPT, Phase.DATA]
        return self._ask(3 if "PIPELINING" in self.capabilities else 1)

    def dot(self) -> bytes:
        """The final dot. Raises ProtocolError where the server has spoken out of turn."""
        self._require_silence()
        self._stage, self._expected, self._phases = _DOT, 1, [Phase.DOT]
        return b".\r\n"

    @property
    def is_silent(self) -> bool:
        """Whether nothing is expected from the server, and no part of a reply has come."""
        return self.usable and not self._expected and self._parser.is_empty

    def receive(self, data: bytes) -> Iterator[Event]:
        """What these bytes from the server mean. Raises ProtocolError, after the events that came before it."""
        if not self.usable:
            return
        try:
            for reply in self._parser.feed(data):
                event = self._reply(reply)
                if event is not None:
                    yield event
                if not self.usable:
                    return
            if not self._expected and self._stage is not _BODY and not self._parser.is_empty:
                raise ProtocolError("the server speaks out of turn")
        except ProtocolError:
            self.usable = False
            raise

    def fault(self, reason: str) -> SendResult:
        """The answer where the conversation broke off: a refusal that came before stands."""
        self.usable = False
        if self._answer is not None:
            return self._answer
        between = Phase.DATA if self._stage is _BODY else Phase.MAIL
        phase = self._phases[0] if self._phases else between
        return SendResult(phase, None, reason, dot_written=self._stage is _DOT)

    def _reply(self, reply: Reply) -> Event | None:
        if self._stage is _BODY and reply.code >= 400:
            # RFC 5321 has no reply here; a server that gives up says why before it closes.
            self.usable = False
            return self._done(SendResult(Phase.DATA, reply))
        if not self._expected:
            raise ProtocolError(f"the server speaks out of turn: {reply.text[:100]!a}")
        self._expected -= 1
        if reply.code == 421:
            self.usable = False
        if self._stage is _COMMAND:
            return reply
        if self._stage is _CLEARING:
            self.usable = self.usable and reply.code // 100 in ((2, 4, 5) if self._lone_dot else (2,))
            return self._done(cast(SendResult, self._answer))
        if self._stage is _DOT:
            return self._dot_reply(reply)
        return self._envelope_reply(reply)

    def _dot_reply(self, reply: Reply) -> Event:
        if 300 <= reply.code < 400:
            self.usable = False
            return self._done(
                SendResult(Phase.DOT, None, f"not a reply to the dot: {reply.text[:100]!a}", dot_written=True)
            )
        return self._done(SendResult(Phase.DOT, reply, dot_written=True))

    def _envelope_reply(self, reply: Reply) -> Event | None:
        phase = self._phases[0]
        accepted = reply.code == 354 if phase == Phase.DATA else 200 <= reply.code < 300
        if not accepted and reply.code < 400:
            raise ProtocolError(f"not a reply to {phase.upper()}: {reply.text[:100]!a}")
        if not accepted and self._answer is None:
            self._answer = SendResult(phase, reply)
        del self._phases[0]
        self._mail_accepted |= accepted and phase == Phase.MAIL
        self._rcpt_accepted |= accepted and phase == Phase.RCPT
        answer = self._answer
        if answer is not None and reply.code == 421:
            return self._done(answer)
        if self._expected:
            return None
        if answer is not None:
            return self._clear(answer, lone_dot=phase == Phase.DATA and accepted)
        if self._unasked:
            return self._ask(1)
        self._stage = _BODY
        return GoAhead()

    def _clear(self, answer: SendResult, *, lone_dot: bool) -> Event:
        """After a refusal: end an open transaction, so that the connection can take the next letter."""
        if lone_dot and self._rcpt_accepted:  # MAIL was refused; a dot might now send an empty letter
            self.usable = False
            return self._done(answer)
        if not (lone_dot or self._mail_accepted or self._rcpt_accepted):
            return self._done(answer)
        self._stage, self._expected, self._lone_dot = _CLEARING, 1, lone_dot
        return Write(b".\r\n" if lone_dot else b"RSET\r\n")

    def _done(self, answer: SendResult) -> SendResult:
        self._stage, self._expected, self._phases, self._answer = _COMMAND, 0, [], None
        return answer

    def _ask(self, count: int) -> Write:
        self._expected = count
        asked, self._unasked = self._unasked[:count], self._unasked[count:]
        return Write(b"".join(asked))

    def _mail(self, letter: OutgoingEmail) -> bytes:
        line = b"MAIL FROM:<%b>" % _path(letter, letter.sender)
        if "SIZE" in self.capabilities:
            line += b" SIZE=%d" % len(letter.data)
        if "8BITMIME" in self.capabilities and not letter.data.isascii():
            line += b" BODY=8BITMIME"
        return line + (b" SMTPUTF8\r\n" if _needs_utf8(letter) else b"\r\n")

    def _refusal(self, letter: OutgoingEmail) -> SendResult | None:
        if not _can_be_path(letter.sender):
            return _ours(Phase.MAIL, 553, "5.1.7", "the sender can't be written in an envelope")
        if not _can_be_path(letter.recipient) or not letter.recipient:
            return _ours(Phase.RCPT, 553, "5.1.3", "the address can't be written in an envelope")
        if _needs_utf8(letter) and "SMTPUTF8" not in self.capabilities:
            phase = Phase.RCPT if _is_international(letter.recipient) else Phase.MAIL
            return _ours(phase, 553, "5.6.7", "the relay takes no internationalised address (SMTPUTF8)")
        if not letter.data.isascii() and "8BITMIME" not in self.capabilities:
            return _ours(Phase.DATA, 554, "5.6.3", "the relay takes no 8-bit letter")
        limit = self.capabilities.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit) < len(letter.data):
            return _ours(Phase.DATA, 552, "5.3.4", f"the letter has {len(letter.data)} bytes, the relay takes {limit}")
        return None

    def _require_silence(self) -> None:
        if not self.is_silent:
            self.usable = False
            raise ProtocolError("the server has not finished its last reply")


def stuffed(data: bytes) -> bytes:
    """A letter's bytes with each line's first dot doubled, and a CRLF at the end (RFC 5321, section 4.5.2)."""
    if data.startswith(b"."):
        data = b"." + data
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def login(offered: str, username: str, password: str) -> list[bytes]:
    """The lines to say one after the other, each upon a 334: AUTH PLAIN (RFC 4616) or LOGIN; none where neither is
    `offered`."""
    mechanisms = offered.upper().split()
    if "PLAIN" in mechanisms:
        return [b"AUTH PLAIN " + base64.b64encode(f"\0{username}\0{password}".encode())]
    if "LOGIN" in mechanisms:
        return [b"AUTH LOGIN", base64.b64encode(username.encode()), base64.b64encode(password.encode())]
    return []


def _path(letter: OutgoingEmail, address: str) -> bytes:
    if address.isascii() or _needs_utf8(letter):
        return address.encode()
    from skychimp import addresses

    return addresses.with_ascii_domain(address).encode("ascii")


def _can_be_path(address: str) -> bool:
    if _FORBIDDEN_IN_PATH.search(address):
        return False
    if address.isascii():
        return True
    from skychimp import addresses

    try:
        addresses.with_ascii_domain(address)
    except InvalidValue:
        return False
    return True


def _needs_utf8(letter: OutgoingEmail) -> bool:
    return _is_international(letter.sender) or _is_international(letter.recipient)


def _is_international(address: str) -> bool:
    return not address.isascii() and not address.rpartition("@")[0].isascii()


def _ours(phase: Phase, code: int, enhanced: str, words: str) -> SendResult:
    return SendResult(phase, Reply(code, enhanced, f"{code} {enhanced} {words} (not asked: this is our own word)"))

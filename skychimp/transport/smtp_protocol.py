"""SMTP as a state machine: bytes in, bytes and events out; pure, no sockets (RFC 5321, 2920, 1870, 6152, 6531, 4954).

A reply that is not exactly by the book is a ProtocolError, and the connection must not be used again: who misreads one
reply misreads all that follow.
"""

import base64
import re
from enum import Enum, auto
from typing import NamedTuple

from skychimp.transport.exchange import Answer, Letter, Phase, Reply

LONGEST_LINE = 4096  # bytes; RFC 5321, section 4.5.3.1.5 says 512, some servers say more
MOST_LINES = 128
LARGEST_REPLY = 64 * 1024

_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(rb"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x20\x7f<>]")


class ProtocolError(Exception):
    """The server said something that SMTP doesn't have."""


class ReplyParser:
    """Cuts a stream of bytes into replies, however it is fragmented. Raises ProtocolError for what is none."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Reply]:
        """The replies that are complete with these bytes."""
        replies = []
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            reply = self._take(line.removesuffix(b"\r"))
            if reply is not None:
                replies.append(reply)
        if len(self._buffer) > LONGEST_LINE:
            raise ProtocolError("a line of a reply is too long")
        return replies

    @property
    def is_empty(self) -> bool:
        """Whether no part of a reply is waiting for its rest."""
        return not self._buffer and not self._lines

    def _take(self, line: bytes) -> Reply | None:
        self._size += len(line)
        if len(line) > LONGEST_LINE or len(self._lines) >= MOST_LINES or self._size > LARGEST_REPLY:
            raise ProtocolError("a reply is too long")
        match = _LINE.fullmatch(line)
        if match is None or b"\r" in line:
            raise ProtocolError(f"not a reply: {line[:100]!a}")
        if self._lines and not line.startswith(self._lines[0][:3]):
            raise ProtocolError(f"a reply with two codes: {self._lines[0][:3]!a} and {line[:3]!a}")
        self._lines.append(line)
        if match[2] == b"-":
            return None
        reply = _reply(int(match[1]), self._lines)
        self._lines, self._size = [], 0
        return reply


class GoAhead(NamedTuple):
    """354: the body may be written, and then, with permission, the dot."""


class Write(NamedTuple):
    """These bytes are to be written next."""

    data: bytes


Event = Reply | GoAhead | Write | Answer


class _Stage(Enum):
    COMMAND = auto()
    ENVELOPE = auto()
    BODY = auto()
    DOT = auto()
    CLEARING = auto()  # a lone dot or RSET after a refusal: its reply says only whether the connection still is usable


class Session:
    """One SMTP conversation: a command or a letter at a time, never the next before the last one's replies."""

    def __init__(self) -> None:
        self.capabilities: dict[str, str] = {}
        self.usable = True
        self._parser = ReplyParser()
        self._stage = _Stage.COMMAND
        self._expected = 0
        self._phases: list[Phase] = []
        self._letter: Letter | None = None
        self._answer: Answer | None = None
        self._mail_accepted = False
        self._lone_dot = False

    # Commands

    def greet(self) -> None:
        """Expect the greeting."""
        self._expected = 1

    def command(self, line: bytes) -> bytes:
        """One command of one reply, as bytes to write. Raises ProtocolError where something unread is waiting."""
        self._require_silence()
        self._stage, self._expected = _Stage.COMMAND, 1
        return line + b"\r\n"

    def learn(self, reply: Reply) -> None:
        """Keep what the reply to EHLO offers (RFC 5321, section 4.1.1.1)."""
        lines = [line[4:].strip() for line in reply.text.split("\n")[1:]]
        words = (line.replace("AUTH=", "AUTH ", 1).partition(" ") for line in lines if line)
        self.capabilities = {keyword.upper(): rest for keyword, _, rest in words}

    def auth_plain(self, username: str, password: str) -> bytes:
        """AUTH PLAIN with its initial response (RFC 4616)."""
        return b"AUTH PLAIN " + base64.b64encode(f"\0{username}\0{password}".encode())

    # A letter

    def begin(self, letter: Letter) -> Write | Answer:
        """Start a letter: the bytes to write, or the answer where it can't go through this relay at all."""
        self._require_silence()
        refusal = self._refusal(letter)
        if refusal is not None:
            return refusal
        self._letter, self._answer, self._mail_accepted = letter, None, False
        self._stage = _Stage.ENVELOPE
        if "PIPELINING" not in self.capabilities:
            return self._ask(Phase.MAIL, self._mail(letter))
        self._phases, self._expected = [Phase.MAIL, Phase.RCPT, Phase.DATA], 3
        return Write(self._mail(letter) + self._rcpt(letter) + b"DATA\r\n")

    def dot(self) -> bytes:
        """The final dot. Raises ProtocolError where the server has spoken out of turn."""
        self._require_silence()
        self._stage, self._expected, self._phases = _Stage.DOT, 1, [Phase.DOT]
        return b".\r\n"

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes from the server mean. Raises ProtocolError."""
        try:
            return self._receive(data)
        except ProtocolError:
            self.usable = False
            raise

    def _receive(self, data: bytes) -> list[Event]:
        events: list[Event] = []
        for reply in self._parser.feed(data):
            event = self._reply(reply)
            if event is not None:
                events.append(event)
        if not self._expected and self._stage != _Stage.BODY and not self._parser.is_empty:
            raise ProtocolError("the server speaks out of turn")
        return events

    def fault(self, reason: str) -> Answer:
        """The answer where the conversation broke off: a refusal that came before stands."""
        self.usable = False
        if self._answer is not None:
            return self._answer
        phase = self._phases[0] if self._phases else Phase.DATA
        return Answer(phase, None, reason, dot_written=self._stage == _Stage.DOT)

    def _reply(self, reply: Reply) -> Event | None:
        if self._stage == _Stage.BODY:  # RFC 5321 has no reply here; a server that gives up says why before it closes
            self.usable = False
            return self._done(Answer(Phase.DATA, reply))
        if not self._expected:
            raise ProtocolError(f"the server speaks out of turn: {reply.text[:100]!a}")
        self._expected -= 1
        if reply.code == 421:
            self.usable = False
        if self._stage == _Stage.COMMAND:
            return reply
        if self._stage == _Stage.CLEARING:
            refused_dot = self._lone_dot and reply.code >= 500
            self.usable = self.usable and (200 <= reply.code < 300 or refused_dot)
            return self._done(self._answer)
        if self._stage == _Stage.DOT:
            return self._dot_reply(reply)
        return self._envelope_reply(self._phases[0], reply)

    def _dot_reply(self, reply: Reply) -> Event:
        if 300 <= reply.code < 400:
            self.usable = False
            return self._done(Answer(Phase.DOT, None, f"not a reply to the dot: {reply.text}", dot_written=True))
        return self._done(Answer(Phase.DOT, reply, dot_written=True))

    def _envelope_reply(self, phase: Phase, reply: Reply) -> Event | None:
        accepted = reply.code == 354 if phase == Phase.DATA else 200 <= reply.code < 300
        if phase == Phase.MAIL:
            self._mail_accepted = accepted
        if not accepted and self._answer is None:
            if reply.code < 400:
                raise ProtocolError(f"not a reply to {phase.upper()}: {reply.text[:100]!a}")
            self._answer = Answer(phase, reply)
        del self._phases[0]
        if reply.code == 421:
            return self._done(self._answer)
        if self._phases:
            return None
        if self._answer is not None:
            return self._clear(lone_dot=phase == Phase.DATA and accepted)
        return self._go_on(phase)

    def _go_on(self, phase: Phase) -> Event:
        assert self._letter is not None
        if phase == Phase.MAIL:
            return self._ask(Phase.RCPT, self._rcpt(self._letter))
        if phase == Phase.RCPT:
            return self._ask(Phase.DATA, b"DATA\r\n")
        self._stage = _Stage.BODY
        return GoAhead()

    def _clear(self, *, lone_dot: bool) -> Event | None:
        """After a refusal: end an open transaction, so that the connection can take the next letter."""
        if not lone_dot and not self._mail_accepted:
            return self._done(self._answer)
        self._stage, self._expected, self._lone_dot = _Stage.CLEARING, 1, lone_dot
        return Write(b".\r\n" if lone_dot else b"RSET\r\n")

    def _done(self, answer: Answer | None) -> Answer:
        assert answer is not None
        self._stage, self._expected, self._phases, self._answer = _Stage.COMMAND, 0, [], None
        return answer

    def _ask(self, phase: Phase, line: bytes) -> Write:
        self._phases, self._expected = [phase], 1
        return Write(line)

    def _mail(self, letter: Letter) -> bytes:
        line = b"MAIL FROM:<%b>" % self._path(letter, letter.sender)
        if "SIZE" in self.capabilities:
            line += b" SIZE=%d" % len(letter.data)
        if "8BITMIME" in self.capabilities and not letter.data.isascii():
            line += b" BODY=8BITMIME"
        return line + (b" SMTPUTF8\r\n" if _needs_utf8(letter) else b"\r\n")

    def _rcpt(self, letter: Letter) -> bytes:
        return b"RCPT TO:<%b>\r\n" % self._path(letter, letter.recipient)

    def _path(self, letter: Letter, address: str) -> bytes:
        if address.isascii() or _needs_utf8(letter):
            return address.encode()
        from skychimp import addresses

        return addresses.with_ascii_domain(address).encode("ascii")

    def _refusal(self, letter: Letter) -> Answer | None:
        if any(_FORBIDDEN_IN_PATH.search(address) for address in (letter.sender, letter.recipient)):
            return _ours(Phase.RCPT, 553, "5.1.3", "the address can't be written in an envelope")
        if _needs_utf8(letter) and "SMTPUTF8" not in self.capabilities:
            return _ours(Phase.RCPT, 553, "5.6.7", "the relay takes no internationalised address (SMTPUTF8)")
        if not letter.data.isascii() and "8BITMIME" not in self.capabilities:
            return _ours(Phase.DATA, 554, "5.6.3", "the relay takes no 8-bit letter")
        limit = self.capabilities.get("SIZE", "")
        if limit.isdigit() and 0 < int(limit) < len(letter.data):
            return _ours(Phase.DATA, 552, "5.3.4", f"the letter has {len(letter.data)} bytes, the relay takes {limit}")
        return None

    def _require_silence(self) -> None:
        if self._expected or not self._parser.is_empty:
            self.usable = False
            raise ProtocolError("the server has not finished its last reply")


def stuffed(data: bytes) -> bytes:
    """A letter's bytes with each dot at the start of a line doubled, and a CRLF at the end (RFC 5321, section 4.5.2)."""
    if data.startswith(b"."):
        data = b"." + data
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def _needs_utf8(letter: Letter) -> bool:
    for address in (letter.sender, letter.recipient):
        if not address.isascii() and not address.rpartition("@")[0].isascii():
            return True
    return False


def _ours(phase: Phase, code: int, enhanced: str, words: str) -> Answer:
    return Answer(phase, Reply(code, enhanced, f"{code} {enhanced} {words} (not asked: this is our own word)"))


def _reply(code: int, lines: list[bytes]) -> Reply:
    match = _ENHANCED.match(lines[0][4:])
    enhanced = match[1].decode() if match and match[1][0] == lines[0][0] else ""
    return Reply(code, enhanced, b"\n".join(lines).decode("utf-8", "backslashreplace"))

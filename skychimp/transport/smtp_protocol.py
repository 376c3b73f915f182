"""SMTP as a state machine: bytes in, bytes and events out; pure, no sockets.

It follows RFC 5321, 1870, 2920, 3461, 6152, 6531 and 9422.

An invalid reply is a ProtocolError, and the connection must not be used again. After one misread reply, every later
reply would be assigned to the wrong command.
"""

import re
from collections.abc import Iterator
from enum import Enum, auto
from functools import lru_cache
from typing import NamedTuple, cast

from skychimp import addresses
from skychimp.errors import InvalidValue
from skychimp.translation import tr
from skychimp.transport.interfaces import OutgoingEmail, Phase, Reply, SendResult

MAX_LINE_BYTES = 4096  # RFC 5321, section 4.5.3.1.5 says 512, but some servers send more
MAX_REPLY_LINES = 128
MAX_REPLY_BYTES = 64 * 1024

# Code, space or hyphen, and an enhanced code (RFC 2034) only if its class is the same as the code's.
_REPLY_LINE = re.compile(rb"(([2-5])[0-5][0-9])(?:([ -])(?:((?=[245])\2\.\d{1,3}\.\d{1,3})(?![^ ]))?[^\r]*)?")
_TLS_RECORDS = (b"\x15\x03", b"\x16\x03")  # how an alert and a handshake begin
_XTEXT = re.compile(r"[^!-*,-<>-~]")  # what is encoded in a parameter (RFC 3461, section 4)
_LIMIT = re.compile(r"[0-9]{1,20}")
_USUAL_PATH = re.compile(r"[!-;=?-~]+")  # ASCII without spaces, "<" and ">"
_FORBIDDEN_IN_PATH = re.compile(r"[\x00-\x20\x7f-\x9f<>\ud800-\udfff]")


class ProtocolError(Exception):
    """The server sent something that SMTP does not allow."""


class ReplyParser:
    """Splits a stream of bytes into replies. The stream may be fragmented in any way."""

    def __init__(self) -> None:
        self.got_tls = False
        """Whether the server sent TLS instead of a reply."""
        self._buffer = b""
        self._lines: list[Reply] = []  # of an unfinished multi-line reply, each parsed as a reply of its own
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Reply]:
        """Yield the replies that these bytes complete. Raises ProtocolError, after the valid replies before it."""
        data = self._buffer + data
        if data.startswith(_TLS_RECORDS):
            self.got_tls = True
            raise ProtocolError("TLS instead of a reply")
        *lines, self._buffer = data.split(b"\n")
        for line in lines:
            reply, is_continued = _parse_line(line)
            if is_continued or self._lines:
                self._add_line(reply, len(line))
                if is_continued:
                    continue
                reply = self._join_lines()
            yield reply
        if len(self._buffer) > MAX_LINE_BYTES:
            raise ProtocolError("reply line too long")

    @property
    def is_empty(self) -> bool:
        """Return whether no part of an unfinished reply is stored."""
        return not self._buffer and not self._lines

    def _add_line(self, line: Reply, size: int) -> None:
        if self._lines and line.code != self._lines[0].code:
            raise ProtocolError(f"reply with two codes: {self._lines[0].code} and {line.code}")
        self._lines.append(line)
        self._size += size
        if len(self._lines) > MAX_REPLY_LINES or self._size > MAX_REPLY_BYTES:
            raise ProtocolError("reply too long")

    def _join_lines(self) -> Reply:
        first, text = self._lines[0], "\n".join(line.text for line in self._lines)
        self._lines, self._size = [], 0
        return first._replace(text=text)


def _parse_line(line: bytes) -> tuple[Reply, bool]:
    """Parse one line as a reply. The second value says whether the reply continues on the next line."""
    if len(line) > MAX_LINE_BYTES:
        raise ProtocolError("reply line too long")
    match = _REPLY_LINE.fullmatch(line.removesuffix(b"\r"))
    if match is None:
        raise ProtocolError(f"invalid reply: {line[:100]!a}")
    code, separator, enhanced = match.group(1, 3, 4)
    text = match[0].decode("utf-8", "backslashreplace")
    return Reply(int(code), (enhanced or b"").decode(), text), separator == b"-"


@lru_cache(maxsize=64)  # a server accepts every envelope in the same words
def _accepts_envelope(data: bytes) -> bool:
    """Return whether these bytes are exactly three replies of one line that accept MAIL, RCPT and DATA."""
    *lines, rest = data.split(b"\n")
    if len(lines) != 3 or rest:
        return False
    try:
        replies, is_continued = zip(*map(_parse_line, lines), strict=True)
    except ProtocolError:
        return False
    mail, rcpt, start = (reply.code for reply in replies)
    return not any(is_continued) and 200 <= mail < 300 and 200 <= rcpt < 300 and start == 354


class StartBody(NamedTuple):
    """The server sent 354: write the body, and then the final dot if the intent is committed."""


class Write(NamedTuple):
    """Bytes to write to the server now."""

    data: bytes


Event = Reply | StartBody | Write | SendResult


class _Stage(Enum):
    COMMAND = auto()
    ENVELOPE = auto()
    BODY = auto()
    DOT = auto()
    RESET = auto()  # a lone dot or RSET after a refusal; its reply only says whether the connection is still usable


# Module-level names, because reading an Enum's attributes is slow.
_COMMAND, _ENVELOPE, _BODY, _DOT, _RESET = _Stage
_PHASE_MAIL, _PHASE_RCPT, _PHASE_DATA, _PHASE_DOT = Phase
_START_BODY = StartBody()


class SmtpProtocol:
    """The state of one SMTP connection.

    It handles one command or one email at a time, and starts the next only after all replies to the last, or right
    behind an email's final dot. A new connection first expects the greeting. Once `is_usable` is False, all further
    input is ignored.
    """

    def __init__(self, *, greeted: bool = False) -> None:
        self.capabilities: dict[str, str] = {}
        self.has_pipelining = False
        """Whether the server takes several commands at once."""
        self.mail_limit: int | None = None
        """How many emails the server takes over one connection at most (RFC 9422: MAILMAX), None if it does not say."""
        self._max_size: int | None = None
        self.is_usable = True
        self._parser = ReplyParser()
        self._stage = _COMMAND
        self._expected_replies = 0 if greeted else 1
        self._unanswered: list[Phase] = []
        self._unsent_commands: list[bytes] = []
        self._result: SendResult | None = None
        self._has_next = False
        self._mail_accepted = self._rcpt_accepted = self._lone_dot_sent = False

    def start_command(self, line: bytes) -> bytes:
        """Return the bytes to write for a command that has one reply. Raises ProtocolError if there is unread input."""
        self._require_idle()
        self._stage, self._expected_replies = _COMMAND, 1
        return line + b"\r\n"

    def read_capabilities(self, reply: Reply) -> None:
        """Store the extensions that the reply to EHLO offers (RFC 5321, section 4.1.1.1)."""
        offers = (line[4:].strip().partition(" ") for line in reply.text.split("\n")[1:])
        self.capabilities = {keyword.upper(): parameters for keyword, _, parameters in offers}
        self.has_pipelining = "PIPELINING" in self.capabilities
        self._max_size = _positive_number(self.capabilities.get("SIZE", ""))
        limits = dict(limit.upper().partition("=")[::2] for limit in self.capabilities.get("LIMITS", "").split())
        self.mail_limit = _positive_number(limits.get("MAILMAX", ""))

    def start_email(self, email: OutgoingEmail) -> Write | SendResult:
        """Return the first bytes to write for an email, or the result if this server cannot take it at all.

        Raises ProtocolError if there is unread input.
        """
        self._require_idle()
        refusal = self._local_refusal(email)
        if refusal is not None:
            return refusal
        self._unsent_commands = self._envelope(email).splitlines(keepends=True)
        self._await_envelope()
        return self._write_commands(3 if self.has_pipelining else 1)

    def end_email(self, following: OutgoingEmail | None = None) -> bytes:
        """Return the final dot to write, and behind it the envelope of the next email, if there is one (RFC 2920).

        The next email must be one that `can_follow`. Raises ProtocolError if the server sent something before the dot.
        """
        self._require_idle()
        self._stage, self._expected_replies, self._unanswered = _DOT, 1, [_PHASE_DOT]
        self._has_next = following is not None
        return b".\r\n" if following is None else b".\r\n" + self._envelope(following)

    def envelope_lines(self, email: OutgoingEmail) -> list[bytes] | SendResult:
        """Return MAIL and RCPT without their line ends, or the result if this server cannot take the email at all."""
        return self._local_refusal(email) or self._envelope(email).splitlines()[:2]

    def can_follow(self, email: OutgoingEmail) -> bool:
        """Return whether the envelope of this email can be written behind a final dot."""
        return self.has_pipelining and self._local_refusal(email) is None

    @property
    def got_tls(self) -> bool:
        """Return whether the server sent TLS instead of a reply."""
        return self._parser.got_tls

    @property
    def is_unanswered(self) -> bool:
        """Return whether the server has not answered any command of the email that was started."""
        return len(self._unanswered) == 3

    @property
    def is_idle(self) -> bool:
        """Return whether no reply is expected and no part of one has arrived."""
        return self.is_usable and not self._expected_replies and self._parser.is_empty

    def receive_usual(self, data: bytes) -> SendResult | None:
        """Return the result of an email if these are the four replies that accept it and the envelope behind it.

        Then the body of the next email can be written. In all other cases, return None and change nothing: `receive`
        takes such replies too, but needs three times as long.
        """
        if not (self._stage is _DOT and self._has_next and self.is_usable and self._parser.is_empty):
            return None
        line, _, rest = data.partition(b"\n")
        if len(data) > MAX_LINE_BYTES or line[:1] != b"2" or not _accepts_envelope(rest):
            return None
        try:
            reply, is_continued = _parse_line(line)
        except ProtocolError:
            return None
        if is_continued:
            return None
        self._has_next, self._stage, self._expected_replies, self._unanswered = False, _BODY, 0, []
        self._mail_accepted = self._rcpt_accepted = True
        return SendResult(_PHASE_DOT, reply, dot_written=True)

    def receive(self, data: bytes) -> Iterator[Event]:
        """Yield the events for bytes from the server. Raises ProtocolError, after the valid events before it."""
        if not self.is_usable:
            return
        try:
            for reply in self._parser.feed(data):
                event = self._handle_reply(reply)
                if event is not None:
                    yield event
                if not self.is_usable:
                    return
            if not self._expected_replies and self._stage is not _BODY and not self._parser.is_empty:
                raise ProtocolError("unexpected input from the server")
        except ProtocolError:
            self.is_usable = False
            raise

    def fail(self, error: str) -> SendResult:
        """Return the result if the connection broke. An earlier refusal of the email remains the result."""
        self.is_usable = False
        if self._result is not None:
            return self._result
        default_phase = Phase.DATA if self._stage is _BODY else Phase.MAIL
        phase = self._unanswered[0] if self._unanswered else default_phase
        return SendResult(phase, None, error, dot_written=self._stage is _DOT)

    def _handle_reply(self, reply: Reply) -> Event | None:
        if self._stage is _BODY and reply.code >= 400:
            # RFC 5321 has no reply here, but a server that gives up sends its reason before it closes.
            self.is_usable = False
            return self._finish(SendResult(Phase.DATA, reply))
        if not self._expected_replies:
            raise ProtocolError(f"unexpected reply: {reply.text[:100]!a}")
        self._expected_replies -= 1
        if reply.code == 421:
            self.is_usable = False
        if self._stage is _COMMAND:
            return reply
        if self._stage is _RESET:
            self.is_usable = self.is_usable and reply.code // 100 in ((2, 4, 5) if self._lone_dot_sent else (2,))
            return self._finish(cast(SendResult, self._result))
        if self._stage is _DOT:
            return self._handle_dot_reply(reply)
        return self._handle_envelope_reply(reply)

    def _handle_dot_reply(self, reply: Reply) -> Event:
        if 300 <= reply.code < 400:
            self.is_usable = False
            error = f"invalid reply to the final dot: {reply.text[:100]!a}"
            return self._finish(SendResult(Phase.DOT, None, error, dot_written=True))
        result = self._finish(SendResult(Phase.DOT, reply, dot_written=True))
        if self._has_next:
            self._has_next, self._expected_replies = False, 3
            self._await_envelope()
        return result

    def _handle_envelope_reply(self, reply: Reply) -> Event | None:
        phase = self._unanswered[0]
        accepted = reply.code == 354 if phase is _PHASE_DATA else 200 <= reply.code < 300
        if not accepted and reply.code < 400:
            raise ProtocolError(f"invalid reply to {phase.upper()}: {reply.text[:100]!a}")
        if not accepted and self._result is None:
            self._result = SendResult(phase, reply)
        del self._unanswered[0]
        self._mail_accepted |= accepted and phase is _PHASE_MAIL
        self._rcpt_accepted |= accepted and phase is _PHASE_RCPT
        result = self._result
        if result is not None and reply.code == 421:
            return self._finish(result)
        if self._expected_replies:
            return None
        if result is not None:
            return self._reset(result, lone_dot=phase is _PHASE_DATA and accepted)
        if self._unsent_commands:
            return self._write_commands(1)
        self._stage = _BODY
        return _START_BODY

    def _reset(self, result: SendResult, *, lone_dot: bool) -> Event:
        """End an open transaction after a refusal, so that the connection can take the next email."""
        if lone_dot and self._rcpt_accepted:  # MAIL was refused, but a dot might now send an empty email
            self.is_usable = False
            return self._finish(result)
        if not (lone_dot or self._mail_accepted or self._rcpt_accepted):
            return self._finish(result)
        self._stage, self._expected_replies, self._lone_dot_sent = _RESET, 1, lone_dot
        return Write(b".\r\n" if lone_dot else b"RSET\r\n")

    def _finish(self, result: SendResult) -> SendResult:
        self._stage, self._expected_replies, self._unanswered, self._result = _COMMAND, 0, [], None
        return result

    def _await_envelope(self) -> None:
        self._result = None
        self._mail_accepted = self._rcpt_accepted = False
        self._stage, self._unanswered = _ENVELOPE, [_PHASE_MAIL, _PHASE_RCPT, _PHASE_DATA]

    def _envelope(self, email: OutgoingEmail) -> bytes:
        """Return the three commands before the body."""
        size = f" SIZE={email.size}" if "SIZE" in self.capabilities else ""
        body = " BODY=8BITMIME" if "8BITMIME" in self.capabilities and not email.data.isascii() else ""
        sender, recipient, utf8 = email.sender, email.recipient, ""
        if not (sender.isascii() and recipient.isascii()):
            utf8 = " SMTPUTF8" if _needs_utf8(email) else ""
            if not utf8:
                sender, recipient = map(addresses.with_ascii_domain, (sender, recipient))
        recipient = addresses.in_protocol(recipient)
        mail, rcpt = self._notification(email.envelope_id, recipient) if email.envelope_id else ("", "")
        return f"MAIL FROM:<{sender}>{size}{body}{utf8}{mail}\r\nRCPT TO:<{recipient}>{rcpt}\r\nDATA\r\n".encode()

    def _notification(self, envelope_id: str, recipient: str) -> tuple[str, str]:
        """Return the parameters of MAIL and RCPT that ask for a bounce with the envelope's id (RFC 3461, section 4)."""
        if "DSN" not in self.capabilities:
            return "", ""
        # The type of an address that is not ASCII is another one (RFC 6533), which not all servers know.
        original = f" ORCPT=rfc822;{_XTEXT.sub(_encode_xtext, recipient)}" if recipient.isascii() else ""
        return f" RET=HDRS ENVID={envelope_id}", f" NOTIFY=FAILURE{original}"

    def _write_commands(self, count: int) -> Write:
        self._expected_replies = count
        commands, self._unsent_commands = self._unsent_commands[:count], self._unsent_commands[count:]
        return Write(b"".join(commands))

    def _local_refusal(self, email: OutgoingEmail) -> SendResult | None:
        """Return the result for an email that the server would refuse in any case, None if it can be tried."""
        if not (_USUAL_PATH.fullmatch(email.sender) and _USUAL_PATH.fullmatch(email.recipient)):
            refusal = self._path_refusal(email)
            if refusal is not None:
                return refusal
        if "8BITMIME" not in self.capabilities and not email.data.isascii():
            return _refuse(Phase.DATA, 554, "5.6.3", "the mail server does not support 8-bit emails (8BITMIME)")
        if self._max_size is not None and self._max_size < email.size:
            reason = tr(
                "the email has {size} bytes, the mail server accepts at most {max_size}",
                size=email.size,
                max_size=self._max_size,
            )
            return _refuse(Phase.DATA, 552, "5.3.4", reason)
        return None

    def _path_refusal(self, email: OutgoingEmail) -> SendResult | None:
        if not _can_be_path(email.sender):
            return _refuse(Phase.MAIL, 553, "5.1.7", "the sender address is not valid in SMTP")
        if not _can_be_path(email.recipient) or not email.recipient:
            return _refuse(Phase.RCPT, 553, "5.1.3", "the recipient address is not valid in SMTP")
        if _needs_utf8(email) and "SMTPUTF8" not in self.capabilities:
            phase = Phase.RCPT if _is_international(email.recipient) else Phase.MAIL
            return _refuse(phase, 553, "5.6.7", "the mail server does not support international addresses (SMTPUTF8)")
        return None

    def _require_idle(self) -> None:
        if not self.is_idle:
            self.is_usable = False
            raise ProtocolError("unexpected input from the server")


def dot_stuff(data: bytes) -> bytes:
    """Return an email's bytes with the first dot of each line doubled and a final CRLF (RFC 5321, section 4.5.2)."""
    if data.startswith(b"."):
        data = b"." + data
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return data if data.endswith(b"\r\n") else data + b"\r\n"


def _positive_number(text: str) -> int | None:
    """Return a limit that a server offers, or None if it is no number or 0, which stands for no limit."""
    return (int(text) if _LIMIT.fullmatch(text) else 0) or None


def _can_be_path(address: str) -> bool:
    if _FORBIDDEN_IN_PATH.search(address):
        return False
    if address.isascii():
        return True
    try:
        addresses.with_ascii_domain(address)
    except InvalidValue:
        return False
    return True


def _needs_utf8(email: OutgoingEmail) -> bool:
    return _is_international(email.sender) or _is_international(email.recipient)


def _is_international(address: str) -> bool:
    """Return whether the local part is not ASCII. A domain alone can be written in ASCII."""
    return not address.isascii() and not address.rpartition("@")[0].isascii()


def _encode_xtext(match: re.Match[str]) -> str:
    return f"+{ord(match[0]):02X}"


def _refuse(phase: Phase, code: int, enhanced: str, reason: str) -> SendResult:
    """Return a refusal in the form of a server's reply, marked as Skychimp's own."""
    return SendResult(phase, Reply(code, enhanced, f"{code} {enhanced} {reason} (refused by Skychimp before sending)"))

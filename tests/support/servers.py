"""SMTP servers for tests. They run in threads, so that async tests and subprocesses can both connect to them.

`ScriptedServer` follows a script. `CountingReceiver` accepts all emails and counts them. `LimitingRelay` refuses what
is over its limits.
"""

import hashlib
import os
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email import message_from_bytes
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

GREETING = b"220 test ESMTP\r\n"
EHLO = b"250-test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SIZE 100000000\r\n250 ENHANCEDSTATUSCODES\r\n"
ENVELOPE_ACCEPTED = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"
SENT = b"250 2.0.0 queued as 1\r\n"


class Conversation:
    """One client's connection. `received_lines` are its lines so far, `test_ended` is set at the end of the test."""

    def __init__(self, raw: socket.socket, test_ended: threading.Event) -> None:
        self.socket = raw
        self.test_ended = test_ended
        self.received_lines: list[bytes] = []
        self._file: BinaryIO = raw.makefile("rb")

    def read_line(self) -> bytes:
        """Return the next line, or b"" at the end."""
        line = self._file.readline()
        self.received_lines.append(line)
        return line

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Close the connection at the end of the block."""
        try:
            yield
        finally:
            self._file.close()
            self.socket.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Do a TLS handshake as the server."""
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self._file = self.socket.makefile("rb")


Step = bytes | Callable[[Conversation], object]
"""Bytes to send, or a function to call with the conversation."""


def read_line(conversation: Conversation) -> None:
    """Read one line."""
    conversation.read_line()


def read_envelope(conversation: Conversation) -> None:
    """Read MAIL, RCPT and DATA."""
    for _ in range(3):
        conversation.read_line()


def read_body(conversation: Conversation) -> None:
    """Read up to the final dot or the end of the connection."""
    while conversation.read_line() not in (b".\r\n", b""):
        pass


def hang(conversation: Conversation) -> None:
    """Read and ignore everything until the client closes."""
    while conversation.read_line():
        pass


def stop_reading(conversation: Conversation) -> None:
    """Neither read nor send anything more."""
    conversation.test_ended.wait()


def send_slowly(data: bytes, interval_s: float) -> Step:
    """Send bytes one by one at an interval."""

    def step(conversation: Conversation) -> None:
        for byte in data:
            conversation.socket.sendall(bytes([byte]))
            if conversation.test_ended.wait(interval_s):
                return

    return step


def accept_mail(override: Callable[[str, str], bytes | None] = lambda command, address: None) -> Step:
    """Accept emails until the client closes.

    `override` gets each command (EHLO, MAIL, RCPT, DATA, "." and so on) and its address: the sender's after MAIL, the
    recipient's after RCPT. It returns another reply, b"" to close the connection, or None for the usual reply.
    """

    def step(conversation: Conversation) -> None:
        address = accepted = ""
        while line := conversation.read_line():
            command = line[:4].upper().strip().decode("ascii", "replace")
            if command in ("MAIL", "RCPT"):
                address = line.partition(b"<")[2].rpartition(b">")[0].decode()
            reply = send_reply(conversation, command, address, accepted)
            accepted = command if reply.startswith(b"2") else ""
            if command == "DATA" and reply.startswith(b"354"):
                read_body(conversation)
                reply = send_reply(conversation, ".", address, "DATA") if conversation.received_lines[-1] else b""
            if not reply:
                return

    def send_reply(conversation: Conversation, command: str, address: str, accepted: str) -> bytes:
        usual = {"EHLO": EHLO, "DATA": b"354 go ahead\r\n", ".": SENT}.get(command, b"250 2.0.0 ok\r\n")
        reply = override(command, address)
        if accepted != {"RCPT": "MAIL", "DATA": "RCPT"}.get(command, accepted):
            reply = b"503 5.5.1 bad sequence of commands\r\n"
        conversation.socket.sendall(usual if reply is None else reply)
        return usual if reply is None else reply

    return step


def tls(context: ssl.SSLContext) -> Step:
    """Do a TLS handshake."""
    return lambda conversation: conversation.start_tls(context)


class _Server:
    """Listens on a loopback port (default: a free one) until the end of a `with` block."""

    def __init__(self, port: int = 0) -> None:
        self.conversations: list[Conversation] = []
        self._test_ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._test_ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for conversation in self.conversations:
            with suppress(OSError):  # it may already be closed
                conversation.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Wait until all connections have ended and everything is read. The clients must have closed them."""
        for thread in self._threads[1:]:
            thread.join()

    def handle(self, conversation: Conversation, number: int) -> None:
        """Talk to the client of one connection. `number` counts the connections from 0."""
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # send small replies at once
            conversation = Conversation(raw, self._test_ended)
            self.conversations.append(conversation)
            thread = threading.Thread(target=self._run, args=(conversation, len(self.conversations) - 1))
            self._threads.append(thread)
            thread.start()

    def _run(self, conversation: Conversation, number: int) -> None:
        with conversation.closing(), suppress(OSError):  # the client has closed, or the test has ended
            self.handle(conversation, number)


class ScriptedServer(_Server):
    """Follows one script per connection, the last one on all further connections, and then closes the connection.

    >>> with ScriptedServer([GREETING, hear, EHLO, hear_group, b"421 too busy\\r\\n", hang]) as server: ...
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__()
        self._scripts = scripts

    def handle(self, conversation: Conversation, number: int) -> None:
        for step in self._scripts[min(number, len(self._scripts) - 1)]:
            if isinstance(step, bytes):
                conversation.socket.sendall(step)
            else:
                step(conversation)

    @property
    def received(self) -> bytes:
        """Return everything received over all connections."""
        return b"".join(line for conversation in self.conversations for line in conversation.received_lines)

    @property
    def emails(self) -> list[bytes]:
        """Return each email that was received up to its final dot, in the order of the connections."""
        return re.findall(rb"\nDATA\r\n(.*?\r\n)\.\r\n", self.received, re.DOTALL)


class ReceivedEmail(NamedTuple):
    """A received email. `digest` is the SHA-256 of its bytes."""

    recipient: str
    message_id: str
    digest: str


class CountingReceiver(_Server):
    """Accepts all emails. Each is logged on disk (recipient, Message-ID, digest) before its 250."""

    def __init__(self, log: Path, port: int = 0) -> None:
        super().__init__(port)
        self.accepted_count = 0
        self._log = log
        self._lock = threading.Lock()
        log.touch()

    def email_counts(self) -> Counter[tuple[str, str]]:
        """Return how often each (recipient, Message-ID) was received."""
        return Counter((email.recipient, email.message_id) for email in self.received_emails())

    def received_emails(self) -> list[ReceivedEmail]:
        """Return the received emails in order."""
        return [ReceivedEmail(*line.split("\t")) for line in self._log.read_text(encoding="utf-8").splitlines()]

    def reply_to(self, command: bytes, recipient: str) -> bytes:
        """Return the reply to a command, or to the final dot (b".") of a logged email."""
        return {b"EHLO": EHLO, b"DATA": b"354 go ahead\r\n", b".": SENT}.get(command, b"250 2.0.0 ok\r\n")

    def handle(self, conversation: Conversation, number: int) -> None:
        conversation.socket.sendall(GREETING)
        recipient = ""
        while line := conversation.read_line():
            command = line[:4].upper()
            if command == b"RCPT":
                recipient = line.partition(b"<")[2].rpartition(b">")[0].decode()
            reply = self.reply_to(command, recipient)
            conversation.socket.sendall(reply)
            if command == b"QUIT":
                return
            if reply.startswith(b"354"):
                self._receive_email(conversation, recipient)

    def _receive_email(self, conversation: Conversation, recipient: str) -> None:
        start = len(conversation.received_lines)
        read_body(conversation)
        *lines, last = conversation.received_lines[start:]
        if last != b".\r\n":
            return
        data = b"".join(line.removeprefix(b".") for line in lines)
        digest = hashlib.sha256(data).hexdigest()
        with self._lock, self._log.open("a", encoding="utf-8") as log:
            log.write(f"{recipient}\t{message_from_bytes(data)['Message-ID']}\t{digest}\n")
            log.flush()
            os.fsync(log.fileno())
            self.accepted_count += 1
        conversation.socket.sendall(self.reply_to(b".", recipient))


class Request(NamedTuple):
    """What a client asks for: a command (MAIL, RCPT, DATA, "." and so on), or a connection (command CONNECT).

    `emails` counts the emails that were accepted before on this connection, `connections` the open ones with this one.
    """

    command: str
    sender: str
    recipient: str
    emails: int
    connections: int


Limit = Callable[[Request], bytes | None]
"""Returns the reply to a request that is refused, or None if it is not. After a 421 the connection is closed."""


class LimitingRelay(_Server):
    """Accepts the emails that `limit` does not refuse. The limit can be changed at any time."""

    def __init__(self, limit: Limit = lambda request: None, ehlo: bytes = EHLO) -> None:
        super().__init__()
        self.limit = limit
        self.accepted: list[tuple[str, str]] = []
        """Sender and recipient of each email."""
        self.refusals = 0
        self._ehlo = ehlo
        self._connections = 0
        self._lock = threading.Lock()

    @property
    def recipients(self) -> Counter[str]:
        """How often each recipient was sent an email."""
        return Counter(recipient for _, recipient in self.accepted)

    def handle(self, conversation: Conversation, number: int) -> None:
        with self._lock:
            self._connections += 1
            connections = self._connections
        try:
            self._talk(conversation, Request("CONNECT", "", "", 0, connections))
        finally:
            with self._lock:
                self._connections -= 1

    def _talk(self, conversation: Conversation, request: Request) -> None:
        is_open, accepted = self._reply(conversation, request, GREETING)
        while is_open and (line := conversation.read_line()):
            command = line[:4].upper().strip().decode("ascii", "replace")
            address = line.partition(b"<")[2].partition(b">")[0].decode()
            request = request._replace(command=command)
            if command == "MAIL":
                request = request._replace(sender=address)
            elif command == "RCPT":
                request = request._replace(recipient=address)
            usual = {"EHLO": self._ehlo, "DATA": b"354 go ahead\r\n"}.get(command, b"250 2.0.0 ok\r\n")
            if {"RCPT": "MAIL", "DATA": "RCPT"}.get(command, accepted) != accepted:
                conversation.socket.sendall(b"503 5.5.1 bad sequence of commands\r\n")
                continue
            is_open, accepted = self._reply(conversation, request, usual)
            if accepted == "DATA":
                read_body(conversation)
                if conversation.received_lines[-1] != b".\r\n":
                    return
                is_open, accepted = self._reply(conversation, request._replace(command="."), SENT)
                request = request._replace(emails=request.emails + (accepted == "."))

    def _reply(self, conversation: Conversation, request: Request, usual: bytes) -> tuple[bool, str]:
        """Send the reply. Return whether the connection stays open, and the command if it was accepted."""
        with self._lock:
            refusal = self.limit(request)
            self.refusals += refusal is not None
            if refusal is None and request.command == ".":
                self.accepted.append((request.sender, request.recipient))
        conversation.socket.sendall(refusal or usual)
        is_open = request.command != "QUIT" and not (refusal or b"").startswith(b"421")
        return is_open, "" if refusal else request.command

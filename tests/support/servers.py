"""SMTP servers for tests, each in threads of its own, so that async tests and subprocesses can both speak to them.

`ScriptedServer` says exactly what a test tells it to; `CountingReceiver` takes all mail and knows what arrived.
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
GROUP = b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n"
SENT = b"250 2.0.0 queued as 1\r\n"


class Conversation:
    """One connection as a script sees it; `heard` are the lines that came, `over` is set at the test's end."""

    def __init__(self, raw: socket.socket, over: threading.Event) -> None:
        self.socket = raw
        self.over = over
        self.heard: list[bytes] = []
        self._file: BinaryIO = raw.makefile("rb")

    def hear(self) -> bytes:
        """The next line; b"" at the end."""
        line = self._file.readline()
        self.heard.append(line)
        return line

    @contextmanager
    def closing(self) -> Iterator[None]:
        try:
            yield
        finally:
            self._file.close()
            self.socket.close()

    def start_tls(self, context: ssl.SSLContext) -> None:
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self._file = self.socket.makefile("rb")


Step = bytes | Callable[[Conversation], object]
"""Bytes are said as they are; anything else is called."""


def hear(conversation: Conversation) -> None:
    """Read one line."""
    conversation.hear()


def hear_group(conversation: Conversation) -> None:
    """Read MAIL, RCPT and DATA."""
    for _ in range(3):
        conversation.hear()


def hear_body(conversation: Conversation) -> None:
    """Read up to the final dot, or to the end."""
    while conversation.hear() not in (b".\r\n", b""):
        pass


def hang(conversation: Conversation) -> None:
    """Say nothing more until the other side closes."""
    while conversation.hear():
        pass


def deafen(conversation: Conversation) -> None:
    """Neither read nor say anything more."""
    conversation.over.wait()


def dribble(data: bytes, every: float) -> Step:
    """Say these bytes one by one, `every` seconds."""

    def step(conversation: Conversation) -> None:
        for byte in data:
            conversation.socket.sendall(bytes([byte]))
            if conversation.over.wait(every):
                return

    return step


def obey(answer: Callable[[str, str], bytes | None] = lambda command, address: None) -> Step:
    """Take mail by the book until the other side closes.

    `answer` may say something else to a command (EHLO, MAIL, RCPT, DATA, "." and so on), given the address it is about:
    the sender's, then the recipient's. b"" hangs up.
    """

    def step(conversation: Conversation) -> None:
        address = accepted = ""
        while line := conversation.hear():
            command = line[:4].upper().strip().decode("ascii", "replace")
            if command in ("MAIL", "RCPT"):
                address = line.partition(b"<")[2].rpartition(b">")[0].decode()
            reply = say(conversation, command, address, accepted)
            accepted = command if reply.startswith(b"2") else ""
            if command == "DATA" and reply.startswith(b"354"):
                hear_body(conversation)
                reply = say(conversation, ".", address, "DATA") if conversation.heard[-1] else b""
            if not reply:
                return

    def say(conversation: Conversation, command: str, address: str, accepted: str) -> bytes:
        usual = {"EHLO": EHLO, "DATA": b"354 go ahead\r\n", ".": SENT}.get(command, b"250 2.0.0 ok\r\n")
        reply = answer(command, address)
        if accepted != {"RCPT": "MAIL", "DATA": "RCPT"}.get(command, accepted):
            reply = b"503 5.5.1 what came before was refused\r\n"
        conversation.socket.sendall(usual if reply is None else reply)
        return usual if reply is None else reply

    return step


def tls(context: ssl.SSLContext) -> Step:
    """Take a TLS handshake."""
    return lambda conversation: conversation.start_tls(context)


class _Server:
    """Listens on a loopback port, a free one if none is named, for the length of a `with` block."""

    def __init__(self, port: int = 0) -> None:
        self.conversations: list[Conversation] = []
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for conversation in self.conversations:
            with suppress(OSError):  # it may be closed already
                conversation.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """Until all that came has been heard; the other sides have closed."""
        for thread in self._threads[1:]:
            thread.join()

    def converse(self, conversation: Conversation, number: int) -> None:
        raise NotImplementedError

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small replies, at once
            conversation = Conversation(raw, self._over)
            self.conversations.append(conversation)
            thread = threading.Thread(target=self._hold, args=(conversation, len(self.conversations) - 1))
            self._threads.append(thread)
            thread.start()

    def _hold(self, conversation: Conversation, number: int) -> None:
        with conversation.closing(), suppress(OSError):  # the other side has closed, or the test is over
            self.converse(conversation, number)


class ScriptedServer(_Server):
    """Follows a script on each connection, the last one on all further ones, and closes at a script's end.

    >>> with ScriptedServer([GREETING, hear, EHLO, hear_group, b"421 too busy\\r\\n", hang]) as server: ...
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__()
        self._scripts = scripts

    def converse(self, conversation: Conversation, number: int) -> None:
        for step in self._scripts[min(number, len(self._scripts) - 1)]:
            if isinstance(step, bytes):
                conversation.socket.sendall(step)
            else:
                step(conversation)

    @property
    def heard(self) -> bytes:
        """All that came, over all connections."""
        return b"".join(line for conversation in self.conversations for line in conversation.heard)

    @property
    def letters(self) -> list[bytes]:
        """The bytes of each letter that came up to its dot, in the order of the connections."""
        return re.findall(rb"\nDATA\r\n(.*?\r\n)\.\r\n", self.heard, re.DOTALL)


class Arrival(NamedTuple):
    """One letter as it came; `digest` is the SHA-256 of its bytes."""

    recipient: str
    message_id: str
    digest: str


class CountingReceiver(_Server):
    """Takes all mail; a letter counts once its line (recipient, Message-ID, digest) is on the disk, before its 250."""

    def __init__(self, log: Path, port: int = 0) -> None:
        super().__init__(port)
        self.taken = 0
        self._log = log
        self._lock = threading.Lock()
        log.touch()

    def arrived(self) -> Counter[tuple[str, str]]:
        """How often each (recipient, Message-ID) came."""
        return Counter((letter.recipient, letter.message_id) for letter in self.arrivals())

    def arrivals(self) -> list[Arrival]:
        """All that came, in order."""
        return [Arrival(*line.split("\t")) for line in self._log.read_text(encoding="utf-8").splitlines()]

    def answer(self, command: bytes, recipient: str) -> bytes:
        """What to say to a command, or to the final dot (b".") of a letter that is on the disk."""
        return {b"EHLO": EHLO, b"DATA": b"354 go ahead\r\n", b".": SENT}.get(command, b"250 2.0.0 ok\r\n")

    def converse(self, conversation: Conversation, number: int) -> None:
        conversation.socket.sendall(GREETING)
        recipient = ""
        while line := conversation.hear():
            command = line[:4].upper()
            if command == b"RCPT":
                recipient = line.partition(b"<")[2].rpartition(b">")[0].decode()
            answer = self.answer(command, recipient)
            conversation.socket.sendall(answer)
            if command == b"QUIT":
                return
            if answer.startswith(b"354"):
                self._keep(conversation, recipient)

    def _keep(self, conversation: Conversation, recipient: str) -> None:
        start = len(conversation.heard)
        hear_body(conversation)
        *lines, last = conversation.heard[start:]
        if last != b".\r\n":
            return
        data = b"".join(line.removeprefix(b".") for line in lines)
        digest = hashlib.sha256(data).hexdigest()
        with self._lock, self._log.open("a", encoding="utf-8") as log:
            log.write(f"{recipient}\t{message_from_bytes(data)['Message-ID']}\t{digest}\n")
            log.flush()
            os.fsync(log.fileno())
            self.taken += 1
        conversation.socket.sendall(self.answer(b".", recipient))

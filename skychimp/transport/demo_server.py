"""A small SMTP server that keeps what it receives, for `skychimp demo`. It is no relay: it listens on loopback only,
and holds its letters in memory."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import NamedTuple

LARGEST = 1_000_000
LONGEST_LINE = 4096
OFFERS = f"""\
250-demo.localhost
250-PIPELINING
250-8BITMIME
250-SMTPUTF8
250-SIZE {LARGEST}
250 ENHANCEDSTATUSCODES"""


class Received(NamedTuple):
    """A letter as it came, and the conversation that brought it: one line each, the client's with `>` in front."""

    data: bytes
    conversation: list[str]


class DemoServer(ThreadingTCPServer):
    """Listens on a free loopback port; `letters` grows as they come. A recipient called nobody is refused."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.letters: list[Received] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextmanager
def demo_server() -> Iterator[DemoServer]:
    """A receiver in a thread of its own, for the length of the block."""
    with DemoServer() as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,), name="receiver")
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()


class _Conversation(StreamRequestHandler):
    """A client's commands and our replies (RFC 5321), each in its turn, also where they come in a group (RFC 2920)."""

    server: DemoServer
    timeout = 60

    def handle(self) -> None:
        self.said: list[str] = []
        self.sender = self.recipient = ""
        try:
            self._reply("220 demo.localhost ESMTP Skychimp's demo")
            while line := self.rfile.readline(LONGEST_LINE):
                self._hear(line)
                command = line.split(maxsplit=1)[0].upper() if line.strip() else b""
                self._reply(self._answer(command, line.decode("utf-8", "replace")))
                if command == b"QUIT":
                    return
        except OSError:
            return  # the client has gone

    def _answer(self, command: bytes, line: str) -> str:
        address = re.search(r"<(.*)>", line)
        match command:
            case b"EHLO":
                return OFFERS
            case b"HELO":
                return "250 demo.localhost"
            case b"MAIL":
                self.sender, self.recipient = address[1] if address else "", ""
                return f"250 2.1.0 <{self.sender}> is welcome"
            case b"RCPT" if address and address[1].startswith("nobody@"):
                return f"550 5.1.1 <{address[1]}> nobody lives here"
            case b"RCPT" if address:
                self.recipient = address[1]
                return f"250 2.1.5 <{self.recipient}> lives here"
            case b"DATA" if self.recipient:
                return self._take_letter()
            case b"DATA" | b"RCPT":
                return "503 5.5.1 to whom?"
            case b"QUIT":
                return "221 2.0.0 good bye"
            case b"RSET" | b"NOOP":
                return "250 2.0.0 fine"
        return "502 5.5.2 this is only a demo"

    def _take_letter(self) -> str:
        self._reply("354 go ahead, and end with a dot")
        data = bytearray()
        while (line := self.rfile.readline(LONGEST_LINE)) != b".\r\n":
            if not line or len(data) > LARGEST:
                raise ConnectionAbortedError
            data += line.removeprefix(b".")
        self.recipient = ""
        number = len(self.server.letters) + 1
        self.said.append(f"> ... {len(data)} bytes of letter, and the final dot")
        reply = f"250 2.0.0 kept as letter {number}"
        self.server.letters.append(Received(bytes(data), [*self.said, f"  {reply}"]))
        return reply

    def _hear(self, line: bytes) -> None:
        self.said.append("> " + line.decode("utf-8", "replace").rstrip("\r\n"))

    def _reply(self, text: str) -> None:
        self.said += [f"  {line}" for line in text.split("\n")]
        self.wfile.write(text.replace("\n", "\r\n").encode() + b"\r\n")

"""A small SMTP server for `skychimp demo`.

It listens on the loopback interface only, keeps emails in memory, and never sends them on.
"""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import NamedTuple

MAX_EMAIL_BYTES = 1_000_000
MAX_LINE_BYTES = 4096
EHLO_REPLY = f"""\
250-demo.localhost
250-PIPELINING
250-8BITMIME
250-SMTPUTF8
250-SIZE {MAX_EMAIL_BYTES}
250 ENHANCEDSTATUSCODES"""


class ReceivedEmail(NamedTuple):
    """An email and the SMTP conversation up to its final reply, line by line. The client's lines begin with `>`."""

    data: bytes
    conversation: list[str]


class DemoServer(ThreadingTCPServer):
    """Accepts email on a free loopback port and appends it to `emails`. It refuses recipients named nobody."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _DemoConnection)
        self.emails: list[ReceivedEmail] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextmanager
def demo_server() -> Iterator[DemoServer]:
    """Run a demo server in its own thread until the end of the block."""
    with DemoServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="demo-server")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _DemoConnection(StreamRequestHandler):
    """Answers a client's commands in order (RFC 5321), including pipelined ones (RFC 2920)."""

    server: DemoServer
    timeout = 60

    def handle(self) -> None:
        self.conversation: list[str] = []
        self.sender = self.recipient = ""
        try:
            self._reply("220 demo.localhost ESMTP Skychimp demo")
            while line := self.rfile.readline(MAX_LINE_BYTES):
                text = line.decode("utf-8", "replace")
                self.conversation.append("> " + text.rstrip("\r\n"))
                command = line.split(maxsplit=1)[0].upper() if line.strip() else b""
                self._reply(self._handle_command(command, text))
                if command == b"QUIT":
                    return
        except OSError:
            return  # the client has closed the connection

    def _handle_command(self, command: bytes, line: str) -> str:
        """Return the reply to a command."""
        address = re.search(r"<(.*)>", line)
        match command:
            case b"EHLO":
                return EHLO_REPLY
            case b"HELO":
                return "250 demo.localhost"
            case b"MAIL":
                self.sender, self.recipient = address[1] if address else "", ""
                return f"250 2.1.0 <{self.sender}> sender ok"
            case b"RCPT" if address and address[1].startswith("nobody@"):
                return f"550 5.1.1 <{address[1]}> user unknown"
            case b"RCPT" if address:
                self.recipient = address[1]
                return f"250 2.1.5 <{self.recipient}> recipient ok"
            case b"DATA" if self.recipient:
                return self._receive_email()
            case b"DATA" | b"RCPT":
                return "503 5.5.1 no recipient"
            case b"QUIT":
                return "221 2.0.0 bye"
            case b"RSET" | b"NOOP":
                return "250 2.0.0 ok"
        return "502 5.5.2 command not supported by the demo"

    def _receive_email(self) -> str:
        """Read an email up to the final dot and return the reply to it."""
        self._reply("354 end the email with a dot on a line of its own")
        data = bytearray()
        while (line := self.rfile.readline(MAX_LINE_BYTES)) != b".\r\n":
            if not line or len(data) > MAX_EMAIL_BYTES:
                raise ConnectionAbortedError
            data += line.removeprefix(b".")
        self.recipient = ""
        self.conversation.append(f"> ... {len(data)} bytes and the final dot")
        reply = f"250 2.0.0 accepted as email {len(self.server.emails) + 1}"
        self.server.emails.append(ReceivedEmail(bytes(data), [*self.conversation, f"  {reply}"]))
        return reply

    def _reply(self, text: str) -> None:
        self.conversation += [f"  {line}" for line in text.split("\n")]
        self.wfile.write(text.replace("\n", "\r\n").encode() + b"\r\n")

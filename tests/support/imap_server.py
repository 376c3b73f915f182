"""A small IMAP server with one mailbox, for tests: as much of RFC 3501 and RFC 2177 as a reader of mail needs."""

import re
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

PASSWORD = "secret"


class Mailbox:
    """The emails of the mailbox by their uids, and which of them are seen."""

    def __init__(self) -> None:
        self.mails: dict[int, bytes] = {}
        self.seen: set[int] = set()
        self.has_changed = threading.Condition()
        self.port = 0
        self.connections: list[socket.socket] = []

    def deliver(self, data: bytes) -> None:
        with self.has_changed:
            self.mails[len(self.mails) + 1] = data
            self.has_changed.notify_all()

    def close_connections(self) -> None:
        """End all connections, as a server does that is stopped."""
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_imap_server() -> Iterator[Mailbox]:
    """Run the server on a free port of this machine."""
    mailbox = Mailbox()

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    class Handler(_Handler):
        pass

    Handler.mailbox = mailbox
    with Server(("127.0.0.1", 0), Handler) as server:
        mailbox.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield mailbox
        server.shutdown()
        thread.join()


class _Handler(socketserver.StreamRequestHandler):
    mailbox: Mailbox

    def handle(self) -> None:
        self.mailbox.connections.append(self.request)
        self.send("* OK ready")
        while line := self.rfile.readline():
            tag, _, command = line.decode().strip().partition(" ")
            answer = self.answer(command)
            self.send(f"{tag} {answer}")
            if command.upper() == "LOGOUT":
                return

    def send(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())

    def answer(self, command: str) -> str:
        """Send what a command asks for, and return its status."""
        box, verb = self.mailbox, command.upper()
        if verb.startswith("CAPABILITY"):
            self.send("* CAPABILITY IMAP4rev1 IDLE")
        elif verb.startswith("LOGIN") and PASSWORD not in command:
            return "NO wrong password"
        elif verb.startswith("SELECT"):
            self.send(f"* {len(box.mails)} EXISTS")
        elif verb.startswith("UID SEARCH"):
            self.send(f"* SEARCH {' '.join(str(uid) for uid in box.mails if uid not in box.seen)}".rstrip())
        elif fetched := re.match(r"UID FETCH (\d+) .*<0\.(\d+)>", verb):
            data = box.mails[int(fetched[1])][: int(fetched[2])]
            self.send(f"* {fetched[1]} FETCH (UID {fetched[1]} BODY[]<0> {{{len(data)}}}")
            self.wfile.write(data + b")\r\n")
        elif stored := re.match(r"UID STORE ([\d,]+) .*SEEN", verb):
            box.seen |= set(map(int, stored[1].split(",")))
        elif verb == "LOGOUT":
            self.send("* BYE")
        elif verb == "IDLE":
            self.idle()
        return "OK done"

    def idle(self) -> None:
        known = len(self.mailbox.mails)
        self.send("+ idling")
        done = threading.Event()

        def announce() -> None:
            with self.mailbox.has_changed:
                self.mailbox.has_changed.wait_for(lambda: len(self.mailbox.mails) > known or done.is_set())
            if not done.is_set():
                self.send(f"* {len(self.mailbox.mails)} EXISTS")

        thread = threading.Thread(target=announce, daemon=True)
        thread.start()
        self.rfile.readline()
        done.set()
        with self.mailbox.has_changed:
            self.mailbox.has_changed.notify_all()
        thread.join()

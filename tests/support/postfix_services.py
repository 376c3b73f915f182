"""Serve what Postfix asks other programs for: whether to take an email, and whether a login is right."""

import base64
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import StreamRequestHandler, ThreadingTCPServer
from threading import Thread


class _Service(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def policy_service(*, emails_per_connection: int | None = None) -> Iterator[int]:
    """Provide a policy service on the port that is returned (Postfix, SMTPD_POLICY_README).

    It takes `emails_per_connection` emails over each connection. Without that limit, it greylists each recipient once.
    """
    seen: Counter[tuple[str, ...]] = Counter()

    def decide(request: dict[str, str]) -> str:
        is_limited = emails_per_connection is not None
        key = (request["client_port"],) if is_limited else (request["sender"], request["recipient"])
        seen[key] += 1
        if emails_per_connection is not None:
            too_many = "421 4.7.0 Error: too many messages in this connection"
            return "DUNNO" if seen[key] <= emails_per_connection else too_many
        return "DUNNO" if seen[key] > 1 else "450 4.2.0 Greylisted, please try again later"

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            request: dict[str, str] = {}
            while line := self.rfile.readline().decode():
                name, _, value = line.rstrip("\n").partition("=")
                request[name] = value
                if not name:
                    self.wfile.write(f"action={decide(request)}\n\n".encode())
                    request = {}

    with _running(Handler) as port:
        yield port


@contextmanager
def authentication_service(user: str, password: str) -> Iterator[int]:
    """Provide Dovecot's authentication protocol, version 1.1, on the port that is returned. It knows one login."""
    expected = f"\0{user}\0{password}".encode()

    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t01\nDONE\n")
            while line := self.rfile.readline().decode():
                command, *fields = line.rstrip("\n").split("\t")
                if command == "AUTH":
                    response = next(field.removeprefix("resp=") for field in fields if field.startswith("resp="))
                    is_right = base64.b64decode(response) == expected
                    self.wfile.write(f"{'OK' if is_right else 'FAIL'}\t{fields[0]}\tuser={user}\n".encode())

    with _running(Handler) as port:
        yield port


@contextmanager
def _running(handler: type[StreamRequestHandler]) -> Iterator[int]:
    with _Service(("127.0.0.1", 0), handler) as service:
        thread = Thread(target=service.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield service.server_address[1]
        finally:
            service.shutdown()
            thread.join()

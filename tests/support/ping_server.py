"""A monitoring service: an HTTP server in a thread that notes the signals it gets."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

PATH = "/ping/secret-uuid"


class Received(NamedTuple):
    """A request: what comes after the path of the URL, its run's id and its body."""

    signal: str
    run_id: str
    body: str


class PingServer:
    """The server. `url` is what monitor.ping_url is set to."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}{PATH}"
        self.received: list[Received] = []
        self.test_ended = threading.Event()

    @property
    def signals(self) -> list[str]:
        return [each.signal for each in self.received]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.received
            time.sleep(0.01)


def reply_ok(handler: BaseHTTPRequestHandler, server: PingServer) -> None:
    """Accept the signal."""
    reply(200)(handler, server)


def reply(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler, PingServer], None]:
    """Return a behavior that answers with a status."""

    def answer(handler: BaseHTTPRequestHandler, server: PingServer) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def hang(handler: BaseHTTPRequestHandler, server: PingServer) -> None:
    """Never answer."""
    server.test_ended.wait()


def drip(handler: BaseHTTPRequestHandler, server: PingServer) -> None:
    """Send a header without an end, slowly."""
    while not server.test_ended.wait(0.05):
        handler.wfile.write(b"x")


def talk_nonsense(handler: BaseHTTPRequestHandler, server: PingServer) -> None:
    """Answer something that is not HTTP."""
    handler.wfile.write(b"\x1b[2J secret\r\n\r\n")


@contextmanager
def running_ping_server(
    behavior: Callable[[BaseHTTPRequestHandler, PingServer], None] = reply_ok,
) -> Iterator[PingServer]:
    """Run a server that does this with each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            run_id = parse_qs(url.query).get("rid", [""])[0]
            server.received.append(Received(url.path.removeprefix(PATH), run_id, body))
            behavior(self, server)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server = PingServer(http.server_port)
        thread = threading.Thread(target=http.serve_forever, args=[0.01])
        thread.start()
        try:
            yield server
        finally:
            server.test_ended.set()
            http.shutdown()
            thread.join()

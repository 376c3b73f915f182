"""Test the questions to web servers: what they answer, and what is never asked."""

import ipaddress
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from skychimp.services.messages import online_links
from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.online_links import Own, check_online, is_public

if TYPE_CHECKING:
    import trustme


class Site(ThreadingHTTPServer):
    """A web server on this machine. It counts the requests, and how many run at once."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Print nothing when a client leaves."""


class _Handler(BaseHTTPRequestHandler):
    server: Site

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        site = self.server
        with site.lock:
            site.asked.append((self.command, self.path))
            site.headers.append(dict(self.headers))
            site.running += 1
            site.most_running = max(site.running, site.most_running)
        with suppress(OSError):
            self.reply(self.path)
        with site.lock:
            site.running -= 1

    def reply(self, path: str) -> None:
        name, _, value = path.strip("/").partition("/")
        if name == "no-head" and self.command == "HEAD":
            self.send_error(405)
        elif name == "drops-head" and self.command == "HEAD":
            self.close_connection = True
        elif name == "garbage":
            self.wfile.write(b"220 mail.example.org ESMTP\r\n")
        elif name == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(200):
                self.wfile.write(b"X")
                time.sleep(0.05)
        elif name == "pause":
            time.sleep(0.05)
            with self.server.lock:  # before the client, who has the answer then, asks for the next
                self.server.running -= 1
            self.begin(200)
            with self.server.lock:
                self.server.running += 1
        elif name == "huge":
            self.begin(200)
            while self.command == "GET":
                self.wfile.write(b"x" * 100_000)
        elif name == "to":
            self.begin(302, Location=value if "://" in value else f"/{value}", **{"Set-Cookie": "a=b"})
        else:
            self.begin(int(name) if name.isdigit() else 200)

    def begin(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def check(site: Site, *paths: str) -> list[MessageFinding]:
    """Return the findings about pages of the site, which is the service's own."""
    links = {f"{site.url}/{path}": f"HTML line {number}" for number, path in enumerate(paths, 1)}
    return sorted(check_online(links, Own(site.url, f"{site.url}/u/")), key=lambda finding: finding.where)


@pytest.mark.parametrize(
    ("path", "level", "found", "asked"),
    [
        ("fine", "ok", '"{}/fine" answered 200', ["HEAD"]),
        ("fine?a=b%20c#d", "ok", '"{}/fine?a=b%20c#d" answered 200', ["HEAD"]),
        ("ü", "ok", '"{}/ü" answered 200', ["HEAD"]),
        ("404", "problem", '"{}/404" answered 404', ["HEAD", "GET"]),
        ("500", "problem", '"{}/500" answered 500', ["HEAD", "GET"]),
        ("403", "warning", '"{}/403" answered 403', ["HEAD", "GET"]),
        ("429", "warning", '"{}/429" answered 429', ["HEAD", "GET"]),
        ("no-head", "ok", '"{}/no-head" answered 200', ["HEAD", "GET"]),
        ("drops-head", "ok", '"{}/drops-head" answered 200', ["HEAD", "GET"]),
        ("to/fine", "ok", '"{}/to/fine" redirects to "{}/fine", which answered 200', ["HEAD", "HEAD"]),
        ("to/404", "problem", '"{}/to/404" redirects to "{}/404", which answered 404', ["HEAD", "HEAD", "GET"]),
        ("to/to/huge", "ok", '"{}/to/to/huge" redirects to "{}/huge", which answered 200', ["HEAD"] * 3),
        ("garbage", "problem", '"{}/garbage" does not answer: its reply is not valid HTTP', ["HEAD", "GET"]),
        ("to/u/token", "ok", '"{}/to/u/token" redirects to the unsubscribe page', ["HEAD"]),
        ("to/file:///etc/passwd", "warning",
         '"{}/to/file:///etc/passwd" redirects to "file:///etc/passwd", which was not asked for:'
         " it is not a web address",
         ["HEAD"]),
    ],
)  # fmt: skip
def test_link_is_asked_for(site: Site, path: str, level: str, found: str, asked: list[str]) -> None:
    (finding,) = check(site, path)
    assert (finding.level, finding.found) == (level, found.replace("{}", site.url))
    assert finding.where == "HTML line 1"
    assert (finding.remedy is None) == (level == "ok")
    assert [method for method, _ in site.asked] == asked
    assert all("Cookie" not in headers and "Authorization" not in headers for headers in site.headers)


def test_certificate_is_checked(
    site: Site, authority: "trustme.CA", ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    site.socket = context.wrap_socket(site.socket, server_side=True)
    site.url = site.url.replace("http:", "https:")
    (finding,) = check(site, "fine")
    assert finding.level == "problem"
    assert finding.found.startswith(f'"{site.url}/fine" does not answer: its certificate is not valid (')
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    assert [finding.level for finding in check(site, "fine")] == ["ok"]
    assert [path for _, path in site.asked] == ["/fine"]


def test_redirects_have_an_end(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Handler, "reply", lambda self, path: self.begin(301, Location=path))
    (finding,) = check(site, "loop")
    assert (finding.level, finding.found) == ("problem", f'"{site.url}/loop" redirects more than 10 times')
    assert len(site.asked) == 11


def test_unsubscribe_link_is_never_asked_for(site: Site) -> None:
    assert check(site, "u/sample", "u/sample?x=1", "/u/sample", "x/../u/sample", "%75/sample") == []
    assert site.asked == []


def test_server_that_never_ends_its_reply_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_links, "TIMEOUT_S", 0.3)
    began = time.monotonic()
    (finding,) = check(site, "drip")
    assert (finding.level, finding.found) == ("problem", f'"{site.url}/drip" does not answer: no reply within 0.3 s')
    assert time.monotonic() - began < 9  # it drips for 10 s


def test_a_server_gets_four_requests_at_once(site: Site) -> None:
    findings = check(site, *(f"pause/{number}" for number in range(16)))
    assert Counter(finding.level for finding in findings) == {"ok": 16}
    assert len(site.asked) == 16
    assert 1 < site.most_running <= 4


def test_number_of_links_is_limited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_links, "MAX_LINKS", 2)
    assert [finding.level for finding in check(site, "a", "b", "c")] == ["ok", "ok", "warning"]
    assert len(site.asked) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "0x7f.1", "0.0.0.0"])
def test_this_machine_is_not_asked(site: Site, host: str) -> None:
    url = f"http://{host}:{site.server_port}/"
    (finding,) = check_online({url: "text line 1"}, Own("https://mail.example.org", "https://mail.example.org/u/"))
    assert finding.found.startswith(f'"{url}" ')
    assert "private network" in finding.found or "does not exist" in finding.found  # it may have no IPv6
    assert site.asked == []


def test_redirect_to_this_machine_is_not_followed(site: Site) -> None:
    other = f"http://localhost:{site.server_port}/fine"  # it is another origin than 127.0.0.1
    (finding,) = check(site, f"to/{other}")
    assert (finding.level, finding.found) == (
        "warning",
        f'"{site.url}/to/{other}" redirects to "{other}", which was not asked for: its host is in a private network',
    )
    assert len(site.asked) == 1


def test_address_is_not_looked_up_again_after_its_check(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server may answer with a public address first, and with a private one then."""
    answers = [[(2, 1, 6, "", (address, 80))] for address in ("203.0.113.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(online_links, "is_public", lambda address: address == "203.0.113.1")
    connected: list[str] = []

    def refuse(address: tuple[str, int], _: float) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", refuse)
    (finding,) = check_online({"http://rebind.example/": "HTML line 1"}, Own())
    assert finding.found.endswith("its host is in a private network")  # GET, which follows HEAD
    assert connected == ["203.0.113.1"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True), ("64:ff9b::5db8:d70e", True),
        ("127.0.0.1", False), ("10.0.0.1", False), ("172.16.0.1", False), ("192.168.1.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("224.0.0.1", False),
        ("255.255.255.255", False), ("::1", False), ("::", False), ("fe80::1", False), ("fd00::1", False),
        ("ff02::1", False), ("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("2002:7f00:1::", False),
        ("64:ff9b::7f00:1", False), ("2001::1", False), ("fe80::1%lo", False), ("::127.0.0.1", False),
    ],
)  # fmt: skip
def test_public_addresses(address: str, expected: bool) -> None:
    assert is_public(address) == expected


def test_own_address_of_this_machine_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ipaddress.IPv4Address, "is_global", True)
    assert not is_public("127.0.0.1")
    assert is_public("93.184.215.14")

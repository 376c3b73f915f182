"""Ask web servers for the links of a message.

Whoever writes a message chooses the links, so they must not reach what only this machine can reach: addresses that are
not public are refused, at each redirect again. Requests have no cookies and no login.
"""

import http.client
import ipaddress
import posixpath
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from skychimp import __version__
from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.links import LINK, show_url
from skychimp.services.operations.findings import OK, PROBLEM, WARNING
from skychimp.translation import Phrase, tr
from skychimp.transport.smtp_connection import describe_error

TIMEOUT_S = 10.0
"""For each request: connecting, TLS and the headers of the reply together. Bodies are not read."""
MAX_REDIRECTS = 10
MAX_LINKS = 500
MAX_REQUESTS, MAX_REQUESTS_PER_HOST = 16, 4
"""How many run at once."""

_PORTS = {"http": 80, "https": 443}
_SAFE = "%/:=&?~#+!$,;'@()*[]"  # what quoting leaves as it is in a path and a query
_NOT_FOR_PROGRAMS = {401, 403, 406, 407, 429, 451, 503, 999}
"""Statuses of servers that refuse programs, or for a while. Readers may well see the page."""
_HEADERS = {"User-Agent": f"skychimp/{__version__} (link check)", "Accept": "*/*", "Connection": "close"}
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Own(NamedTuple):
    """The service's own web address, which may be local, and its pages for unsubscribing, which are never asked for."""

    url: str = ""
    unsubscribe_prefix: str = ""


class _Refused(Exception):
    """A request that is not made, and why."""

    def __init__(self, why: Phrase) -> None:
        super().__init__(why)
        self.why = why


class _Reply(NamedTuple):
    status: int
    location: str | None


class _Deadline:
    """When a request must be finished."""

    def __init__(self) -> None:
        self._end = time.monotonic() + TIMEOUT_S

    @property
    def left_s(self) -> float:
        """Return the seconds that are left. Raises TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def check_online(links: Mapping[str, str], own: Own) -> Iterator[MessageFinding]:
    """Yield a finding for each link when its server has answered. `links` has where each is, by URL.

    Links for unsubscribing are left out.
    """
    asked = [url for url in links if not _is_unsubscribing(url, own)]
    for url in asked[MAX_LINKS:]:
        reason = tr("the message has more than {most} links", most=MAX_LINKS)
        found = tr("{link} was not asked for: {reason}", link=show_url(url), reason=reason)
        yield MessageFinding(LINK, WARNING, found, tr("open it in a browser"), links[url])
    client = _Client(own)
    with ThreadPoolExecutor(MAX_REQUESTS) as executor:
        futures = {executor.submit(client.check, url, links[url]): url for url in asked[:MAX_LINKS]}
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            client.stop()
            executor.shutdown(cancel_futures=True)


class _Client:
    """Follows links, each to its last redirect."""

    def __init__(self, own: Own) -> None:
        self._own = own
        self._tls = ssl.create_default_context()
        self._hosts: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(MAX_REQUESTS_PER_HOST))
        self._lock = threading.Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """Make no further request."""
        self._is_stopped = True

    def check(self, url: str, where: str) -> MessageFinding:
        """Ask for a link, and return what came of it."""
        last = url
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._ask(urlsplit(last))
                if answer.location is None:
                    return _finding(url, last, answer.status, where)
                last = urljoin(last, answer.location)
                if _is_unsubscribing(last, self._own):
                    found = tr("{link} redirects to the unsubscribe page", link=show_url(url))
                    return MessageFinding(LINK, OK, found, None, where)
        except _Refused as refusal:
            found = tr("{link} was not asked for: {reason}", link=_redirected(url, last), reason=refusal.why)
            return MessageFinding(LINK, WARNING, found, tr("open it in a browser"), where)
        except (OSError, http.client.HTTPException, ValueError) as error:
            found = tr("{link} does not answer: {reason}", link=_redirected(url, last), reason=_reason(error))
            return MessageFinding(LINK, PROBLEM, found, tr("correct the link, or remove it"), where)
        found = tr("{link} redirects more than {most} times", link=show_url(url), most=MAX_REDIRECTS)
        return MessageFinding(LINK, PROBLEM, found, tr("link to the page itself"), where)

    def _ask(self, url: SplitResult) -> _Reply:
        """Return the answer to HEAD, or to GET if there is none or it is an error: some servers know only GET."""
        if url.scheme not in _PORTS or not url.hostname:
            raise _Refused(tr("it is not a web address"))
        with self._lock:
            host = self._hosts[url.hostname]
        with host:
            with suppress(OSError, http.client.HTTPException):
                answer = self._request("HEAD", url)
                if answer.status < 400:
                    return answer
            return self._request("GET", url)

    def _request(self, method: str, url: SplitResult) -> _Reply:
        if self._is_stopped:
            raise _Refused(tr("the check was stopped"))
        deadline, host = _Deadline(), (url.hostname or "").encode("idna").decode()
        port = url.port or _PORTS[url.scheme]
        is_own = _origin(url) == _origin(urlsplit(self._own.url))
        with closing(_connect(_addresses(host, port, is_own=is_own), port, deadline)) as raw:
            raw.settimeout(deadline.left_s)
            link = self._tls.wrap_socket(raw, server_hostname=host) if url.scheme == "https" else raw
            with closing(link), _stopped_at(deadline, link):
                return _exchange(method, url, host, link)


def _exchange(method: str, url: SplitResult, host: str, link: socket.socket) -> _Reply:
    """Send a request, and read the headers of the reply."""
    connection = http.client.HTTPConnection(host)
    connection.sock = link
    name = f"[{host}]" if ":" in host else host
    target = quote(url.path or "/", safe=_SAFE) + (f"?{quote(url.query, safe=_SAFE)}" if url.query else "")
    connection.request(method, target, headers=_HEADERS | {"Host": name + (f":{url.port}" if url.port else "")})
    reply = connection.getresponse()
    is_redirect = reply.status in (301, 302, 303, 307, 308)
    return _Reply(reply.status, reply.headers["Location"] if is_redirect else None)


def _addresses(host: str, port: int, *, is_own: bool) -> list[str]:
    """Return the addresses of a host. Raises _Refused if one is not public, unless the host is our own."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    if not is_own and not all(map(is_public, addresses)):
        raise _Refused(tr("its host is in a private network"))
    return addresses


def is_public(text: str) -> bool:
    """Return whether an IP address is on the public internet, and not this machine's own."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)))
        if address not in _GLOBAL_UNICAST or address.sixtofour or address.teredo:  # the last two lead to IPv4
            return False
    return address.is_global and not address.is_multicast and not _is_of_this_machine(address)


def _is_of_this_machine(address: IpAddress) -> bool:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))  # only a machine's own address can be bound
        return True
    return False


def _connect(addresses: Collection[str], port: int, deadline: _Deadline) -> socket.socket:
    """Connect to the first address that answers. It is not looked up again, as another answer could be private."""
    error: OSError = TimeoutError()
    for address in addresses:
        try:
            return socket.create_connection((address, port), deadline.left_s)
        except OSError as failed:
            error = failed
    raise error


class _stopped_at:  # noqa: N801
    """Close a connection at the deadline: each read has a time-out, but a server can send a byte now and then."""

    def __init__(self, deadline: _Deadline, link: socket.socket) -> None:
        self._timer = threading.Timer(deadline.left_s, self._stop, (link,))
        self._timer.daemon = True
        self._is_late = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._is_late:
            raise TimeoutError

    def _stop(self, link: socket.socket) -> None:
        self._is_late = True
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)


def _finding(url: str, last: str, status: int, where: str) -> MessageFinding:
    found = tr("{link} answered {status}", link=_redirected(url, last), status=status)
    if status < 400:
        return MessageFinding(LINK, OK, found, None, where)
    if status in _NOT_FOR_PROGRAMS:
        return MessageFinding(LINK, WARNING, found, tr("open it in a browser: some servers refuse programs"), where)
    return MessageFinding(LINK, PROBLEM, found, tr("correct the link, or remove it"), where)


def _redirected(url: str, last: str) -> str:
    """Return the beginning of a sentence about the last address that a link leads to."""
    if last == url:
        return show_url(url)
    return tr("{link} redirects to {last}, which", link=show_url(url), last=show_url(last))


def _reason(error: Exception) -> Phrase:
    if isinstance(error, TimeoutError):
        return tr("no reply within {seconds:g} s", seconds=TIMEOUT_S)
    if isinstance(error, ssl.SSLCertVerificationError):
        return tr("its certificate is not valid ({reason})", reason=error.verify_message)
    if isinstance(error, socket.gaierror):
        return tr("its host does not exist")
    if isinstance(error, OSError) and error.strerror:
        return describe_error(error)
    return tr("its reply is not valid HTTP")


def _origin(url: SplitResult) -> tuple[str, str, int]:
    return url.scheme, url.hostname or "", url.port or _PORTS.get(url.scheme, 0)


def _is_unsubscribing(url: str, own: Own) -> bool:
    """Return whether a URL, in any spelling, is of a page for unsubscribing."""
    try:
        parts, prefix = urlsplit(url), urlsplit(own.unsubscribe_prefix)
        return _origin(parts) == _origin(prefix) and f"{_path(parts)}/".startswith(f"{_path(prefix)}/")
    except ValueError:
        return False


def _path(url: SplitResult) -> str:
    return posixpath.normpath("/" + unquote(url.path).lstrip("/"))

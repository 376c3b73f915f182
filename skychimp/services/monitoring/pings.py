"""Tell a monitoring service that a run has started, succeeded or failed, by the convention of Healthchecks.

https://healthchecks.io/docs/http_api/
"""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from skychimp import __version__

log = logging.getLogger("skychimp")

TIMEOUT_S = 4.0
"""How long one step of a request may take."""

MAX_WAIT_S = 8.0
"""How long `close` waits for the requests that are not sent yet."""

MAX_BODY = 10_000
"""Bytes of the log that are sent."""

_MAX_WAITING = 10
"""Requests that wait for a slow service. Further ones are dropped."""


class Signal(StrEnum):
    """What a service is told. The value is added to the path of its URL."""

    START = "/start"
    SUCCESS = ""
    FAIL = "/fail"


def signal_url(url: str, signal: Signal, run_id: str = "") -> str:
    """Return the URL that stands for a signal. `run_id` tells runs apart that overlap."""
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, run_id and f"rid={run_id}")))
    path = parts.path.rstrip("/") + signal if signal else parts.path
    return urlunsplit((parts.scheme, parts.netloc, path, query, ""))


def last_bytes(text: str, limit: int = MAX_BODY) -> bytes:
    """Return the last lines of a text that have at most `limit` bytes, or the end of the last line."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data
    end = data[-limit:]
    whole_lines = end.partition(b"\n")[2]
    return whole_lines or end.decode("utf-8", "ignore").encode()


class Pings:
    """Sends signals in a thread, one after the other, so that the caller never waits.

    A failure is logged as a warning, without the URL: whoever knows it can send signals. The same failure is logged
    once, until a signal gets through.
    """

    def __init__(self, url: str, run_id: str = "") -> None:
        self._url = url
        self._run_id = run_id
        self._waiting: queue.Queue[tuple[Signal, str] | None] = queue.Queue(_MAX_WAITING)
        self._last_failure = ""
        self._is_closed = False
        self._thread = threading.Thread(target=self._send_all, name="pings", daemon=True)
        self._thread.start()

    def send(self, signal: Signal, text: str = "") -> None:
        """Send a signal soon, with the last lines of a text."""
        with suppress(queue.Full):
            self._waiting.put_nowait((signal, text))

    def close(self) -> None:
        """Wait until all signals are sent, but not for long. Then drop the rest."""
        with suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(MAX_WAIT_S)
        if self._thread.is_alive():
            self._report("it takes too long")
            self._is_closed = True

    def _send_all(self) -> None:
        opener = _make_opener()
        while not self._is_closed and (item := self._waiting.get()) is not None:
            signal, text = item
            self._report(_post(opener.open, signal_url(self._url, signal, self._run_id), last_bytes(text)))

    def _report(self, failure: str) -> None:
        if failure and failure != self._last_failure and not self._is_closed:
            log.warning("cannot reach monitor.ping_url", extra={"reason": failure})
        self._last_failure = failure


def _make_opener() -> OpenerDirector:
    """Return what opens http and https URLs, also by a proxy. It follows no redirects."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), HTTPHandler(), HTTPSHandler()):
        opener.add_handler(handler)
    return opener


def _post(open_url: Callable[..., Any], url: str, body: bytes) -> str:
    """Post a text. Return "", or why that failed."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "User-Agent": f"skychimp/{__version__}"}
    try:
        with open_url(Request(url, body, headers, method="POST"), timeout=TIMEOUT_S) as response:  # noqa: S310
            status = response.status
    except HTTPException:  # before OSError, as some are both: their texts show what the service sent
        return "the reply is not valid HTTP"
    except OSError as error:
        reason = getattr(error, "reason", error)  # of an URLError
        return str(getattr(reason, "strerror", None) or reason)
    except ValueError:
        return "the host name is not valid"
    if 300 <= status < 400:
        return "it redirects to another URL"
    return "" if 200 <= status < 300 else f"the service replied {status}"

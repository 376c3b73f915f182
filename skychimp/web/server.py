"""Run the web server until a signal ends it."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from skychimp.store.database import Store
from skychimp.web.app import MAX_HEADERS, make_app
from skychimp.web.rate_limit import RateLimit

HEADERS_TIMEOUT_S = 10.0
"""How long a request's headers may take."""
IDLE_TIMEOUT_S = 30
"""How long a connection may stay open without a request."""
STOP_TIMEOUT_S = 20
"""How long requests may take to be finished after a signal."""
MOST_CONNECTIONS = 500

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    store: Store, opened: socket.socket, site: Path | None, on_ready: Callable[[], None], rate_limit: RateLimit
) -> signal.Signals | None:
    """Answer requests on an open socket until SIGTERM or SIGINT. Return the signal.

    Requests that have come are answered first. `on_ready` is called once signals end it gracefully.
    """
    config = uvicorn.Config(
        make_app(store, site, rate_limit),
        loop="asyncio",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # `addresses` decides which proxy is believed
        server_header=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=IDLE_TIMEOUT_S,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        h11_max_incomplete_event_size=MAX_HEADERS,
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what strangers send is no event
    return asyncio.run(_Server(config, on_ready).run_until_signal(opened))


class _Server(uvicorn.Server):
    """A server that ends normally after a signal, instead of raising it again."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._signal: signal.Signals | None = None

    async def run_until_signal(self, opened: socket.socket) -> signal.Signals | None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._stop, number)
        await self.serve(sockets=[opened])
        return self._signal

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `run_until_signal`."""
        yield

    def _stop(self, number: signal.Signals) -> None:
        self._signal = number
        self.should_exit = True


class _Protocol(H11Protocol):
    """Closes a connection whose request does not come. uvicorn itself limits only the time between requests."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._cancel()

    def _watch(self) -> None:
        if not self._awaits_request():
            self._cancel()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADERS_TIMEOUT_S, self._close_if_late)

    def _awaits_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_late(self) -> None:
        if self._awaits_request():
            self.transport.abort()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

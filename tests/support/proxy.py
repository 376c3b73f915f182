"""A TCP proxy on loopback that can hold back what one end sends, as a network does that is cut one way."""

import socket
import threading
from contextlib import suppress
from typing import Self

TO_SERVER, TO_CLIENT = "to the server", "to the client"


class Proxy:
    """Forwards connections to a port of this machine during a `with` block."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._flows = {TO_SERVER: threading.Event(), TO_CLIENT: threading.Event()}
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.resume()

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self.break_connections()
        self.resume()
        for thread in self._threads:
            thread.join()
        for end in (self._listener, *self._sockets):
            end.close()

    def hold(self, direction: str) -> None:
        """Hold back whatever goes in a direction, on new connections too."""
        self._flows[direction].clear()

    def resume(self) -> None:
        """Pass on what was held back, and all that follows."""
        for flow in self._flows.values():
            flow.set()

    def break_connections(self) -> None:
        """Close all connections. What was held back is lost."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):  # the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                self._sockets += [client, server]
                self._start(self._forward, client, server, TO_SERVER)
                self._start(self._forward, server, client, TO_CLIENT)

    def _forward(self, source: socket.socket, to: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self._flows[direction].wait()
                to.sendall(data)
        for end in (source, to):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

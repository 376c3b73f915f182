"""Run `skychimp serve` in its own process, and ask it something."""

import http.client
import json
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from email.message import Message
from pathlib import Path
from typing import NamedTuple, Self

from skychimp.delivery.composing import tokens
from skychimp.delivery.composing.tokens import Purpose, TokenKey
from skychimp.store import token_keys
from skychimp.store.database import Store
from support.command import PROGRAM
from support.daemons import TIMEOUT_S, clean_environ
from support.stores import store_url

ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Answer(NamedTuple):
    """A response of the server."""

    status: int
    headers: Message
    text: str


class WebServer:
    """A running server. `address` is where it listens."""

    def __init__(self, store: Store, log: Path, *options: str, listen: str = "127.0.0.1:0", **environ: str) -> None:
        self.log = log
        settings = {"SKYCHIMP_WEB__LISTEN": listen, "SKYCHIMP_WEB__URL": "https://news.skychimp.test"}
        with log.open("ab") as opened:
            self.process = subprocess.Popen(
                [PROGRAM, "--store", store_url(store), "serve", "--log-format", "json", *options],
                env=clean_environ(**settings, **environ),
                cwd=log.parent,
                stdout=subprocess.DEVNULL,
                stderr=opened,
            )
        self.address = self._wait_until_ready()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def events(self) -> list[dict[str, str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    def _wait_until_ready(self) -> str:
        end = time.monotonic() + TIMEOUT_S
        while not (started := [event["listen"] for event in self.events if event["event"] == "started"]):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return started[-1]

    def connect(self) -> socket.socket:
        """Open a connection."""
        kind, _, path = self.address.partition(":")
        opened = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
        opened.settimeout(TIMEOUT_S)
        opened.connect(path if kind == "unix" else (kind, int(path)))
        return opened

    def ask(self, method: str, path: str, body: str | bytes | None = None, **headers: str) -> Answer:
        """Send a request and return the response. `headers` have `_` for `-`."""
        connection = http.client.HTTPConnection("skychimp.test", timeout=TIMEOUT_S)
        connection.sock = self.connect()
        given: Mapping[str, str] = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, dict(FORM if body else {}) | dict(given))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


def make_token(store: Store, delivery_id: int, purpose: Purpose = Purpose.UNSUBSCRIBE) -> str:
    """Return the token of a delivery."""
    with store.read() as db:
        keys = token_keys.read(db.connection(), store.now())
    number = list(keys)[-1]
    return tokens.make(TokenKey(number, keys[number]), purpose, delivery_id)

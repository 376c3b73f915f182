"""Run a daemon in its own process and read its log."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from skychimp.store.database import Store
from support.command import PROGRAM
from support.stores import store_url

TIMEOUT_S = 20.0


class Daemon:
    """A running daemon. `events` are the lines of its log, as JSON."""

    def __init__(self, store: Store, config: Path, environ: dict[str, str]) -> None:
        self.log = config.with_name(f"{config.stem}-{time.monotonic_ns()}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "--config", config, "--store", store_url(store), "daemon", "--log-format", "json"],
                env=environ,
                cwd=config.parent,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )
        self.wait_for(lambda: "started" in self.event_names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    @property
    def event_names(self) -> list[object]:
        return [event["event"] for event in self.events]

    def wait_for(self, condition: Callable[[], bool], seconds: float = TIMEOUT_S) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT_S)


def write_config(folder: Path, port: int, smtp: str = "") -> Path:
    """Write a config that sends to a port on this machine. `smtp` is added to that section."""
    path = folder / "daemon.toml"
    path.write_text(
        '[mail]\ntransport = "smtp"\nsender = "Ada <ada@skychimp.test>"\n'
        f'[smtp]\nhost = "127.0.0.1"\nport = {port}\nsecurity = "none"\nconnections = 2\n{smtp}\n'
    )
    return path


def clean_environ(**variables: str) -> dict[str, str]:
    """Return this environment without Skychimp settings, and with these variables."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SKYCHIMP_")} | variables

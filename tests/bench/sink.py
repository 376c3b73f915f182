"""Run Postfix's smtp-sink on a free loopback port, and count the emails that it accepts."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SMTP_SINK = shutil.which("smtp-sink") or "/usr/sbin/smtp-sink"
SMTP_SOURCE = shutil.which("smtp-source") or "/usr/sbin/smtp-source"


class Sink:
    """A running smtp-sink."""

    def __init__(self, port: int, counters: Path) -> None:
        self.port = port
        self._counters = counters

    @property
    def email_count(self) -> int:
        """How many emails it has accepted so far."""
        with self._counters.open("rb") as file:
            file.seek(max(0, self._counters.stat().st_size - 100))
            counts = re.findall(rb"mesg=(\d+)\s*\r", file.read())
        return int(counts[-1]) if counts else 0


@contextmanager
def sink() -> Iterator[Sink]:
    """Run an smtp-sink. Exits with an error message if it is not installed."""
    if not Path(_SMTP_SINK).exists():
        sys.exit('error: smtp-sink is not installed\nhint: run "apt-get install --no-install-recommends postfix"')
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with tempfile.TemporaryFile() as errors, tempfile.NamedTemporaryFile() as counters:
        command = [_SMTP_SINK, "-c", *user, f"127.0.0.1:{port}", "1000"]
        with subprocess.Popen(command, stdout=counters, stderr=errors) as process:
            try:
                _wait_for_port(port, process)
                yield Sink(port, Path(counters.name))
            finally:
                process.terminate()


def _wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    sys.exit(f"error: smtp-sink is not listening on port {port}")

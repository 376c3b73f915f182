"""Commit a run's sent emails and intents in a separate process.

In a single process, the thread that writes to the store and the thread that talks to the mail server would share the
GIL, and each would run at about half its speed.
"""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self, cast

from skychimp.errors import StoreFailed
from skychimp.store import ledger
from skychimp.store.database import Store, store_error

_PROGRAM = (sys.executable, "-P", "-m", "skychimp.store.writer_program")  # -P: no imports from the current folder


class WriterProcess(asyncio.Protocol):
    """A process that writes to the store. It gets one line of rows at a time. Created by `start`."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._result: asyncio.Future[int] = self._loop.create_future()
        self._transport: asyncio.Transport
        self._process: subprocess.Popen[bytes]

    @classmethod
    async def start(cls, store: Store, run_id: int) -> Self | None:
        """Start the process and wait until it is ready. Return None if it cannot be started."""
        our_end, its_end = socket.socketpair()
        with its_end:
            try:
                file = its_end.fileno()
                process = subprocess.Popen(_PROGRAM, stdin=file, stdout=file, stderr=subprocess.DEVNULL)  # noqa: S603
            except OSError:
                our_end.close()
                return None
        _, writer = await asyncio.get_running_loop().create_connection(lambda: cls(store.path), sock=our_end)
        writer._process = process
        try:
            await writer.write(json.dumps(ledger.writer_setup(store, run_id)))
        except StoreFailed:
            await writer.close()
            return None
        return writer

    def write(self, rows: str) -> "asyncio.Future[int]":
        """Commit rows from `ledger.writer_rows`. The future's result is the number of changes, or StoreFailed.

        The previous write must have finished.
        """
        self._result = self._loop.create_future()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(rows.encode() + b"\n")
        return self._result

    async def close(self) -> None:
        """Wait until the process has written what it was given, and end it."""
        self._transport.close()
        await self._loop.run_in_executor(None, self._process.wait)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._buffer.endswith(b"\n") or self._result.done():
            return
        line, self._buffer = self._buffer.strip(), b""
        if line.startswith(b"!"):
            code, _, reason = line[1:].decode(errors="replace").partition(" ")
            self._result.set_exception(store_error(self._store, reason, int(code)))
        else:
            self._result.set_result(int(line))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._result.done():
            self._result.set_exception(store_error(self._store, "the writer process has ended"))

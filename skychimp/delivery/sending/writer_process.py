"""The scribe of a run: a process of its own that commits what is recorded most, sent letters and intents.

In one process the thread that writes and the one that talks to the relay would wait for each other at every turn (the
GIL), and halve what either can do.
"""

import asyncio
import json
import socket
import subprocess
import sys
from typing import Self, cast

from skychimp.errors import StoreFailed
from skychimp.store import ledger
from skychimp.store.database import Store, failed

_PROGRAM = (sys.executable, "-P", "-m", "skychimp.store.writer_program")  # -P: nothing of the folder we happen to be in


class WriterProcess(asyncio.Protocol):
    """One process that writes, spoken to by lines; it ends when it is left. Made by `hire`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heard = b""
        self._answer: asyncio.Future[int] = self._loop.create_future()
        self._transport: asyncio.Transport
        self._process: subprocess.Popen[bytes]

    @classmethod
    async def hire(cls, store: Store, run_id: int) -> Self | None:
        """A scribe who is ready; None where this machine has no room for another process."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                end = theirs.fileno()
                process = subprocess.Popen(_PROGRAM, stdin=end, stdout=end, stderr=subprocess.DEVNULL)  # noqa: S603
            except OSError:
                ours.close()
                return None
        _, scribe = await asyncio.get_running_loop().create_connection(cls, sock=ours)
        scribe._process = process
        try:
            await scribe.write(json.dumps(ledger.orders(store, run_id)))
        except StoreFailed:
            await scribe.leave()
            return None
        return scribe

    def write(self, rows: str) -> "asyncio.Future[int]":
        """Commit rows (ledger.rows_at_once), one lot at a time: how many changes that made, or StoreFailed."""
        self._answer = self._loop.create_future()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(rows.encode() + b"\n")
        return self._answer

    async def leave(self) -> None:
        """Let it end, once it has written what it was given."""
        self._transport.close()
        await self._loop.run_in_executor(None, self._process.wait)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        if not self._heard.endswith(b"\n") or self._answer.done():
            return
        answer, self._heard = self._heard.strip(), b""
        if answer.startswith(b"!"):
            self._answer.set_exception(failed(answer[1:].decode(errors="replace")))
        else:
            self._answer.set_result(int(answer))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._answer.done():
            self._answer.set_exception(failed("the process that writes it has ended"))

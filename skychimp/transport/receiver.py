"""A small SMTP server that keeps what it receives, for `skychimp demo`. It is no relay: it knows one client at a time to
trust, listens on loopback only and holds all letters in memory."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_LINE = 64 * 1024


class Receiver:
    """Listens on a free loopback port; `letters` grows as they come."""

    def __init__(self) -> None:
        self.letters: list[bytes] = []
        self.port = 0

    async def serve(self, ready: threading.Event, over: asyncio.Event) -> None:
        """Serve until `over`."""
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0, limit=LONGEST_LINE)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await over.wait()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 demo.localhost ESMTP\r\n")
        try:
            while line := await reader.readline():
                command = line[:4].upper()
                writer.write(await self._reply(command, reader, writer))
                if command == b"QUIT":
                    break
                await writer.drain()
        except (ConnectionError, ValueError):
            pass
        finally:
            writer.close()

    async def _reply(self, command: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        if command == b"EHLO":
            return b"250-demo.localhost\r\n250 PIPELINING\r\n"
        if command == b"QUIT":
            return b"221 2.0.0 good bye\r\n"
        if command != b"DATA":
            return b"250 2.1.0 fine\r\n"
        writer.write(b"354 go ahead\r\n")
        await writer.drain()
        letter = bytearray()
        while (line := await reader.readline()) not in (b".\r\n", b""):
            letter += line.removeprefix(b".")
        self.letters.append(bytes(letter))
        return f"250 2.0.0 kept as letter {len(self.letters)}\r\n".encode()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A receiver in a thread of its own, for the length of the block."""
    receiver, ready = Receiver(), threading.Event()
    loop = asyncio.new_event_loop()
    over = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(receiver.serve(ready, over),), name="receiver")
    thread.start()
    ready.wait()
    try:
        yield receiver
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()

"""A TCP proxy that delays all data, to simulate a long network path.

python tests/bench/delay.py PORT MILLISECONDS    prints its own port; MILLISECONDS is the round trip
"""

import asyncio
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def delayed(port: int, round_trip_ms: float) -> Iterator[int]:
    """Run a proxy to `port` in a process of its own, and yield its port."""
    command = [sys.executable, __file__, str(port), str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def serve(port: int, one_way_s: float) -> None:
    """Forward connections to `port`, with a delay of `one_way_s` seconds in each direction.

    Connecting itself is not delayed.
    """

    async def forward(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server_end, to_server_end = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(client, to_server_end, one_way_s), _copy(server_end, to_client, one_way_s))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter, one_way_s: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while data := await source.read(65536):
            loop.call_later(one_way_s, to.write, data)
    loop.call_later(one_way_s, to.close)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop on select, whose timeouts are in microseconds. Those of epoll are rounded up to 1 ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 2000))

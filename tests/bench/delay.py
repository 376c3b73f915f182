"""A TCP proxy that makes the wire longer: each chunk arrives a while after it was sent, however many there are.

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
    """The port of a proxy to `port`, in a process of its own, for the length of a `with` block."""
    command = [sys.executable, __file__, str(port), str(round_trip_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def serve(port: int, one_way: float) -> None:
    """Pass connections on to `port`, with `one_way` seconds in each direction. Connecting itself takes no longer."""

    async def pass_on(near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_flow(near, to_far, one_way), _flow(far, to_near, one_way))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _flow(source: asyncio.StreamReader, to: asyncio.StreamWriter, one_way: float) -> None:
    loop = asyncio.get_running_loop()
    with suppress(ConnectionError):
        while data := await source.read(65536):
            loop.call_later(one_way, to.write, data)
    loop.call_later(one_way, to.close)


def _precise_loop() -> asyncio.AbstractEventLoop:
    """A loop on select: it takes its timeout in microseconds, where epoll rounds it up to the next millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=_precise_loop) as runner:
        runner.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 2000))

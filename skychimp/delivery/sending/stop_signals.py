"""Stop a run on SIGTERM and Ctrl-C, and reload a daemon on SIGHUP."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from skychimp.delivery.sending.dispatcher import Dispatcher

INTERRUPTED, TERMINATED, RELOADED = "interrupted", "terminated", "reloaded"


REASONS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: RELOADED}


class StopSignals:
    """Signals that let a dispatcher end what is in flight, for the length of a block; a second one ends the process."""

    def __init__(self, numbers: Sequence[signal.Signals], say: Callable[[str], None]) -> None:
        self._numbers = numbers
        self._say = say
        self._loop = asyncio.get_running_loop()
        self._dispatcher: Dispatcher | None = None
        self._pending = ""
        self._signal = asyncio.Event()

    def of(self, dispatcher: Dispatcher) -> None:
        """Stop this one from here on; at once, where a signal has come already."""
        self._dispatcher = dispatcher
        if self._pending:
            dispatcher.stop(self._pending)
        self._pending = ""

    async def wait(self, seconds: float) -> str:
        """Wait for a signal, where there is no dispatcher to be stopped; why to stop, "" where none comes."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._signal.wait(), seconds)
        self._signal.clear()
        reason, self._pending = self._pending, ""
        return reason

    def __enter__(self) -> None:
        for number in self._numbers:
            self._loop.add_signal_handler(number, self._stop, number)

    def __exit__(self, *_: object) -> None:
        for number in self._numbers:
            self._loop.remove_signal_handler(number)

    def _stop(self, number: signal.Signals) -> None:
        reason = REASONS[number]
        stopped = self._dispatcher.stats.stopped if self._dispatcher is not None else ""
        if number != signal.SIGHUP and {stopped, self._pending} & {INTERRUPTED, TERMINATED}:
            os._exit(128 + number)  # the sockets close without the dot; the next run rescues
        if stopped or self._dispatcher is None:  # it is stopping for another reason, or the next one is not here yet
            self._pending = reason
            self._signal.set()
        else:
            self._dispatcher.stop(reason)
        if number != signal.SIGHUP:
            self._say("finishing what is in flight; once more to stop at once")

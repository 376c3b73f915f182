"""Stop a run on SIGTERM and Ctrl-C, and reload a daemon on SIGHUP."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence

from skychimp.delivery.sending.dispatcher import Dispatcher
from skychimp.text import NO_TEXT
from skychimp.translation import Phrase, tr

INTERRUPTED, TERMINATED, RELOADED = tr("interrupted"), tr("terminated"), tr("reloaded")
_REASONS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: RELOADED}


class StopSignals:
    """Handles signals for the length of a `with` block.

    The first signal stops the dispatcher, which finishes the emails in progress. A second SIGINT or SIGTERM ends the
    process at once. `warn` is called with a text for the user.
    """

    def __init__(self, signals: Sequence[signal.Signals], warn: Callable[[Phrase], None]) -> None:
        self._signals = signals
        self._warn = warn
        self._loop = asyncio.get_running_loop()
        self._dispatcher: Dispatcher | None = None
        self._pending_reason = NO_TEXT
        self._received = asyncio.Event()

    def attach(self, dispatcher: Dispatcher) -> None:
        """Stop this dispatcher on the next signal, or now if a signal has already arrived."""
        self._dispatcher = dispatcher
        if self._pending_reason:
            dispatcher.stop(self._pending_reason)
        self._pending_reason = NO_TEXT

    async def wait(self, timeout_s: float) -> Phrase:
        """Wait for a signal while there is no dispatcher. Return the reason to stop, or "" after the timeout."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._received.wait(), timeout_s)
        self._received.clear()
        reason, self._pending_reason = self._pending_reason, NO_TEXT
        return reason

    def __enter__(self) -> None:
        for number in self._signals:
            self._loop.add_signal_handler(number, self._handle, number)

    def __exit__(self, *_: object) -> None:
        for number in self._signals:
            self._loop.remove_signal_handler(number)

    def _handle(self, number: signal.Signals) -> None:
        reason = _REASONS[number]
        stop_reason = self._dispatcher.stats.stopped if self._dispatcher is not None else ""
        if number != signal.SIGHUP and {stop_reason, self._pending_reason} & {INTERRUPTED, TERMINATED}:
            os._exit(128 + number)  # the sockets close without the final dot, and the next run recovers the deliveries
        if stop_reason or self._dispatcher is None:  # already stopping for another reason, or not yet started
            self._pending_reason = reason
            self._received.set()
        else:
            self._dispatcher.stop(reason)
        if number != signal.SIGHUP:
            self._warn(tr("finishing emails in progress; interrupt again to stop at once"))

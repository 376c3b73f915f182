"""From a store and its settings to one run, with its lock, its event loop and its signals."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from skychimp import addresses
from skychimp.config import Settings
from skychimp.delivery import zones
from skychimp.delivery.dispatcher import Dispatcher, Scope, Tally
from skychimp.errors import ConfigError, StoreHeld
from skychimp.store import queue, runs
from skychimp.store.engine import Store, plain_errors
from skychimp.store.runs import RunLock
from skychimp.transport import make_transport

INTERRUPTED, TERMINATED, RELOADED = "interrupted", "terminated", "reloaded"
REASONS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: RELOADED}

T = TypeVar("T")


def send_due(
    store: Store,
    settings: Settings,
    scope: Scope | None = None,
    report: Callable[[Tally], None] = lambda tally: None,
    say: Callable[[str], None] = lambda text: None,
) -> Tally:
    """Send what is due now, once, and say what became of it.

    The first Ctrl-C or SIGTERM lets what is in flight end and gives back the rest; a second one stops at once.
    Raises ConfigError where there is no sender, StoreHeld where a restored store is held, ClockBehind, StoreFailed.
    """
    settings = with_sender(settings)
    with entered(store) as lock:
        transport = make_transport(settings, store.path)
        dispatcher = Dispatcher(store, settings, transport, lock, scope or Scope(), report=report)
        return in_loop(_send(dispatcher, say))


@contextlib.contextmanager
def entered(store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[RunLock]:
    """This process as a run, for the length of the block; `now` is its clock.

    Raises StoreHeld where a restored store is held, ClockBehind where the clock can't be right.
    """
    with plain_errors(), store.connect() as connection, connection.begin():
        if queue.is_held(connection):
            raise StoreHeld(
                "this store was restored and sends nothing yet", "let it go on: skychimp resolve --restored"
            )
        if (behind := runs.clock_behind(connection, now())) is not None:
            raise behind
        zones.follow(connection)
        lock = runs.start(connection, store.path, now())
    try:
        yield lock
    finally:
        lock.release()


def is_held(store: Store) -> bool:
    """Whether a store was restored and waits for a person."""
    with store.read() as session:
        return queue.is_held(session.connection())


def with_sender(settings: Settings) -> Settings:
    """The settings with the envelope sender filled in. Raises ConfigError where nobody is named as the sender."""
    mail = settings.mail
    if mail.sender is None:
        raise ConfigError("mail.sender is not set", 'say who the letters come from: mail.sender = "Name <address>"')
    return_path = mail.return_path or addresses.parse_sender(mail.sender)[1]
    return settings.model_copy(update={"mail": mail.model_copy(update={"return_path": return_path})})


def in_loop(work: Coroutine[object, object, T]) -> T:
    """Run it in an event loop of its own: uvloop's where there is one."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(work)


class Stops:
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
        stopped = self._dispatcher.tally.stopped if self._dispatcher is not None else ""
        if number != signal.SIGHUP and {stopped, self._pending} & {INTERRUPTED, TERMINATED}:
            os._exit(128 + number)  # the sockets close without the dot; the next run rescues
        if stopped or self._dispatcher is None:  # it is stopping for another reason, or the next one is not here yet
            self._pending = reason
            self._signal.set()
        else:
            self._dispatcher.stop(reason)
        if number != signal.SIGHUP:
            self._say("finishing what is in flight; once more to stop at once")


async def _send(dispatcher: Dispatcher, say: Callable[[str], None]) -> Tally:
    stops = Stops([signal.SIGINT, signal.SIGTERM], say)
    with stops:
        stops.of(dispatcher)
        return await dispatcher.send()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


__all__ = ["Scope", "Stops", "Tally", "entered", "in_loop", "is_held", "send_due", "with_sender"]

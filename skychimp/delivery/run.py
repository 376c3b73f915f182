"""From a store and its settings to one run, with its lock, its event loop and its signals."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from skychimp import addresses
from skychimp.config import Settings
from skychimp.delivery.dispatcher import Dispatcher, Scope, Tally
from skychimp.errors import ConfigError, StoreNotReady
from skychimp.store import queue, runs
from skychimp.store.engine import Store, plain_errors
from skychimp.transport import make_transport

INTERRUPTED = "interrupted"


def send_due(
    store: Store,
    settings: Settings,
    scope: Scope | None = None,
    report: Callable[[Tally, int], None] = lambda tally, total: None,
) -> Tally:
    """Send what is due now, once, and say what became of it.

    The first Ctrl-C or SIGTERM lets what is in flight end and gives back the rest; a second one stops at once.
    Raises ConfigError where there is no sender, StoreNotReady where a restored store is held, StoreFailed.
    """
    settings = with_sender(settings)
    transport = make_transport(settings, store.path)
    with plain_errors(), store.connect() as connection, connection.begin():
        if queue.is_held(connection):
            raise StoreNotReady(
                "this store was restored and sends nothing yet", "let it go on: skychimp resolve --restored"
            )
        lock = runs.start(connection, store.path, datetime.now(UTC))
    try:
        dispatcher = Dispatcher(store, settings, transport, lock, scope or Scope(), report=report)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_send(dispatcher))
    finally:
        lock.release()


def with_sender(settings: Settings) -> Settings:
    """The settings with the envelope sender filled in. Raises ConfigError where nobody is named as the sender."""
    mail = settings.mail
    if mail.sender is None:
        raise ConfigError("mail.sender is not set", 'say who the letters come from: mail.sender = "Name <address>"')
    return_path = mail.return_path or addresses.parse_sender(mail.sender)[1]
    return settings.model_copy(update={"mail": mail.model_copy(update={"return_path": return_path})})


async def _send(dispatcher: Dispatcher) -> Tally:
    with _draining(dispatcher):
        return await dispatcher.send()


@contextlib.contextmanager
def _draining(dispatcher: Dispatcher) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def drain(number: int) -> None:
        if dispatcher.tally.stopped == INTERRUPTED:
            os._exit(128 + number)  # the sockets close without the dot; the next run rescues
        dispatcher.stop(INTERRUPTED)
        print("\nfinishing what is in flight; once more to stop at once", file=sys.stderr)  # noqa: T201

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, drain, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


__all__ = ["Scope", "Tally", "send_due", "with_sender"]

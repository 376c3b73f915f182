"""From a store and its settings to one run, with its lock, its event loop and its signals."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from skychimp import addresses
from skychimp.config.settings import Settings
from skychimp.delivery.scheduling import tzdata_changes
from skychimp.delivery.sending.dispatcher import Dispatcher, RunOptions, RunStats
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.stop_signals import StopSignals
from skychimp.errors import ConfigError, StoreHeld
from skychimp.store import queue, runs
from skychimp.store.database import Store, translate_db_errors
from skychimp.store.runs import RunLock
from skychimp.transport import make_transport

T = TypeVar("T")


def send_due(
    store: Store,
    settings: Settings,
    scope: RunOptions | None = None,
    report: Callable[[RunStats], None] = lambda stats: None,
    say: Callable[[str], None] = lambda text: None,
) -> RunStats:
    """Send what is due now, once, and say what became of it.

    The first Ctrl-C or SIGTERM lets what is in flight end and gives back the rest; a second one stops at once.
    Raises ConfigError where there is no sender, StoreHeld where a restored store is held, ClockBehind, StoreFailed.
    """
    settings = with_sender(settings)
    with registered_run(store) as lock:
        transport = make_transport(settings, store.path)
        dispatcher = Dispatcher(store, settings, transport, lock, scope or RunOptions(), report=report)
        return run_in_event_loop(_send(dispatcher, say))


@contextlib.contextmanager
def registered_run(store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[RunLock]:
    """This process as a run, for the length of the block; `now` is its clock.

    Raises StoreHeld where a restored store is held, ClockBehind where the clock can't be right.
    """
    with translate_db_errors(), store.connect() as db, db.begin():
        if queue.is_held(db):
            raise StoreHeld(
                "this store was restored and sends nothing yet", "let it go on: skychimp resolve --restored"
            )
        if (behind := runs.clock_behind(db, now())) is not None:
            raise behind
        tzdata_changes.update_due_times(db)
        lock = runs.start(db, store.path, now())
    try:
        yield lock
    finally:
        lock.release()


def is_held(store: Store) -> bool:
    """Whether a store was restored and waits for a person."""
    with store.read() as db:
        return queue.is_held(db.connection())


def with_sender(settings: Settings) -> Settings:
    """The settings with the envelope sender filled in. Raises ConfigError where nobody is named as the sender."""
    mail = settings.mail
    if mail.sender is None:
        raise ConfigError("mail.sender is not set", 'say who the letters come from: mail.sender = "Name <address>"')
    return_path = mail.return_path or addresses.parse_sender(mail.sender)[1]
    return settings.model_copy(update={"mail": mail.model_copy(update={"return_path": return_path})})


async def _send(dispatcher: Dispatcher, say: Callable[[str], None]) -> RunStats:
    stops = StopSignals([signal.SIGINT, signal.SIGTERM], say)
    with stops:
        stops.of(dispatcher)
        return await dispatcher.send()

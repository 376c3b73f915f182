"""The daemon: one dispatcher that keeps looking for what is due, and the jobs around it on the `schedule` library.

`schedule` counts naive local time, so that its jobs are made anew when the wall clock and the monotonic one part, or
the zone's offset changes; the sleep between two jobs is on monotonic time.
"""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

import schedule

from skychimp.config import Settings
from skychimp.delivery.dispatcher import Dispatcher, Tally
from skychimp.delivery.run import draining, entered, in_loop, with_sender
from skychimp.store.engine import Store
from skychimp.transport import make_transport

log = logging.getLogger("skychimp")

RELOAD = "reload"
JUMP = 2.0  # s
HOUSEKEEPING = timedelta(hours=1)


def serve(
    store: Store,
    settings: Settings,
    *,
    housekeeping: Callable[[], None],
    alive: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = lambda text: None,
) -> Tally:
    """Send on schedule until SIGTERM, Ctrl-C or SIGHUP, and then drain; the tally's `stopped` says which it was.

    `housekeeping` is called once an hour, `alive` at every look. Raises what `send_due` raises.
    """
    settings = with_sender(settings)
    with entered(store) as lock:
        dispatcher = Dispatcher(store, settings, make_transport(settings, store.path), lock, keeps_looking=True)
        return in_loop(_serve(dispatcher, settings, housekeeping, alive, say))


async def _serve(
    dispatcher: Dispatcher,
    settings: Settings,
    housekeeping: Callable[[], None],
    alive: Callable[[], None],
    say: Callable[[str], None],
) -> Tally:
    async def clockwork() -> None:
        await _work(dispatcher, settings, housekeeping, alive)

    with draining(dispatcher, say), _reloading(dispatcher):
        return await dispatcher.send(clockwork)


async def _work(
    dispatcher: Dispatcher, settings: Settings, housekeeping: Callable[[], None], alive: Callable[[], None]
) -> None:
    """Call the jobs when they are due, until the dispatcher is stopped."""
    wanted: set[str] = set()
    clock = _Clock()
    jobs = _jobs(settings.daemon.interval, wanted)
    jobs.run_all()
    while not dispatcher.tally.stopped:
        if clock.has_jumped():
            log.warning("the clock has jumped; the jobs are made anew")
            jobs = _jobs(settings.daemon.interval, wanted)
            jobs.run_all()
        jobs.run_pending()
        if "look" in wanted:
            alive()
            await dispatcher.look()
        if "housekeeping" in wanted:
            await asyncio.to_thread(housekeeping)
        wanted.clear()
        await dispatcher.sleep(max(0.01, min(jobs.idle_seconds or 0, settings.daemon.interval.total_seconds())))


def _jobs(interval: timedelta, wanted: set[str]) -> schedule.Scheduler:
    """The jobs say what is wanted; the loop does it, because a job can't wait for the ledger."""
    jobs = schedule.Scheduler()
    jobs.every(max(1, round(interval.total_seconds()))).seconds.do(wanted.add, "look")
    jobs.every(round(HOUSEKEEPING.total_seconds())).seconds.do(wanted.add, "housekeeping")
    return jobs


@contextlib.contextmanager
def _reloading(dispatcher: Dispatcher) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, dispatcher.stop, RELOAD)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


class _Clock:
    """Knows whether wall time has gone another way than monotonic time since it was asked last."""

    def __init__(self) -> None:
        self._seen = self._look()

    def has_jumped(self) -> bool:
        before, self._seen = self._seen, self._look()
        return abs(self._seen[0] - before[0]) > JUMP or self._seen[1] != before[1]

    @staticmethod
    def _look() -> tuple[float, int]:
        now = time.time()
        return now - time.monotonic(), time.localtime(now).tm_gmtoff

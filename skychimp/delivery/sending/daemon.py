"""The daemon: one dispatcher that keeps looking for what is due, and the jobs around it on the `schedule` library.

`schedule` counts naive local time, so that its jobs are made anew when the wall clock and the monotonic one part, or
the zone's offset changes; the sleep between two jobs is on monotonic time.
"""

import asyncio
import contextlib
import logging
import signal
import time
from datetime import timedelta
from typing import Protocol

import schedule

from skychimp.config.settings import Settings
from skychimp.delivery.sending.dispatcher import Dispatcher, RunStats
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.runner import is_held, registered_run, with_sender
from skychimp.delivery.sending.stop_signals import RELOADED, StopSignals
from skychimp.errors import StoreHeld
from skychimp.store.database import Store
from skychimp.transport import make_transport

log = logging.getLogger("skychimp")

JUMP = 2.0  # s
HOUSEKEEPING = timedelta(hours=1)


class DaemonHooks(Protocol):
    """What the daemon asks of whoever started it."""

    def ready(self) -> None:
        """It listens to signals from here on."""

    def alive(self) -> None:
        """It is looking for what is due, or lets what is in flight end."""

    def tidy(self) -> None:
        """Once an hour: whatever else is to be kept in order. Called in a thread of its own."""

    def reload(self, now: Settings) -> Settings:
        """The settings, read again; those it has now where they can't be read."""


def serve(store: Store, settings: Settings, around: DaemonHooks) -> RunStats:
    """Send on schedule until SIGTERM or Ctrl-C, and then drain; the last tally's `stopped` says which it was.

    SIGHUP drains, too, and goes on with the settings as they are then. Raises what `send_due` raises.
    """
    return run_in_event_loop(_serve(store, settings, around))


async def _serve(store: Store, settings: Settings, around: DaemonHooks) -> RunStats:
    stops = StopSignals([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], say=log.info)
    with stops:
        around.ready()
        while True:
            stats = await _send(store, with_sender(settings), around, stops)
            if stats.stopped != RELOADED:
                return stats
            settings = around.reload(settings)


async def _send(store: Store, settings: Settings, around: DaemonHooks, stops: StopSignals) -> RunStats:
    """As one run, until it is stopped; a restored store is waited for until a person lets it go on."""
    with contextlib.ExitStack() as stack:
        lock = None
        while lock is None:
            try:
                lock = stack.enter_context(registered_run(store))
            except StoreHeld as held:
                if reason := await _let_go(store, settings, around, stops, held):
                    return RunStats(stopped=reason)
        dispatcher = Dispatcher(
            store,
            settings,
            make_transport(settings, store.path),
            lock,
            keeps_looking=True,
            report=lambda stats: around.alive() if stats.stopped else None,  # a drain is long, and without looks
        )
        stops.of(dispatcher)
        return await dispatcher.send(lambda: _work(dispatcher, settings, around))


async def _let_go(store: Store, settings: Settings, around: DaemonHooks, stops: StopSignals, held: StoreHeld) -> str:
    """Wait until a person has let the store go on: ""; or until a signal comes: what it means."""
    log.warning(held.message, extra={"hint": held.hint})
    reason = ""
    while not reason and await asyncio.to_thread(is_held, store):
        around.alive()
        reason = await stops.wait(settings.daemon.interval.total_seconds())
    return reason


async def _work(dispatcher: Dispatcher, settings: Settings, around: DaemonHooks) -> None:
    """Call the jobs when they are due, until the dispatcher is stopped."""
    wanted = {"look", "housekeeping"}
    clock = _Clock()
    jobs = _jobs(settings.daemon.interval, wanted)
    while not dispatcher.stats.stopped:
        if clock.has_jumped():
            log.warning("the clock has jumped; the jobs are made anew")
            jobs = _jobs(settings.daemon.interval, wanted)
            wanted.add("look")
        jobs.run_pending()
        if "look" in wanted:
            around.alive()
            await dispatcher.poll()
        if "housekeeping" in wanted:
            await asyncio.to_thread(around.tidy)
        wanted.clear()
        await dispatcher.sleep(max(0.01, min(jobs.idle_seconds or 0, settings.daemon.interval.total_seconds())))


def _jobs(interval: timedelta, wanted: set[str]) -> schedule.Scheduler:
    """The jobs say what is wanted; the loop does it, because a job can't wait for the ledger."""
    jobs = schedule.Scheduler()
    jobs.every(max(1, round(interval.total_seconds()))).seconds.do(wanted.add, "look")
    jobs.every(round(HOUSEKEEPING.total_seconds())).seconds.do(wanted.add, "housekeeping")
    return jobs


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

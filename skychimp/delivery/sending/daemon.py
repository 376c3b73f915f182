"""Send on schedule: one dispatcher that polls for what is due, and periodic jobs by the `schedule` library.

`schedule` uses naive local time. The jobs are therefore scheduled again when the clock or the time zone's offset
changes. The sleep between two jobs is on monotonic time.
"""

import asyncio
import contextlib
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Protocol

import schedule

from skychimp.config.settings import Settings
from skychimp.delivery.sending.dispatcher import Dispatcher
from skychimp.delivery.sending.event_loop import run_in_event_loop
from skychimp.delivery.sending.outcomes import RunStats
from skychimp.delivery.sending.runner import registered_run, why_held, with_fitting_connections, with_sender
from skychimp.delivery.sending.signing import make_signing_transport
from skychimp.delivery.sending.sparing_polls import SparingPolls, StoreWatch
from skychimp.delivery.sending.stop_signals import RELOADED, StopSignals
from skychimp.errors import StoreFailed, StoreHeld
from skychimp.store.database import BATCH_PAUSE_S, Store
from skychimp.text import NO_TEXT
from skychimp.translation import Phrase

log = logging.getLogger("skychimp")

CLOCK_CHANGE_S = 2.0  # a smaller difference between wall clock and monotonic clock is ignored
HOUSEKEEPING_INTERVAL = timedelta(hours=1)
_SCHEDULE_SLACK_S = 0.01
_POLL, _HOUSEKEEPING = "poll", "housekeeping"


class DaemonHooks(Protocol):
    """Callbacks that the daemon calls on its caller."""

    def ready(self) -> None:
        """Called once signal handlers are installed."""

    def alive(self) -> None:
        """Called before each poll, and regularly while the last emails are finished."""

    def tidy(self, may_continue: Callable[[], bool]) -> None:
        """Called once an hour, in its own thread, for housekeeping.

        It calls `may_continue` after each step, and ends when that returns False.
        """

    def inbound_readers(self, settings: Settings) -> Sequence[Callable[[threading.Event], None]]:
        """Return functions that read incoming mail. Each runs in its own thread, and ends once the event is set."""

    def reload(self, current: Settings) -> Settings:
        """Read the settings again and return them. Return the current ones if they cannot be read."""


def serve(store: Store, settings: Settings, hooks: DaemonHooks) -> RunStats:
    """Send on schedule until SIGTERM or Ctrl-C, then finish the emails in progress and return the last stats.

    On SIGHUP, finish the emails in progress and continue with reloaded settings. Raises what `send_due` raises.
    """
    return run_in_event_loop(_serve(store, settings, hooks))


async def _serve(store: Store, settings: Settings, hooks: DaemonHooks) -> RunStats:
    stop_signals = StopSignals([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], warn=log.info)
    with stop_signals:
        hooks.ready()
        while True:
            fitting = with_fitting_connections(with_sender(settings), log.warning)
            stats = await _send_until_stopped(store, fitting, hooks, stop_signals)
            if stats.stopped != RELOADED:
                return stats
            settings = hooks.reload(settings)


async def _send_until_stopped(
    store: Store, settings: Settings, hooks: DaemonHooks, stop_signals: StopSignals
) -> RunStats:
    """Send as one run until a signal stops it. If the store is on hold, wait until a person resumes it."""
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(StoreWatch(store))
        lock = None
        while lock is None:
            try:
                lock = stack.enter_context(registered_run(store, relay=settings.relay))
            except StoreHeld as error:
                if reason := await _wait_while_held(watch, settings, hooks, stop_signals, error):
                    return RunStats(stopped=reason)
        dispatcher = Dispatcher(
            store,
            settings,
            make_signing_transport(settings, store.path),
            lock,
            keeps_polling=True,
            # Finishing the emails in progress can take long, and so can a full disk. There are no polls meanwhile.
            report=lambda stats: hooks.alive() if stats.stopped or dispatcher.is_waiting_for_store else None,
        )
        stop_signals.attach(dispatcher)
        polls = SparingPolls(watch, dispatcher.poll)
        return await dispatcher.send(lambda: _poll_on_schedule(dispatcher, polls, settings, hooks))


async def _wait_while_held(
    watch: StoreWatch, settings: Settings, hooks: DaemonHooks, stop_signals: StopSignals, error: StoreHeld
) -> Phrase:
    """Wait until the store is no longer on hold. Return "", or the reason to stop if a signal came first."""
    log.warning(error.message, extra={"hint": error.hint})
    reason = NO_TEXT
    while not reason and (not await watch.has_changed() or await _is_still_held(watch.store)):
        hooks.alive()
        watch.store.check_file()
        reason = await stop_signals.wait(settings.daemon.interval.total_seconds())
    return reason


async def _is_still_held(store: Store) -> bool:
    """Return whether the store is on hold. While it cannot be asked, it counts as held."""
    try:
        return await asyncio.to_thread(why_held, store) is not None
    except StoreFailed as error:
        log.warning(error.message, extra={"hint": error.hint})
        return True


async def _poll_on_schedule(
    dispatcher: Dispatcher, polls: SparingPolls, settings: Settings, hooks: DaemonHooks
) -> None:
    """Run the jobs when they are due, until the dispatcher is stopped.

    Housekeeping and the reading of incoming mail go on beside the polls.
    """
    stopping = threading.Event()
    async with asyncio.TaskGroup() as group:
        housekeeping: asyncio.Task[None] | None = None
        for reader in hooks.inbound_readers(settings):
            group.create_task(asyncio.to_thread(reader, stopping))
        try:
            async for due_jobs in _due_jobs(dispatcher, settings.daemon.interval):
                if _POLL in due_jobs:
                    hooks.alive()
                    await polls.poll()
                if _HOUSEKEEPING in due_jobs and (housekeeping is None or housekeeping.done()):
                    housekeeping = group.create_task(_tidy(hooks, stopping))
        finally:
            stopping.set()


async def _due_jobs(dispatcher: Dispatcher, interval: timedelta) -> AsyncIterator[set[str]]:
    """Yield the jobs that are due, until the dispatcher is stopped."""
    due_jobs = {_POLL, _HOUSEKEEPING}
    clock = _ClockMonitor()
    scheduler = _schedule_jobs(interval, due_jobs)
    while not dispatcher.stats.stopped:
        if clock.has_changed():
            log.warning("clock changed, scheduling all jobs again")
            scheduler = _schedule_jobs(interval, due_jobs)
            due_jobs.add(_POLL)
        scheduler.run_pending()
        yield due_jobs
        due_jobs.clear()
        # A little longer than until the next job, so that it does not wake up just before it, again and again.
        await dispatcher.sleep(_SCHEDULE_SLACK_S + max(0.0, min(scheduler.idle_seconds or 0, interval.total_seconds())))


async def _tidy(hooks: DaemonHooks, stopping: threading.Event) -> None:
    """Do the housekeeping in a thread, with pauses for the sending. A failure ends nothing: it is tried again later."""
    try:
        await asyncio.to_thread(hooks.tidy, lambda: not stopping.wait(BATCH_PAUSE_S))
    except StoreFailed as error:
        log.warning(error.message, extra={"hint": error.hint})


def _schedule_jobs(interval: timedelta, due_jobs: set[str]) -> schedule.Scheduler:
    """Return a scheduler whose jobs add their names to `due_jobs`. The loop runs them, because they are async."""
    scheduler = schedule.Scheduler()
    scheduler.every(max(1, round(interval.total_seconds()))).seconds.do(due_jobs.add, _POLL)
    scheduler.every(round(HOUSEKEEPING_INTERVAL.total_seconds())).seconds.do(due_jobs.add, _HOUSEKEEPING)
    return scheduler


class _ClockMonitor:
    """Detects changes of the wall clock against the monotonic clock, and of the time zone's offset."""

    def __init__(self) -> None:
        self._last = self._read()

    def has_changed(self) -> bool:
        """Return whether the clock or the offset has changed since the last call."""
        previous, self._last = self._last, self._read()
        return abs(self._last[0] - previous[0]) > CLOCK_CHANGE_S or self._last[1] != previous[1]

    @staticmethod
    def _read() -> tuple[float, int]:
        now = time.time()
        return now - time.monotonic(), time.localtime(now).tm_gmtoff

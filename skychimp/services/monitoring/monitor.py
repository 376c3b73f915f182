"""Tell monitoring what becomes of a run or a daemon. Nothing here delays sending or lets it fail."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

from skychimp.config.settings import MonitorSettings, Settings
from skychimp.errors import SkychimpError, StoreFailed
from skychimp.services.monitoring.health import find_failures, max_silence_s
from skychimp.services.monitoring.metrics_file import MetricsFile
from skychimp.services.monitoring.pings import Pings, Signal
from skychimp.services.operations.status import status as read_status
from skychimp.store.database import Store

WRITE_INTERVAL_S = 15.0
"""How often a daemon writes the metrics, and looks whether it is healthy."""

MAX_SHARE = 0.05
"""The largest part of the time that counting the metrics may take. With very many emails it is done less often."""

PING_INTERVAL_S = 60.0


@contextlib.contextmanager
def watch_run(
    settings: MonitorSettings, open_store: Callable[[], Store], read_log: Callable[[], str]
) -> Iterator[Callable[[str], None]]:
    """Tell monitoring when a run starts and how it ends. Yield a function that takes a failure. So is an exception.

    `read_log` returns the last lines of the log, which a failure is sent with.
    """
    pings = None if settings.ping_url is None else Pings(settings.ping_url.get_secret_value(), str(uuid4()))
    file = None if settings.metrics_file is None else MetricsFile(settings.metrics_file)
    if pings is not None:
        pings.send(Signal.START)
    failures: list[str] = []
    try:
        yield failures.append
        failures += _store_failures(open_store())
    except BaseException as error:
        failures.append(_describe(error))
        raise
    finally:
        if file is not None:
            with contextlib.suppress(SkychimpError):  # a store that cannot be opened, as the run has said
                file.write(open_store(), None if failures else time.time())
        if pings is not None:
            _send_end(pings, failures, read_log)
            pings.close()


class DaemonMonitor:
    """Tells monitoring, in a thread, that a daemon is healthy, or why it is not."""

    def __init__(self, settings: Settings, store: Store, read_log: Callable[[], str]) -> None:
        url, path = settings.monitor.ping_url, settings.monitor.metrics_file
        self._pings = None if url is None else Pings(url.get_secret_value())
        self._file = None if path is None else MetricsFile(path)
        self._store = store
        self._read_log = read_log
        self._max_silence_s = max_silence_s(settings.daemon.interval)
        self._alive_at = time.monotonic()
        self._pinged_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="monitor", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """Note that the daemon is working."""
        self._alive_at = time.monotonic()

    def stop(self, error: BaseException | None = None) -> None:
        """Write the metrics for the last time. If the daemon ended by an error, report it as a failure."""
        self._stopping.set()
        self._thread.join()
        self._write(self._find_failures(time.monotonic()) if error is None else [_describe(error)])
        if self._pings is not None:
            if error is not None:
                _send_end(self._pings, [_describe(error)], self._read_log)
            self._pings.close()

    def _watch(self) -> None:
        wait_s = 0.0
        while not self._stopping.wait(wait_s):
            started_at = time.monotonic()
            self._check()
            wait_s = max(WRITE_INTERVAL_S, (time.monotonic() - started_at) / MAX_SHARE)

    def _check(self) -> None:
        """Write the metrics, and send a signal if it is time for one."""
        now = time.monotonic()
        failures = self._find_failures(now)
        self._write(failures)
        is_time = self._pinged_at is None or now - self._pinged_at >= PING_INTERVAL_S - WRITE_INTERVAL_S / 2
        if self._pings is not None and is_time:
            self._pinged_at = now
            _send_end(self._pings, failures, self._read_log)

    def _find_failures(self, now: float) -> list[str]:
        if now - self._alive_at > self._max_silence_s:
            return [f"the daemon has done nothing for {round(now - self._alive_at)} s"]
        return _store_failures(self._store)

    def _write(self, failures: list[str]) -> None:
        if self._file is not None:
            self._file.write(self._store, None if failures else time.time())


def _store_failures(store: Store) -> list[str]:
    try:
        return find_failures(read_status(store))
    except StoreFailed as error:
        return [error.message]


def _send_end(pings: Pings, failures: list[str], read_log: Callable[[], str]) -> None:
    """Send a success, or a failure with the end of the log."""
    if failures:
        pings.send(Signal.FAIL, "\n".join([read_log(), *failures]).lstrip("\n"))
    else:
        pings.send(Signal.SUCCESS)


def _describe(error: BaseException) -> str:
    if isinstance(error, SkychimpError):
        return f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else "")
    return f"error: {error!r}"

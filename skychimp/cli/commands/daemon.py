"""`skychimp daemon`: send on schedule until stopped."""

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli import event_log, interrupts
from skychimp.cli.context import Context, LogFormat, get_context
from skychimp.errors import ConfigError

if TYPE_CHECKING:
    from skychimp.config.settings import Settings
    from skychimp.delivery.sending.outcomes import RunStats
    from skychimp.services.monitoring.monitor import DaemonMonitor

app = typer.Typer(rich_markup_mode="rich")

log = logging.getLogger("skychimp")


@app.command(epilog="skychimp daemon --log-format json")
def daemon(
    ctx: typer.Context,
    interval: Annotated[
        str | None, typer.Option(help="How often to check for due mailings (default: 1s).", metavar="DURATION")
    ] = None,
    log_format: LogFormat = None,
) -> None:
    """Send mailings on schedule until SIGTERM or Ctrl-C.

    On SIGTERM or Ctrl-C, emails in progress are finished first. On SIGHUP, the config is reloaded.

    Several daemons can share one store.
    """
    from skychimp.delivery.sending.daemon import serve
    from skychimp.delivery.sending.stop_signals import INTERRUPTED as STOPPED_BY_CTRL_C

    context = get_context(ctx)
    context.is_unattended = True
    if interval is not None:
        context.overrides["daemon.interval"] = interval
    event_log.start(context.out, log_format or event_log.usual_format())
    hooks = _Hooks(context)
    with hooks.monitored():
        stats = serve(context.store, context.settings, hooks)
    hooks.stopped(stats)
    if stats.stopped == STOPPED_BY_CTRL_C:
        raise typer.Exit(interrupts.STATUS)


class _Hooks:
    """Logs the daemon's events and notifies systemd."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._monitor: DaemonMonitor | None = None
        self._tail: event_log.Tail | None = None

    @contextmanager
    def monitored(self) -> Iterator[None]:
        """Tell monitoring, if it is set up, that the daemon is healthy, and if it ends by an error."""
        self._start_monitor(self._context.settings)
        try:
            yield
        except BaseException as error:
            self._stop_monitor(error)
            raise
        self._stop_monitor()

    def _start_monitor(self, settings: "Settings") -> None:
        if settings.monitor.is_on:
            from skychimp.services.monitoring.monitor import DaemonMonitor

            self._tail = event_log.Tail()
            self._monitor = DaemonMonitor(settings, self._context.store, self._tail.read)

    def _stop_monitor(self, error: BaseException | None = None) -> None:
        if self._monitor is not None and self._tail is not None:
            self._monitor.stop(error)
            self._tail.close()
            self._monitor = self._tail = None

    def ready(self) -> None:
        log.info("started", extra={"store": self._context.store.path, "relay": self._context.settings.relay})
        _notify_systemd("READY=1")

    def alive(self) -> None:
        _notify_systemd("WATCHDOG=1")
        if self._monitor is not None:
            self._monitor.alive()

    def tidy(self, may_continue: Callable[[], bool]) -> None:
        from skychimp.services.operations import housekeeping

        settings = self._context.settings
        housekeeping.tidy(
            self._context.store,
            keep_attempts=settings.delivery.keep_attempts,
            score_period=settings.inbound.soft_bounce_period,
            may_continue=may_continue,
        )

    def inbound_readers(self, settings: "Settings") -> "Sequence[Callable[[threading.Event], None]]":
        if settings.inbound.maildir is None and settings.inbound.imap_url is None:
            return ()
        from skychimp.services.inbound import polling

        return polling.readers(self._context.store, settings)

    def reload(self, current: "Settings") -> "Settings":
        from skychimp.services import audit

        try:
            settings = self._context.reload()
        except ConfigError as error:
            log.error("config not reloaded", extra={"reason": error.message, "hint": error.hint})
            return current
        if (settings.monitor, settings.daemon) != (current.monitor, current.daemon):
            self._stop_monitor()
            self._start_monitor(settings)
        audit.record_without_login(self._context.store, "reload", "config")
        log.info("config reloaded", extra={"relay": settings.relay})
        return settings

    def stopped(self, stats: "RunStats") -> None:
        _notify_systemd("STOPPING=1")
        log.info("stopped", extra={"sent": stats.sent, "queued": stats.queued, "deferred": stats.deferred})


def _notify_systemd(message: str) -> None:
    """Send a message to the service manager, if there is one (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.sendall(message.encode())

"""`skychimp daemon`: send on schedule, until it is told to stop."""

import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp.cli.context import Context, get_context
from skychimp.errors import ConfigError

if TYPE_CHECKING:
    from skychimp.config.settings import Settings
    from skychimp.delivery.sending.dispatcher import RunStats

app = typer.Typer(rich_markup_mode="rich")

_EVENTS = logging.getLogger("skychimp")
INTERRUPTED = 130
LogFormat = Literal["human", "logfmt", "json"]


@app.command(epilog="skychimp daemon --log-format json")
def daemon(
    ctx: typer.Context,
    interval: Annotated[str | None, typer.Option(help="How often to look for due mail.", metavar="DURATION")] = None,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="human on a terminal, logfmt elsewhere, if not given.", show_default=False)
    ] = None,
) -> None:
    """Send what falls due, until SIGTERM or Ctrl-C; then let what is in flight end.

    SIGHUP reads the config again. A second daemon on the same store shares the work.
    """
    from skychimp.cli import event_log
    from skychimp.delivery.sending.daemon import serve
    from skychimp.delivery.sending.stop_signals import INTERRUPTED as BY_CTRL_C

    context = get_context(ctx)
    if interval is not None:
        context.said["daemon.interval"] = interval
    event_log.start(context.out, log_format or ("human" if sys.stderr.isatty() else "logfmt"))
    around = _Surroundings(context)
    stats = serve(context.store, context.settings, around)
    around.stopped(stats)
    if stats.stopped == BY_CTRL_C:
        raise typer.Exit(INTERRUPTED)


class _Surroundings:
    """What a daemon tells this machine: events, and systemd's watchdog."""

    def __init__(self, context: Context) -> None:
        self._here = context

    def ready(self) -> None:
        settings = self._here.settings
        _EVENTS.info("started", extra={"store": self._here.store.path, "relay": _relay(settings)})
        _tell_systemd("READY=1")

    def alive(self) -> None:
        _tell_systemd("WATCHDOG=1")

    def tidy(self) -> None:
        from skychimp.services.operations import housekeeping

        housekeeping.tidy(self._here.store, keep_attempts=self._here.settings.delivery.keep_attempts)

    def reload(self, now: "Settings") -> "Settings":
        from skychimp.services import audit

        try:
            settings = self._here.reload()
        except ConfigError as error:
            _EVENTS.error("config kept as it was", extra={"reason": error.message, "hint": error.hint})
            return now
        audit.note(self._here.store, "reload", "config")
        _EVENTS.info("config read again", extra={"relay": _relay(settings)})
        return settings

    def stopped(self, stats: "RunStats") -> None:
        counts = {"sent": stats.sent, "queued": stats.queued, "deferred": stats.deferred}
        _tell_systemd("STOPPING=1")
        _EVENTS.info("stopped", extra=counts)


def _relay(settings: "Settings") -> str:
    return f"{settings.smtp.host}:{settings.smtp.effective_port}" if settings.mail.transport == "smtp" else "outbox"


def _tell_systemd(word: str) -> None:
    """sd_notify(3), where the service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
        manager.connect("\0" + address[1:] if address.startswith("@") else address)
        manager.sendall(word.encode())

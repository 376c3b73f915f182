"""`skychimp daemon`: send on schedule, until it is told to stop."""

import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp.cli.context import Context, enter

if TYPE_CHECKING:
    from skychimp.config import Settings

app = typer.Typer(rich_markup_mode="rich")

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
    from skychimp.cli import log

    here = enter(ctx)
    if interval is not None:
        here.said["daemon.interval"] = interval
    log.start(here.out, log_format or ("human" if sys.stderr.isatty() else "logfmt"))
    stopped = _serve(here)
    if stopped == "interrupted":
        raise typer.Exit(INTERRUPTED)


def _serve(here: Context) -> str:
    """Serve, anew with each reload; why it stopped."""
    import logging

    from skychimp.delivery.daemon import RELOAD, serve
    from skychimp.errors import ConfigError
    from skychimp.services import accounts

    events = logging.getLogger("skychimp")
    settings = here.settings
    store = here.store
    _tell_systemd("READY=1")
    events.info("started", extra={"store": store.path, "relay": _relay(settings)})
    while True:
        tally = serve(
            store,
            settings,
            housekeeping=lambda: accounts.tidy(store),
            alive=lambda: _tell_systemd("WATCHDOG=1"),
            say=lambda text: events.info(text),
        )
        if tally.stopped != RELOAD:
            break
        try:
            settings = here.reload()
            events.info("config read again", extra={"relay": _relay(settings)})
        except ConfigError as error:
            events.error("config kept as it was", extra={"reason": error.message, "hint": error.hint})
    _tell_systemd("STOPPING=1")
    events.info("stopped", extra={"sent": tally.sent, "queued": tally.queued, "deferred": tally.deferred})
    return tally.stopped


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

"""`skychimp serve`: answer unsubscribe links on the web until stopped."""

import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli import interrupts
from skychimp.cli.context import Context, LogFormat, get_context
from skychimp.errors import ConfigError, InvalidValue
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich")

log = logging.getLogger("skychimp")


@app.command(epilog="skychimp serve --listen unix:/run/skychimp/web.sock")
def serve(
    ctx: typer.Context,
    site: Annotated[
        Path | None, typer.Option(help='Also serve this folder, such as one of "blog build".', metavar="DIR")
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(help="Listen on ADDRESS:PORT or unix:PATH (default: web.listen).", metavar="ADDRESS"),
    ] = None,
    log_format: LogFormat = None,
) -> None:
    """Answer unsubscribe links on the web until SIGTERM or Ctrl-C.

    A web server such as nginx or Caddy passes requests on to it. See [bold]skychimp service web[/bold] and
    [bold]skychimp help unsubscribing[/bold].
    """
    from skychimp.cli import event_log

    context = get_context(ctx)
    context.is_unattended = True
    event_log.start(context.out, log_format or event_log.usual_format())
    if listen is not None:
        context.overrides["web.listen"] = listen
    _require_packages()
    if site is not None and not site.is_dir():
        raise InvalidValue(tr("{site} is not a folder", site=site), tr('make one with "skychimp blog build DIR"'))
    _warn(context)
    if _serve(context, site) == signal.SIGINT:
        raise typer.Exit(interrupts.STATUS)


def _serve(context: Context, site: Path | None) -> signal.Signals | None:
    from skychimp.store import web_rights
    from skychimp.web.listening import address_of, listen
    from skychimp.web.rate_limit import RateLimit
    from skychimp.web.server import serve

    settings, store = context.settings.web, context.store
    if not web_rights.restrict(store):
        log.warning("rights not restricted", extra={"hint": 'use the role of "skychimp service web"'})
    with listen(settings) as opened:
        fields = {"store": store.name, "listen": address_of(opened)}
        ended_by = serve(store, opened, site, lambda: log.info("started", extra=fields), RateLimit())
    log.info("stopped")
    return ended_by


def _require_packages() -> None:
    """Raise ConfigError if the packages of the extra `web` are not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        message = tr("serve needs the Python packages starlette and uvicorn, which are not installed")
        raise ConfigError(message, tr("run \"pip install 'skychimp[web]'\"")) from None


def _warn(context: Context) -> None:
    if context.settings.web.url is None:
        context.out.warn(tr("warning: web.url is not set; no email has a link to this server"))

"""The `skychimp service web` command: print what nginx, Caddy and PostgreSQL need for `skychimp serve`."""

from typing import Annotated, Literal

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError, InvalidValue
from skychimp.text import has_control_character, shortened
from skychimp.translation import tr

EXAMPLE = tr("skychimp service web > /etc/nginx/snippets/skychimp.conf")


def web(
    ctx: typer.Context,
    server: Annotated[
        Literal["nginx", "caddy", "postgres"], typer.Option("--for", help="What to print it for.")
    ] = "nginx",
    role: Annotated[str, typer.Option(help="Role for --for postgres.", metavar="ROLE")] = "skychimp_web",
    json: Json = False,
) -> None:
    """Print what nginx or Caddy needs to pass requests on to [bold]skychimp serve[/bold].

    [bold]--for postgres[/bold] prints the rights of the role with which it should use a store in PostgreSQL.
    """
    context = get_context(ctx, json)
    text = "\n".join(_grants(role)) if server == "postgres" else _proxy_file(context, server)
    if json:
        context.out.record({server: text})
    else:
        context.out.text(text.rstrip("\n"))


def _grants(role: str) -> list[str]:
    from skychimp.store import web_rights

    if not role or has_control_character(role):
        raise InvalidValue(tr("invalid name {role}", role=shortened(role)), tr("use the name of a role"))
    return web_rights.grants(role)


def _proxy_file(context: Context, server: str) -> str:
    from skychimp.web import proxy_files

    settings = context.settings.web
    if settings.url is None:
        raise ConfigError(tr("web.url is not set"), tr("set web.url to the public https URL for unsubscribe links"))
    return (proxy_files.caddy if server == "caddy" else proxy_files.nginx)(settings.url, settings)

"""`skychimp trust`: trust the config in the current folder as it is now, so that it is used there."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError, InvalidValue, NotFound
from skychimp.shell import run_hint
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.config.trust import TrustedConfig

app = typer.Typer(rich_markup_mode="rich")

COLUMNS = {"path": tr("Config"), "state": tr("State"), "trusted_at": tr("Trusted at")}


@dataclass(frozen=True)
class TrustRow:
    """A trusted config. `state` is trusted, changed, missing or unsafe."""

    path: str
    state: str
    trusted_at: datetime


@app.command(epilog="skychimp trust\nskychimp trust --list\nskychimp trust --remove skychimp.toml")
def trust(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The config (default: skychimp.toml here).", show_default=False),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the trusted configs.")] = False,
    remove: Annotated[
        Path | None, typer.Option(help="Stop trusting this config.", metavar="FILE", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Trust the config file in the current folder.

    A skychimp.toml in the current folder is used only if you trust it. Trust covers its content and the .env beside
    it: run this again after a change. Configs given with --config or $SKYCHIMP_CONFIG need no trust.
    """
    from skychimp.config import shared

    context = get_context(ctx, json)
    if (file is not None) + show_list + (remove is not None) > 1:
        raise InvalidValue(tr("FILE, --list and --remove cannot be combined"), tr("use one of them"))
    if not show_list:
        shared.require_operator(tr('run "skychimp trust"'))
    if show_list:
        context.out.rows(_rows(), COLUMNS, empty=tr("no config is trusted"))
    elif remove is not None:
        _remove(context, remove)
    else:
        _trust(context, file)


def _trust(context: Context, file: Path | None) -> None:
    from skychimp.cli.display.config_trust import deciding_settings
    from skychimp.config import config_file, sources
    from skychimp.config import trust as service
    from skychimp.config.locations import FILE_NAME

    path = (file or Path(FILE_NAME)).absolute()
    read = config_file.read_files(path)
    if read.config is None:
        hint = tr("{hint} to create it", hint=run_hint("--config", path, "init", "--email", "YOU@EXAMPLE.ORG"))
        raise NotFound(tr("config file {path} not found", path=path), hint)
    settings = deciding_settings(sources.file_values(read))
    trusted = service.trust(read)
    record = {"path": str(trusted.path), "state": "trusted", "trusted_at": trusted.trusted_at}
    context.out.record(record | ({"settings": settings} if context.out.json else settings))


def _remove(context: Context, file: Path) -> None:
    from skychimp.config import trust as service

    path = file.absolute()
    if not service.forget(path):
        raise NotFound(tr("{path} is not trusted", path=path), run_hint("trust", "--list"))
    context.out.record({"path": str(path), "state": "removed"})


def _rows() -> Iterator[TrustRow]:
    from skychimp.config import trust as service

    for trusted in service.list_trusted():
        yield TrustRow(str(trusted.path), _state(trusted), trusted.trusted_at)


def _state(trusted: "TrustedConfig") -> str:
    from skychimp.config import config_file
    from skychimp.config import trust as service

    if not trusted.path.exists():
        return "missing"
    try:
        read = config_file.read_files(trusted.path)
    except ConfigError:
        return "unsafe"
    return "trusted" if service.changed_file(trusted, read) is None else "changed"

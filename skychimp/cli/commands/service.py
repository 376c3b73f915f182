"""`skychimp service`: set up systemd or cron, and print what they, sudo and web servers need for this installation."""

from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.commands.service_install import INSTALL_EXAMPLE, REMOVE_EXAMPLE, install, remove
from skychimp.cli.commands.service_sudoers import EXAMPLE as SUDOERS_EXAMPLE
from skychimp.cli.commands.service_sudoers import sudoers
from skychimp.cli.commands.service_web import EXAMPLE as WEB_EXAMPLE
from skychimp.cli.commands.service_web import web
from skychimp.cli.context import Json, get_context
from skychimp.cli.display.missing_variables import PASSWORD_FILES, warn_of_missing_variables
from skychimp.cli.output_file import Force, write_generated_files
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

app.command(epilog=INSTALL_EXAMPLE)(install)
app.command(epilog=REMOVE_EXAMPLE)(remove)


@app.command(epilog="skychimp service systemd --dir /etc/systemd/system")
def systemd(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Write the units to this folder (default: stdout).", metavar="DIR")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Print systemd units.

    skychimp.service runs the daemon. skychimp-run.service with its timer can be used instead of it.
    skychimp-web.service answers unsubscribe links.
    """
    from skychimp.services.installing.units import make_units

    context = get_context(ctx, json)
    missing = warn_of_missing_variables(context, carried=PASSWORD_FILES)
    units = make_units(context.settings, missing)
    if folder is not None:
        texts = {unit.name: unit.text for unit in units}
        write_generated_files(context, folder, texts, comment="#", force=force)
        context.out.note(tr("wrote {units} to {folder}", units=", ".join(unit.name for unit in units), folder=folder))
        context.out.note(tr("next: systemctl daemon-reload && systemctl enable --now skychimp.service"))
        context.out.note(tr("or without a daemon: systemctl enable --now skychimp-run.timer"))
        context.out.note(tr("for unsubscribe links: systemctl enable --now skychimp-web.service"))
    if json:
        context.out.record({unit.name: unit.text for unit in units})
    elif folder is None:
        context.out.text("\n".join(f"# {unit.name}\n{unit.text}" for unit in units))


@app.command(epilog="(crontab -l; skychimp service cron) | crontab -")
def cron(ctx: typer.Context, json: Json = False) -> None:
    """Print a crontab line that sends due mailings every minute. Cron mails errors to you."""
    from skychimp.services.installing.crontab import make_line

    context = get_context(ctx, json)
    missing = warn_of_missing_variables(context)
    line = make_line(context.settings)
    if json:
        context.out.record({"crontab": line})
    else:
        context.out.text("".join(f"# {text}\n" for text in missing) + line)


app.command(epilog=WEB_EXAMPLE)(web)
app.command(epilog=SUDOERS_EXAMPLE)(sudoers)

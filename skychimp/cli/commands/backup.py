"""Back up the store to one file while it is in use (`skychimp backup`)."""

import os
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Json, Operator, get_context
from skychimp.cli.output_file import FORCE, Force
from skychimp.shell import run_hint
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp backup /var/backups/skychimp.backup")
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup file to write.", show_default=False)],
    operator: Operator = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Back up the store and the images of posts to one file, while the store is in use. For administrators.

    The backup is verified before the file appears. Only its owner can read it. Restore it with `skychimp restore`.
    """
    from skychimp.config import shared
    from skychimp.permissions import Action
    from skychimp.services.operations import backups

    context = get_context(ctx, json)
    shared.require_operator(tr("write a backup as this account"))
    actor = context.maintenance_actor(operator, Action.BACK_UP_STORE)
    store = context.store
    file = file.absolute()
    exists = os.path.lexists(file)
    if exists:
        backups.require_target(store, file)
        context.confirm(tr("replace {file}", file=file), yes=force, option=FORCE)
    with context.out.progress("copying", 100) as report_progress:
        result = backups.backup(
            store,
            actor,
            file,
            lambda done, total: report_progress(100 * done // max(total, 1), ""),
            replace=exists,
        )
    hidden = () if json else ("missing_images", "differences")
    context.out.record(result, [name for name in vars(result) if name not in hidden])
    for name in result.missing_images:
        context.out.warn(tr("image file {name} is missing from the store and from the backup", name=name))
    for difference in result.differences:
        context.out.warn(
            tr(
                "restore will refuse this backup: {difference}; {hint}",
                difference=difference,
                hint=run_hint("store", "check"),
            )
        )
    context.out.note(tr("keep the backup on another machine; to restore it, {hint}", hint=run_hint("restore", file)))

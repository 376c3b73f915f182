"""Back up the store to one file while it is in use (`skychimp backup`)."""

from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Json, Operator, get_context
from skychimp.shell import run_hint

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp backup /var/backups/skychimp.backup")
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup file to write.", show_default=False)],
    operator: Operator = False,
    force: Annotated[
        bool, typer.Option("--force", "--yes", "-y", help="Replace an existing file without asking.")
    ] = False,
    json: Json = False,
) -> None:
    """Back up the store and the images of posts to one file, while the store is in use. For administrators.

    The backup is verified before the file appears. Only its owner can read it. Restore it with `skychimp restore`.
    """
    from skychimp.services.operations import backups

    context = get_context(ctx, json)
    actor = context.maintenance_actor(operator)
    file = file.absolute()
    if file.is_file():
        context.confirm(f"replace {file}", yes=force)
    with context.out.progress("copying", 100) as report_progress:
        result = backups.backup(
            context.store, actor, file, lambda done, total: report_progress(100 * done // max(total, 1), "")
        )
    context.out.record(result, None if json else [name for name in vars(result) if name != "missing_images"])
    for name in result.missing_images:
        context.out.warn(f"image file {name} is missing from the store and from the backup")
    context.out.note(f"keep the backup on another machine; to restore it, {run_hint('restore', file)}")

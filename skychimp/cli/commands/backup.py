"""`skychimp backup`: the whole store in one file, while it is in use."""

from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Json, Operator, get_context

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp backup /var/backups/skychimp.backup")
def backup(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.", show_default=False)],
    operator: Operator = False,
    force: Annotated[bool, typer.Option("--force", "--yes", "-y", help="Replace a file that is there.")] = False,
    json: Json = False,
) -> None:
    """Copy the store, live as it may be, with the posts' images, into one file; for an administrator.

    The copy is read back before it gets its name. Only its owner can read it; `skychimp restore` brings it back.
    """
    from skychimp.services.operations import backups

    context = get_context(ctx, json)
    actor = context.caretaker(operator)
    file = file.absolute()
    if file.is_file():
        context.confirm(f"replace {file}?", yes=force)
    with context.out.progress("copying", 100) as tell:
        made = backups.backup(context.store, actor, file, lambda done, total: tell(100 * done // max(total, 1), ""))
    context.out.one(made, None if json else [name for name in vars(made) if name != "missing_images"])
    for name in made.missing_images:
        context.out.warn(f"a post's image is not there, and not in the backup: {name}")
    context.out.note(f"next: keep it on another machine; skychimp restore {file} brings it back")

"""`skychimp restore`: a backup in the store's place."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, get_context

if TYPE_CHECKING:
    from skychimp.permissions import Actor
    from skychimp.services.operations.backups import Restored

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp restore /var/backups/skychimp.backup")
def restore(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `skychimp backup` wrote.", show_default=False)],
    operator: Operator = False,
    force: Annotated[bool, typer.Option("--force", "--yes", "-y", help="Replace the store that is there.")] = False,
    json: Json = False,
) -> None:
    """Put a backup into the store's place; for an administrator, or where there is no store yet.

    The store that is there is kept beside it. Nothing is sent until `skychimp resolve --restored`.
    """
    from skychimp.services.operations import backups
    from skychimp.store.schema import store_path

    context = get_context(ctx, json)
    file = file.absolute()
    place = store_path(context.settings.store_url)
    actor = _restorer(context, place, operator)
    if place.exists():
        context.confirm(f"replace the store {place}?", yes=force)
    context.close()
    with context.out.progress("copying", 100) as tell:
        done = backups.restore(
            context.settings.store_url,
            actor,
            file,
            lambda part, total: tell(100 * part // max(total, 1), ""),
            token=_token(context),
        )
    context.out.one(done)
    _explain(context, done)


def _restorer(context: Context, place: Path, operator: bool) -> "Actor":
    """Who restores: where there is no store yet there is nobody to log in, as with `init`."""
    return context.caretaker(operator or not place.exists())


def _token(context: Context) -> str | None:
    """The session of whoever restores, which stays."""
    from skychimp.errors import NotLoggedIn

    with contextlib.suppress(NotLoggedIn):
        return context.token
    return None


def _explain(context: Context, done: "Restored") -> None:
    if done.made_at is not None:
        context.out.note(f"people, passwords and roles are those of {done.made_at.astimezone():%Y-%m-%d %H:%M}")
    if done.ledger_kept:
        context.out.note("what was sent since then counts as sent")
    else:
        context.out.note("what was sent since the backup is not known here")
    context.out.note("nothing is sent until you let it go on; next: skychimp resolve --restored")

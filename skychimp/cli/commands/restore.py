"""`skychimp restore`: a backup in the store's place."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, enter

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

    here = enter(ctx, json)
    file = file.absolute()
    place = store_path(here.settings.store_url)
    actor = _restorer(here, place, operator)
    if place.exists():
        here.confirm(f"replace the store {place}?", yes=force)
    here.close()
    with here.out.progress("copying", 100) as tell:
        done = backups.restore(
            here.settings.store_url,
            actor,
            file,
            lambda part, total: tell(100 * part // max(total, 1), ""),
            token=_token(here),
        )
    here.out.one(done)
    _explain(here, done)


def _restorer(here: Context, place: Path, operator: bool) -> "Actor":
    """Who restores: where there is no store yet there is nobody to log in, as with `init`."""
    return here.caretaker(operator or not place.exists())


def _token(here: Context) -> str | None:
    """The session of whoever restores, which stays."""
    from skychimp.errors import NotLoggedIn

    with contextlib.suppress(NotLoggedIn):
        return here.token
    return None


def _explain(here: Context, done: "Restored") -> None:
    if done.made_at is not None:
        here.out.note(f"people, passwords and roles are those of {done.made_at.astimezone():%Y-%m-%d %H:%M}")
    if done.ledger_kept:
        here.out.note("what was sent since then counts as sent")
    else:
        here.out.note("what was sent since the backup is not known here")
    here.out.note("nothing is sent until you let it go on; next: skychimp resolve --restored")

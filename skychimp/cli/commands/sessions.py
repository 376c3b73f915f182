"""`skychimp sessions`: see and end your login sessions."""

import os
from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import InvalidValue
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "id": tr("ID"), "created_at": tr("Created"), "last_used_at": tr("Last used"), "ends_at": tr("Ends"), "current": tr("This one"),
}  # fmt: skip


@app.command("list", epilog="skychimp sessions list")
def list_(ctx: typer.Context, json: Json = False) -> None:
    """List your login sessions in this store. The time of the last use is recorded once an hour."""
    from skychimp.services.accounts import own_sessions

    context = get_context(ctx, json)
    listed = own_sessions.list_sessions(context.store, context.actor, context.token)
    context.out.rows(listed, COLUMNS)


@app.command(epilog="skychimp sessions end 7\nskychimp sessions end --all")
def end(
    ctx: typer.Context,
    session: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Session ID (repeatable).", show_default=False)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="End all your sessions, also this one.")] = False,
    json: Json = False,
) -> None:
    """End some of your login sessions, or all of them. Their tokens can no longer be used."""
    from skychimp.services.accounts import own_sessions

    context = get_context(ctx, json)
    if bool(session) == everything:
        message = tr("ID and --all cannot be combined") if session else tr("no session selected")
        raise InvalidValue(message, tr("use ID or --all"))
    ended = own_sessions.end(context.store, context.actor, context.token, session or [], everything=everything)
    context.out.rows(ended, COLUMNS)
    if any(one.current for one in ended):
        _note_logged_out(context)


def _note_logged_out(context: Context) -> None:
    from skychimp.cli import saved_session

    if os.environ.get("SKYCHIMP_TOKEN"):
        context.out.note(tr("the session of $SKYCHIMP_TOKEN has ended too; unset the variable"))
        return
    saved_session.remove(context.settings.store_url)
    context.out.note(tr("you are logged out"))

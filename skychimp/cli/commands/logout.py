"""`skychimp logout`: the end of the session here."""

import os

import typer

from skychimp.cli.context import Json, get_context
from skychimp.errors import NotLoggedIn

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp logout")
def logout(ctx: typer.Context, json: Json = False) -> None:
    """End the session that commands here are run in; its token is good for nothing afterwards."""
    from skychimp.cli import saved_session
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    try:
        email = accounts.logout(context.store, context.token)
    except NotLoggedIn as error:
        context.out.warn(f"{error.message}: who has read it is logged in until you change your password")
        email = None
    by_environment = bool(os.environ.get("SKYCHIMP_TOKEN"))
    if not by_environment:
        saved_session.remove(context.settings.store_url)
    if email is not None or context.out.json:
        context.out.one({"email": email})
    if email is None:
        context.out.note("nobody was logged in here")
    elif by_environment:
        context.out.note("the session of $SKYCHIMP_TOKEN has ended: unset it")

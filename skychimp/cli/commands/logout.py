"""`skychimp logout`: log out of this store."""

import os

import typer

from skychimp.cli.context import Json, get_context
from skychimp.errors import NotLoggedIn
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp logout")
def logout(ctx: typer.Context, json: Json = False) -> None:
    """Log out. The session ends, and its token can no longer be used."""
    from skychimp.cli import saved_session
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    try:
        email = accounts.logout(context.store, context.token)
    except NotLoggedIn as error:  # the session file can be read by others, so its token is not used
        saved_session.remove(context.settings.store_url)
        context.out.warn(
            tr(
                "{message}: anyone who has read it stays logged in until you change your password",
                message=error.message,
            )
        )
        email = None
    has_token_variable = bool(os.environ.get("SKYCHIMP_TOKEN"))
    if not has_token_variable:
        saved_session.remove(context.settings.store_url)
    if email is not None or context.out.json:
        context.out.record({"email": email})
    if email is None:
        context.out.note(tr("you were not logged in"))
    elif has_token_variable:
        context.out.note(tr("the session of $SKYCHIMP_TOKEN has ended; unset the variable"))

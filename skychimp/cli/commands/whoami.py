"""`skychimp whoami`: who is logged in here."""

import typer

from skychimp.cli.context import Json, enter

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp whoami --json")
def whoami(ctx: typer.Context, json: Json = False) -> None:
    """Show who is logged in here; exit 5 where nobody is."""
    from skychimp.services.accounts import accounts

    here = enter(ctx, json)
    here.out.one(accounts.whoami(here.store, here.token))

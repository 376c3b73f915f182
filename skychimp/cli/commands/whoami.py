"""`skychimp whoami`: show who is logged in."""

import typer

from skychimp.cli.context import Json, get_context

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp whoami --json")
def whoami(ctx: typer.Context, json: Json = False) -> None:
    """Show who is logged in. Exits with status 5 if nobody is."""
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    context.out.record(accounts.whoami(context.store, context.token))

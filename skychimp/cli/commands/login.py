"""`skychimp login`: a session for this store on this account."""

import os
from functools import partial
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Json, get_context
from skychimp.cli.prompts import Email, PasswordStdin

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog="skychimp login --email you@example.org\nexport SKYCHIMP_TOKEN=$(skychimp login --email YOU --print-token)"
)
def login(
    ctx: typer.Context,
    email: Email = None,
    password_stdin: PasswordStdin = False,
    print_token: Annotated[
        bool, typer.Option("--print-token", help="Print the session's token, for $SKYCHIMP_TOKEN; keep none here.")
    ] = False,
    json: Json = False,
) -> None:
    """Log in here, for 30 days, or until the session has not been used for 14.

    The password is asked for, or comes from stdin or $SKYCHIMP_PASSWORD.
    """
    from skychimp.cli import saved_session
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    address = prompts.email(context, email)
    tokens: list[str] = []
    keep = tokens.append if print_token else partial(saved_session.write, context.settings.store_url)
    password = prompts.password(context, password_stdin)
    account = accounts.login(context.store, email=address, password=password, keep=keep)
    if print_token and not context.out.json:
        context.out.text(tokens[0])
        return
    context.out.one(vars(account) | ({"token": tokens[0]} if print_token else {}))
    if os.environ.get("SKYCHIMP_TOKEN") and not print_token:
        context.out.warn("$SKYCHIMP_TOKEN is set, and goes before this session")
    context.out.note(f"next: {next_step(account.role)}")


def next_step(role: str) -> str:
    """The command that somebody of this role may want first."""
    steps = {"manager": "skychimp mailings list", "editor": "skychimp blog create --help"}
    return steps.get(role, "skychimp clients create --email CLIENT@EXAMPLE.ORG --name NAME")

"""`skychimp login`: log in to this store."""

import os
from functools import partial
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Json, get_context
from skychimp.cli.prompts import Email, PasswordStdin
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich", add_completion=False)

_FIRST_COMMANDS = {"manager": "skychimp mailings list", "editor": "skychimp blog create --help"}


@app.command(
    epilog="skychimp login --email you@example.org\nexport SKYCHIMP_TOKEN=$(skychimp login --email YOU --print-token)"
)
def login(
    ctx: typer.Context,
    email: Email = None,
    password_stdin: PasswordStdin = False,
    print_token: Annotated[
        bool,
        typer.Option("--print-token", help="Print a session token for $SKYCHIMP_TOKEN instead of saving the session."),
    ] = False,
    json: Json = False,
) -> None:
    """Log in. A session lasts 30 days, or until it has not been used for 14 days.

    The password is asked for, or read from stdin or $SKYCHIMP_PASSWORD.
    """
    from skychimp.cli import saved_session
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    address = prompts.read_email(context, email)
    tokens: list[str] = []
    save_token = tokens.append if print_token else partial(saved_session.write, context.settings.store_url)
    password = prompts.read_password(context, password_stdin)
    account = accounts.login(context.store, email=address, password=password, save_token=save_token)
    if print_token and not context.out.json:
        context.out.text(tokens[0])
        return
    context.out.record(vars(account) | ({"token": tokens[0]} if print_token else {}))
    if os.environ.get("SKYCHIMP_TOKEN") and not print_token:
        context.out.warn(tr("$SKYCHIMP_TOKEN is set and is used instead of this session"))
    context.out.note(tr("next: {next_command}", next_command=next_command(account.role)))


def next_command(role: str) -> str:
    """Return the command that a new user with this role is likely to need first."""
    return _FIRST_COMMANDS.get(role, "skychimp clients create --email CLIENT@EXAMPLE.ORG --name NAME")

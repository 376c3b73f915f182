"""`skychimp register`: an account of one's own."""

import shlex
from functools import partial
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Email, PasswordStdin
from skychimp.errors import RelayError

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp register --email you@example.org --name 'Ada Lovelace'")
def register(
    ctx: typer.Context,
    email: Email = None,
    name: Annotated[str, typer.Option(help="Your name.", metavar="NAME")] = "",
    password_stdin: PasswordStdin = False,
    json: Json = False,
) -> None:
    """Make an account for a mailbox of yours, and get a code by mail that confirms it.

    The password is asked for, or comes from stdin or $SKYCHIMP_PASSWORD.

    The answer is the same for an address that has an account already.
    """
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    settings = with_sender(context.settings)
    address = prompts.email(context, email)
    password = prompts.new_password(context, password_stdin)
    verify = f"skychimp verify --email {shlex.quote(address)}"
    try:
        accounts.register(context.store, settings, email=address, name=name, password=password)
    except RelayError as error:
        words = f"the account is there, but its letter has not gone out: {error.message}"
        raise type(error)(words, f"once the relay takes mail: {verify} --resend") from None
    context.out.note(f"a letter with a code is on its way to {address} (at most three an hour)")
    prompts.say_where(context)
    context.out.note(f"no letter? {verify} --resend")
    if context.may_ask():
        _confirm(context, address, password)
        return
    context.out.one({"email": address, "name": name.strip(), "verified": False})
    context.out.note(f"next: {verify} CODE")


def _confirm(context: Context, address: str, password: str) -> None:
    """Ask for the code, and log in: all in one go for a person who has the mailbox at hand."""
    from skychimp.cli import saved_session
    from skychimp.cli.commands.login import next_step
    from skychimp.services.accounts import accounts

    prompts.with_code(context, None, lambda code: accounts.verify(context.store, email=address, code=code))
    keep = partial(saved_session.write, context.settings.store_url)
    account = accounts.login(context.store, email=address, password=password, keep=keep)
    context.out.one(account)
    context.out.note("you are logged in")
    context.out.note(f"next: {next_step(account.role)}")
    context.out.note("then: skychimp messages create --subject SUBJECT --body TEXT")

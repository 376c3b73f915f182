"""`skychimp register`: create an account."""

from functools import partial
from typing import Annotated

import typer

from skychimp import shell
from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Email, PasswordStdin
from skychimp.errors import RelayError
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp register --email you@example.org --name 'Ada Lovelace'")
def register(
    ctx: typer.Context,
    email: Email = None,
    name: Annotated[str, typer.Option(help="Your name.", metavar="NAME")] = "",
    password_stdin: PasswordStdin = False,
    json: Json = False,
) -> None:
    """Create an account. A code to verify your address is sent to you by email.

    The password is asked for, or read from stdin or $SKYCHIMP_PASSWORD.

    The output is the same if the address already has an account.
    """
    from skychimp.delivery.sending.runner import with_own_sender
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    settings = with_own_sender(context.settings)
    address = prompts.read_email(context, email, is_new=True)
    password = prompts.read_new_password(context, password_stdin, owner=(address, name))
    try:
        accounts.register(context.store, settings, email=address, name=name, password=password)
    except RelayError as error:
        hint = tr("{hint} to try again", hint=shell.run_hint("verify", "--email", address, "--resend"))
        raise type(error)(f"the account was created, but no code was sent: {error.message}", hint) from None
    prompts.note_email_sent(context, address)
    context.out.note(
        tr("to get another code: {command}", command=shell.command("verify", "--email", address, "--resend"))
    )
    if context.can_prompt():
        _verify_and_log_in(context, address, password)
        return
    context.out.record({"email": address, "name": name.strip(), "verified": False})
    context.out.note(tr("next: {command}", command=shell.command("verify", "--email", address, "CODE")))


def _verify_and_log_in(context: Context, address: str, password: str) -> None:
    """Ask for the code and log in, so that a person at a terminal needs no further command."""
    from skychimp.cli import saved_session
    from skychimp.cli.commands.login import next_command
    from skychimp.services.accounts import accounts

    def verify(code: str) -> str:
        return accounts.verify(context.store, email=address, code=code, password=password)

    prompts.use_code(context, None, verify)
    save_token = partial(saved_session.write, context.settings.store_url)
    account = accounts.login(context.store, email=address, password=password, save_token=save_token)
    context.out.record(account)
    context.out.note(tr("you are logged in"))
    context.out.note(tr("next: {next_command}", next_command=next_command(account.role)))
    context.out.note(tr("then: skychimp messages create --subject SUBJECT --body TEXT"))

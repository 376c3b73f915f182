"""`skychimp verify`: verify an email address."""

from typing import Annotated

import typer

from skychimp import shell
from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Code, Email, PasswordStdin
from skychimp.errors import InvalidValue
from skychimp.translation import tr

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog="skychimp verify --email you@example.org 7KQ4M-2XWTA\nskychimp verify --email you@example.org --resend"
)
def verify(
    ctx: typer.Context,
    code: Code = None,
    email: Email = None,
    password_stdin: PasswordStdin = False,
    resend: Annotated[bool, typer.Option("--resend", help="Send a new code, which replaces the old one.")] = False,
    json: Json = False,
) -> None:
    """Verify your email address with the code that was sent to it, and your password.

    The password is asked for, or read from stdin or $SKYCHIMP_PASSWORD.

    A script needs no password if the address was registered only once. Only the newest registration can be verified.

    With --resend the output is the same for every address.
    """
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    if code is not None and resend:
        raise InvalidValue(tr("CODE and --resend cannot be used together"))
    address = prompts.read_email(context, email)
    if resend:
        _resend(context, address)
        return

    def verify_with(code: str) -> str:
        password = prompts.read_optional_password(context, password_stdin)
        return accounts.verify(context.store, email=address, code=code, password=password)

    address = prompts.use_code(context, code, verify_with)
    context.out.record({"email": address, "verified": True})
    context.out.note(tr("next: {command}", command=shell.command("login", "--email", address)))


def _resend(context: Context, address: str) -> None:
    from skychimp.delivery.sending.runner import with_own_sender
    from skychimp.models import CodePurpose
    from skychimp.services.accounts import accounts

    accounts.send_code(context.store, with_own_sender(context.settings), CodePurpose.VERIFY, address)
    context.out.record({"email": address})
    prompts.note_email_sent(context, address)
    context.out.note(tr("next: {command}", command=shell.command("verify", "--email", address, "CODE")))

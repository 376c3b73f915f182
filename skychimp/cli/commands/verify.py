"""`skychimp verify`: a mailbox is its user's."""

import shlex
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Email
from skychimp.errors import InvalidValue

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(
    epilog="skychimp verify --email you@example.org 7KQ4M-2XWTA\nskychimp verify --email you@example.org --resend"
)
def verify(
    ctx: typer.Context,
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="The letter's code, or - for stdin.", show_default=False)
    ] = None,
    email: Email = None,
    resend: Annotated[bool, typer.Option("--resend", help="Get another code, in place of the old one.")] = False,
    json: Json = False,
) -> None:
    """Confirm that a mailbox is yours, by the code that was mailed to it.

    The answer to --resend is the same for any address.
    """
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    if code is not None and resend:
        raise InvalidValue("CODE and --resend can't go together")
    address = prompts.email(context, email)
    if resend:
        _resend(context, address)
        return
    address = prompts.with_code(context, code, lambda code: accounts.verify(context.store, email=address, code=code))
    context.out.one({"email": address, "verified": True})
    context.out.note(f"next: skychimp login --email {shlex.quote(address)}")


def _resend(context: Context, address: str) -> None:
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.models import CodePurpose
    from skychimp.services.accounts import accounts

    accounts.send_code(context.store, with_sender(context.settings), CodePurpose.VERIFY, address)
    context.out.one({"email": address})
    context.out.note(f"if {address} waits to be confirmed, a letter is on its way (at most three an hour)")
    prompts.say_where(context)
    context.out.note(f"next: skychimp verify --email {shlex.quote(address)} CODE")

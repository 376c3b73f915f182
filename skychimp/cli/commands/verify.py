"""`skychimp verify`: a mailbox is its user's."""

import shlex
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, enter
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

    here = enter(ctx, json)
    if code is not None and resend:
        raise InvalidValue("CODE and --resend can't go together")
    address = prompts.email(here, email)
    if resend:
        _resend(here, address)
        return
    address = prompts.with_code(here, code, lambda code: accounts.verify(here.store, email=address, code=code))
    here.out.one({"email": address, "verified": True})
    here.out.note(f"next: skychimp login --email {shlex.quote(address)}")


def _resend(here: Context, address: str) -> None:
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.models import CodePurpose
    from skychimp.services.accounts import accounts

    accounts.send_code(here.store, with_sender(here.settings), CodePurpose.VERIFY, address)
    here.out.one({"email": address})
    here.out.note(f"if {address} waits to be confirmed, a letter is on its way (at most three an hour)")
    prompts.say_where(here)
    here.out.note(f"next: skychimp verify --email {shlex.quote(address)} CODE")

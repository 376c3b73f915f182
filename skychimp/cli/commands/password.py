"""`skychimp password`: another password, by the current one or by mail."""

import os
import shlex
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Email
from skychimp.errors import InvalidValue

app = typer.Typer(no_args_is_help=True, help="Give your account another password.", rich_markup_mode="rich")


@app.command(epilog="skychimp password change")
def change(
    ctx: typer.Context,
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the current and the new password from stdin, a line each."),
    ] = False,
    json: Json = False,
) -> None:
    """Change your password. All your sessions end, and a new one begins here.

    In a script the new password comes from stdin, and the current one before it or from $SKYCHIMP_PASSWORD.
    """
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    current: str | None = None
    if accounts.has_password(context.store, context.actor):
        current, new = _current_and_new(context, password_stdin)
    else:
        new = prompts.new_password(context, password_stdin)
    account = accounts.change_password(context.store, context.actor, current=current, new=new, keep=_keep(context))
    context.out.one(account)
    context.out.note("your password is changed, and you are logged out everywhere else")
    if os.environ.get("SKYCHIMP_TOKEN"):
        context.out.note("$SKYCHIMP_TOKEN has ended, too: unset it")


@app.command(
    epilog="skychimp password reset --email you@example.org\n"
    "skychimp password reset --email you@example.org 7KQ4M-2XWTA"
)
def reset(
    ctx: typer.Context,
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="The letter's code, or - for stdin.", show_default=False)
    ] = None,
    email: Email = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the new password from stdin.")] = False,
    json: Json = False,
) -> None:
    """Set a new password by a code that is mailed to you. All your sessions end, and a new one begins here.

    Without CODE, the letter is sent, and on a terminal its code asked for at once.

    In a script the new password comes from stdin or $SKYCHIMP_PASSWORD. The answer is the same for any address.
    """
    from skychimp.services.accounts import accounts

    context = get_context(ctx, json)
    address = prompts.email(context, email)
    if code is None:
        _mail_code(context, address)
        if not context.may_ask():
            context.out.one({"email": address})
            context.out.note(f"next: skychimp password reset --email {shlex.quote(address)} CODE")
            return
    if code == "-":
        code = prompts.line_of_stdin()
    new = prompts.new_password(context, password_stdin, "The new password:")

    def use(code: str) -> accounts.Account:
        return accounts.reset_password(context.store, email=address, code=code, new=new, keep=_keep(context))

    account = prompts.with_code(context, code, use)
    context.out.one(account)
    context.out.note("your password is set, and you are logged in here")


def _mail_code(context: Context, address: str) -> None:
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.models import CodePurpose
    from skychimp.services.accounts import accounts

    accounts.send_code(context.store, with_sender(context.settings), CodePurpose.RESET, address)
    context.out.note(f"if {address} has an account, a letter is on its way (at most three an hour)")
    prompts.say_where(context)


def _current_and_new(context: Context, from_stdin: bool) -> tuple[str, str]:
    """Both by stdin, or the new one by stdin and the current one by the environment, or asked for."""
    if not from_stdin:
        if not context.may_ask():
            raise InvalidValue("the passwords are missing", "give both by --password-stdin, a line each")
        current = prompts.password(context, False)
        ask = partial(prompts.asked_password, context, "The new password:")
        return current, prompts.until_right(context, ask)
    first, second = prompts.line_of_stdin(), prompts.line_of_stdin()
    return (first, second) if second else (os.environ.get("SKYCHIMP_PASSWORD", ""), first)


def _keep(context: Context) -> Callable[[str], None]:
    from skychimp.cli import saved_session

    return partial(saved_session.write, context.settings.store_url)

"""`skychimp password`: change or reset your password."""

import os
from collections.abc import Callable
from functools import partial
from typing import Annotated

import typer

from skychimp import shell
from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.prompts import Code, Email
from skychimp.errors import InvalidValue
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.command(epilog="skychimp password change")
def change(
    ctx: typer.Context,
    password_stdin: Annotated[
        bool,
        typer.Option("--password-stdin", help="Read the current and the new password from stdin, one per line."),
    ] = False,
    json: Json = False,
) -> None:
    """Change your password. All your sessions end, and you are logged in again here.

    In a script, the new password is read from stdin, the current one from the line before or $SKYCHIMP_PASSWORD.
    """
    from skychimp.services.accounts import accounts
    from skychimp.services.accounts.email_kinds import EmailKind

    context = get_context(ctx, json)
    current: str | None = None
    if accounts.has_password(context.store, context.actor):
        current, new = _read_passwords(context, password_stdin)
    else:
        new = prompts.read_new_password(context, password_stdin, owner=(context.actor.email,))
    save_token = _token_saver(context)
    account = accounts.change_password(context.store, context.actor, current=current, new=new, save_token=save_token)
    context.out.record(account)
    context.out.note(tr("your password was changed, and all your other sessions have ended"))
    prompts.send_notice(context, EmailKind.PASSWORD_CHANGED, account.email)
    if os.environ.get("SKYCHIMP_TOKEN"):
        context.out.note(tr("the session of $SKYCHIMP_TOKEN has ended too; unset the variable"))


@app.command(
    epilog="skychimp password reset --email you@example.org\n"
    "skychimp password reset --email you@example.org 7KQ4M-2XWTA"
)
def reset(
    ctx: typer.Context,
    code: Code = None,
    email: Email = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the new password from stdin.")] = False,
    json: Json = False,
) -> None:
    """Set a new password with a code sent by email. All your sessions end, and you are logged in again here.

    Without CODE, a code is sent. On a terminal it is then asked for.

    In a script, the new password is read from stdin or $SKYCHIMP_PASSWORD. The output is the same for every address.
    """
    from skychimp.services.accounts import accounts
    from skychimp.services.accounts.email_kinds import EmailKind

    context = get_context(ctx, json)
    address = prompts.read_email(context, email)
    if code is None:
        _send_code(context, address)
        if not context.can_prompt():
            context.out.record({"email": address})
            context.out.note(
                tr("next: {command}", command=shell.command("password", "reset", "--email", address, "CODE"))
            )
            return
    if code == "-":
        code = prompts.read_stdin_line()
    new = prompts.read_new_password(context, password_stdin, "New password:", owner=(address,))
    save_token = _token_saver(context)

    def reset_with(code: str) -> accounts.Account:
        return accounts.reset_password(context.store, email=address, code=code, new=new, save_token=save_token)

    account = prompts.use_code(context, code, reset_with)
    context.out.record(account)
    context.out.note(tr("your password was changed, and you are logged in"))
    prompts.send_notice(context, EmailKind.PASSWORD_CHANGED, account.email)


def _send_code(context: Context, address: str) -> None:
    from skychimp.delivery.sending.runner import with_own_sender
    from skychimp.models import CodePurpose
    from skychimp.services.accounts import accounts

    accounts.send_code(context.store, with_own_sender(context.settings), CodePurpose.RESET, address)
    prompts.note_email_sent(context, address)


def _read_passwords(context: Context, from_stdin: bool) -> tuple[str, str]:
    """Return the current and the new password.

    Both are asked for or come from stdin, or the new one comes from stdin and the current one from the environment.
    """
    if not from_stdin:
        if not context.can_prompt():
            raise InvalidValue(
                tr("missing passwords"), tr("use --password-stdin with the current and the new one, one per line")
            )
        current = prompts.read_password(context, False, "Current password:")
        ask = partial(prompts.ask_new_password, context, "New password:", owner=(context.actor.email,))
        return current, prompts.ask_until_valid(context, ask)
    first, second = prompts.read_stdin_line(), prompts.read_stdin_line()
    return (first, second) if second else (os.environ.get("SKYCHIMP_PASSWORD", ""), first)


def _token_saver(context: Context) -> Callable[[str], None]:
    from skychimp.cli import saved_session

    return partial(saved_session.write, context.settings.store_url)

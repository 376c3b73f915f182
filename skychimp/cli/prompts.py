"""Ask for addresses, passwords and codes. Without a terminal they come from options, stdin or the environment."""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from skychimp.cli.context import Context
from skychimp.errors import Denied, InvalidValue
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.accounts.email_kinds import EmailKind

Result = TypeVar("Result")

Email = Annotated[str | None, typer.Option(help="Your account's email address.", metavar="EMAIL", show_default=False)]
Code = Annotated[
    str | None, typer.Argument(metavar="CODE", help="The code from the email, or - for stdin.", show_default=False)
]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")]


def read_email(context: Context, given: str | None, *, is_new: bool = False) -> str:
    """Return an address, normalized: the one given, or one that is asked for. Raises InvalidValue.

    The address of a new account must be one that mail.allow_local allows.
    """
    from skychimp import addresses

    rules = addresses.Rules(allow_local=not is_new or context.settings.mail.allow_local)
    if given is not None:
        return addresses.parse(given, rules).email
    if not context.can_prompt():
        raise InvalidValue(tr("missing option --email"), tr("use --email YOU@EXAMPLE.ORG"))
    return ask_until_valid(context, lambda: addresses.parse(context.out.ask(tr("Email:")), rules).email)


def read_password(context: Context, from_stdin: bool, question: Phrase = "Password:") -> str:
    """Return the user's current password: from stdin or the environment, or asked for. Raises InvalidValue."""
    password = scripted_password(from_stdin)
    if password is None:
        _require_terminal(context)
        password = context.out.ask_secret(question)
    return password


def read_optional_password(context: Context, from_stdin: bool) -> str | None:
    """Return the user's current password as `read_password` does, or None if there is none and nobody can be asked."""
    password = scripted_password(from_stdin)
    return context.out.ask_secret(tr("Password:")) if password is None and context.can_prompt() else password


def read_new_password(
    context: Context, from_stdin: bool, question: Phrase = "Password:", *, owner: tuple[str, ...]
) -> str:
    """Return a new password: from stdin or the environment, or asked for. Raises InvalidValue.

    `owner` are the address and the name of the account, as far as they are known.
    """
    from skychimp.services.accounts import passwords

    password = scripted_password(from_stdin)
    if password is None:
        _require_terminal(context)
        password = ask_until_valid(context, partial(ask_new_password, context, question, owner=owner))
    passwords.validate(password, *owner)
    return password


def ask_new_password(context: Context, question: Phrase, *, owner: tuple[str, ...], optional: bool = False) -> str:
    """Ask for a new password twice and return it, or "" if it is optional and was skipped. Raises InvalidValue."""
    from skychimp.services.accounts import passwords

    password = context.out.ask_secret(question)
    if password or not optional:
        passwords.validate(password, *owner)
        if context.out.ask_secret(tr("Repeat password:")) != password:
            raise InvalidValue(tr("the passwords do not match"))
    return password


def scripted_password(from_stdin: bool) -> str | None:
    """Return the password from stdin or the environment, or None if neither has one."""
    if from_stdin:
        return read_stdin_line()
    return os.environ.get("SKYCHIMP_PASSWORD") or None


def read_stdin_line() -> str:
    """Return the next line of stdin, or "" at its end."""
    return sys.stdin.readline().rstrip("\r\n")


def use_code(context: Context, code: str | None, use: Callable[[str], Result]) -> Result:
    """Call `use` with a code: the one given (`-` for stdin), or one that is asked for.

    After a wrong code it is asked for again, as often as a code may be tried. Raises InvalidValue, and what `use`
    raises.
    """
    from skychimp.services.accounts import codes

    if code is not None:
        return use(read_stdin_line() if code == "-" else code)
    if not context.can_prompt():
        raise InvalidValue(tr("missing argument CODE"), tr("use the code from the email, or - to read it from stdin"))

    def ask() -> str:
        typed = context.out.ask(tr("Code:"))
        if not codes.looks_complete(typed):
            raise InvalidValue(tr("invalid code"), tr("a code looks like XXXXX-XXXXX"))
        return typed

    for _ in range(codes.MAX_TRIES - 1):
        try:
            return use(ask_until_valid(context, ask))
        except Denied as error:
            context.out.error(error)
    return use(ask_until_valid(context, ask))


def ask_until_valid(context: Context, ask: Callable[[], Result]) -> Result:
    """Call `ask` until it returns an answer instead of raising InvalidValue, and return the answer."""
    while True:
        try:
            return ask()
        except InvalidValue as error:
            context.out.error(error)


def note_email_sent(context: Context, address: str) -> None:
    """Say that an email was sent to whoever asked for a code, and where it is if it was only written to the outbox."""
    from skychimp.services.accounts.email_limits import MAX_PER_MAILBOX

    context.out.note(
        tr(
            "an email was sent to {address}, unless it was sent {max_per_mailbox} in the last hour",
            address=address,
            max_per_mailbox=MAX_PER_MAILBOX,
        )
    )
    if context.settings.mail.transport == "outbox":
        folder = context.store.path.parent / "outbox/new"
        context.out.note(tr("no mail server is configured: the email is the newest file in {folder}", folder=folder))


def send_notice(context: Context, kind: "EmailKind", to: str, *, role: str = "") -> None:
    """Tell the owner of an account by email that it was changed. Warn if that is not possible."""
    from skychimp.services.accounts import account_mail

    warning = account_mail.send_notice(context.settings, context.store, kind, to=to, role=role)
    if warning:
        context.out.warn(warning)


def _require_terminal(context: Context) -> None:
    if not context.can_prompt():
        raise InvalidValue(tr("missing password"), tr("use --password-stdin or set SKYCHIMP_PASSWORD"))

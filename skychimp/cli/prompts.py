"""What a person is asked about an account: where nobody can be asked, it comes by options, stdin or the environment."""

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, TypeVar

import typer

from skychimp.cli.context import Context
from skychimp.errors import Denied, InvalidValue

Answer = TypeVar("Answer")

Email = Annotated[str | None, typer.Option(help="The account's address.", metavar="E-MAIL", show_default=False)]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")]


def email(context: Context, said: str | None) -> str:
    """An address: as said, or asked for. Raises InvalidValue."""
    from skychimp import addresses

    if said is not None:
        return addresses.parse(said).email
    if not context.may_ask():
        raise InvalidValue("--email is missing", "give --email YOU@EXAMPLE.ORG")
    return until_right(context, lambda: addresses.parse(context.out.ask("Your e-mail:")).email)


def password(context: Context, from_stdin: bool) -> str:
    """The password that somebody has: from stdin or the environment, or asked for. Raises InvalidValue."""
    said = said_password(from_stdin)
    if said is None:
        _require_a_person(context)
        said = context.out.ask_secret("Your password:")
    return said


def new_password(context: Context, from_stdin: bool, question: str = "A password:") -> str:
    """A new password: from stdin or the environment, or asked for. Raises InvalidValue."""
    from skychimp.services.accounts import passwords

    said = said_password(from_stdin)
    if said is None:
        _require_a_person(context)
        said = until_right(context, partial(asked_password, context, question))
    passwords.check(said)
    return said


def asked_password(context: Context, question: str, *, optional: bool = False) -> str:
    """A new password, asked for twice; "" where it may be left out, and is. Raises InvalidValue."""
    from skychimp.services.accounts import passwords

    password = context.out.ask_secret(question)
    if password or not optional:
        passwords.check(password)
        if context.out.ask_secret("Again:") != password:
            raise InvalidValue("these were not the same")
    return password


def said_password(from_stdin: bool) -> str | None:
    """The password that stdin or the environment gives; None where neither does."""
    if from_stdin:
        return line_of_stdin()
    return os.environ.get("SKYCHIMP_PASSWORD") or None


def line_of_stdin() -> str:
    """The next line of stdin; "" at its end."""
    return sys.stdin.readline().rstrip("\r\n")


def with_code(context: Context, said: str | None, use: Callable[[str], Answer]) -> Answer:
    """Use a code: as said (`-` for stdin), or asked for, and again where it is wrong, as often as a code can be tried.

    Raises InvalidValue, and what `use` raises.
    """
    from skychimp.services.accounts import codes

    if said is not None:
        return use(line_of_stdin() if said == "-" else said)
    if not context.may_ask():
        raise InvalidValue("the code is missing", "give the letter's CODE, or - for stdin")

    def ask() -> str:
        code = context.out.ask("The code:")
        if not codes.is_whole(code):
            raise InvalidValue("that is no code", "it looks like XXXXX-XXXXX")
        return code

    for _ in range(codes.TRIES - 1):
        try:
            return use(until_right(context, ask))
        except Denied as error:
            context.out.error(error)
    return use(until_right(context, ask))


def until_right(context: Context, ask: Callable[[], Answer]) -> Answer:
    """Ask again where the answer can't be used."""
    while True:
        try:
            return ask()
        except InvalidValue as error:
            context.out.error(error)


def say_where(context: Context) -> None:
    """Say where the letter lies that was just sent: where mail goes further than to the outbox, nobody knows."""
    if context.settings.mail.transport == "outbox":
        context.out.note(f"there is no mail server yet: it is the newest file in {context.store.path.parent}/outbox/new")


def _require_a_person(context: Context) -> None:
    if not context.may_ask():
        raise InvalidValue("the password is missing", "give it by --password-stdin or $SKYCHIMP_PASSWORD")

"""`skychimp init`: config, store and the first administrator."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError, Conflict

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp init --email you@example.org --sender 'You <you@example.org>'")
def init(
    ctx: typer.Context,
    email: Annotated[str | None, typer.Option(help="The first administrator's address.", metavar="E-MAIL")] = None,
    sender: Annotated[
        str | None, typer.Option(help="Who the letters come from: 'Name <address>'.", metavar="SENDER")
    ] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    json: Json = False,
) -> None:
    """Make the config, the store and the first administrator, and log that person in here.

    The password also comes from $SKYCHIMP_PASSWORD, or is left for later. A store that has its administrator is left
    as it is.
    """
    from skychimp.cli import saved_session
    from skychimp.services.accounts import accounts
    from skychimp.store import schema

    context = get_context(ctx, json)
    email = prompts.email(context, email)
    with ExitStack() as undo:
        sources = _config(context, sender, email, undo)
        url = context.settings.store_url
        store = schema.open_store(url) if os.path.exists(schema.store_path(url)) else None
        if store is not None:
            accounts.check_is_new(store)
        password = _password(context, password_stdin)
        store = store or schema.create_store(url)
        keep = partial(saved_session.write, url)
        account = accounts.create_first_admin(store, email=email, password=password, keep=keep)
        undo.pop_all()
    made = {"email": account.email, "role": account.role, "config": sources and str(sources), "store": str(store.path)}
    context.out.one(made)
    context.out.note(f"mail goes to {_where(context)}")
    if password is None:
        context.out.note("you have no password yet: skychimp password change")
    context.out.next("clients create --email CLIENT@EXAMPLE.ORG --name NAME")


def _where(context: Context) -> str:
    if context.settings.mail.transport == "smtp":
        return f"{context.settings.smtp.host}:{context.settings.smtp.effective_port}"
    return "an outbox beside the store, until mail.transport says smtp"


def _config(context: Context, sender: str | None, email: str, undo: ExitStack) -> Path | None:
    """The config file: the one that is there, else a new one; None where there is none and none is needed."""
    from skychimp import addresses
    from skychimp.config import example, sources

    path = sources.locate(context.options.config)
    if sender is not None:
        addresses.parse_sender(sender)
    if os.path.lexists(path):
        if sender not in (None, context.settings.mail.sender):
            raise Conflict(f"{path} is there already, and says who letters come from", "change mail.sender there")
        return path
    sender_in_environment = bool(os.environ.get("SKYCHIMP_MAIL__SENDER"))
    if sender is None and not sender_in_environment:
        sender = _asked_sender(context, email)
    said = {"mail.sender": sender, "store.url": sources.absolute("store.url", context.options.store)}
    try:
        _write(path, example.example_config({name: value for name, value in said.items() if value is not None}))
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the store's name is not UTF-8"
        if sender is None and context.options.config is None and "SKYCHIMP_CONFIG" not in os.environ:
            context.out.note(f"no config was made ({path}: {reason}); the environment says all that is needed")
            return None
        raise ConfigError(f"{path} can't be written: {reason}", "name another file: --config FILE") from None
    undo.callback(path.unlink, missing_ok=True)
    return path


def _write(path: Path, text: str) -> None:
    """Make a file whole or not at all; never in another's place."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as opened:
            opened.write(text)
        os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _asked_sender(context: Context, email: str) -> str:
    from skychimp import addresses

    if not context.may_ask():
        return email

    def ask() -> str:
        sender = context.out.ask(f"Letters come from (Name <address>) [{email}]:") or email
        addresses.parse_sender(sender)
        return sender

    return prompts.until_right(context, ask)


def _password(context: Context, from_stdin: bool) -> str | None:
    """A password from stdin, the environment or a person; None where there is nobody to be asked.

    Raises InvalidValue for one that can't be a password.
    """
    from skychimp.services.accounts import passwords

    password = prompts.said_password(from_stdin)
    if password is not None:
        passwords.check(password)
        return password
    if not context.may_ask():
        return None
    ask = partial(prompts.asked_password, context, "A password (Enter for none yet):", optional=True)
    return prompts.until_right(context, ask) or None

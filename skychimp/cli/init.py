"""`skychimp init`: config, store and the first administrator."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, enter
from skychimp.errors import ConfigError, InvalidValue

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp init --email you@example.org --sender 'You <you@example.org>'")
def init(
    ctx: typer.Context,
    email: Annotated[str | None, typer.Option(help="The first administrator's address.")] = None,
    sender: Annotated[str | None, typer.Option(help="Who the letters come from: 'Name <address>'.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    json: Json = False,
) -> None:
    """Make the config, the store and the first administrator, and log that person in here."""
    from skychimp import addresses
    from skychimp.cli import session
    from skychimp.services import accounts
    from skychimp.store import engine

    here = enter(ctx, json)
    if email is None:
        email = _asked(here, "Your e-mail", "--email YOU@EXAMPLE.ORG")
    addresses.parse(email)
    password = _password(here, password_stdin)
    if password is not None and len(password) < accounts.SHORTEST_PASSWORD:
        raise InvalidValue(f"a password has at least {accounts.SHORTEST_PASSWORD} characters")
    path, made = _config(here, sender, email)
    store = engine.create_store(here.settings.store_url)
    account = accounts.create_first_admin(store, email=email, password=password)
    session.write(here.settings.store_url, accounts.start_session(store, account.id))
    here.out.one({"email": account.email, "role": account.role, "config": str(path), "store": str(store.path)})
    here.out.note(f"{'wrote' if made else 'kept'} the config; mail goes to {_where(here)}")
    here.out.note("next: skychimp clients create --email CLIENT@EXAMPLE.ORG --name NAME")


def _where(here: Context) -> str:
    if here.settings.mail.transport == "smtp":
        return f"{here.settings.smtp.host}:{here.settings.smtp.effective_port}"
    return "an outbox beside the store, until mail.transport says smtp"


def _config(here: Context, sender: str | None, email: str) -> tuple[Path, bool]:
    """The config file, and whether it was made now; one that exists is kept as it is."""
    from skychimp import config

    path = here.options.config or config.usual_config_file()
    if path.exists():
        if sender is not None:
            raise ConfigError(f"{path} exists already and is kept", "set mail.sender there, and leave --sender out")
        return path, False
    if sender is None and "SKYCHIMP_MAIL__SENDER" not in os.environ:
        sender = (
            _asked(here, "Letters come from", "--sender 'Name <address>'", default=email) if here.may_ask() else email
        )
    said = {"mail.sender": sender, "store.url": here.flags.get("store.url")}
    text = config.example({name: value for name, value in said.items() if value is not None})
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}", "name another file: --config FILE") from None
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)
    return path, True


def _asked(here: Context, question: str, option: str, default: str | None = None) -> str:
    if not here.may_ask():
        raise InvalidValue(f"{option.split()[0]} is missing", f"give {option}")
    return str(typer.prompt(question, default=default, err=True))


def _password(here: Context, from_stdin: bool) -> str | None:
    """A password from stdin, the environment or a prompt; None where nobody can be asked."""
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if "SKYCHIMP_PASSWORD" in os.environ:
        return os.environ["SKYCHIMP_PASSWORD"]
    if not here.may_ask():
        return None
    return str(typer.prompt("A password", hide_input=True, confirmation_prompt=True, err=True))

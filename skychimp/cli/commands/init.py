"""`skychimp init`: create the config, the store and the first administrator."""

import os
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli import prompts
from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError, Conflict
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

app = typer.Typer(rich_markup_mode="rich", add_completion=False)


@app.command(epilog="skychimp init --email you@example.org --sender 'You <you@example.org>'")
def init(
    ctx: typer.Context,
    email: Annotated[
        str | None, typer.Option(help="The first administrator's email address.", metavar="EMAIL", show_default=False)
    ] = None,
    sender: Annotated[
        str | None,
        typer.Option(help="The sender of your emails: 'Name <address>'.", metavar="SENDER", show_default=False),
    ] = None,
    password_stdin: prompts.PasswordStdin = False,
    json: Json = False,
) -> None:
    """Create the config, the store and the first administrator, and log in.

    The config gets the settings that the environment has, such as SKYCHIMP_SMTP__HOST, but no passwords.

    The password can also come from $SKYCHIMP_PASSWORD, or be set later. A store that has users is not changed.
    """
    from skychimp.cli import saved_session
    from skychimp.config import shared
    from skychimp.services.accounts import accounts
    from skychimp.store import schema

    context = get_context(ctx, json)
    shared.require_operator(tr('run "skychimp init"'))
    email = prompts.read_email(context, email)
    with ExitStack() as undo:
        config_file, secrets = _find_or_create_config(context, sender, email, undo)
        prompts.read_email(context, email, is_new=True)  # only now are there settings to check it with
        url = context.settings.store_url
        store = context.store if schema.has_store(url, context.settings.store.read_password()) else None
        if store is not None:
            accounts.require_no_users(store)
        password = _read_password(context, password_stdin, email)
        store = store or schema.create_store(url, context.settings.store.read_password())
        save_token = partial(saved_session.write, url)
        account = accounts.create_first_admin(store, email=email, password=password, save_token=save_token)
        undo.pop_all()
    context.out.record(
        {
            "email": account.email,
            "role": account.role,
            "config": config_file and str(config_file),
            "store": store.name,
        }
    )
    for name in secrets:
        context.out.note(
            tr(
                "{setting} is not written to {config_file}: {hint}",
                setting=name,
                config_file=config_file,
                hint=_keep_secret(name),
            )
        )
    context.out.note(_describe_transport(context))
    _warn_of_unnamed_timezone(context)
    if password is None:
        context.out.note(tr('no password is set yet: run "skychimp password change"'))
    context.out.next("clients", "create", "--email", "CLIENT@EXAMPLE.ORG", "--name", "NAME")


def _describe_transport(context: Context) -> Phrase:
    if context.settings.mail.transport == "smtp":
        return tr("emails are sent through {relay}", relay=context.settings.relay)
    return tr("emails are written to the outbox (no mail server configured)")


def _warn_of_unnamed_timezone(context: Context) -> None:
    try:
        context.settings.mail.read_timezone()
    except ConfigError as error:
        context.out.note(tr("{problem}: {hint}", problem=error.message, hint=error.hint))


def _find_or_create_config(
    context: Context, sender: str | None, email: str, undo: ExitStack
) -> "tuple[Path | None, Sequence[str]]":
    """Return the config file, which is created if there is none, and the settings of the environment that it lacks.

    Returns no file if it cannot be written, but the environment has all settings that are needed.
    """
    from skychimp import addresses
    from skychimp.config import config_file, sources

    path = config_file.find_config_file(context.options.config, ask_trust=context.ask_trust)
    if sender is not None:
        addresses.parse_sender(sender)
    if os.path.lexists(path):
        if sender not in (None, context.settings.mail.sender):
            raise Conflict(
                tr("{path} already exists with another sender", path=path), tr("change mail.sender in this file")
            )
        return path, ()
    if sender is None and not os.environ.get("SKYCHIMP_MAIL__SENDER"):
        sender = _ask_sender(context, email)
    flags = {"mail.sender": sender, "store.url": sources.resolve_path("store.url", context.options.store)}
    in_force = sources.environment_values() | {name: value for name, value in flags.items() if value is not None}
    kept = {name: value for name, value in in_force.items() if not name.startswith("service.")}
    secrets = [name for name, value in kept.items() if sources.has_password(name, value)]
    reason = _create_config(path, {name: value for name, value in kept.items() if name not in secrets}, secrets)
    if reason is None:
        undo.callback(path.unlink, missing_ok=True)
        _trust(path, undo)
        return path, secrets
    if sender is None and context.options.config is None and "SKYCHIMP_CONFIG" not in os.environ:
        context.out.note(
            tr("cannot write {path}: {reason}; all settings come from the environment", path=path, reason=reason)
        )
        return None, ()
    raise ConfigError(
        tr("cannot write {path}: {reason}", path=path, reason=reason), tr("use another file with --config FILE")
    )


def _trust(path: Path, undo: ExitStack) -> None:
    """Trust the config that was created, so that it is used when it is in the current folder."""
    from skychimp.config import config_file, trust
    from skychimp.config.locations import FILE_NAME

    if path.name == FILE_NAME and path != config_file.usual_config_file():
        undo.callback(trust.forget, path)
        trust.trust(config_file.read_files(path))


def _create_config(path: Path, values: "Mapping[str, object]", secrets: "Sequence[str]") -> str | None:
    """Create the config file with these values. Return the reason if that is not possible, else None.

    Where the environment has `secrets`, a comment says what to do about them.
    """
    from skychimp import files
    from skychimp.config.example import example_config

    comments = {name: f"The environment has it: {_keep_secret(name)}." for name in secrets}
    text = example_config({name: _toml_value(name, value) for name, value in values.items()}, comments)
    try:
        files.make_folder(path.parent)
        files.write_file(path, text.encode(), replace=False)
    except OSError as error:
        return str(error.strerror)
    except UnicodeEncodeError:
        return tr("the name of the store is not valid UTF-8")
    return None


def _keep_secret(setting: str) -> Phrase:
    """Return how to set what has a password, so that a service has it too."""
    section = setting.partition(".")[0]
    if setting == "smtp.password":
        return tr("set smtp.password_file")
    if section in ("store", "inbound"):
        return tr("set it without the password, and {section}.password_file", section=section)
    return tr("set {setting} in a .env file beside the config", setting=setting)


def _toml_value(setting: str, value: object) -> object:
    """Return a value of the environment, which is a text, as it is written in a config: a number, a list or a text."""
    from skychimp.config.settings import SECTIONS
    from skychimp.config.types import parse_list

    section, _, key = setting.partition(".")
    field = SECTIONS[section].model_fields[key]
    usual = (field.examples or [None])[0] if field.default is None else field.default
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, list) else value
    if isinstance(usual, bool):
        return {"true": True, "false": False}.get(value, value)
    if isinstance(usual, int) and value.isascii() and value.isdecimal():
        return int(value)
    listed = parse_list(value)
    return value if listed is None else tuple(listed)


def _ask_sender(context: Context, email: str) -> str:
    from skychimp import addresses

    if not context.can_prompt():
        return email

    def ask() -> str:
        sender = context.out.ask(tr("Sender (Name <address>) [{email}]:", email=email)) or email
        addresses.parse_sender(sender)
        return sender

    return prompts.ask_until_valid(context, ask)


def _read_password(context: Context, from_stdin: bool, email: str) -> str | None:
    """Return a password from stdin, the environment or a prompt; None if there is none and nobody can be asked.

    Raises InvalidValue for an invalid password.
    """
    from skychimp.services.accounts import passwords

    password = prompts.scripted_password(from_stdin)
    if password is not None:
        passwords.validate(password, email)
        return password
    if not context.can_prompt():
        return None
    question = tr("Password (press Enter to skip):")
    ask = partial(prompts.ask_new_password, context, question, owner=(email,), optional=True)
    return prompts.ask_until_valid(context, ask) or None

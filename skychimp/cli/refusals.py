"""Record in the audit trail that a command was refused."""

from contextlib import suppress
from typing import TYPE_CHECKING

from skychimp.cli.context import Context, GlobalOptions
from skychimp.cli.registry import COMMANDS
from skychimp.config import shared
from skychimp.errors import Denied, NotFound, NotLoggedIn, SkychimpError

if TYPE_CHECKING:
    from skychimp.store.database import Store

_RECORD_THEMSELVES = {"login", "password", "register", "verify"}
"""Commands whose services record what they deny, except that nobody is logged in, with the account it is about."""


def record_refusal(context: Context, arguments: list[str], error: SkychimpError) -> None:
    """Record an error in the audit trail if it is a refusal. Never fails."""
    if context.invocation is None:
        command = _first_command(arguments)
        context.options = GlobalOptions(config=shared.own_config_file())  # never the config or store that was refused
    else:
        command = " ".join(context.invocation.command_path.split()[1:])
        if command.split()[0] in _RECORD_THEMSELVES and not isinstance(error, NotLoggedIn):
            return
    from skychimp.permissions import ANONYMOUS
    from skychimp.services import refusals

    actor = vars(context).get("actor", ANONYMOUS)
    if isinstance(error, Denied):
        refusals.record_denied(_open_store(context), actor, command, error)
    elif isinstance(error, NotFound) and "store" in vars(context):
        for each in error.parts or [error]:
            refusals.record_not_found(context.store, actor, command, each)


def _first_command(arguments: list[str]) -> str:
    """Return the command of a command line that was not parsed. Other words may be addresses or passwords."""
    return next((word for word in arguments if word in COMMANDS), "skychimp")


def _open_store(context: Context) -> "Store | None":
    """Return the store, which a refused command may not have opened, or None if it cannot be opened."""
    with suppress(SkychimpError, OSError):
        return context.store
    return None

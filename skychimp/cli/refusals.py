"""Record in the audit trail that a command was refused."""

from contextlib import suppress
from typing import TYPE_CHECKING

from skychimp.cli.context import Context
from skychimp.errors import Denied, NotFound, SkychimpError

if TYPE_CHECKING:
    from skychimp.store.database import Store

_RECORD_THEMSELVES = {"login", "password", "register", "verify"}
"""Commands whose services record what fails, with the account that it is about."""


def record_refusal(context: Context, error: SkychimpError) -> None:
    """Record an error in the audit trail if it is a refusal. Never fails."""
    if context.invocation is None:
        return
    words = context.invocation.command_path.split()[1:]
    if words[0] in _RECORD_THEMSELVES:
        return
    from skychimp.permissions import ANONYMOUS
    from skychimp.services import refusals

    actor = vars(context).get("actor", ANONYMOUS)
    if isinstance(error, Denied):
        refusals.record_denied(_open_store(context), actor, " ".join(words), error)
    elif isinstance(error, NotFound) and "store" in vars(context):
        refusals.record_not_found(context.store, actor, " ".join(words), error)


def _open_store(context: Context) -> "Store | None":
    """Return the store, which a refused command may not have opened, or None if it cannot be opened."""
    with suppress(SkychimpError, OSError):
        return context.store
    return None

"""Record in the audit trail that a command was refused."""

from skychimp.cli.context import Context
from skychimp.errors import Denied, NotFound, SkychimpError

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

    store, actor = vars(context).get("store"), vars(context).get("actor", ANONYMOUS)
    if isinstance(error, Denied):
        refusals.record_denied(store, actor, " ".join(words), error)
    elif isinstance(error, NotFound) and store is not None:
        refusals.record_not_found(store, actor, " ".join(words), error)

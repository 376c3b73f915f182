"""Record in the audit trail that a command was refused."""

from typing import Any

from skychimp.cli.context import Context
from skychimp.errors import Denied, NotFound, SkychimpError

_RECORD_THEMSELVES = {"login", "password", "register", "verify"}
"""Commands whose services record what fails, with the account that it is about."""

_KINDS = ("mailing", "message", "client", "user", "post")
"""The names of arguments and options that name an object, which are also the names of its table."""


def record_refusal(context: Context, error: SkychimpError) -> None:
    """Record an error in the audit trail if it is a refusal. Never fails."""
    invocation = context.invocation
    words = [] if invocation is None else invocation.command_path.split()[1:]
    if not isinstance(error, Denied | NotFound) or invocation is None or words[0] in _RECORD_THEMSELVES:
        return
    from skychimp.permissions import ANONYMOUS
    from skychimp.services import refusals

    store, actor = vars(context).get("store"), vars(context).get("actor", ANONYMOUS)
    if isinstance(error, Denied):
        refusals.record_denied(store, actor, " ".join(words), error.message)
    elif store is not None and (named := _named_object(invocation.params)):
        refusals.record_not_found(store, actor, " ".join(words), *named)


def _named_object(params: dict[str, Any]) -> tuple[str, str] | None:
    """Return the kind and the name of the object that a command is about, None if it is not about one."""
    return next(((kind, str(params[kind])) for kind in _KINDS if params.get(kind) not in (None, [], ())), None)

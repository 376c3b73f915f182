"""`skychimp audit`: show the audit trail."""

from typing import Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Operator, Search, Sort, get_context, list_options
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "at": tr("Time"), "actor": tr("User"), "action": tr("Action"), "object": tr("Object"), "object_id": tr("ID"), "detail": tr("Detail"),
}  # fmt: skip


@app.callback()
def _audit() -> None:
    """Keep `list` as a subcommand. Without a callback, Typer turns a single command into the whole app."""


@app.command("list", epilog="skychimp audit list --action block --since 2026-12-01")
def list_(
    ctx: typer.Context,
    actor: Annotated[
        str | None, typer.Option(help="Show only actions of this user (ID or email).", metavar="USER")
    ] = None,
    action: Annotated[
        str | None, typer.Option(help="Show only this action, such as block or role.", metavar="ACTION")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Show only actions since this time, or in the last 24h, 7d, ...", metavar="WHEN")
    ] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    operator: Operator = False,
    json: Json = False,
) -> None:
    """List the audit trail, oldest first. For administrators. Entries cannot be changed or deleted."""
    from skychimp.permissions import Action
    from skychimp.services import audit

    context = get_context(ctx, json)
    start = context.parse_past(since)
    options = list_options(limit, offset, search, sort)
    viewer = context.maintenance_actor(operator, Action.SEE_AUDIT_TRAIL)
    entries = audit.list_entries(context.store, viewer, options, by=actor, action=action, since=start)
    is_filtered = any(each is not None for each in (actor, action, since, search))
    empty = tr("the audit trail is empty")
    context.out.rows(entries, COLUMNS, noun="entry", plural="entries", empty=empty, is_filtered=is_filtered)

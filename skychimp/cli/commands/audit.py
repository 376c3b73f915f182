"""`skychimp audit`: who did what to which object, and when."""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, get_context, page

app = typer.Typer(no_args_is_help=True, help="Who did what to which object, and when.", rich_markup_mode="rich")

COLUMNS = {
    "at": "At", "actor": "Who", "action": "Did", "object": "What", "object_id": "ID", "detail": "Detail",
}  # fmt: skip


@app.callback()
def _audit() -> None:
    """Who did what to which object, and when."""


@app.command("list", epilog="skychimp audit list --action block --since 2026-12-01")
def list_(
    ctx: typer.Context,
    actor: Annotated[str | None, typer.Option(help="Only what this user did.", metavar="USER")] = None,
    action: Annotated[str | None, typer.Option(help="Only this deed, as block or role.", metavar="ACTION")] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from this time on, or for so long: 24h.", metavar="WHEN")
    ] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List who did what, the oldest first; for administrators. Nothing is ever changed in it or taken out of it."""
    from skychimp.services import audit

    context = get_context(ctx, json)
    start = None if since is None else _start(since, context.settings.mail.timezone)
    asked = page(limit, offset, search, sort)
    found = audit.list_entries(context.store, context.actor, asked, by=actor, action=action, since=start)
    context.out.rows(found, COLUMNS, empty="nothing was done yet")


def _start(since: str, timezone: str) -> datetime:
    from skychimp.delivery.scheduling.time_input import parse_when
    from skychimp.durations import parse_duration

    now = datetime.now(UTC)
    if re.fullmatch("[0-9]+[smhd].*", since):
        return now - parse_duration(since)
    return parse_when(since, timezone, now)

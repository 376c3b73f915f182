"""The `skychimp segments` commands: save queries over clients, and use them by name."""

from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.deletion import delete_all
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": tr("ID"), "name": tr("Name"), "where": tr("Query")}
SegmentName = Annotated[str, typer.Argument(metavar="SEGMENT", help="Segment name or ID.", show_default=False)]
SegmentNames = Annotated[
    list[str], typer.Argument(metavar="SEGMENT...", help="Segment names or IDs.", show_default=False)
]


@app.command(epilog="skychimp segments create regulars --where \"tag = 'vip' AND created_at < '-365d'\"")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the segment.", show_default=False)],
    where: Annotated[str, typer.Option(help='Query over clients (see "skychimp help queries").', metavar="EXPR")],
    json: Json = False,
) -> None:
    """Save a query over clients, and show how many clients it chooses now."""
    from skychimp.services.clients import segments

    context = get_context(ctx, json)
    timezone = context.settings.mail.read_timezone()
    created = segments.create(context.store, context.actor, name, where, timezone)
    _show(context, created.name)
    context.out.next("mailings", "create", "--segment", created.name, "--help")


@app.command("list", epilog="skychimp segments list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your segments."""
    from skychimp.services.clients import segments

    context = get_context(ctx, json)
    rows = segments.list_segments(context.store, context.actor, list_options(limit, offset, search, sort))
    none_yet = tr("no segments yet; {hint}", hint=run_hint("segments", "create", "--help"))
    context.out.rows(rows, COLUMNS, noun="segment", empty=none_yet, is_filtered=search is not None)


@app.command(epilog="skychimp segments show regulars")
def show(ctx: typer.Context, segment: SegmentName, json: Json = False) -> None:
    """Show a segment, and how many clients are in it now."""
    _show(get_context(ctx, json), segment)


@app.command(epilog="skychimp segments update regulars --where \"tag IN ('vip', 'gold')\"")
def update(
    ctx: typer.Context,
    segment: SegmentName,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    where: Annotated[str | None, typer.Option(help="New query.", metavar="EXPR")] = None,
    json: Json = False,
) -> None:
    """Change a segment. Mailings that use it choose their clients by the new query."""
    from skychimp.services.clients import segments

    context = get_context(ctx, json)
    if name is None and where is None:
        raise InvalidValue(tr("nothing to change"), tr("use --name or --where"))
    timezone = context.settings.mail.read_timezone()
    changed = segments.change(context.store, context.actor, segment, timezone, new_name=name, where=where)
    _show(context, changed.name)


@app.command(epilog="skychimp segments delete regulars --yes")
def delete(ctx: typer.Context, segment: SegmentNames, yes: Yes = False, json: Json = False) -> None:
    """Delete segments. Their clients stay. A segment that a mailing uses cannot be deleted."""
    from skychimp.services.clients import segments

    context = get_context(ctx, json)
    delete_all(
        context,
        "segment",
        [segments.find(context.store, context.actor, each) for each in segment],
        describe=lambda target: f"segment {target.name}",
        remove=lambda target: segments.remove(context.store, context.actor, str(target.id)),
        columns=COLUMNS,
        show=context.out.record,
        yes=yes,
    )


def _show(context: Context, name: str) -> None:
    from skychimp.services.clients import segments

    shown = segments.show(context.store, context.actor, name, context.settings.mail.read_timezone())
    context.out.record(shown)
    if shown.problem is not None:
        context.out.warn(tr("segment {name} chooses nobody: {problem}", name=shown.name, problem=shown.problem))

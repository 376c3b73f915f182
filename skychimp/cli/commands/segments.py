"""The `skychimp segments` commands: save queries over clients, and use them by name."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.several import Kind, change_all, delete_all, require_one, show_all
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.clients.segments import SegmentCount, SegmentInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": tr("ID"), "name": tr("Name"), "where": tr("Query")}
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
    _show(context, _count(context, created))
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
def show(ctx: typer.Context, segment: SegmentNames, json: Json = False) -> None:
    """Show segments, and how many clients are in each now."""
    from skychimp.services.clients import segments
    from skychimp.services.listing import find_all

    context = get_context(ctx, json)
    timezone = context.settings.mail.read_timezone()
    found = find_all(segment, lambda name: segments.show(context.store, context.actor, name, timezone))
    show_all(context, found, _counted_kind(context))


@app.command(epilog="skychimp segments update regulars --where \"tag IN ('vip', 'gold')\"")
def update(
    ctx: typer.Context,
    segment: SegmentNames,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    where: Annotated[str | None, typer.Option(help="New query.", metavar="EXPR")] = None,
    json: Json = False,
) -> None:
    """Change segments. Mailings that use them choose their clients by the new query."""
    from skychimp.services.clients import segments
    from skychimp.services.listing import find_all

    context = get_context(ctx, json)
    require_one(segment, name=name)
    if name is None and where is None:
        raise InvalidValue(tr("nothing to change"), tr("use --name or --where"))
    timezone = context.settings.mail.read_timezone()
    found = find_all(segment, lambda each: segments.show(context.store, context.actor, each, timezone))

    def change(target: "SegmentCount") -> "SegmentCount":
        changed = segments.change(context.store, context.actor, str(target.id), timezone, new_name=name, where=where)
        return _count(context, changed)

    change_all(context, "updated", found, change, _counted_kind(context))


@app.command(epilog="skychimp segments delete regulars --yes")
def delete(ctx: typer.Context, segment: SegmentNames, yes: Yes = False, json: Json = False) -> None:
    """Delete segments. Their clients stay. A segment that a mailing uses cannot be deleted."""
    from skychimp.services.clients import segments
    from skychimp.services.listing import find_all

    context = get_context(ctx, json)
    delete_all(
        context,
        "segment",
        find_all(segment, lambda name: segments.find(context.store, context.actor, name)),
        lambda target: segments.remove(context.store, context.actor, str(target.id)),
        Kind(_describe, context.out.record, COLUMNS),
        yes=yes,
    )


def _counted_kind(context: Context) -> "Kind[SegmentCount]":
    return Kind(_describe, partial(_show, context), COLUMNS)


def _describe(segment: "SegmentInfo | SegmentCount") -> Phrase:
    return tr("segment {name}", name=segment.name)


def _count(context: Context, segment: "SegmentInfo") -> "SegmentCount":
    """Return a segment with the number of its clients now."""
    from skychimp.services.clients import segments

    return segments.show(context.store, context.actor, str(segment.id), context.settings.mail.read_timezone())


def _show(context: Context, shown: "SegmentCount") -> None:
    context.out.record(shown)
    if shown.problem is not None:
        context.out.warn(tr("segment {name} chooses nobody: {problem}", name=shown.name, problem=shown.problem))

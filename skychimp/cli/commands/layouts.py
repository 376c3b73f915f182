"""The `skychimp layouts` commands: manage the HTML around the content of messages."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, Yes, get_context, list_options, read_text
from skychimp.cli.display.html_errors import named_in_errors
from skychimp.cli.display.several import Kind, change_all, delete_all, require_one, show_all
from skychimp.errors import InvalidValue
from skychimp.shell import command, run_hint
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.cli.context import Context
    from skychimp.services.messages.layouts import LayoutInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": tr("ID"), "name": tr("Name"), "updated_at": tr("Changed")}
LayoutNames = Annotated[list[str], typer.Argument(metavar="LAYOUT...", help="Layout names or IDs.", show_default=False)]


@app.command(epilog="skychimp layouts create newsletter --html-file layout.html")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the layout.", show_default=False)],
    html_file: Annotated[str, typer.Option(help="HTML file with {{ content }} in it, or - for stdin.", metavar="FILE")],
    json: Json = False,
) -> None:
    """Create a layout. See "skychimp help layouts"."""
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    with named_in_errors(html_file):
        created = layouts.create(context.store, context.actor, name, read_text(html_file))
    _show(context, created)
    context.out.next("messages", "create", "--layout", created.name, "--help")


@app.command("list", epilog="skychimp layouts list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your layouts. The built-in one, default, is not listed."""
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    rows = layouts.list_layouts(context.store, context.actor, list_options(limit, offset, search, sort))
    none_yet = tr(
        "no layouts yet; Markdown uses the built-in one: {command}", command=command("layouts", "show", "default")
    )
    context.out.rows(rows, COLUMNS, noun="layout", empty=none_yet, is_filtered=search is not None)


@app.command(epilog="skychimp layouts show default --html > layout.html")
def show(
    ctx: typer.Context,
    layout: LayoutNames,
    html: Annotated[bool, typer.Option("--html", help="Print only the HTML.")] = False,
    json: Json = False,
) -> None:
    """Show layouts. The name default shows the built-in one."""
    from skychimp.services.listing import find_all
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    require_one(layout, html=html)
    found = find_all(layout, lambda name: layouts.show(context.store, context.actor, name))
    if context.out.json or not html:
        show_all(context, found, Kind(_describe, context.out.record, COLUMNS))
    elif context.out.on_terminal:
        context.out.text(found[0].html)
    else:
        context.out.raw(found[0].html)


@app.command(epilog="skychimp layouts update newsletter --html-file layout.html")
def update(
    ctx: typer.Context,
    layout: LayoutNames,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    html_file: Annotated[
        str | None, typer.Option(help="Read the new HTML from a file, or - for stdin.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Change layouts. Emails that are queued already keep the old ones."""
    from skychimp.permissions import Action
    from skychimp.services.listing import find_all
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    require_one(layout, name=name)
    if name is None and html_file is None:
        raise InvalidValue(tr("nothing to change"), tr("use --name or --html-file"))
    html = None if html_file is None else read_text(html_file)
    found = find_all(
        layout, lambda each: layouts.show(context.store, context.actor, each, action=Action.CHANGE_MESSAGES)
    )

    def change(target: "LayoutInfo") -> "LayoutInfo":
        is_required = context.settings.delivery.require_consent
        with named_in_errors(html_file):
            return layouts.change(
                context.store,
                context.actor,
                str(target.id),
                new_name=name,
                html=html,
                require_consent=is_required,
            )

    language = context.settings.mail.language
    for changed in change_all(context, "updated", found, change, _kind(context)):
        for message_id, mailings in layouts.open_mailings(context.store, changed.id, language).items():
            again = run_hint("messages", "update", message_id, "--also-open")
            context.out.note(
                tr(
                    "mailing {mailings} still sends the old layout; to change what was not sent yet, {hint}",
                    mailings=", ".join(map(str, mailings)),
                    hint=again,
                )
            )


@app.command(epilog="skychimp layouts delete newsletter --yes")
def delete(ctx: typer.Context, layout: LayoutNames, yes: Yes = False, json: Json = False) -> None:
    """Delete layouts that no message uses."""
    from skychimp.permissions import Action
    from skychimp.services.listing import find_all
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    found = find_all(
        layout, lambda each: layouts.show(context.store, context.actor, each, action=Action.CHANGE_MESSAGES)
    )
    delete_all(
        context,
        "layout",
        found,
        lambda target: layouts.remove(context.store, context.actor, str(target.id)),
        _kind(context),
        yes=yes,
    )


def _kind(context: "Context") -> "Kind[LayoutInfo]":
    return Kind(_describe, partial(_show, context), COLUMNS)


def _describe(layout: "LayoutInfo") -> Phrase:
    return tr("layout {name}", name=layout.name)


def _show(context: "Context", layout: "LayoutInfo") -> None:
    context.out.record(layout, None if context.out.json else list(COLUMNS))

"""The `skychimp layouts` commands: manage the HTML around the content of messages."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, Yes, get_context, list_options, read_text
from skychimp.cli.display.deletion import delete_all
from skychimp.cli.display.html_errors import named_in_errors
from skychimp.errors import InvalidValue
from skychimp.shell import command, run_hint
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.cli.context import Context
    from skychimp.services.messages.layouts import LayoutInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": tr("ID"), "name": tr("Name"), "updated_at": tr("Changed")}
LayoutNames = Annotated[list[str], typer.Argument(metavar="LAYOUT...", help="Layout names or IDs.", show_default=False)]
LayoutName = Annotated[str, typer.Argument(metavar="LAYOUT", help="Layout name or ID.", show_default=False)]


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
    layout: LayoutName,
    html: Annotated[bool, typer.Option("--html", help="Print only the HTML.")] = False,
    json: Json = False,
) -> None:
    """Show a layout. The name default shows the built-in one."""
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    shown = layouts.show(context.store, context.actor, layout)
    if json or not html:
        context.out.record(shown)
    elif context.out.on_terminal:
        context.out.text(shown.html)
    else:
        context.out.raw(shown.html)


@app.command(epilog="skychimp layouts update newsletter --html-file layout.html")
def update(
    ctx: typer.Context,
    layout: LayoutName,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    html_file: Annotated[
        str | None, typer.Option(help="Read the new HTML from a file, or - for stdin.", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Change a layout. Emails that are queued already keep the old one."""
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    if name is None and html_file is None:
        raise InvalidValue(tr("nothing to change"), tr("use --name or --html-file"))
    html = None if html_file is None else read_text(html_file)
    with named_in_errors(html_file):
        changed = layouts.change(context.store, context.actor, layout, new_name=name, html=html)
    _show(context, changed)
    for message_id, mailings in layouts.open_mailings(context.store, changed.id).items():
        names = ", ".join(map(str, mailings))
        again = run_hint("messages", "update", message_id, "--also-open")
        context.out.note(
            tr(
                "mailing {names} still sends the old layout; to change what was not sent yet, {again}",
                names=names,
                again=again,
            )
        )


@app.command(epilog="skychimp layouts delete newsletter --yes")
def delete(ctx: typer.Context, layout: LayoutNames, yes: Yes = False, json: Json = False) -> None:
    """Delete layouts that no message uses."""
    from skychimp.permissions import Action
    from skychimp.services.messages import layouts

    context = get_context(ctx, json)
    delete_all(
        context,
        "layout",
        [layouts.show(context.store, context.actor, each, action=Action.CHANGE_MESSAGES) for each in layout],
        describe=lambda target: f"layout {target.name}",
        remove=lambda target: layouts.remove(context.store, context.actor, str(target.id)),
        columns=COLUMNS,
        show=lambda target: _show(context, target),
        yes=yes,
    )


def _show(context: "Context", layout: "LayoutInfo") -> None:
    context.out.record(layout, None if context.out.json else list(COLUMNS))

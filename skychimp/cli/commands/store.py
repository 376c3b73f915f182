"""`skychimp store`: the store itself."""

from dataclasses import asdict

import typer

from skychimp.cli.context import Json, get_context

app = typer.Typer(no_args_is_help=True, help="The store itself.", rich_markup_mode="rich")

NOT_SOUND = 1
COLUMNS = {"table": "Table", "fault": "What is wrong", "number": "Rows", "ids": "Such as", "remedy": "To mend it"}


@app.callback()
def _store() -> None:
    """The store itself: is it sound."""


@app.command(epilog="skychimp store check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Look for damage, and for what can't be in a ledger that has lost nothing; leaves with 1 where it finds any.

    It takes a while with a large store, and changes nothing; `skychimp doctor` looks at all around the store.
    """
    from skychimp.services.operations import integrity

    context = get_context(ctx, json)
    faults = list(integrity.check(context.store))
    if context.out.json:
        context.out.one({"ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        context.out.rows(faults, COLUMNS)
    else:
        context.out.note("the store is sound")
    if faults:
        raise typer.Exit(NOT_SOUND)

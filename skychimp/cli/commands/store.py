"""`skychimp store`: the store itself."""

from dataclasses import asdict

import typer

from skychimp.cli.context import Json, enter

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

    here = enter(ctx, json)
    faults = list(integrity.check(here.store))
    if here.out.json:
        here.out.one({"ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        here.out.rows(faults, COLUMNS)
    else:
        here.out.note("the store is sound")
    if faults:
        raise typer.Exit(NOT_SOUND)

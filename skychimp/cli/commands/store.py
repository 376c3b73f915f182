"""Check the store for damage (`skychimp store`)."""

from dataclasses import asdict

import typer

from skychimp.cli.context import Json, get_context

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

HAS_FAULTS = 1
COLUMNS = {"table": "Table", "fault": "Fault", "number": "Rows", "ids": "IDs", "remedy": "How to fix it"}


@app.callback()
def _store() -> None:
    """Keep `check` as a subcommand. Without a callback, Typer turns a single command into the whole app."""


@app.command(epilog="skychimp store check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Check the store for damage and for inconsistent records. Nothing is changed.

    Exits with status 1 if there is any fault. A large store takes a while. To check the installation, run
    `skychimp doctor`.
    """
    from skychimp.services.operations import integrity
    from skychimp.store.schema import store_path

    context = get_context(ctx, json)
    damage = list(integrity.find_damage(store_path(context.settings.store_url)))
    faults = damage or list(integrity.find_faults(context.store))
    if context.out.json:
        context.out.record({"ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        context.out.rows(faults, COLUMNS)
    else:
        context.out.note("no damage found")
    if faults:
        raise typer.Exit(HAS_FAULTS)

"""`skychimp store`: the store itself."""

from dataclasses import asdict

import typer

from skychimp.cli.context import Json, enter

app = typer.Typer(no_args_is_help=True, help="The store itself.", rich_markup_mode="rich")

NOT_SOUND = 1


@app.callback()
def _store() -> None:
    """The store itself: is it sound."""


@app.command(epilog="skychimp store check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Look for damage, and for what can't be in a ledger that has lost nothing; leaves with 1 where it finds any.

    It takes a while with a large store, and changes nothing; `skychimp doctor` looks at all around the store.
    """
    from skychimp.services import soundness

    here = enter(ctx, json)
    faults = []
    for fault in soundness.check(here.store):
        faults.append(fault)
        if not json:
            ids = (
                f" ({', '.join(map(str, fault.ids))}{', ...' if fault.number > len(fault.ids) else ''})"
                if fault.ids
                else ""
            )
            here.out.text(f"{fault.table or 'file'}: {fault.number} × {fault.fault}{ids}")
            here.out.text(f"  to mend: {fault.remedy}")
    if json:
        here.out.one({"ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif not faults:
        here.out.text("the store is sound")
    if faults:
        raise typer.Exit(NOT_SOUND)

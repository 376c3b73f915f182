"""Check the store for damage, compact it, copy it, and replace its key (`skychimp store`)."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Json, Operator, Yes, get_context
from skychimp.shell import command_line
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

HAS_FAULTS = 1
COLUMNS = {
    "table": tr("Table"),
    "fault": tr("Fault"),
    "number": tr("Rows"),
    "ids": tr("IDs"),
    "remedy": tr("How to fix it"),
}


@app.command(epilog="skychimp store check")
def check(ctx: typer.Context, json: Json = False) -> None:
    """Check the store for damage and for inconsistent records. Nothing is changed.

    Exits with status 1 if there is any fault. A large store takes a while. To check the installation, run
    `skychimp doctor`.
    """
    from skychimp.services.operations import integrity
    from skychimp.store.schema import is_on_server, store_path

    context = get_context(ctx, json)
    url = context.settings.store_url
    damage = [] if is_on_server(url) else list(integrity.find_damage(store_path(url)))
    faults = damage or list(integrity.find_faults(context.store))
    if context.out.json:
        context.out.record({"ok": not faults, "faults": [asdict(fault) for fault in faults]})
    elif faults:
        context.out.rows(faults, COLUMNS)
    else:
        context.out.note(tr("no damage found"))
    if faults:
        raise typer.Exit(HAS_FAULTS)


@app.command(epilog="skychimp store vacuum")
def vacuum(ctx: typer.Context, json: Json = False) -> None:
    """Give free space back, and remove what deleted records have left in it. No login required.

    Nothing else may be using the store. Stop the daemon first. A store in a file needs twice its size on the disk
    meanwhile.
    """
    from skychimp.services.operations import compaction

    context = get_context(ctx, json)
    context.out.record(compaction.compact(context.store))


@app.command(epilog="skychimp store copy postgresql+psycopg://skychimp@localhost/skychimp")
def copy(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to copy it: a path or a URL.", show_default=False)],
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file",
            help="File that contains the password of the new store.",
            metavar="FILE",
            show_default=False,
        ),
    ] = None,
    operator: Operator = False,
    json: Json = False,
) -> None:
    """Copy the store to a new one: from a file to a PostgreSQL database, or back. For administrators.

    The copy is compared with the original. It is on hold and sends nothing until you run `skychimp resolve --restored`.
    """
    from skychimp.config import shared, sources
    from skychimp.config.settings import StoreSettings
    from skychimp.permissions import Action
    from skychimp.services.operations import store_copy

    context = get_context(ctx, json)
    shared.require_operator(tr("copy the store"))
    actor = context.maintenance_actor(operator, Action.BACK_UP_STORE)
    target, _ = sources.load_store_place({"store.url": url})
    password = StoreSettings(password_file=password_file).read_password() if password_file else None
    with context.out.progress("copying", 100) as report_progress:
        result = store_copy.copy_store(
            context.store,
            actor,
            target,
            password or context.settings.store.read_password(),
            lambda done, total: report_progress(100 * done // max(total, 1), ""),
        )
    context.out.record(result, [name for name in vars(result) if json or name != "missing_images"])
    for name in result.missing_images:
        context.out.warn(tr("image file {name} is missing from the store and from the copy", name=name))
    context.out.note(tr("the copy is on hold. Stop sending from the old store first, then release it:"))
    context.out.note(f"  {command_line('skychimp', '--store', url, 'resolve', '--restored', '--resend')}")


@app.command("rotate-key", epilog="skychimp store rotate-key --yes")
def rotate_key(ctx: typer.Context, operator: Operator = False, yes: Yes = False, json: Json = False) -> None:
    """Replace the key of unsubscribe links and return paths. For administrators.

    Do this if somebody else could read the store or a backup of it. Links in emails that were sent before work for
    another 60 days. Emails that are being sent may still get the old key.
    """
    from skychimp.config import shared
    from skychimp.permissions import Action
    from skychimp.services.operations import token_key

    context = get_context(ctx, json)
    shared.require_operator(tr("replace the key"))
    actor = context.maintenance_actor(operator, Action.ROTATE_LINK_KEY)
    context.confirm(tr("replace the key of unsubscribe links"), yes=yes)
    context.out.record(token_key.replace(context.store, actor))

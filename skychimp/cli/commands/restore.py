"""Replace the store by a backup (`skychimp restore`)."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Operator, get_context
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.operations.backups import Restored

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp restore /var/backups/skychimp.backup")
def restore(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A file written by `skychimp backup`.", show_default=False)
    ],
    operator: Operator = False,
    force: Annotated[
        bool, typer.Option("--force", "--yes", "-y", help="Replace an existing store without asking.")
    ] = False,
    json: Json = False,
) -> None:
    """Replace the store by a backup. For administrators, or for anyone if there is no store yet.

    The replaced store is kept beside the new one. Nothing is sent until you run `skychimp resolve --restored`.
    """
    from skychimp.config import shared
    from skychimp.permissions import Action
    from skychimp.services.operations import backups
    from skychimp.store import schema

    context = get_context(ctx, json)
    shared.require_operator(tr("restore the store"))
    file = file.absolute()
    url, password = context.settings.store_url, context.settings.store.read_password()
    path = None if schema.is_on_server(url) else schema.store_path(url)
    exists = schema.has_store(url, password)
    # Without a store nobody can log in, so no login is required, as for `init`.
    actor = context.maintenance_actor(operator or not exists, Action.RESTORE_STORE)
    backups.require_source(file, path)
    if exists and path is not None:
        context.confirm(tr("replace the store {path} and lose what was changed since the backup", path=path), yes=force)
    context.close()
    with context.out.progress("copying", 100) as report_progress:
        done = backups.restore(
            url,
            actor,
            file,
            lambda part, total: report_progress(100 * part // max(total, 1), ""),
            token=_token(context),
            password=password,
        )
    context.out.record(done)
    _explain(context, done)


def _token(context: Context) -> str | None:
    """Return the token of the session that remains valid after the restore."""
    from skychimp.errors import NotLoggedIn

    with contextlib.suppress(NotLoggedIn):
        return context.token
    return None


def _explain(context: Context, done: "Restored") -> None:
    if done.made_at is not None:
        context.out.note(
            tr(
                "users, passwords and roles are those of {astimezone:%Y-%m-%d %H:%M}",
                astimezone=done.made_at.astimezone(),
            )
        )
    if done.ledger_kept:
        context.out.note(tr("emails sent since the backup count as sent"))
    else:
        context.out.note(tr("emails sent since the backup are not known"))
    context.out.note(_explain_audit(done))
    if done.suppressions_kept is None:
        context.out.note(tr("suppressions added since the backup are not known"))
    elif done.suppressions_kept:
        context.out.note(
            tr("{newer_suppressions} kept", newer_suppressions=count_of(done.suppressions_kept, "newer suppression"))
        )
    context.out.note(tr('the store is on hold and sends nothing; to release it, run "skychimp resolve --restored"'))


def _explain_audit(done: "Restored") -> Phrase:
    """Say what became of the audit trail's entries that are newer than the backup."""
    if done.audit_lost is None:
        return tr("audit trail: entries since the backup are lost, their number is not known")
    if done.audit_lost:
        return tr(
            "audit trail: {entries} of the replaced store lost", entries=count_of(done.audit_lost, "entry", "entries")
        )
    return tr(
        "audit trail: {newer_entries} kept", newer_entries=count_of(done.audit_kept, "newer entry", "newer entries")
    )

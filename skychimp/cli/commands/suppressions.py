"""The `skychimp suppressions` commands: manage the addresses and domains that must not get email."""

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import (
    Context,
    Json,
    Limit,
    Offset,
    Operator,
    Search,
    Sort,
    Yes,
    get_context,
    list_options,
)
from skychimp.cli.input_file import Encoding, naming, open_input, open_text, row_reporter
from skychimp.cli.options.columns import Columns, choose_columns
from skychimp.cli.output_file import Force, open_output_file
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import count_of
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.permissions import Actor
    from skychimp.services.clients.suppression_import import SuppressionImportResult
    from skychimp.services.clients.suppressions import SuppressionInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "address": tr("Address"),
    "reason": tr("Reason"),
    "topic": tr("Topic"),
    "source": tr("Source"),
    "at": tr("Since"),
    "note": tr("Note"),
}  # fmt: skip
ERASED = tr("(erased)")

_NAME = "EMAIL-or-@DOMAIN"
Topic = Annotated[
    str | None, typer.Option(help="Only for mailings with this topic (default: all your mail).", metavar="TOPIC")
]
Everywhere = Annotated[
    bool, typer.Option("--everywhere", help="For the mail of all users (administrators only).", show_default=False)
]


@app.command(epilog="skychimp suppressions add grace@example.org @example.com --reason complaint")
def add(
    ctx: typer.Context,
    email: Annotated[
        list[str],
        typer.Argument(metavar=f"{_NAME}...", help="Email addresses, or domains such as @example.org."),
    ],
    reason: Annotated[
        str, typer.Option(help="The reason: unsubscribed, complaint, bounce, or a text of yours.")
    ] = "unsubscribed",
    note: Annotated[str, typer.Option(help="A note for yourself.")] = "",
    topic: Topic = None,
    everywhere: Everywhere = False,
    operator: Operator = False,
    json: Json = False,
) -> None:
    """Send no more email to an address or a domain.

    Waiting emails are cancelled. The address need not be a client's.
    It stays suppressed if the client is deleted, forgotten or imported again.
    """
    from skychimp.services.clients import suppressions

    context = get_context(ctx, json)
    actor = _actor(context, everywhere=everywhere, operator=operator)
    new = [suppressions.new_suppression(target, reason, note) for target in email]
    added = suppressions.add(context.store, actor, new, topic=topic, everywhere=everywhere)
    _show(context, added.suppressions)
    for each in added.unchanged:
        context.out.note(tr("{address} was already {state}", address=each.address, state=suppressions.why(each)))
    if added.cancelled:
        context.out.note(tr("{waiting_emails} cancelled", waiting_emails=count_of(added.cancelled, "waiting email")))


@app.command("list", epilog="skychimp suppressions list --reason complaint --sort -at")
def list_(
    ctx: typer.Context,
    topic: Annotated[str | None, typer.Option(help="Only those for this topic.", metavar="TOPIC")] = None,
    everywhere: Everywhere = False,
    reason: Annotated[str | None, typer.Option(help="Only those with this reason.")] = None,
    operator: Operator = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List your suppressions, or with --everywhere those for the mail of all users."""
    from skychimp.services.clients import suppressions

    context = get_context(ctx, json)
    shown = choose_columns(context, columns, COLUMNS, suppressions.SuppressionInfo)
    actor = _actor(context, everywhere=everywhere, operator=operator)
    options = list_options(limit, offset, search, sort)
    listed = suppressions.list_suppressions(
        context.store, actor, options, topic=topic, everywhere=everywhere, reason=reason
    )
    is_filtered = topic is not None or reason is not None or search is not None
    context.out.rows(
        listed if context.out.json else listed.map(_shown),
        shown,
        noun="suppression",
        empty=tr("no suppressions"),
        optional=() if columns else ("note", "source"),
        is_filtered=is_filtered,
    )


@app.command(epilog="skychimp suppressions show grace@example.org")
def show(
    ctx: typer.Context,
    suppression: Annotated[
        list[str], typer.Argument(metavar=f"{_NAME}...", help="Email addresses or domains.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Show what keeps your mail from addresses: also suppressions of their domains, and those for all users' mail."""
    from skychimp.services.clients import suppressions

    context = get_context(ctx, json)
    found = suppressions.find_covering_all(context.store, context.actor, suppression)
    columns = COLUMNS | {"everywhere": tr("Everywhere")}
    context.out.rows(found if context.out.json else map(_shown, found), columns, optional=("note", "source"))


@app.command(epilog="skychimp suppressions remove grace@example.org")
def remove(
    ctx: typer.Context,
    suppression: Annotated[
        list[str], typer.Argument(metavar=f"{_NAME}...", help="Suppressed email addresses or domains.")
    ],
    topic: Topic = None,
    everywhere: Everywhere = False,
    operator: Operator = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Send email to an address or a domain again.

    A client whose address did not exist (reason bounce) counts as good again.
    """
    from skychimp.services.clients import suppressions

    context = get_context(ctx, json)
    actor = _actor(context, everywhere=everywhere, operator=operator)
    suppressions.require_all(context.store, actor, suppression, topic=topic, everywhere=everywhere)
    names = [suppressions.parse_target(target).email for target in suppression]
    who = names[0] if len(names) == 1 else count_of(len(names), "address", "addresses")
    context.confirm(tr("let {addresses} get email again", addresses=who), yes=yes)
    removed = suppressions.remove(context.store, actor, suppression, topic=topic, everywhere=everywhere)
    _show(context, removed)
    if everywhere:
        return
    for name in names:
        for each in suppressions.find_covering(context.store, actor, name)[:1]:
            context.out.note(tr("{address} is still {state}", address=name, state=suppressions.why(each)))


@app.command(epilog="skychimp suppressions export suppressions.csv")
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Output file, or - for stdout.")] = "-",
    topic: Annotated[str | None, typer.Option(help="Only those for this topic.", metavar="TOPIC")] = None,
    everywhere: Everywhere = False,
    operator: Operator = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export your suppressions as CSV, for other tools or for `skychimp suppressions import`.

    Those of forgotten persons are not exported, as their addresses are not known.
    """
    from skychimp.services.clients import suppressions
    from skychimp.services.clients.files import suppression_files

    context = get_context(ctx, json)
    if context.out.json and file == "-":
        raise InvalidValue(tr("--json needs an output file"), run_hint("suppressions", "list", "--json"))
    actor = _actor(context, everywhere=everywhere, operator=operator)
    rows = suppressions.export(context.store, actor, topic=topic, everywhere=everywhere)
    if file == "-":
        suppression_files.write(sys.stdout, rows)
        return
    with open_output_file(context, file, force=force) as opened:
        number = suppression_files.write(opened, rows)
    context.out.record({"suppressions": number, "file": file})


@app.command(
    "import",
    epilog="skychimp suppressions import unsubscribed.csv\nskychimp suppressions import bounces.txt --reason bounce",
)
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="List, CSV or JSON file, or - for stdin.")],
    reason: Annotated[
        str | None, typer.Option(help="The reason of all rows (default: as in the file, or else unsubscribed).")
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(help="Only for mailings with this topic (default: as in the file, or else all)."),
    ] = None,
    everywhere: Everywhere = False,
    map: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(metavar="COLUMN=FIELD", help="Read a column as email, reason, topic, at or note (repeatable)."),
    ] = None,
    ignore_column: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Do not read this column (repeatable).")
    ] = None,
    encoding: Encoding = None,
    operator: Operator = False,
    json: Json = False,
) -> None:
    """Import suppressions from a file of this or another tool.

    The file has an address or a domain such as @example.org on each line, or is CSV with a header, JSON lines or a
    JSON list. Invalid rows are listed with their line number. All other rows are imported.

    If columns mark who has opted out, the other rows are left out. See "skychimp help imports".
    """
    from skychimp.services.clients import suppression_import
    from skychimp.services.clients.files import column_mapping, suppression_files

    context = get_context(ctx, json)
    actor = _actor(context, everywhere=everywhere, operator=operator)
    chosen = suppression_import.Chosen(reason, topic, everywhere)
    choice = column_mapping.parse_choice(map or [], ignore_column or [], suppression_files.FIELDS)
    with open_input(file) as binary, context.out.progress(tr("importing")) as report_progress:
        opened = open_text(context, binary, file, encoding)
        report = row_reporter(report_progress, opened, file, tr("suppressions"))
        with naming(file):
            result = suppression_import.import_rows(
                context.store,
                actor,
                suppression_files.read(opened, choice),
                chosen,
                on_rejected=lambda row: context.out.warn(tr("line {line}: {reason}", line=row.line, reason=row.reason)),
                on_batch=lambda result: report(result.rows),
            )
    context.out.record(result, [name for name in vars(result) if name != "reasons"])
    if result.bad and not result.added + result.known + result.subscribed:
        raise InvalidValue(tr("no valid row in {file}", file=file), tr("fix the rows listed above"))
    _explain_import(context, result)


def _explain_import(context: Context, result: "SuppressionImportResult") -> None:
    if result.added:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in result.reasons.items())
        context.out.note(
            tr("{suppressions} added ({reasons})", suppressions=count_of(result.added, "suppression"), reasons=reasons)
        )
    if result.subscribed:
        context.out.note(
            tr(
                "{rows} left out, as the file says that they get mail; pass --ignore-column to suppress them, too",
                rows=count_of(result.subscribed, "row"),
            )
        )


def _actor(context: Context, *, everywhere: bool, operator: bool) -> "Actor":
    """Return whose suppressions these are: the user's, or with `everywhere` an administrator's. Raises Denied."""
    from skychimp.permissions import Action

    if everywhere:
        return context.maintenance_actor(operator, Action.SUPPRESS_EVERYWHERE)
    if operator:
        raise InvalidValue(tr("--operator needs --everywhere"), tr("log in to manage your own suppressions"))
    return context.actor


def _show(context: Context, changed: "Sequence[SuppressionInfo]") -> None:
    """Show the one suppression that was changed, or the list of several."""
    if len(changed) == 1:
        context.out.record(changed[0])
    else:
        context.out.rows(changed if context.out.json else map(_shown, changed), COLUMNS, optional=("note", "source"))


def _shown(suppression: "SuppressionInfo") -> SimpleNamespace:
    """Return a suppression as a row for a person."""
    return SimpleNamespace(**vars(suppression) | {"address": suppression.address or ERASED})

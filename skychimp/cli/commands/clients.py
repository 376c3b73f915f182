"""The `skychimp clients` commands: manage, import and export clients."""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.progress import ProgressReporter
from skychimp.cli.output_file import Force, open_output_file
from skychimp.errors import InvalidValue
from skychimp.shell import arguments, run_hint
from skychimp.text import count_of

if TYPE_CHECKING:
    from skychimp.services.clients.clients import ClientInfo
    from skychimp.services.clients.csv_files import ClientFile
    from skychimp.services.clients.importing import ImportResult, RejectedRow

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": "ID", "email": "Email", "name": "Name", "tags": "Tags", "bad_reason": "Bad address"}

FileFormat = Annotated[
    Literal["csv", "jsonl"] | None,
    typer.Option(help="File format (default: by the file's extension, otherwise csv).", show_default=False),
]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Client ID or email address.", show_default=False)]


@app.command(epilog="skychimp clients create --email ada@example.org --name 'Ada Lovelace' --tag vip")
def create(
    ctx: typer.Context,
    email: Annotated[str, typer.Option(help="Email address.")],
    name: Annotated[str, typer.Option(help="Full name.")] = "",
    comment: Annotated[str, typer.Option(help="Comment, available to messages as {{ client.comment }}.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Tag (repeatable).")] = None,
    json: Json = False,
) -> None:
    """Create a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    created = clients.create(context.store, context.actor, email=email, name=name, comment=comment, tags=tag or [])
    context.out.record(created)
    _suggest_message(context)


@app.command("list", epilog="skychimp clients list --tag vip --sort name")
def list_(
    ctx: typer.Context,
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your clients."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    rows = clients.list_clients(context.store, context.actor, list_options(limit, offset, search, sort), tag)
    context.out.rows(rows, COLUMNS, empty=f"no clients yet; {run_hint('clients', 'import', 'FILE.csv')}")


@app.command()
def show(ctx: typer.Context, client: ClientName, json: Json = False) -> None:
    """Show a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    context.out.record(clients.show(context.store, context.actor, client))


@app.command(epilog="skychimp clients update 7 --name 'Ada King'")
def update(
    ctx: typer.Context,
    client: ClientName,
    email: Annotated[str | None, typer.Option(help="New email address.")] = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    comment: Annotated[str | None, typer.Option(help="New comment.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="New tag; replaces all tags (repeatable).")] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Remove all tags.")] = False,
    clear_bad: Annotated[bool, typer.Option("--clear-bad", help="Mark the address as good again.")] = False,
    json: Json = False,
) -> None:
    """Change a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    tags = [] if no_tags else tag
    changed = clients.change(
        context.store, context.actor, client, email=email, name=name, comment=comment, tags=tags, clear_bad=clear_bad
    )
    context.out.record(changed)


@app.command()
def delete(ctx: typer.Context, client: ClientName, yes: Yes = False, json: Json = False) -> None:
    """Delete a client. The log of what was sent to it is kept."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    target = clients.show(context.store, context.actor, client)
    context.confirm(f"delete client {target.id} ({target.email})", yes=yes)
    context.out.record(clients.remove(context.store, context.actor, str(target.id)))


@app.command(epilog="skychimp clients forget grace@example.org")
def forget(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Email address of the person.", show_default=False)],
    all_users: Annotated[
        bool, typer.Option("--all-users", help="Erase the person from all users' data (administrators only).")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Erase a person from your clients and your delivery log.

    Emails queued for this person are cancelled. Totals in reports do not change.
    Exported files, emails in the outbox and backups are not touched.
    """
    from skychimp.services.users import privacy

    context = get_context(ctx, json)
    counts = privacy.count_records(context.store, context.actor, email, everywhere=all_users)
    records = f"{count_of(counts.clients, 'client')}, {count_of(counts.deliveries, 'email')} in the log"
    context.confirm(f"erase all records of {email} ({records})", yes=yes)
    context.out.record(privacy.forget(context.store, context.actor, email, everywhere=all_users))
    context.out.note("exported files, emails in the outbox and backups may still contain this person's data")


@app.command("import", epilog="skychimp clients import people.csv --update")
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or JSON lines file, or - for stdin.")],
    update: Annotated[bool, typer.Option("--update", help="Change clients that exist already.")] = False,
    format: FileFormat = None,  # noqa: A002
    json: Json = False,
) -> None:
    """Import clients from a file with the columns email, name, comment and tags.

    Invalid rows are listed with their line number. All other rows are imported.

    Exports of listmonk and Mailchimp are recognised.
    Their contacts who no longer get mail are left out.
    """
    from skychimp.services.clients import importing

    context = get_context(ctx, json)
    actor = context.actor  # before the input is read, which may take until its writer ends
    excluded: Counter[str] = Counter()
    with _open_input(file) as opened, context.out.progress("importing") as report_progress:
        parsed = _parse(opened, file, format)
        _explain_columns(context, parsed)
        result = importing.import_rows(
            context.store,
            actor,
            parsed.rows,
            update_columns=parsed.columns if update else (),
            on_rejected=_rejection_reporter(context, parsed.tool, excluded),
            on_batch=_import_progress(report_progress, opened, file),
        )
    if excluded:
        counts = ", ".join(f"{number:,} {reason}" for reason, number in excluded.most_common())
        context.out.note(f"left out because {parsed.tool} no longer sends to them: {counts}")
    context.out.record(result)
    if result.bad and not result.created + result.updated + result.skipped:
        raise InvalidValue(f"no valid row in {file}", "fix the rows listed above")
    if result.created:
        _suggest_message(context)


@app.command(epilog="skychimp clients export people.csv")
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Output file, or - for stdout.")] = "-",
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    format: FileFormat = None,  # noqa: A002
    force: Force = False,
    json: Json = False,
) -> None:
    """Export your clients as CSV or JSON lines.

    The file can be imported again and then gives the same clients.
    CSV cells that a spreadsheet would run as a formula begin with an apostrophe.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if context.out.json and file == "-":
        raise InvalidValue("--json needs an output file", "use --format jsonl to export JSON lines to stdout")
    module = _format_module(format, file)
    rows = clients.export(context.store, context.actor, tag)
    if file == "-":
        module.write(sys.stdout, rows)
        return
    with open_output_file(context, file, force=force) as opened, context.out.progress("exporting") as report_progress:
        total = clients.count(context.store, context.actor, tag)
        number = module.write(opened, _with_progress(rows, total, report_progress))
    context.out.record({"clients": number, "file": file})


def _suggest_message(context: Context) -> None:
    context.out.next("messages", "create", "--subject", "Hello {{ client.name }}")


def _format_module(file_format: str | None, file: str) -> ModuleType:
    """Return the module that reads and writes a format, which is named or else follows from the file's extension."""
    from skychimp.services.clients import csv_files, jsonl_files

    extension = Path(file).suffix.lower().removeprefix(".")
    return jsonl_files if (file_format or extension) in ("jsonl", "ndjson") else csv_files


# Import


def _open_input(file: str) -> contextlib.AbstractContextManager[TextIO]:
    from skychimp.config.named_files import open_input_file
    from skychimp.services.clients.csv_files import ENCODING, ERRORS, NEWLINE

    try:
        if file != "-":
            return TextIOWrapper(open_input_file(file), encoding=ENCODING, errors=ERRORS, newline=NEWLINE)
        assert isinstance(sys.stdin, TextIOWrapper)
        sys.stdin.reconfigure(encoding=ENCODING, errors=ERRORS, newline=NEWLINE)
        return contextlib.nullcontext(sys.stdin)
    except OSError as error:
        raise InvalidValue(f"cannot read {file}: {error.strerror}", "use another file, or - for stdin") from None


def _parse(opened: TextIO, file: str, file_format: str | None) -> "ClientFile":
    try:
        parsed: ClientFile = _format_module(file_format, file).read(opened)
    except InvalidValue as error:
        raise InvalidValue(f"cannot import {file}: {error.message}", error.hint) from None
    return parsed


def _explain_columns(context: Context, parsed: "ClientFile") -> None:
    if parsed.tool:
        context.out.note(f"{parsed.tool} export: its additional fields are added to the comment")
    if parsed.ignored_columns:
        context.out.note(f"ignored columns: {', '.join(parsed.ignored_columns)}")


def _rejection_reporter(context: Context, tool: str, excluded: Counter[str]) -> "Callable[[RejectedRow], None]":
    """Return the function that warns about a rejected row and counts the excluded ones by reason."""
    from skychimp.services.clients.importing import ExcludedRow

    def report(row: "RejectedRow") -> None:
        if isinstance(row, ExcludedRow):
            excluded[row.reason] += 1
            if row.is_client:
                hint = run_hint("clients", "delete", *arguments(row.email.strip()))
                context.out.warn(f"line {row.line}: {row.reason} in {tool}, but still a client; {hint}")
        else:
            context.out.warn(f"line {row.line}: {row.reason}")

    return report


def _import_progress(report_progress: ProgressReporter, opened: TextIO, file: str) -> "Callable[[ImportResult], None]":
    """Return the function that reports the rows read so far, and an estimate of their total for a regular file."""
    size = os.path.getsize(file) if os.path.isfile(file) else None

    def report(result: "ImportResult") -> None:
        rows = sum(vars(result).values())
        total = size and max(rows, round(rows * size / max(opened.buffer.tell(), 1)))
        report_progress(rows, "clients", total)

    return report


# Export


def _with_progress(
    clients: "Iterator[ClientInfo]", total: int, report_progress: ProgressReporter
) -> "Iterator[ClientInfo]":
    for number, client in enumerate(clients):
        if number % 1000 == 0:
            report_progress(number, "clients", total)
        yield client

"""The `skychimp clients import` and `export` commands."""

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.cli.display.progress import ProgressReporter
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.input_file import Encoding, naming, open_input, open_text, row_reporter
from skychimp.cli.options.client_options import (
    AcceptUnusual,
    InSegment,
    Where,
    address_rules,
    read_selection,
    suggest_message,
)
from skychimp.cli.options.consent_options import Consent, ConsentAt, ConsentProof, read_consent
from skychimp.cli.output_file import Force, open_output_file
from skychimp.errors import InvalidValue
from skychimp.text import checked_tags, count_of
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.clients.clients import ExportedClient
    from skychimp.services.clients.files.column_mapping import ColumnChoice
    from skychimp.services.clients.files.csv_files import ClientFile
    from skychimp.services.clients.importing import ImportResult

IMPORT_EXAMPLES = "skychimp clients import people.csv --update\nskychimp clients import old.csv --map Mail=email"
EXPORT_EXAMPLE = "skychimp clients export people.csv"

FileFormat = Annotated[
    Literal["csv", "jsonl"] | None,
    typer.Option(help="File format (default: by the file's extension, otherwise csv).", show_default=False),
]


def import_clients(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or JSON lines file, or - for stdin.")],
    update: Annotated[bool, typer.Option("--update", help="Change clients that exist already.")] = False,
    map: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(
            metavar="COLUMN=FIELD",
            help="Read a column as email, name, first_name, last_name, comment, tags, fields.NAME, consent_at, consent"
            " or consent_proof (repeatable).",
        ),
    ] = None,
    ignore_column: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Do not read this column (repeatable).")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(
            help="Add a tag to new clients, and with --update to existing ones (repeatable). It replaces no other tag."
        ),
    ] = None,
    consent: Consent = None,
    consent_at: ConsentAt = None,
    consent_proof: ConsentProof = None,
    encoding: Encoding = None,
    format: FileFormat = None,  # noqa: A002
    accept_unusual: AcceptUnusual = False,
    json: Json = False,
) -> None:
    """Import clients from a file.

    It has the columns email, name, comment and tags. Other columns become fields of the clients: see
    "skychimp help fields".

    Invalid rows are listed with their line number. All other rows are imported.

    Columns of other mailing tools and address books are recognised. See "skychimp help imports".
    Who has opted out, as a column says, is suppressed and does not become a client.
    A suppressed address becomes a client who gets no mail.
    Consents are recorded of clients that are created, and with --update of existing ones. --consent is that of rows
    without one. See "skychimp help consent".
    """
    from skychimp.services.clients import importing
    from skychimp.services.clients.files import column_mapping

    context = get_context(ctx, json)
    actor = context.actor  # before the input is read, which may take until its writer ends
    given = read_consent(context, consent, consent_at, consent_proof)
    tags, choice = checked_tags(tag or []), column_mapping.parse_choice(map or [], ignore_column or [])
    with open_input(file) as binary, context.out.progress("importing") as report_progress:
        opened = open_text(context, binary, file, encoding)
        parsed = _parse(opened, file, format, choice)
        _explain_columns(context, parsed)
        report = row_reporter(report_progress, opened, file, "clients")
        with naming(file):
            result = importing.import_rows(
                context.store,
                actor,
                parsed.rows,
                update_columns=parsed.columns if update else (),
                fields=parsed.fields,
                tags=tags,
                rules=address_rules(context, accept_unusual),
                consent=given,
                on_rejected=lambda row: context.out.warn(tr("line {line}: {reason}", line=row.line, reason=row.reason)),
                on_batch=lambda result: report(result.imported + result.bad),
            )
    context.out.record(result, [name for name in vars(result) if name != "reasons"])
    if result.bad and not result.imported:
        raise InvalidValue(tr("no valid row in {file}", file=file), tr("fix the rows listed above"))
    if result.suppressed:
        context.out.note(_explain_suppressed(result))
    if result.created:
        suggest_message(context)


def export_clients(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="Output file, or - for stdout.")] = "-",
    where: Where = None,
    segment: InSegment = None,
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    format: FileFormat = None,  # noqa: A002
    force: Force = False,
    json: Json = False,
) -> None:
    """Export your clients as CSV or JSON lines.

    The file can be imported again and then gives the same clients. It has columns of consents if there are any.
    CSV cells that a spreadsheet would run as a formula begin with an apostrophe.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if context.out.json and file == "-":
        raise InvalidValue(tr("--json needs an output file"), tr("use --format jsonl to export JSON lines to stdout"))
    module = _format_module(format, file)
    warn_of_unknown_tags(context, [] if tag is None else [tag])
    selection = read_selection(context, where, segment)
    exported = clients.export(context.store, context.actor, tag, selection)
    if file == "-":
        module.write(sys.stdout, exported)
        return
    with open_output_file(context, file, force=force) as opened, context.out.progress("exporting") as report_progress:
        total = clients.count(context.store, context.actor, tag, selection)
        rows = _with_progress(exported.clients, total, report_progress)
        number = module.write(opened, exported._replace(clients=rows))
    context.out.record({"clients": number, "file": file})


def _format_module(file_format: str | None, file: str) -> ModuleType:
    """Return the module that reads and writes a format, which is named or else follows from the file's extension."""
    from skychimp.services.clients.files import csv_files, jsonl_files

    extension = Path(file).suffix.lower().removeprefix(".")
    return jsonl_files if (file_format or extension) in ("jsonl", "ndjson") else csv_files


# Import


def _parse(opened: TextIOWrapper, file: str, file_format: str | None, choice: "ColumnChoice") -> "ClientFile":
    with naming(file):
        parsed: ClientFile = _format_module(file_format, file).read(opened, choice)
    return parsed


def _explain_columns(context: Context, parsed: "ClientFile") -> None:
    for note in parsed.notes:
        context.out.note(note)
    if parsed.ignored_columns:
        context.out.note(tr("ignored columns: {ignored_columns}", ignored_columns=", ".join(parsed.ignored_columns)))


def _explain_suppressed(result: "ImportResult") -> Phrase:
    """Return who of the file gets no mail, and why."""
    known = result.suppressed - result.opted_out
    parts = [f"{result.opted_out:,} suppressed because the file says they have opted out"] if result.opted_out else []
    if known:
        parts.append(f"{known:,} in the file suppressed before")
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in result.reasons.items())
    return tr(
        "{clients} added, {parts} ({reasons})",
        clients=count_of(result.created, "client"),
        parts=", ".join(parts),
        reasons=reasons,
    )


# Export


def _with_progress(
    clients: "Iterator[ExportedClient]", total: int, report_progress: ProgressReporter
) -> "Iterator[ExportedClient]":
    for number, client in enumerate(clients):
        if number % 1000 == 0:
            report_progress(number, "clients", total)
        yield client

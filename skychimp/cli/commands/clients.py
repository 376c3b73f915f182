"""The `skychimp clients` commands: manage, import and export clients."""

import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp import shell
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.progress import ProgressReporter
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.input_file import Encoding, naming, open_input, open_text, row_reporter
from skychimp.cli.output_file import Force, open_output_file
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import checked_tags, count_of, shortened

if TYPE_CHECKING:
    from skychimp.addresses import Rules
    from skychimp.services.clients.clients import Change, ClientInfo, ExportedClient
    from skychimp.services.clients.column_mapping import ColumnChoice
    from skychimp.services.clients.csv_files import ClientFile
    from skychimp.services.clients.importing import ImportResult

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "id": "ID", "email": "Email", "name": "Name", "tags": "Tags", "bad_reason": "Bad address",
    "suppressed": "Suppressed",
}  # fmt: skip

TAG_COLUMNS = {"tag": "Tag", "clients": "Clients"}

FIELD_COLUMNS = {"name": "Field", "type": "Type", "clients": "Clients"}

FileFormat = Annotated[
    Literal["csv", "jsonl"] | None,
    typer.Option(help="File format (default: by the file's extension, otherwise csv).", show_default=False),
]
FieldValues = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="KEY=VALUE", help="Set a field, such as city=Berlin (repeatable)."),
]
AcceptUnusual = Annotated[
    bool,
    typer.Option("--accept-unusual", help="Accept addresses that break the rules but exist, such as a..b@example.org."),
]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Client ID or email address.", show_default=False)]


@app.command(epilog="skychimp clients create --email ada@example.org --name 'Ada Lovelace' --tag vip")
def create(
    ctx: typer.Context,
    email: Annotated[str, typer.Option(help="Email address.")],
    name: Annotated[str, typer.Option(help="Full name.")] = "",
    comment: Annotated[str, typer.Option(help="Comment, available to messages as {{ client.comment }}.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Tag (repeatable).")] = None,
    field: FieldValues = None,
    accept_unusual: AcceptUnusual = False,
    json: Json = False,
) -> None:
    """Create a client."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    rules = _address_rules(context, accept_unusual)
    created = clients.create(
        context.store,
        context.actor,
        email=email,
        name=name,
        comment=comment,
        tags=tag or [],
        fields=_parse_fields(field),
        rules=rules,
    )
    _show_client(context, vars(created))
    _warn_if_suppressed(context, created)
    _suggest_message(context)


@app.command("list", epilog="skychimp clients list --tag vip --sort name")
def list_(
    ctx: typer.Context,
    tag: Annotated[str | None, typer.Option(help="Only clients with this tag.")] = None,
    bad: Annotated[bool, typer.Option("--bad", help="Only clients with a bad address.")] = False,
    suppressed: Annotated[bool, typer.Option("--suppressed", help="Only clients who must not get email.")] = False,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your clients."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    options = list_options(limit, offset, search, sort)
    warn_of_unknown_tags(context, [] if tag is None else [tag])
    rows = clients.list_clients(context.store, context.actor, options, tag, only_bad=bad, only_suppressed=suppressed)
    is_filtered = bad or suppressed or search is not None or tag is not None
    none_yet = f"no clients yet; {run_hint('clients', 'import', 'FILE.csv')}"
    context.out.rows(rows, COLUMNS, empty="no matching clients" if is_filtered else none_yet)


@app.command()
def show(ctx: typer.Context, client: ClientName, json: Json = False) -> None:
    """Show a client, and what keeps mail from it."""
    from skychimp.services.clients import clients, suppressions

    context = get_context(ctx, json)
    shown = clients.show(context.store, context.actor, client)
    found = suppressions.find_covering(context.store, context.actor, shown.email)
    listed = [vars(each) for each in found] if context.out.json else list(map(suppressions.why, found))
    _show_client(context, vars(shown) | {"suppressions": listed})


@app.command(epilog="skychimp clients tags --sort=-clients")
def tags(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List the tags of your clients, with the number of clients."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    rows = clients.list_tags(context.store, context.actor, list_options(limit, offset, search, sort))
    no_tags = f"no tags yet; {run_hint('clients', 'update', 'CLIENT', '--add-tag', 'TAG')}"
    context.out.rows(rows, TAG_COLUMNS, empty=no_tags if search is None else "no matching tags")


@app.command(epilog="skychimp clients fields\nskychimp clients fields zip --type text")
def fields(
    ctx: typer.Context,
    field: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this field.", show_default=False)] = None,
    new_type: Annotated[
        Literal["text", "number", "boolean", "date"] | None,
        typer.Option("--type", help="Change the type of the field."),
    ] = None,
    json: Json = False,
) -> None:
    """List the fields of your clients, with their types and the number of clients with a value.

    With --type, change the type of a field. It is refused if a value does not fit.
    """
    from skychimp.models import FieldType
    from skychimp.services.clients import fields as client_fields

    context = get_context(ctx, json)
    if field is None:
        if new_type is not None:
            raise InvalidValue(
                "--type needs the name of a field", run_hint("clients", "fields", "NAME", "--type", new_type)
            )
        no_fields = f"no fields yet; {run_hint('clients', 'update', 'CLIENT', '--field', 'KEY=VALUE')}"
        context.out.rows(client_fields.list_fields(context.store, context.actor), FIELD_COLUMNS, empty=no_fields)
    elif new_type is None:
        context.out.record(client_fields.show(context.store, context.actor, field))
    else:
        context.out.record(client_fields.change_type(context.store, context.actor, field, FieldType(new_type)))


@app.command(
    epilog="skychimp clients update 7 --name 'Ada King'\nskychimp clients update 7 8 ada@example.org --add-tag vip"
)
def update(
    ctx: typer.Context,
    client: Annotated[
        list[str], typer.Argument(metavar="CLIENT...", help="Client IDs or email addresses.", show_default=False)
    ],
    email: Annotated[str | None, typer.Option(help="New email address.")] = None,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    comment: Annotated[str | None, typer.Option(help="New comment.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="New tag; replaces all tags (repeatable).")] = None,
    add_tag: Annotated[list[str] | None, typer.Option(help="Add a tag (repeatable).", metavar="TAG")] = None,
    remove_tag: Annotated[list[str] | None, typer.Option(help="Remove a tag (repeatable).", metavar="TAG")] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Remove all tags.")] = False,
    field: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Set a field (repeatable). KEY= without a value removes the value."),
    ] = None,
    good: Annotated[bool, typer.Option("--good", "--clear-bad", help="Mark the address as good again.")] = False,
    accept_unusual: AcceptUnusual = False,
    json: Json = False,
) -> None:
    """Change a client. A new address counts as good.

    With several clients, change the tags and fields of all of them, or mark their addresses as good.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if (tag is not None) + no_tags + bool(add_tag or remove_tag) > 1:
        raise InvalidValue(
            "--tag, --no-tags and --add-tag or --remove-tag cannot be combined",
            "use --tag to replace all tags, or --add-tag and --remove-tag to change some",
        )
    warn_of_unknown_tags(context, remove_tag or [])
    if len(client) > 1:
        if email is not None or name is not None or comment is not None:
            raise InvalidValue("--email, --name and --comment change one client", "name only one client")
        new_tags = [] if no_tags else tag
        changes = clients.change_several(
            context.store,
            context.actor,
            client,
            tags=new_tags,
            add_tags=add_tag or [],
            remove_tags=remove_tag or [],
            fields=_parse_fields(field),
            good=good,
        )
        _show_changes(context, changes)
        return
    changed = clients.change(
        context.store,
        context.actor,
        client[0],
        email=email,
        name=name,
        comment=comment,
        tags=[] if no_tags else tag,
        add_tags=add_tag or [],
        remove_tags=remove_tag or [],
        fields=_parse_fields(field),
        good=good,
        rules=_address_rules(context, accept_unusual),
    )
    _show_client(context, vars(changed))
    if good or email is not None:
        _warn_if_suppressed(context, changed)


@app.command()
def delete(ctx: typer.Context, client: ClientName, yes: Yes = False, json: Json = False) -> None:
    """Delete a client. The log of what was sent to it is kept.

    A later import can bring the client back. To send it nothing more, use `skychimp suppressions add`.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    target = clients.show(context.store, context.actor, client)
    context.confirm(f"delete client {target.id} ({target.email})", yes=yes)
    _show_client(context, vars(clients.remove(context.store, context.actor, str(target.id))))
    if not target.suppressed:
        how = shell.command("suppressions", "add", *shell.arguments(target.email))
        context.out.note(f"an import can bring this client back; to send it nothing more: {how}")


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

    What is erased is overwritten in the store. If copies are left in unused parts of its file, the store is compacted.
    While it is in use by others, you are asked to do that later with `skychimp store vacuum`.
    """
    from skychimp.services.users import privacy

    context = get_context(ctx, json)
    counts = privacy.count_records(context.store, context.actor, email, everywhere=all_users)
    records = f"{count_of(counts.clients, 'client')}, {count_of(counts.deliveries, 'email')} in the log"
    context.confirm(f"erase all records of {email} ({records})", yes=yes)
    context.out.record(privacy.forget(context.store, context.actor, email, everywhere=all_users))
    context.out.note("exported files, emails in the outbox and backups may still contain this person's data")


@app.command(
    "import", epilog="skychimp clients import people.csv --update\nskychimp clients import old.csv --map Mail=email"
)
def import_(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="CSV or JSON lines file, or - for stdin.")],
    update: Annotated[bool, typer.Option("--update", help="Change clients that exist already.")] = False,
    map: Annotated[  # noqa: A002
        list[str] | None,
        typer.Option(
            metavar="COLUMN=FIELD",
            help="Read a column as email, name, first_name, last_name, comment, tags or fields.NAME (repeatable).",
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
    encoding: Encoding = None,
    format: FileFormat = None,  # noqa: A002
    accept_unusual: AcceptUnusual = False,
    json: Json = False,
) -> None:
    """Import clients from a file with the columns email, name, comment and tags.

    Other columns become fields of the clients. See "skychimp help fields".
    Invalid rows are listed with their line number. All other rows are imported.

    Columns of other mailing tools and address books are recognised. See "skychimp help imports".
    Who has opted out, as a column says, is suppressed and does not become a client.
    A suppressed address becomes a client who gets no mail.
    """
    from skychimp.services.clients import column_mapping, importing

    context = get_context(ctx, json)
    actor = context.actor  # before the input is read, which may take until its writer ends
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
                rules=_address_rules(context, accept_unusual),
                on_rejected=lambda row: context.out.warn(f"line {row.line}: {row.reason}"),
                on_batch=lambda result: report(result.imported + result.bad),
            )
    context.out.record(result, [name for name in vars(result) if name != "reasons"])
    if result.bad and not result.imported:
        raise InvalidValue(f"no valid row in {file}", "fix the rows listed above")
    if result.suppressed:
        context.out.note(_explain_suppressed(result))
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
    warn_of_unknown_tags(context, [] if tag is None else [tag])
    exported = clients.export(context.store, context.actor, tag)
    if file == "-":
        module.write(sys.stdout, exported)
        return
    with open_output_file(context, file, force=force) as opened, context.out.progress("exporting") as report_progress:
        total = clients.count(context.store, context.actor, tag)
        rows = _with_progress(exported.clients, total, report_progress)
        number = module.write(opened, exported._replace(clients=rows))
    context.out.record({"clients": number, "file": file})


def _show_changes(context: Context, changes: Sequence["Change"]) -> None:
    """Show clients that were changed together, how many have other tags or fields now, and how to take that back."""
    context.out.rows([change.new for change in changes], COLUMNS)
    by_undo: dict[tuple[str, ...], list[int]] = {}
    for old, new in changes:
        added, removed = (sorted(set(one.tags) - set(other.tags)) for one, other in ((new, old), (old, new)))
        undo = [*(("--remove-tag", tag) for tag in added), *(("--add-tag", tag) for tag in removed)]
        undo += (("--field", text) for text in _old_fields(old, new))
        if undo:
            by_undo.setdefault(tuple(chain.from_iterable(undo)), []).append(new.id)
    number = sum(map(len, by_undo.values()))
    what = "tags or fields" if any(old.fields != new.fields for old, new in changes) else "tags"
    context.out.note(f"{count_of(number, 'client')} of {len(changes):,} got other {what}")
    for options, ids in by_undo.items():
        context.out.note(f"to take it back: {shell.command('clients', 'update', *ids, *options)}")


def _old_fields(old: "ClientInfo", new: "ClientInfo") -> list[str]:
    """Return the fields that have changed as KEY=VALUE with the old values."""
    from skychimp.fields import format_value

    names = sorted({name for name, _ in old.fields.items() ^ new.fields.items()})
    return [f"{name}={format_value(old.fields.get(name, ''))}" for name in names]


def _show_client(context: Context, client: dict[str, Any]) -> None:
    """Show a client. Without JSON, each field has a line of its own, such as `fields.city`."""
    if context.out.json:
        context.out.record(client)
        return
    from skychimp.fields import format_value

    lines: dict[str, Any] = {}
    for name, value in client.items():
        lines |= (
            {f"fields.{key}": format_value(each) for key, each in value.items()} if name == "fields" else {name: value}
        )
    context.out.record(lines)


def _parse_fields(given: list[str] | None) -> dict[str, str]:
    """Return the texts of fields by their names. Raises InvalidValue for what is not KEY=VALUE."""
    fields: dict[str, str] = {}
    for text in given or []:
        key, separator, value = text.partition("=")
        if not separator:
            raise InvalidValue(f"{shortened(text)} is not KEY=VALUE", "use for example --field city=Berlin")
        if key in fields:
            raise InvalidValue(f"the field {shortened(key)} is given twice", "name each field once")
        fields[key] = value
    return fields


def _address_rules(context: Context, accept_unusual: bool) -> "Rules":
    from skychimp.addresses import Rules

    return Rules(accept_unusual, context.settings.mail.allow_local)


def _warn_if_suppressed(context: Context, client: "ClientInfo") -> None:
    from skychimp.services.clients import suppressions

    if client.suppressed is not None:
        found = suppressions.find_covering(context.store, context.actor, client.email)
        for each in found[:1]:
            context.out.warn(f"{client.email} is {suppressions.why(each)}; it gets no email")


def _suggest_message(context: Context) -> None:
    context.out.next("messages", "create", "--subject", "Hello {{ client.name }}")


def _format_module(file_format: str | None, file: str) -> ModuleType:
    """Return the module that reads and writes a format, which is named or else follows from the file's extension."""
    from skychimp.services.clients import csv_files, jsonl_files

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
        context.out.note(f"ignored columns: {', '.join(parsed.ignored_columns)}")


def _explain_suppressed(result: "ImportResult") -> str:
    """Return who of the file gets no mail, and why."""
    known = result.suppressed - result.opted_out
    parts = [f"{result.opted_out:,} suppressed because the file says they have opted out"] if result.opted_out else []
    if known:
        parts.append(f"{known:,} in the file suppressed before")
    reasons = ", ".join(f"{reason} {number:,}" for reason, number in result.reasons.items())
    return f"{count_of(result.created, 'client')} added, {', '.join(parts)} ({reasons})"


# Export


def _with_progress(
    clients: "Iterator[ExportedClient]", total: int, report_progress: ProgressReporter
) -> "Iterator[ExportedClient]":
    for number, client in enumerate(clients):
        if number % 1000 == 0:
            report_progress(number, "clients", total)
        yield client

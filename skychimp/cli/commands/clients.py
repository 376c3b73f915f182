"""The `skychimp clients` commands: manage, import and export clients."""

import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict

import typer

from skychimp import shell
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.consent_options import Consent, ConsentAt, ConsentProof, read_consent
from skychimp.cli.display.progress import ProgressReporter
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.input_file import Encoding, naming, open_input, open_text, row_reporter
from skychimp.cli.output_file import Force, open_output_file
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import checked_tags, count_of, shortened

if TYPE_CHECKING:
    from skychimp.addresses import Rules
    from skychimp.services.clients.clients import Change, ClientInfo, ExportedClient, TagChange
    from skychimp.services.clients.consents import GivenConsent
    from skychimp.services.clients.files.column_mapping import ColumnChoice
    from skychimp.services.clients.files.csv_files import ClientFile
    from skychimp.services.clients.importing import ImportResult
    from skychimp.services.clients.selection import Selection

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {
    "id": "ID", "email": "Email", "name": "Name", "tags": "Tags", "bad_reason": "Bad address",
    "suppressed": "Suppressed",
}  # fmt: skip

CONSENT_COLUMNS = {
    "at": "At", "wording": "Consent", "source": "Source", "proof": "Proof", "recorded_at": "Recorded",
    "forgotten_at": "Forgotten",
}  # fmt: skip

TAG_COLUMNS = {"tag": "Tag", "clients": "Clients"}

MOST_IDS_SHOWN = 20
"""How many ids a command has that is shown to be pasted."""
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
Where = Annotated[
    str | None, typer.Option(help='Only clients that this query chooses (see "skychimp help queries").', metavar="EXPR")
]
InSegment = Annotated[str | None, typer.Option("--segment", help="Only clients in this segment.", metavar="NAME")]
ClientName = Annotated[str, typer.Argument(metavar="CLIENT", help="Client ID or email address.", show_default=False)]


@app.command(epilog="skychimp clients create --email ada@example.org --name 'Ada Lovelace' --tag vip")
def create(
    ctx: typer.Context,
    email: Annotated[str, typer.Option(help="Email address.")],
    name: Annotated[str, typer.Option(help="Full name.")] = "",
    comment: Annotated[str, typer.Option(help="Comment, available to messages as {{ client.comment }}.")] = "",
    tag: Annotated[list[str] | None, typer.Option(help="Tag (repeatable).")] = None,
    consent: Consent = None,
    consent_at: ConsentAt = None,
    consent_proof: ConsentProof = None,
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
        rules=rules,
        fields=_parse_fields(field),
        consent=read_consent(context, consent, consent_at, consent_proof),
    )
    _show_client(context, vars(created))
    _warn_if_suppressed(context, created)
    _suggest_message(context)


@app.command(
    "list", epilog="skychimp clients list --tag vip --sort name\nskychimp clients list --where \"name LIKE 'ada%'\""
)
def list_(
    ctx: typer.Context,
    where: Where = None,
    segment: InSegment = None,
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
    selection = _selection(context, where, segment)
    rows = clients.list_clients(
        context.store, context.actor, options, tag, selection=selection, only_bad=bad, only_suppressed=suppressed
    )
    is_filtered = bad or suppressed or any(each is not None for each in (search, tag, selection))
    none_yet = f"no clients yet; {run_hint('clients', 'import', 'FILE.csv')}"
    context.out.rows(rows, COLUMNS, empty="no matching clients" if is_filtered else none_yet)


@app.command()
def show(ctx: typer.Context, client: ClientName, json: Json = False) -> None:
    """Show a client, what keeps mail from it, and its consents."""
    from skychimp.services.clients import clients, consents, suppressions

    context = get_context(ctx, json)
    shown = clients.show(context.store, context.actor, client)
    found = suppressions.find_covering(context.store, context.actor, shown.email)
    given = consents.list_of_client(context.store, context.actor, shown.email)
    lists: dict[str, list[Any]] = {"suppressions": [*map(vars, found)], "consents": [*map(vars, given)]}
    if not context.out.json:
        lists = {"suppressions": [*map(suppressions.why, found)], "consents": [*map(consents.in_words, given)]}
    _show_client(context, vars(shown) | lists)


@app.command(epilog="skychimp clients consents ada@example.org")
def consents(
    ctx: typer.Context,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Email address of the person.", show_default=False)],
    json: Json = False,
) -> None:
    """List when and to what somebody agreed.

    That is known even if the client was deleted or forgotten.
    """
    from skychimp.services.clients import consents

    context = get_context(ctx, json)
    context.out.rows(consents.list_of_address(context.store, context.actor, email), CONSENT_COLUMNS)


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
    """List the fields of your clients.

    They are shown with their types and the number of clients with a value.

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
    epilog="skychimp clients update 7 --name 'Ada King'\nskychimp clients update 7 8 ada@example.org --add-tag vip\n"
    "skychimp clients update --where \"created_at < '-365d'\" --add-tag old --yes"
)
def update(
    ctx: typer.Context,
    client: Annotated[
        list[str] | None, typer.Argument(metavar="CLIENT...", help="Client IDs or email addresses.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='All clients that this query chooses (see "skychimp help queries").', metavar="EXPR"),
    ] = None,
    segment: Annotated[
        str | None, typer.Option("--segment", help="All clients in this segment.", metavar="NAME")
    ] = None,
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
    consent: Consent = None,
    consent_at: ConsentAt = None,
    consent_proof: ConsentProof = None,
    accept_unusual: AcceptUnusual = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Change a client. A new address counts as good, and has no consent of the old one.

    With several clients, change the tags and fields of all of them, record a consent, or mark their addresses as good.
    So do --where and --segment. A consent is added to those recorded before.
    """
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    if (tag is not None) + no_tags + bool(add_tag or remove_tag) > 1:
        raise InvalidValue(
            "--tag, --no-tags and --add-tag or --remove-tag cannot be combined",
            "use --tag to replace all tags, or --add-tag and --remove-tag to change some",
        )
    selection = _selection(context, where, segment)
    if bool(client) == (selection is not None):
        problem = "CLIENT and --where or --segment cannot be combined" if client else "no client selected"
        raise InvalidValue(problem, "use CLIENT, or --where and --segment")
    client = client or []
    if len(client) != 1 and (email is not None or name is not None or comment is not None):
        raise InvalidValue("--email, --name and --comment change one client", "name only one client")
    warn_of_unknown_tags(context, remove_tag or [])
    values: _NewValues = {
        "tags": [] if no_tags else tag,
        "add_tags": add_tag or [],
        "remove_tags": remove_tag or [],
        "fields": _parse_fields(field),
        "good": good,
        "consent": read_consent(context, consent, consent_at, consent_proof),
    }
    if selection is not None:
        _change_selected(context, selection, values, yes=yes)
        return
    if len(client) > 1:
        _show_changes(context, clients.change_several(context.store, context.actor, client, **values))
        return
    changed = clients.change(
        context.store,
        context.actor,
        client[0],
        email=email,
        name=name,
        comment=comment,
        rules=_address_rules(context, accept_unusual),
        **values,
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
    When and to what the person agreed stays without the address, as proof. It allows no more mail.
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

    It has the columns email, name, comment and tags. Other columns become fields of the clients. See "skychimp help fields".
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
                rules=_address_rules(context, accept_unusual),
                consent=given,
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
        raise InvalidValue("--json needs an output file", "use --format jsonl to export JSON lines to stdout")
    module = _format_module(format, file)
    warn_of_unknown_tags(context, [] if tag is None else [tag])
    selection = _selection(context, where, segment)
    exported = clients.export(context.store, context.actor, tag, selection)
    if file == "-":
        module.write(sys.stdout, exported)
        return
    with open_output_file(context, file, force=force) as opened, context.out.progress("exporting") as report_progress:
        total = clients.count(context.store, context.actor, tag, selection)
        rows = _with_progress(exported.clients, total, report_progress)
        number = module.write(opened, exported._replace(clients=rows))
    context.out.record({"clients": number, "file": file})


def _show_changes(context: Context, changes: Sequence["Change"]) -> None:
    """Show clients that were changed together, how many have other tags or fields now, and how to take that back."""
    from skychimp.services.clients.clients import tag_change

    context.out.rows([change.new for change in changes], COLUMNS)
    by_undo: dict[tuple[str, ...], list[int]] = {}
    for change in changes:
        undo = _undo(tag_change(change))
        undo += tuple(chain.from_iterable(("--field", text) for text in _old_fields(change)))
        if undo:
            by_undo.setdefault(undo, []).append(change.new.id)
    number = sum(map(len, by_undo.values()))
    what = "tags or fields" if any(old.fields != new.fields for old, new in changes) else "tags"
    context.out.note(f"{count_of(number, 'client')} of {len(changes):,} got other {what}")
    for options, ids in by_undo.items():
        context.out.note(f"to take it back: {shell.command('clients', 'update', *ids, *options)}")


class _NewValues(TypedDict):
    """What to change of one or several clients."""

    tags: list[str] | None
    add_tags: list[str]
    remove_tags: list[str]
    fields: dict[str, str]
    good: bool
    consent: "GivenConsent | None"


def _change_selected(context: Context, selection: "Selection", values: _NewValues, *, yes: bool) -> None:
    """Change the clients of a query or segment, after asking, and tell how to take that back."""
    from skychimp.services.clients import clients

    number = clients.count(context.store, context.actor, None, selection)
    if not any(values.values()) and values["tags"] is None:
        options = "--tag, --add-tag, --remove-tag, --no-tags, --field, --consent or --good"
        raise InvalidValue("nothing to change", f"use {options}")
    if number:
        warning = " (the old values of the fields are lost)" if values["fields"] else ""
        context.confirm(f"change {count_of(number, 'client')}{warning}", yes=yes)
    with context.out.progress("changing", number, delay_s=1) as report_progress:
        result = clients.change_selected(
            context.store,
            context.actor,
            selection,
            **values,
            on_batch=lambda done: report_progress(done, "clients", number),
        )
    changed = sum(map(len, result.changed.values()))
    context.out.record({"selected": result.selected, "other_tags": changed})
    context.out.note(f"{count_of(changed, 'client')} of {result.selected:,} got other tags")
    for difference, ids in result.changed.items():
        _explain_undo(context, difference, ids, selection)


def _explain_undo(context: Context, difference: "TagChange", ids: list[int], selection: "Selection") -> None:
    """Tell how to take back a change of these clients' tags: by their ids, or by a query if one chooses just them."""
    from skychimp.services.clients.selection import find_query_of

    undo = _undo(difference)
    if len(ids) <= MOST_IDS_SHOWN:
        context.out.note(f"to take it back: {shell.command('clients', 'update', *ids, *undo)}")
        return
    queries = ["tag = '{}'".format(tag.replace("'", "''")) for tag in difference.added]
    queries += [selection.where] if selection.where is not None and selection.segment is None else []
    query = find_query_of(context.store, context.actor, ids, queries, selection.timezone)
    if query is not None:
        context.out.note(f"to take it back: {shell.command('clients', 'update', '--where', query, *undo)}")
    else:
        words = [f"added {', '.join(difference.added)}"] if difference.added else []
        words += [f"removed {', '.join(difference.removed)}"] if difference.removed else []
        context.out.note(f"{count_of(len(ids), 'client')}: {', '.join(words)}; no query finds exactly these clients")


def _undo(difference: "TagChange") -> tuple[str, ...]:
    """Return the options that take back a change of tags."""
    removed = (("--remove-tag", tag) for tag in difference.added)
    return tuple(chain(chain.from_iterable(removed), *(("--add-tag", tag) for tag in difference.removed)))


def _selection(context: Context, where: str | None, segment: str | None) -> "Selection | None":
    """Return the clients that the options --where and --segment select, None without them."""
    if where is None and segment is None:
        return None
    from skychimp.services.clients.selection import Selection

    return Selection(where, segment, context.settings.mail.read_timezone())


def _old_fields(change: "Change") -> list[str]:
    """Return the fields that have changed as KEY=VALUE with the old values."""
    from skychimp.fields import format_value

    old, new = change.old.fields, change.new.fields
    names = sorted({name for name, _ in old.items() ^ new.items()})
    return [f"{name}={format_value(old.get(name, ''))}" for name in names]


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

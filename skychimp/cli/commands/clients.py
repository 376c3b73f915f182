"""The `skychimp clients` commands: manage clients."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from skychimp import shell
from skychimp.cli.commands.clients_files import EXPORT_EXAMPLE, IMPORT_EXAMPLES, export_clients, import_clients
from skychimp.cli.commands.clients_update import EXAMPLES as UPDATE_EXAMPLES
from skychimp.cli.commands.clients_update import update
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.several import Kind, delete_all, show_all
from skychimp.cli.display.tag_warnings import warn_of_unknown_tags
from skychimp.cli.options.client_options import (
    COLUMNS,
    AcceptUnusual,
    FieldValues,
    InSegment,
    Where,
    address_rules,
    parse_fields,
    read_selection,
    show_client,
    suggest_message,
    warn_if_suppressed,
)
from skychimp.cli.options.columns import Columns, choose_columns
from skychimp.cli.options.consent_options import Consent, ConsentAt, ConsentProof, read_consent
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint
from skychimp.text import count_of
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.services.clients.clients import ClientInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

CONSENT_COLUMNS = {
    "at": tr("At"),
    "wording": tr("Consent"),
    "source": tr("Source"),
    "proof": tr("Proof"),
    "recorded_at": tr("Recorded"),
    "forgotten_at": tr("Forgotten"),
}  # fmt: skip

TAG_COLUMNS = {"tag": tr("Tag"), "clients": tr("Clients")}

FIELD_COLUMNS = {"name": tr("Field"), "type": tr("Type"), "clients": tr("Clients")}

ClientNames = Annotated[
    list[str], typer.Argument(metavar="CLIENT...", help="Client IDs or email addresses.", show_default=False)
]


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
    rules = address_rules(context, accept_unusual)
    created = clients.create(
        context.store,
        context.actor,
        email=email,
        name=name,
        comment=comment,
        tags=tag or [],
        rules=rules,
        fields=parse_fields(field),
        consent=read_consent(context, consent, consent_at, consent_proof),
    )
    show_client(context, vars(created))
    warn_if_suppressed(context, created)
    suggest_message(context)


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
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List your clients."""
    from skychimp.services.clients import clients

    context = get_context(ctx, json)
    shown = choose_columns(context, columns, COLUMNS, clients.ClientInfo)
    options = list_options(limit, offset, search, sort)
    warn_of_unknown_tags(context, [] if tag is None else [tag])
    selection = read_selection(context, where, segment)
    rows = clients.list_clients(
        context.store, context.actor, options, tag, selection=selection, only_bad=bad, only_suppressed=suppressed
    )
    is_filtered = bad or suppressed or any(each is not None for each in (search, tag, selection))
    none_yet = tr("no clients yet; {hint}", hint=run_hint("clients", "import", "FILE.csv"))
    context.out.rows(rows, shown, noun="client", empty=none_yet, is_filtered=is_filtered)


@app.command(epilog="skychimp clients show 7 ada@example.org")
def show(ctx: typer.Context, client: ClientNames, json: Json = False) -> None:
    """Show clients, what keeps mail from them, and their consents."""
    from skychimp.services.clients import clients
    from skychimp.services.listing import find_all

    context = get_context(ctx, json)
    found = find_all(client, lambda name: clients.show(context.store, context.actor, name))

    def whole(shown: "ClientInfo") -> dict[str, Any]:
        return _with_lists(context, shown)

    show_all(context, found, Kind(_describe, lambda shown: show_client(context, whole(shown)), COLUMNS, whole))


def _with_lists(context: Context, client: "ClientInfo") -> dict[str, Any]:
    """Return a client with what keeps mail from it, and with its consents."""
    from skychimp.services.clients import consents, suppressions

    found = suppressions.find_covering(context.store, context.actor, client.email)
    given = consents.list_of_client(context.store, context.actor, client.email)
    if context.out.json:
        return vars(client) | {"suppressions": [*map(vars, found)], "consents": [*map(vars, given)]}
    lists = {"suppressions": [*map(suppressions.why, found)], "consents": [*map(consents.in_words, given)]}
    return vars(client) | lists


def _describe(client: "ClientInfo") -> Phrase:
    return tr("client {id}, {email}", id=client.id, email=client.email)


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
    no_tags = tr("no tags yet; {hint}", hint=run_hint("clients", "update", "CLIENT", "--add-tag", "TAG"))
    context.out.rows(rows, TAG_COLUMNS, noun="tag", empty=no_tags, is_filtered=search is not None)


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
                tr("--type needs the name of a field"), run_hint("clients", "fields", "NAME", "--type", new_type)
            )
        no_fields = tr("no fields yet; {hint}", hint=run_hint("clients", "update", "CLIENT", "--field", "KEY=VALUE"))
        context.out.rows(client_fields.list_fields(context.store, context.actor), FIELD_COLUMNS, empty=no_fields)
    elif new_type is None:
        context.out.record(client_fields.show(context.store, context.actor, field))
    else:
        context.out.record(client_fields.change_type(context.store, context.actor, field, FieldType(new_type)))


app.command(epilog=UPDATE_EXAMPLES)(update)


@app.command()
def delete(ctx: typer.Context, client: ClientNames, yes: Yes = False, json: Json = False) -> None:
    """Delete clients. The log of what was sent to them is kept.

    A later import can bring a client back. To send nothing more, use `skychimp suppressions add`.
    """
    from skychimp.services.clients import clients
    from skychimp.services.listing import find_all

    context = get_context(ctx, json)
    deleted = delete_all(
        context,
        "client",
        find_all(client, lambda name: clients.show(context.store, context.actor, name)),
        lambda target: clients.remove(context.store, context.actor, str(target.id)),
        Kind(_describe, lambda target: show_client(context, vars(target)), COLUMNS),
        yes=yes,
    )
    if addresses := [each.email for each in deleted if not each.suppressed]:
        how = shell.command("suppressions", "add", *shell.arguments(*addresses))
        context.out.note(
            tr("an import can bring this client back; to send it nothing more: {command}", command=how)
            if len(addresses) == 1
            else tr("an import can bring these clients back; to send them nothing more: {command}", command=how)
        )


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
    records = tr(
        "{clients}, {emails} in the log",
        clients=count_of(counts.clients, "client"),
        emails=count_of(counts.deliveries, "email"),
    )
    context.confirm(tr("erase all records of {email} ({records})", email=email, records=records), yes=yes)
    context.out.record(privacy.forget(context.store, context.actor, email, everywhere=all_users))
    context.out.note(tr("exported files, emails in the outbox and backups may still contain this person's data"))


app.command("import", epilog=IMPORT_EXAMPLES)(import_clients)
app.command("export", epilog=EXPORT_EXAMPLE)(export_clients)

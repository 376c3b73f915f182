"""Read the options of the `skychimp clients` commands, and show clients."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from skychimp.cli.context import Context
from skychimp.errors import InvalidValue
from skychimp.text import shortened
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.addresses import Rules
    from skychimp.services.clients.clients import ClientInfo
    from skychimp.services.clients.selection import Selection

COLUMNS = {
    "id": tr("ID"), "email": tr("Email"), "name": tr("Name"), "tags": tr("Tags"), "bad_reason": tr("Bad address"),
    "suppressed": tr("Suppressed"),
}  # fmt: skip

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


def read_selection(context: Context, where: str | None, segment: str | None) -> "Selection | None":
    """Return the clients that the options --where and --segment select, None without them."""
    if where is None and segment is None:
        return None
    from skychimp.services.clients.selection import Selection

    return Selection(where, segment, context.settings.mail.read_timezone())


def parse_fields(given: list[str] | None) -> dict[str, str]:
    """Return the texts of fields by their names. Raises InvalidValue for what is not KEY=VALUE."""
    fields: dict[str, str] = {}
    for text in given or []:
        key, separator, value = text.partition("=")
        if not separator:
            raise InvalidValue(
                tr("{value} is not KEY=VALUE", value=shortened(text)), tr("use for example --field city=Berlin")
            )
        if key in fields:
            raise InvalidValue(tr("the field {key} is given twice", key=shortened(key)), tr("name each field once"))
        fields[key] = value
    return fields


def address_rules(context: Context, accept_unusual: bool) -> "Rules":
    """Return which addresses the option --accept-unusual and the settings allow."""
    from skychimp.addresses import Rules

    return Rules(accept_unusual, context.settings.mail.allow_local)


def show_client(context: Context, client: dict[str, Any]) -> None:
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


def warn_if_suppressed(context: Context, client: "ClientInfo") -> None:
    """Warn that a client gets no email, and say why."""
    from skychimp.services.clients import suppressions

    if client.suppressed is not None:
        found = suppressions.find_covering(context.store, context.actor, client.email)
        for each in found[:1]:
            context.out.warn(
                tr("{email} is {state}; it gets no email", email=client.email, state=suppressions.why(each))
            )


def suggest_message(context: Context) -> None:
    """Suggest to write a message to the clients."""
    context.out.next("messages", "create", "--subject", "Hello {{ client.name }}")

"""Make keys that sign emails with DKIM (`skychimp dkim`)."""

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import InvalidValue
from skychimp.translation import tr

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


class KeyType(StrEnum):
    """The kind of a key."""

    RSA = "rsa"
    ED25519 = "ed25519"


@app.callback()
def _group() -> None:
    """Keep `keygen` a command of the group, although it is the only one."""


@app.command(epilog="skychimp dkim keygen\nskychimp dkim keygen --type ed25519 --selector s2 --out s2.pem")
def keygen(
    ctx: typer.Context,
    key_type: Annotated[
        KeyType, typer.Option("--type", help="Kind of key. All receivers verify rsa.", metavar="TYPE")
    ] = KeyType.RSA,
    selector: Annotated[
        str | None,
        typer.Option(help="Selector (default: type and month, such as rsa-202611).", metavar="NAME"),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Domain that signs (default: dkim.domain, or the sender's).", metavar="DOMAIN")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="File to create (default: dkim-SELECTOR.pem here).", metavar="FILE")
    ] = None,
    json: Json = False,
) -> None:
    """Make a key that signs emails, and show the DNS record to publish.

    The file is readable by its owner only. An existing file is never replaced. Nothing is signed until dkim.domain,
    dkim.selector and dkim.key_file are set.
    """
    from skychimp.config import shared
    from skychimp.config.types import parse_domain, parse_selector
    from skychimp.delivery.composing.dkim import key_record
    from skychimp.services.operations import dkim_keys

    context = get_context(ctx, json)
    shared.require_operator(tr("write files as this account"))
    selector = parse_selector(selector or f"{key_type}-{datetime.now(UTC):%Y%m}")
    domain = parse_domain(domain) if domain is not None else _usual_domain(context)
    path = (out or Path(f"dkim-{selector}.pem")).expanduser().absolute()
    key = dkim_keys.create_key_file(path, domain=domain, selector=selector, rsa=key_type == KeyType.RSA)
    record = key_record(key)
    if context.out.json:
        dns = {"name": record.name, "type": "TXT", "value": record.text, "strings": record.strings}
        made = {"domain": domain, "selector": selector, "type": key_type, "key_file": str(path), "record": dns}
        context.out.record(made)
        return
    strings = " ".join(f'"{string}"' for string in record.strings)
    context.out.record({"key_file": path, "name": record.name, "type": "TXT", "value": strings})
    context.out.note(tr("publish this DNS record, and set dkim.domain, dkim.selector and dkim.key_file"))
    context.out.next("doctor")


def _usual_domain(context: Context) -> str:
    """Return the domain in the settings. Raises InvalidValue if there is none."""
    from skychimp import addresses
    from skychimp.services.operations.sender_dns import domain_of

    settings = context.settings
    if settings.dkim.domain is not None:
        return settings.dkim.domain
    if settings.mail.sender is None:
        raise InvalidValue(tr("no domain for the key"), tr("use --domain, or set mail.sender"))
    return domain_of(addresses.parse_sender(settings.mail.sender)[1])

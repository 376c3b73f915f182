"""`skychimp inbound`: process bounces, complaints and unsubscribe requests."""

import sys
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from skychimp.cli.context import Context, Json, get_context
from skychimp.errors import ConfigError, InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.services.inbound.processing import Summary

app = typer.Typer(rich_markup_mode="rich")


@app.command(epilog="skychimp inbound read --recipient 'bounces+TOKEN@example.org' - < bounce.eml")
def read(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File with one email, or - for stdin.", show_default=False)
    ],
    recipient: Annotated[
        str | None,
        typer.Option(
            help="Recipient of the envelope (default: Delivered-To, X-Original-To or To).",
            metavar="ADDRESS",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Process one email, such as one from a mail server's pipe.

    Exits with status 75 after any error, so that the mail server keeps the email and tries again. Exits with status 0
    if the email is not for Skychimp.
    """
    from skychimp.services.inbound import processing
    from skychimp.services.inbound.processing import ReceivedMail

    context = _unattended(ctx, json)
    received = ReceivedMail(_read_email(file), recipient)
    settings = context.settings
    _show(context, processing.process(context.store, settings.inbound, [received], settings.delivery.limits).summary)


@app.command(epilog="skychimp inbound maildir /var/mail/bounces/Maildir")
def maildir(
    ctx: typer.Context,
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Maildir (default: inbound.maildir).", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Process the new mail of a Maildir. It moves to "cur", and nothing is deleted."""
    from skychimp.services.inbound import maildir as service

    context = _unattended(ctx, json)
    settings = context.settings
    chosen = folder or settings.inbound.maildir
    if chosen is None:
        raise ConfigError(tr("inbound.maildir is not set"), tr("pass a Maildir, or set inbound.maildir"))
    _show(context, service.process_new(context.store, settings.inbound, chosen, limits=settings.delivery.limits))


@app.command(epilog="skychimp inbound imap")
def imap(ctx: typer.Context, json: Json = False) -> None:
    """Process the unseen mail of the mailbox in inbound.imap_url. It is marked as seen, and nothing is deleted."""
    from skychimp.services.inbound import mailbox

    context = _unattended(ctx, json)
    settings = context.settings
    _show(context, mailbox.process_unseen(context.store, settings.inbound, limits=settings.delivery.limits))


def _unattended(ctx: typer.Context, json: bool) -> Context:
    context = get_context(ctx, json)
    context.is_unattended = True
    return context


def _read_email(name: str) -> bytes:
    """Return the part of an email that is looked at. Raises InvalidValue."""
    from skychimp.config.named_files import open_input_file

    if name == "-":
        return _read_part(sys.stdin.buffer)
    try:
        with open_input_file(name) as file:
            return _read_part(file)
    except OSError as error:
        raise InvalidValue(
            tr("cannot read {name}: {strerror}", name=name, strerror=error.strerror),
            tr("use a readable file, or - for stdin"),
        ) from None


def _read_part(file: BinaryIO) -> bytes:
    """Read all of a file, as a mail server expects of a pipe, and return its first part."""
    from skychimp.delivery.inbound.mime_parts import MAX_SIZE

    data = file.read(MAX_SIZE)
    while file.read(MAX_SIZE):
        pass
    return data


def _show(context: Context, summary: "Summary") -> None:
    context.out.record(asdict(summary), [field.name for field in fields(summary)])

"""The `skychimp messages variants` commands: what clients get instead of a message, by a field of theirs."""

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, Yes, get_context
from skychimp.cli.display.html_errors import named_in_errors
from skychimp.cli.display.several import Kind, delete_all
from skychimp.cli.options.attachment_options import Attach, NoAttachments, read_attachments
from skychimp.cli.options.message_options import (
    Body,
    BodyFile,
    HtmlFile,
    Layout,
    Markdown,
    Plain,
    Preheader,
    chosen_format,
    edit_body,
    read_parts,
    report_body,
    report_merge_tags,
)
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr

if TYPE_CHECKING:
    from skychimp.cli.context import Context
    from skychimp.services.messages.variants import VariantInfo

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Manage variants of a message, such as translations.",
    epilog="skychimp messages variants set 1 ru --subject Новости --body-file news.ru.md",
)

COLUMNS = {
    "value": tr("Value"),
    "subject": tr("Subject"),
    "format": tr("Format"),
    "clients": tr("Clients"),
    "updated_at": tr("Changed"),
}

MessageId = Annotated[int, typer.Argument(metavar="MESSAGE", help="Message ID.", show_default=False)]
Value = Annotated[
    str, typer.Argument(metavar="VALUE", help="Value of the field. Case does not matter.", show_default=False)
]


@app.command("set", epilog="skychimp messages variants set 1 ru --subject Новости --body-file news.ru.md")
def set_(
    ctx: typer.Context,
    message: MessageId,
    value: Value,
    subject: Annotated[str | None, typer.Option(help="Subject. A Markdown body can begin with it too.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    layout: Layout = None,
    preheader: Preheader = None,
    plain: Plain = False,
    attach: Attach = None,
    no_attachments: NoAttachments = False,
    json: Json = False,
) -> None:
    """Create or change the variant for a value of the field.

    A new variant has the format and the layout of the message. The attachments of the message go with every variant.
    --attach adds files to this one. Without options, your $EDITOR opens.
    """
    from skychimp.services.messages import messages, variants
    from skychimp.services.messages.variants import VariantChanges

    context = get_context(ctx, json)
    consent = context.settings.delivery.require_consent
    text, html = read_parts(body, body_file, html_file)
    new_format = chosen_format(markdown=markdown, html=html_file is not None, plain=plain)
    attached = read_attachments(context, attach, text_file=html_file or body_file, removes_all=no_attachments)

    def save(text: str | None) -> "VariantInfo":
        changes = VariantChanges(subject, text, new_format, html, layout, preheader, attached)
        with named_in_errors(html_file):
            return variants.set_variant(context.store, context.actor, message, value, changes, require_consent=consent)

    draft = variants.find_draft(context.store, context.actor, message, value)
    is_given = attached.is_given or any(each is not None for each in (subject, new_format, layout, preheader))
    has_part = text is not None or html is not None
    if has_part or (is_given and draft.body):
        saved = save(text)
    else:
        saved = edit_body(context, draft.body, new_format or draft.format, save)
    _show(context, saved)
    report_body(context, saved, text, html)
    report_merge_tags(context, subject, text, html)
    if not saved.clients:
        context.out.note(tr("no client has this value yet"))
    open_mailings = messages.open_mailings(context.store, message, context.settings.mail.language)
    if open_mailings:
        again = run_hint("messages", "update", message, "--also-open")
        context.out.note(
            tr(
                "mailing {mailings} still sends the old content; to change what was not sent yet, {hint}",
                mailings=", ".join(map(str, open_mailings)),
                hint=again,
            )
        )
    context.out.next("messages", "preview", message, "--variant", saved.value)


@app.command("list", epilog="skychimp messages variants list 1")
def list_(ctx: typer.Context, message: MessageId, json: Json = False) -> None:
    """List the variants of a message, and how many clients get each."""
    from skychimp.services.messages import variants

    context = get_context(ctx, json)
    rows = variants.list_variants(context.store, context.actor, message)
    none_yet = tr("no variants yet; {hint}", hint=run_hint("messages", "variants", "set", "--help"))
    context.out.rows(rows, COLUMNS, noun="variant", empty=none_yet)


@app.command(epilog="skychimp messages variants delete 1 ru --yes")
def delete(
    ctx: typer.Context,
    message: MessageId,
    value: Annotated[list[str], typer.Argument(metavar="VALUE...", help="Values of the variants.", show_default=False)],
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Delete variants of a message. Their clients get the message itself then."""
    from skychimp.permissions import Action
    from skychimp.services.listing import find_all
    from skychimp.services.messages import variants

    context = get_context(ctx, json)
    consent = context.settings.delivery.require_consent
    found = find_all(
        value,
        lambda each: variants.show(context.store, context.actor, message, each, action=Action.CHANGE_MESSAGES),
    )
    delete_all(
        context,
        "variant",
        found,
        lambda target: variants.remove(context.store, context.actor, message, target.value, require_consent=consent),
        Kind(_describe, partial(_show, context), COLUMNS),
        yes=yes,
    )


def _describe(variant: "VariantInfo") -> Phrase:
    return tr('variant {value} ("{subject}")', value=variant.value, subject=variant.subject)


def _show(context: "Context", variant: "VariantInfo") -> None:
    context.out.record(variant, None if context.out.json else list(COLUMNS))

"""The `skychimp messages` commands: write, preview and test messages."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skychimp.cli.commands import messages_variants
from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options
from skychimp.cli.display.html_errors import named_in_errors
from skychimp.cli.display.outbox_note import how_to_leave_the_outbox
from skychimp.cli.display.several import Kind, change_all, delete_all, require_one, show_all
from skychimp.cli.options.attachment_options import Attach, NoAttachments, attachments_folder, read_attachments
from skychimp.cli.options.columns import Columns, choose_columns
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
    warn_of_unknown_field,
)
from skychimp.errors import InvalidValue, SkychimpError
from skychimp.shell import run_hint
from skychimp.translation import Phrase, tr, translated

if TYPE_CHECKING:
    from skychimp.config.settings import MailSettings
    from skychimp.delivery.composing.extras import Extras
    from skychimp.services.messages.messages import MessageInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(messages_variants.app, name="variants")

COLUMNS = {"id": tr("ID"), "subject": tr("Subject"), "format": tr("Format"), "updated_at": tr("Changed")}
TEST_COLUMNS = {"to": tr("To"), "reply": tr("Reply"), "relay": tr("Mail server")}
CHECK_COLUMNS = {
    "level": tr("Level"),
    "about": tr("About"),
    "variant": tr("Variant"),
    "where": tr("Where"),
    "found": tr("Result"),
    "remedy": tr("Fix"),
}
CHECK_DELAY_S = 0.5
EXIT_PROBLEM = 1

MessageId = Annotated[int, typer.Argument(metavar="ID", help="Message ID.", show_default=False)]
MessageIds = Annotated[list[int], typer.Argument(metavar="ID...", help="Message IDs.", show_default=False)]
Client = Annotated[str | None, typer.Option(help="ID or email address of the client to show it for.")]
Digest = Annotated[
    bool, typer.Option("--digest", help="Add the blog's new posts at {{ posts }}, or after the text body.")
]
VariantBy = Annotated[
    str | None, typer.Option(help="Field of clients that chooses their variant, such as lang.", metavar="FIELD")
]
Variant = Annotated[str | None, typer.Option(help="Variant to show, by its value.", metavar="VALUE")]


@dataclass(frozen=True)
class SentTest:
    """A message that was sent to one address, with the mail server's final reply, None if that was lost."""

    to: str
    reply: str | None
    relay: str


@app.command(epilog="skychimp messages create --subject 'Hello {{ client.name }}' --body-file hello.md --markdown")
def create(
    ctx: typer.Context,
    subject: Annotated[str | None, typer.Option(help="Subject. A Markdown body can begin with it too.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    layout: Layout = None,
    preheader: Preheader = None,
    digest: Digest = False,
    attach: Attach = None,
    variant_by: VariantBy = None,
    json: Json = False,
) -> None:
    """Create a message. Without a body or an HTML part, your $EDITOR opens."""
    from skychimp.delivery.composing.compose import MessageContent
    from skychimp.models import Format
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    if subject is None and not markdown:
        raise InvalidValue(tr("the message has no subject"), tr("use --subject"))
    text, html = read_parts(body, body_file, html_file)
    body_format = chosen_format(markdown=markdown, html=html_file is not None) or Format.TEXT
    attached = read_attachments(context, attach, text_file=html_file or body_file)

    def save(text: str) -> "MessageInfo":
        content = MessageContent(subject or "", text, body_format, html)
        values = {"layout": layout, "preheader": preheader, "variant_by": variant_by}
        with named_in_errors(html_file):
            return messages.create(context.store, context.actor, content, digest=digest, attached=attached, **values)

    has_part = text is not None or html is not None
    created = save(text or "") if has_part else edit_body(context, "", body_format, save)
    _show(context, created)
    report_body(context, created, text, html)
    report_merge_tags(context, created.subject, created.body, html)
    if created.digest and context.settings.blog.url is None:
        context.out.note(tr("the posts have no links because blog.url is not set"))
    if variant_by is None:
        context.out.next("messages", "preview", created.id)
    else:
        warn_of_unknown_field(context, variant_by)
        context.out.next("messages", "variants", "set", created.id, "--help")


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    columns: Columns = None,
    json: Json = False,
) -> None:
    """List your messages. A manager sees all messages."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    shown = choose_columns(context, columns, COLUMNS, messages.MessageInfo)
    rows = messages.list_messages(context.store, context.actor, list_options(limit, offset, search, sort))
    none_yet = tr("no messages yet; {hint}", hint=run_hint("messages", "create", "--help"))
    context.out.rows(rows, shown, noun="message", empty=none_yet, is_filtered=search is not None)


@app.command()
def show(ctx: typer.Context, message: MessageIds, json: Json = False) -> None:
    """Show messages, and how many clients get each of their variants."""
    from skychimp.services.listing import find_all
    from skychimp.services.messages import messages, variants

    context = get_context(ctx, json)

    def with_variants(message: "MessageInfo") -> dict[str, Any]:
        counts = variants.count(context.store, message)
        return vars(message) | ({} if counts is None else vars(counts))

    found = find_all(message, lambda each: messages.show(context.store, context.actor, each))
    kind = Kind(_describe, lambda each: context.out.record(with_variants(each)), COLUMNS, with_variants)
    show_all(context, found, kind)


def _describe(message: "MessageInfo") -> Phrase:
    return tr('message {id} ("{subject}")', id=message.id, subject=message.subject)


@app.command(epilog="skychimp messages update 1 --body-file hello.md --markdown")
def update(
    ctx: typer.Context,
    message: MessageIds,
    subject: Annotated[str | None, typer.Option(help="New subject.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    layout: Layout = None,
    preheader: Preheader = None,
    plain: Plain = False,
    digest: Annotated[
        bool | None, typer.Option("--digest/--no-digest", help="Whether to add the blog's new posts.")
    ] = None,
    attach: Attach = None,
    no_attachments: NoAttachments = False,
    variant_by: VariantBy = None,
    no_variant_by: Annotated[
        bool, typer.Option("--no-variant-by", help="Send the message itself to all clients. Its variants are kept.")
    ] = False,
    also_open: Annotated[
        bool, typer.Option("--also-open", help="Also change the emails that are queued and were not sent yet.")
    ] = False,
    json: Json = False,
) -> None:
    """Change a message. Without options, your $EDITOR opens.

    With several messages, change the format, layout or attachments of all of them.

    Emails that are queued already keep the old content, unless you use --also-open.
    """
    from skychimp.permissions import Action
    from skychimp.services.listing import find_all
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    require_one(message, subject=subject, body=body, body_file=body_file, html_file=html_file, preheader=preheader)
    if variant_by is not None and no_variant_by:
        raise InvalidValue(tr("--variant-by and --no-variant-by cannot be combined"), tr("use one of them"))
    text, html = read_parts(body, body_file, html_file)
    new_format = chosen_format(markdown=markdown, html=html_file is not None, plain=plain)
    attached = read_attachments(context, attach, text_file=html_file or body_file, removes_all=no_attachments)

    def save(target: "MessageInfo", text: str | None) -> "MessageInfo":
        with named_in_errors(html_file):
            return messages.change(
                context.store,
                context.actor,
                target.id,
                subject=subject,
                body=text,
                format=new_format,
                html=html,
                digest=digest,
                layout=layout,
                preheader=preheader,
                also_open=also_open,
                attached=attached,
                variant_by=variant_by,
                no_variant_by=no_variant_by,
                language=context.settings.mail.language,
                require_consent=context.settings.delivery.require_consent,
            )

    def edit(target: "MessageInfo") -> "MessageInfo":
        return edit_body(context, target.body, target.format, partial(save, target))

    is_given = also_open or attached.is_given or variant_by is not None or no_variant_by
    opens_editor = not is_given and all(
        value is None for value in (text, html, subject, new_format, digest, layout, preheader)
    )
    if opens_editor and len(message) > 1:
        raise InvalidValue(tr("nothing to change"), tr("use --layout, --markdown, --plain, --digest or --attach"))
    found = find_all(
        message, lambda each: messages.show(context.store, context.actor, each, action=Action.CHANGE_MESSAGES)
    )
    change = edit if opens_editor else lambda target: save(target, text)
    for changed in change_all(context, "updated", found, change, Kind(_describe, partial(_show, context), COLUMNS)):
        _report_change(context, changed, subject, text, html)
    if variant_by is not None:
        warn_of_unknown_field(context, variant_by)
    if len(found) == 1:
        context.out.next("messages", "preview", found[0].id)


def _report_change(
    context: Context, changed: "MessageInfo", subject: str | None, text: str | None, html: str | None
) -> None:
    """Say what else a person should know of a changed message, by the parts that were given."""
    from skychimp.services.messages import messages

    if text is not None and html is None and changed.html is not None:
        context.out.note(tr("the HTML part was not changed; use --html-file to replace it, or --plain or --markdown"))
    report_body(context, changed, text, html)
    report_merge_tags(context, subject, text, html)
    language = context.settings.mail.language
    if open_mailings := [] if changed.digest else messages.open_mailings(context.store, changed.id, language):
        context.out.note(
            tr(
                "mailing {mailings} still sends the old content; --also-open changes what was not sent yet",
                mailings=", ".join(map(str, open_mailings)),
            )
        )


@app.command()
def delete(ctx: typer.Context, message: MessageIds, yes: Yes = False, json: Json = False) -> None:
    """Delete messages that no mailing uses."""
    from skychimp.permissions import Action
    from skychimp.services.listing import find_all
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    found = find_all(
        message, lambda each: messages.show(context.store, context.actor, each, action=Action.CHANGE_MESSAGES)
    )
    delete_all(
        context,
        "message",
        found,
        lambda target: messages.remove(context.store, context.actor, target.id),
        Kind(_describe, partial(_show, context), COLUMNS),
        yes=yes,
    )


@app.command(epilog="skychimp messages preview 1 --client ada@example.org")
def preview(
    ctx: typer.Context,
    message: MessageId,
    client: Client = None,
    variant: Variant = None,
    open_: Annotated[
        bool, typer.Option("--open", help="Show it in a browser, as on a desktop and on a phone.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a message as a client would read it. "mailings preview" shows when a mailing is sent."""
    from skychimp.delivery.composing import extras, settings_extras
    from skychimp.services.messages import rendering

    context = get_context(ctx, json)
    sample = settings_extras.make_sample(context.settings)
    if open_:
        _open_preview(context, message, client, variant, sample)
        return
    rendered = rendering.preview(
        context.store,
        context.actor,
        message,
        client,
        variant=variant,
        blog_url=context.settings.blog.url,
        extras=sample,
        language=context.settings.mail.language,
    )
    if context.out.json:
        context.out.record(rendered)
        return
    context.out.text(f"To: {rendered.to}\nSubject: {rendered.subject}\n\n{rendered.text}")
    if client is None and context.out.on_terminal:
        context.out.note(tr("this is for a sample client; use --client to choose one of yours"))
    layout = None
    if context.out.on_terminal:
        layout = rendering.find_layout(context.store, context.actor, message, client, variant=variant)
    if rendered.html is not None and layout not in (None, "none"):
        context.out.note(tr("the HTML part has the layout {layout}; --open shows it", layout=layout))
    elif rendered.html is not None:
        context.out.text(f"\n{translated(tr('HTML part:'))}\n\n{rendered.html}")
    for name in rendered.attachments:
        context.out.text(f"\n{translated(tr('Attached: {name}', name=name))}")
    if extras.sample_link(sample) in rendered.text + (rendered.html or ""):
        has_link = context.settings.web.url is not None or context.settings.inbound.address is not None
        if has_link:
            note = tr("the link for unsubscribing is a sample")
        else:
            note = tr(
                "the link for unsubscribing is a sample; emails have none until web.url or inbound.address is set"
            )
        context.out.note(note)
    context.out.next("messages", "test", message, "--to", context.actor.email)


def _open_preview(context: Context, message_id: int, client: str | None, variant: str | None, sample: "Extras") -> None:
    """Show a message in a browser. Raises SkychimpError if there is none, and Denied as `edit_and_save` does."""
    import tempfile
    import webbrowser
    from pathlib import Path

    from skychimp import files
    from skychimp.config import shared
    from skychimp.services.messages import preview_page, rendering

    shared.require_operator(tr("start a browser as this account"), tr("use it without --open"))
    sender = context.settings.mail.sender or context.actor.email
    blog_url = context.settings.blog.url
    email = rendering.compose_preview(
        context.store,
        context.actor,
        message_id,
        client,
        variant=variant,
        sender=sender,
        blog_url=blog_url,
        extras=sample,
        folder=attachments_folder(context),
        language=context.settings.mail.language,
    )
    path = Path(tempfile.mkdtemp(prefix="skychimp-")) / f"message-{message_id}.html"
    files.write_file(path, preview_page.make_page(email).encode())
    context.out.record({"file": str(path)})
    if not webbrowser.open(path.as_uri()):
        raise SkychimpError(tr("cannot start a browser"), tr("open {path} in one, or set BROWSER", path=path))


@app.command(epilog="skychimp messages test 1 --to me@example.org")
def test(
    ctx: typer.Context,
    message: MessageId,
    to: Annotated[list[str], typer.Option(help="Email address to send to (repeatable).", metavar="EMAIL")],
    client: Client = None,
    variant: Variant = None,
    json: Json = False,
) -> None:
    """Send a message to some addresses now, without a mailing.

    Each gets it as the client with this address would, as a sample client would, or as --client would. A suppressed
    address gets none, unless it is your own.
    """
    from skychimp import addresses
    from skychimp.delivery.sending.runner import with_own_sender
    from skychimp.services.clients import suppressions

    context = get_context(ctx, json)
    mail = with_own_sender(context.settings).mail
    rules = addresses.Rules(allow_local=mail.allow_local)
    recipients = list(dict.fromkeys(addresses.parse(each, rules).email for each in to))
    for address in recipients:
        suppressions.require_not_suppressed(context.store, context.actor, address)
    results: list[SentTest] = []
    try:
        results.extend(_send_test(context, mail, message, address, client, variant) for address in recipients)
    finally:
        if len(recipients) > 1:
            context.out.rows(results, TEST_COLUMNS)
    if len(recipients) == 1:
        context.out.record(results[0])
    if mail.transport != "smtp":
        context.out.note(tr("nothing has left this machine"))
        context.out.note(tr("hint: {hint}", hint=how_to_leave_the_outbox(context)))
    context.out.next("mailings", "create", "--help")


def _send_test(
    context: Context, mail: "MailSettings", message_id: int, address: str, client: str | None, variant: str | None
) -> SentTest:
    """Send a message to one address, and return the result."""
    import secrets

    from skychimp.delivery.composing import settings_extras
    from skychimp.delivery.sending.single_email import send_single_email
    from skychimp.services.messages import rendering
    from skychimp.transport.interfaces import OutgoingEmail

    return_path = mail.return_path or ""
    data = rendering.compose_test_email(
        context.store,
        context.actor,
        message_id,
        sender=mail.sender or "",
        to=address,
        client=client,
        variant=variant,
        message_id_header=f"<test.{secrets.token_hex(12)}@{return_path.rpartition('@')[2]}>",
        blog_url=context.settings.blog.url,
        extras=settings_extras.make_sample(context.settings),
        folder=attachments_folder(context),
        language=context.settings.mail.language,
    )
    result = send_single_email(context.settings, context.store, OutgoingEmail(return_path, address, data))
    if result.reply is None:
        context.out.warn(
            tr("the mail server's final reply was lost: the email to {address} may have arrived", address=address)
        )
    return SentTest(address, result.reply and result.reply.text, result.relay)


@app.command(epilog="skychimp messages check 1\nskychimp messages check 1 --online")
def check(
    ctx: typer.Context,
    message: MessageId,
    online: Annotated[bool, typer.Option("--online", help="Also ask web servers for each link and picture.")] = False,
    json: Json = False,
) -> None:
    """Check a message for broken links, missing texts and what spam filters dislike. Nothing is sent.

    Exits with status 1 if there are problems. Warnings do not change the exit status.
    """
    from dataclasses import asdict

    from skychimp.services.messages import checking

    context = get_context(ctx, json)
    findings, checks = [], checking.check(context.store, context.actor, message, context.settings, is_online=online)
    with context.out.progress(tr("checking"), delay_s=CHECK_DELAY_S) as report_progress:
        for finding in checks:
            findings.append(finding)
            report_progress(len(findings), finding.about)
    has_problem = any(finding.level == "problem" for finding in findings)
    if context.out.json:
        rows = [asdict(finding) | {"ok": finding.level == "ok"} for finding in findings]
        context.out.record({"ok": not has_problem, "findings": rows})
    else:
        has_variants = any(finding.variant for finding in findings)
        columns = {key: each for key, each in CHECK_COLUMNS.items() if key != "variant" or has_variants}
        context.out.rows(findings, columns, empty=tr("no problems found"), optional=("about",))
    if has_problem:
        raise typer.Exit(EXIT_PROBLEM)
    context.out.next("messages", "test", message, "--to", context.actor.email)


def _show(context: Context, message: "MessageInfo") -> None:
    context.out.record(message, None if context.out.json else list(COLUMNS))

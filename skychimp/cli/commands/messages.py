"""The `skychimp messages` commands: write, preview and test messages."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, Json, Limit, Offset, Search, Sort, Yes, get_context, list_options, read_text
from skychimp.cli.display.attachment_options import Attach, NoAttachments, attachments_folder, read_attachments
from skychimp.cli.editor import edit_and_save
from skychimp.errors import InvalidValue
from skychimp.shell import run_hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from skychimp.models import Format
    from skychimp.services.messages.messages import MessageInfo

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

COLUMNS = {"id": "ID", "subject": "Subject", "format": "Format", "updated_at": "Changed"}
SHOWN_TAGS = 5
EDITOR_SUFFIXES = {"text": ".txt", "markdown": ".md", "html": ".txt"}
"""The suffix of the file with the body in the editor, by format. The HTML part is not edited there."""

MessageId = Annotated[int, typer.Argument(metavar="ID", help="Message ID.", show_default=False)]
Body = Annotated[
    str | None, typer.Option(help="Text body; {{ client.name }} and other placeholders are filled in.", metavar="TEXT")
]
BodyFile = Annotated[str | None, typer.Option(help="Read the text body from a file, or - for stdin.", metavar="FILE")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Make the HTML part from the body, which is Markdown.")]
HtmlFile = Annotated[
    str | None,
    typer.Option(
        help="Read the HTML part from a file, or - for stdin. Without a body, the text part is made from it.",
        metavar="FILE",
    ),
]
Digest = Annotated[
    bool, typer.Option("--digest", help="Add the blog's new posts at {{ posts }}, or after the text body.")
]


@app.command(epilog="skychimp messages create --subject 'Hello {{ client.name }}' --body-file hello.md --markdown")
def create(
    ctx: typer.Context,
    subject: Annotated[str | None, typer.Option(help="Subject. A Markdown body can begin with it too.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    digest: Digest = False,
    attach: Attach = None,
    json: Json = False,
) -> None:
    """Create a message. Without a body or an HTML part, your $EDITOR opens."""
    from skychimp.delivery.composing.compose import MessageContent
    from skychimp.models import Format
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    if subject is None and not markdown:
        raise InvalidValue("the message has no subject", "use --subject")
    text, html = _read_parts(body, body_file, html_file)
    body_format = _chosen_format(markdown=markdown, html=html_file is not None) or Format.TEXT
    attached = read_attachments(context, attach, text_file=html_file or body_file)

    def save(text: str) -> "MessageInfo":
        content = MessageContent(subject or "", text, body_format, html)
        return messages.create(context.store, context.actor, content, digest=digest, attached=attached)

    has_part = text is not None or html is not None
    created = save(text or "") if has_part else _edit_body(context, "", body_format, save)
    _show(context, created)
    _report_body(context, created, text, html)
    _report_merge_tags(context, created.subject, created.body, html)
    if created.digest and context.settings.blog.url is None:
        context.out.note("the posts have no links because blog.url is not set")
    context.out.next("messages", "preview", created.id)


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your messages. A manager sees all messages."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    rows = messages.list_messages(context.store, context.actor, list_options(limit, offset, search, sort))
    context.out.rows(rows, COLUMNS, empty=f"no messages yet; {run_hint('messages', 'create', '--help')}")


@app.command()
def show(ctx: typer.Context, message: MessageId, json: Json = False) -> None:
    """Show a message."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    context.out.record(messages.show(context.store, context.actor, message))


@app.command(epilog="skychimp messages update 1 --body-file hello.md --markdown")
def update(
    ctx: typer.Context,
    message: MessageId,
    subject: Annotated[str | None, typer.Option(help="New subject.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="Send plain text only; removes the HTML part.")] = False,
    digest: Annotated[
        bool | None, typer.Option("--digest/--no-digest", help="Whether to add the blog's new posts.")
    ] = None,
    attach: Attach = None,
    no_attachments: NoAttachments = False,
    also_open: Annotated[
        bool, typer.Option("--also-open", help="Also change the emails that are queued and were not sent yet.")
    ] = False,
    json: Json = False,
) -> None:
    """Change a message. Without options, your $EDITOR opens.

    Emails that are queued already keep the old content, unless you use --also-open.
    """
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    text, html = _read_parts(body, body_file, html_file)
    new_format = _chosen_format(markdown=markdown, html=html_file is not None, plain=plain)
    attached = read_attachments(context, attach, text_file=html_file or body_file, removes_all=no_attachments)

    def save(text: str | None) -> "MessageInfo":
        return messages.change(
            context.store,
            context.actor,
            message,
            subject=subject,
            body=text,
            format=new_format,
            html=html,
            digest=digest,
            also_open=also_open,
            attached=attached,
        )

    is_given = also_open or attached.is_given
    if not is_given and all(value is None for value in (text, html, subject, new_format, digest)):
        old = messages.show(context.store, context.actor, message)
        changed = _edit_body(context, old.body, old.format, save)
    else:
        changed = save(text)
    _show(context, changed)
    if text is not None and html is None and changed.html is not None:
        context.out.note("the HTML part was not changed; use --html-file to replace it, or --plain or --markdown")
    _report_body(context, changed, text, html)
    _report_merge_tags(context, subject, text, html)
    if open_mailings := [] if changed.digest else messages.open_mailings(context.store, message):
        names = ", ".join(map(str, open_mailings))
        context.out.note(f"mailing {names} still sends the old content; --also-open changes what was not sent yet")
    context.out.next("messages", "preview", message)


@app.command()
def delete(ctx: typer.Context, message: MessageId, yes: Yes = False, json: Json = False) -> None:
    """Delete a message that no mailing uses."""
    from skychimp.permissions import Action
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    target = messages.show(context.store, context.actor, message, action=Action.CHANGE_MESSAGES)
    context.confirm(f'delete message {target.id} ("{target.subject}")', yes=yes)
    _show(context, messages.remove(context.store, context.actor, message))


@app.command(epilog="skychimp messages preview 1 --client ada@example.org")
def preview(
    ctx: typer.Context,
    message: MessageId,
    client: Annotated[str | None, typer.Option(help="ID or email address of the client to show it for.")] = None,
    json: Json = False,
) -> None:
    """Show a message as a client would read it."""
    from skychimp.delivery.composing import extras, settings_extras
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    sample = settings_extras.make_sample(context.settings)
    rendered = messages.preview(
        context.store, context.actor, message, client, blog_url=context.settings.blog.url, extras=sample
    )
    if context.out.json:
        context.out.record(rendered)
        return
    context.out.text(f"To: {rendered.to}\nSubject: {rendered.subject}\n\n{rendered.text}")
    if rendered.html is not None:
        context.out.text(f"\nHTML part:\n\n{rendered.html}")
    for name in rendered.attachments:
        context.out.text(f"\nAttached: {name}")
    if extras.sample_link(sample) in rendered.text + (rendered.html or ""):
        context.out.note("the link for unsubscribing is a sample")
    context.out.next("mailings", "create", "--message", message, "--start", "now", "--every", "day", "--all-clients")


@app.command(epilog="skychimp messages test 1 --to me@example.org")
def test(
    ctx: typer.Context,
    message: MessageId,
    to: Annotated[str, typer.Option(help="Email address to send to.", metavar="EMAIL")],
    json: Json = False,
) -> None:
    """Send a message to one address now, without a mailing. A suppressed address gets none, unless it is your own."""
    import secrets

    from skychimp import addresses
    from skychimp.delivery.composing import settings_extras
    from skychimp.delivery.sending.runner import with_own_sender
    from skychimp.delivery.sending.single_email import send_single_email
    from skychimp.services.clients import suppressions
    from skychimp.services.messages import messages
    from skychimp.transport.interfaces import OutgoingEmail

    context = get_context(ctx, json)
    mail = with_own_sender(context.settings).mail
    address = addresses.parse(to, addresses.Rules(allow_local=mail.allow_local)).email
    suppressions.require_not_suppressed(context.store, context.actor, address)
    return_path = mail.return_path or ""
    data = messages.compose_test_email(
        context.store,
        context.actor,
        message,
        sender=mail.sender or "",
        to=address,
        message_id_header=f"<test.{secrets.token_hex(12)}@{return_path.rpartition('@')[2]}>",
        blog_url=context.settings.blog.url,
        extras=settings_extras.make_sample(context.settings),
        folder=attachments_folder(context),
    )
    result = send_single_email(context.settings, context.store, OutgoingEmail(return_path, address, data))
    if result.reply is None:
        context.out.warn("the mail server's final reply was lost: the email may have arrived")
    context.out.record({"to": address, "reply": result.reply and result.reply.text, "relay": result.relay})


def _show(context: Context, message: "MessageInfo") -> None:
    context.out.record(message, None if context.out.json else list(COLUMNS))


def _report_body(context: Context, message: "MessageInfo", text: str | None, html: str | None) -> None:
    """Say where the body of an HTML message comes from, if a part was given, but no text."""
    from skychimp.services.messages import messages

    if message.html is None or text or (text is None and html is None):
        return
    if messages.has_made_body(message):
        context.out.note("the text part was made from the HTML part; use --body or --body-file to replace it")
    else:
        context.out.note("the text part was not changed; use --body '' to make it from the HTML part")


def _report_merge_tags(context: Context, subject: str | None, text: str | None, html: str | None) -> None:
    """Warn of merge tags of other tools in what was given."""
    from skychimp.services.messages import messages

    if tags := messages.foreign_merge_tags(subject, text, html):
        more = f" and {len(tags) - SHOWN_TAGS:,} more" if len(tags) > SHOWN_TAGS else ""
        context.out.warn(f"merge tags of another program are sent as they are: {', '.join(tags[:SHOWN_TAGS])}{more}")
        context.out.warn('hint: use {{ client.name }} or {{ client.email }}, or run "skychimp help templates"')


def _edit_body(
    context: Context, body: str, body_format: "Format", save: "Callable[[str], MessageInfo]"
) -> "MessageInfo":
    """Let the user edit the text body."""
    return edit_and_save(
        context,
        body,
        save,
        suffix=EDITOR_SUFFIXES[body_format],
        missing="the message has no body",
        hint="use --body, --body-file or --html-file",
    )


def _read_parts(body: str | None, body_file: str | None, html_file: str | None) -> tuple[str | None, str | None]:
    """Return the text and the HTML part that the options give, None for each that they don't."""
    if body is not None and body_file is not None:
        raise InvalidValue("--body and --body-file cannot be combined", "use one of them")
    if body_file == "-" and html_file == "-":
        raise InvalidValue("--body-file and --html-file cannot both read stdin", "use a file for one of them")
    return body if body_file is None else read_text(body_file), None if html_file is None else read_text(html_file)


def _chosen_format(*, markdown: bool, html: bool, plain: bool = False) -> "Format | None":
    """Return the format that the options name, or None if they name none."""
    from skychimp.models import Format

    if markdown + html + plain > 1:
        raise InvalidValue("--markdown, --html-file and --plain cannot be combined", "use one of them")
    return Format.MARKDOWN if markdown else Format.HTML if html else Format.TEXT if plain else None

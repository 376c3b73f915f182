"""`skychimp messages`: what you write."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Json, Limit, Offset, Search, Sort, Yes, get_context, page, read_text
from skychimp.cli.editor import write
from skychimp.errors import InvalidValue, RelayRefused, RelayUnavailable

if TYPE_CHECKING:
    from skychimp.models import Format
    from skychimp.services.messages.messages import MessageInfo

app = typer.Typer(no_args_is_help=True, help="What you write.", rich_markup_mode="rich")

COLUMNS = {"id": "ID", "subject": "Subject", "format": "Format", "updated_at": "Changed"}
SUFFIXES = {"text": ".txt", "markdown": ".md", "html": ".txt"}
"""Of the text in an editor, by format."""

Id = Annotated[int, typer.Argument(metavar="ID", help="A message's id.", show_default=False)]
Body = Annotated[
    str | None, typer.Option(help="The text; {{ client.name }} and the like are filled in.", metavar="TEXT")
]
BodyFile = Annotated[str | None, typer.Option(help="The text from a file, or - for stdin.", metavar="FILE")]
Markdown = Annotated[bool, typer.Option("--markdown", help="The text is Markdown, and gets an HTML part.")]
HtmlFile = Annotated[
    str | None, typer.Option(help="An HTML part of your own, from a file, or - for stdin.", metavar="FILE")
]
Digest = Annotated[
    bool, typer.Option("--digest", help="It goes with the blog's new posts, at {{ posts }} or after the text.")
]


@app.command(epilog="skychimp messages create --subject 'Hello {{ client.name }}' --body-file hello.md --markdown")
def create(
    ctx: typer.Context,
    subject: Annotated[str, typer.Option(help="The subject.")],
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    digest: Digest = False,
    json: Json = False,
) -> None:
    """Keep a message; it is checked by rendering it once. Without a body, your $EDITOR opens for it."""
    from skychimp.delivery.composing.compose import MessageContent
    from skychimp.models import Format
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    text, html = _parts(body, body_file, html_file)
    form = _format(markdown, html_file is not None) or Format.TEXT

    def keep(text: str) -> "MessageInfo":
        return messages.create(context.store, context.actor, MessageContent(subject, text, form, html), digest=digest)

    made = keep(text) if text is not None else write(context, "", SUFFIXES[form], keep)
    context.out.one(made, None if context.out.json else list(COLUMNS))
    if made.digest and context.settings.blog.url is None:
        context.out.note("its posts come without links until the settings say where the blog is: blog.url")
    context.out.next(f"messages preview {made.id}")


@app.command("list")
def list_(
    ctx: typer.Context,
    limit: Limit = None,
    offset: Offset = 0,
    search: Search = None,
    sort: Sort = None,
    json: Json = False,
) -> None:
    """List your messages."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    found = messages.list_messages(context.store, context.actor, page(limit, offset, search, sort))
    context.out.rows(found, COLUMNS, empty="no messages yet; write one: skychimp messages create --help")


@app.command()
def show(ctx: typer.Context, message: Id, json: Json = False) -> None:
    """Show one message."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    context.out.one(messages.show(context.store, context.actor, message))


@app.command(epilog="skychimp messages update 1 --body-file hello.md --markdown")
def update(
    ctx: typer.Context,
    message: Id,
    subject: Annotated[str | None, typer.Option(help="Another subject.")] = None,
    body: Body = None,
    body_file: BodyFile = None,
    markdown: Markdown = False,
    html_file: HtmlFile = None,
    plain: Annotated[bool, typer.Option("--plain", help="The text is plain, and gets no HTML part.")] = False,
    digest: Annotated[
        bool | None, typer.Option("--digest/--no-digest", help="Whether it goes with the blog's new posts.")
    ] = None,
    json: Json = False,
) -> None:
    """Change a message; what is being sent keeps the words it was opened with. Without options, in your $EDITOR."""
    from skychimp.models import Format
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    text, html = _parts(body, body_file, html_file)
    form = _format(markdown, html_file is not None, plain)

    def keep(text: str | None) -> "MessageInfo":
        return messages.change(
            context.store, context.actor, message, subject=subject, body=text, format=form, html=html, digest=digest
        )

    if all(said is None for said in (text, html, subject, form, digest)):
        old = messages.show(context.store, context.actor, message)
        changed = write(context, old.body, SUFFIXES[old.format], keep)
    else:
        changed = keep(text)
    context.out.one(changed, None if context.out.json else list(COLUMNS))
    if text is not None and html is None and changed.format == Format.HTML:
        context.out.note("its HTML part is what it was; give another by --html-file, or --plain or --markdown")
    context.out.next(f"messages preview {message}")


@app.command()
def delete(ctx: typer.Context, message: Id, yes: Yes = False, json: Json = False) -> None:
    """Delete a message that no mailing uses."""
    from skychimp.permissions import Action
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    found = messages.show(context.store, context.actor, message, to=Action.CHANGE_MESSAGES)
    context.confirm(f"delete message {found.id}, {found.subject!r}?", yes=yes)
    context.out.one(messages.remove(context.store, context.actor, message), None if context.out.json else list(COLUMNS))


@app.command()
def preview(
    ctx: typer.Context,
    message: Id,
    client: Annotated[str | None, typer.Option(help="As this client would read it: an id or e-mail.")] = None,
    json: Json = False,
) -> None:
    """Show a message as a client would read it."""
    from skychimp.services.messages import messages

    context = get_context(ctx, json)
    seen = messages.preview(context.store, context.actor, message, client, blog_url=context.settings.blog.url)
    if context.out.json:
        context.out.one(seen)
        return
    context.out.text(f"To: {seen.to}\nSubject: {seen.subject}\n\n{seen.text}")
    if seen.html is not None:
        context.out.text(f"\nHTML part:\n\n{seen.html}")
    context.out.next(f"mailings create --message {message} --start now --every day --all-clients")


@app.command(epilog="skychimp messages test 1 --to me@example.org")
def test(
    ctx: typer.Context,
    message: Id,
    to: Annotated[str, typer.Option(help="Where to.", metavar="E-MAIL")],
    json: Json = False,
) -> None:
    """Send a message to one address, now and outside of any mailing."""
    import secrets

    from skychimp import addresses
    from skychimp.delivery.sending.event_loop import run_in_event_loop
    from skychimp.delivery.sending.runner import with_sender
    from skychimp.services.accounts import account_mail
    from skychimp.services.messages import messages
    from skychimp.transport import make_transport
    from skychimp.transport.interfaces import OutgoingEmail

    context = get_context(ctx, json)
    mail = with_sender(context.settings).mail
    sender, return_path, address = mail.sender or "", mail.return_path or "", addresses.parse(to).email
    name = f"<test.{secrets.token_hex(12)}@{return_path.rpartition('@')[2]}>"
    blog_url = context.settings.blog.url
    data = messages.test_letter(
        context.store, context.actor, message, sender=sender, to=address, name=name, blog_url=blog_url
    )
    transport = make_transport(context.settings, context.store.path)
    answer = run_in_event_loop(account_mail.deliver(transport, OutgoingEmail(return_path, address, data)))
    assert answer is not None
    if answer.reply is None:
        raise RelayUnavailable(f"the relay did not take it: {answer.fault}", "see the smtp settings")
    if answer.reply.code >= 300:
        raise RelayRefused(f"the relay did not take it: {answer.reply.text}")
    context.out.one({"to": address, "reply": answer.reply.text, "relay": transport.relay})


def _parts(body: str | None, body_file: str | None, html_file: str | None) -> tuple[str | None, str | None]:
    """The text and the HTML that the options give."""
    if body is not None and body_file is not None:
        raise InvalidValue("--body and --body-file can't go together")
    if body_file == "-" and html_file == "-":
        raise InvalidValue("the text and the HTML can't both come from stdin", "name a file for one of them")
    return body if body_file is None else read_text(body_file), None if html_file is None else read_text(html_file)


def _format(markdown: bool, html: bool, plain: bool = False) -> "Format | None":
    """The format that the options say, None where they don't."""
    from skychimp.models import Format

    if markdown + html + plain > 1:
        raise InvalidValue(
            "only one of --markdown, --html-file and --plain can be said", "--markdown makes its own HTML"
        )
    return Format.MARKDOWN if markdown else Format.HTML if html else Format.TEXT if plain else None

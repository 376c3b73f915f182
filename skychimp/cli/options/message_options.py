"""Options for the content of a message or a variant, how it is read, and what is said about it."""

from typing import TYPE_CHECKING, Annotated

import typer

from skychimp.cli.context import Context, read_text
from skychimp.cli.editor import Saved, edit_and_save
from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from collections.abc import Callable

    from skychimp.models import Format
    from skychimp.services.messages.messages import Written

SHOWN_TAGS = 5
EDITOR_SUFFIXES = {"text": ".txt", "markdown": ".md", "html": ".txt"}
"""The suffix of the file with the body in the editor, by format. The HTML part is not edited there."""

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
Plain = Annotated[bool, typer.Option("--plain", help="Send plain text only; removes the HTML part.")]
Layout = Annotated[
    str | None,
    typer.Option(help="Layout of the HTML part, or none (default for Markdown: default).", metavar="NAME"),
]
Preheader = Annotated[str | None, typer.Option(help="Text that mail programs show beside the subject.", metavar="TEXT")]


def report_body(context: Context, message: "Written", text: str | None, html: str | None) -> None:
    """Say where the body of an HTML message comes from, if a part was given, but no text."""
    from skychimp.services.messages import messages

    if message.html is None or text or (text is None and html is None):
        return
    if messages.has_made_body(message):
        context.out.note(tr("the text part was made from the HTML part; use --body or --body-file to replace it"))
    else:
        context.out.note(tr("the text part was not changed; use --body '' to make it from the HTML part"))


def report_merge_tags(context: Context, subject: str | None, text: str | None, html: str | None) -> None:
    """Warn of merge tags of other tools in what was given."""
    from skychimp.services.messages import messages

    if tags := messages.foreign_merge_tags(subject, text, html):
        shown: str = ", ".join(tags[:SHOWN_TAGS])
        if len(tags) > SHOWN_TAGS:
            shown = tr("{names} and {number:,} more", names=shown, number=len(tags) - SHOWN_TAGS)
        context.out.warn(tr("merge tags of another program are sent as they are: {tags}", tags=shown))
        context.out.warn(tr('hint: use {{ client.name }} or {{ client.email }}, or run "skychimp help templates"'))


def warn_of_unknown_field(context: Context, name: str) -> None:
    """Warn that no client has the field that chooses variants, so that all get the message itself."""
    from skychimp.services.messages import variants

    meant = variants.find_unknown_field(context.store, context.actor, name)
    if meant is not None:
        context.out.warn(tr("warning: no client has the field {name}", name=name))
        if meant:
            context.out.warn(tr("hint: {hint}", hint=meant))


def read_parts(body: str | None, body_file: str | None, html_file: str | None) -> tuple[str | None, str | None]:
    """Return the text and the HTML part that the options give, None for each that they don't."""
    if body is not None and body_file is not None:
        raise InvalidValue(tr("--body and --body-file cannot be combined"), tr("use one of them"))
    if body_file == "-" and html_file == "-":
        raise InvalidValue(tr("--body-file and --html-file cannot both read stdin"), tr("use a file for one of them"))
    return body if body_file is None else read_text(body_file), None if html_file is None else read_text(html_file)


def chosen_format(*, markdown: bool, html: bool, plain: bool = False) -> "Format | None":
    """Return the format that the options name, or None if they name none."""
    from skychimp.models import Format

    if markdown + html + plain > 1:
        raise InvalidValue(tr("--markdown, --html-file and --plain cannot be combined"), tr("use one of them"))
    return Format.MARKDOWN if markdown else Format.HTML if html else Format.TEXT if plain else None


def edit_body(context: Context, body: str, body_format: "Format", save: "Callable[[str], Saved]") -> "Saved":
    """Let the user edit the text body."""
    return edit_and_save(
        context,
        body,
        save,
        suffix=EDITOR_SUFFIXES[body_format],
        missing=tr("the message has no body"),
        hint=tr("use --body, --body-file or --html-file"),
    )

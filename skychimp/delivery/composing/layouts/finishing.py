"""Make of a message what its emails contain: its HTML in a layout, with the CSS inlined, and a text part; pure.

It is done when an occurrence opens, and kept with the occurrence. A layout is a template around `{{ content }}`. It may
also show `{{ subject }}` and `{{ preheader }}`, and what a message may show.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from functools import lru_cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from markupsafe import escape

from skychimp.delivery.composing import conversions
from skychimp.delivery.composing.conversions import MarkedTemplate
from skychimp.delivery.composing.extras import POSTAL_ADDRESS, UNSUBSCRIBE_URL
from skychimp.delivery.composing.layouts import markup
from skychimp.delivery.composing.layouts.inlining import inline_css, source_of, with_comments
from skychimp.delivery.composing.layouts.markup import Kind
from skychimp.delivery.composing.templates import Expression, TextTemplate, split_template
from skychimp.errors import InvalidValue
from skychimp.fields import Field, find_field, unknown_field
from skychimp.models import Format, LayoutKind
from skychimp.text import one_line
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.delivery.composing.compose import MessageContent

MAX_LAYOUT_SIZE = 200_000
"""Bytes."""
MAX_PREHEADER_LENGTH = 500

CONTENT, SUBJECT, PREHEADER = "content", "subject", "preheader"
"""The variables of a layout that a message does not have. They cannot have filters."""

_PADDING = "\n" + "\n".join(["&#847;&zwnj;&nbsp;" * 15] * 4)
"""What keeps a mail program from showing the beginning of the content after a short preheader."""
_SIGNATURE = re.compile(r"^-- $", re.MULTILINE)
_SEVERAL_LAYOUTS = 16


class Layout(NamedTuple):
    """The frame of a message's HTML. Without `html` only the CSS is inlined, and Markdown gets a text part."""

    html: str | None = None
    preheader: str = ""
    is_default: bool = False


def layout_of(kind: str | None, own_html: str | None, preheader: str) -> Layout | None:
    """Return the layout of a message as the store keeps it. None if its content is sent as older versions do."""
    if kind is None:
        return None
    if kind == LayoutKind.DEFAULT:
        return Layout(default_layout(), preheader, is_default=True)
    return Layout(own_html, preheader)


@lru_cache(maxsize=1)
def default_layout() -> str:
    """Return the built-in layout."""
    return (resources.files(__package__) / "default.html").read_text(encoding="utf-8")


@lru_cache(maxsize=_SEVERAL_LAYOUTS)  # the mailings of one message often open together
def finish(content: "MessageContent", layout: Layout | None) -> "MessageContent":
    """Return the content of a message's emails. Raises InvalidValue."""
    if layout is None or content.format == Format.TEXT:
        return content
    try:
        return _finished(content, layout)
    except InvalidValue:
        raise
    except Exception as error:  # a damaged store, or a bug of a library with one message, must not stop the others
        raise InvalidValue(tr("the message cannot be put into its layout: {error!r}", error=error)) from error


def check_layout(html: str, fields: Collection[Field]) -> None:
    """Raise InvalidValue unless a layout has `{{ content }}` in a place where HTML can be, and is a valid template.

    `fields` are the custom fields that there are.
    """
    if len(html.encode("utf-8", "surrogatepass")) > MAX_LAYOUT_SIZE:
        raise InvalidValue(
            tr("the layout is larger than {max_layout_size} kB", max_layout_size=MAX_LAYOUT_SIZE // 1000),
            tr("make it shorter"),
        )
    if "\0" in html:
        raise InvalidValue(tr("the layout contains a NUL character"), tr("delete it: no text has one"))
    _require_template(html, fields)
    _require_place(html)


def check_preheader(layout: Layout) -> None:
    """Raise InvalidValue unless the preheader is a template of one line, and the layout shows it."""
    one_line(layout.preheader, "preheader", MAX_PREHEADER_LENGTH)
    TextTemplate(layout.preheader, "preheader", {})
    if layout.html is None:
        raise InvalidValue(tr("a preheader needs a layout"), tr("use --layout default, or --preheader ''"))
    if not has_variable(layout.html, PREHEADER):
        raise InvalidValue(tr("the layout has no {{ preheader }}"), tr("add it to the layout, or use --preheader ''"))


def has_variable(html: str, name: str) -> bool:
    """Return whether a valid layout shows a variable, whether or not on a condition."""
    return any(_is_variable(piece, name) for piece in split_template(html))


def _finished(content: "MessageContent", layout: Layout) -> "MessageContent":
    html, text = content.html or "", content.body
    if content.format == Format.MARKDOWN:
        html, text = conversions.html_from_markdown(content.body), conversions.text_from_markdown(content.body)
    if layout.html is None:
        inlined = inline_css(MarkedTemplate(split_template(html)), "HTML part") or html
    else:
        if content.format == Format.HTML:
            _require_fragment(html)
        framed = MarkedTemplate(_framed(content.subject, html.rstrip("\n"), layout))
        inlined = inline_css(framed, "layout") or source_of(framed, framed.text)
        text += _text_footer(layout.html, text)
    return content._replace(format=Format.HTML, body=text, html=inlined)


def _require_template(html: str, fields: Collection[Field]) -> None:
    """Raise InvalidValue if a layout is no valid template without the variables that only layouts have."""
    source = re.sub(rf"\{{\{{-?\s*({CONTENT}|{SUBJECT}|{PREHEADER})\s*-?\}}\}}", r"\1", html)
    for use in TextTemplate(source, "layout", {}, html=True).fields.values():
        if find_field(use.name, fields) is None:
            raise unknown_field(use.name, fields, f"the layout, line {use.line}: ")


def _require_place(html: str) -> None:
    pieces = list(split_template(html))
    depth, places = 0, []
    for piece in pieces:
        if _is_variable(piece, CONTENT):
            places.append(depth)
        elif isinstance(piece, Expression) and not piece.is_output:
            keyword = piece.inner.split()[0]
            depth += (keyword in ("if", "for")) - keyword.startswith("end")
    if not places:
        raise InvalidValue(tr("the layout has no {{ content }}"), tr("write {{ content }} where the message belongs"))
    if len(places) > 1:
        raise InvalidValue(tr("the layout has {{ content }} more than once"), tr("remove all but one"))
    if places[0]:
        raise InvalidValue(
            tr("{{ content }} is inside {% if %} or {% for %}"), tr("move it out, so that every email has it")
        )
    shown = "<x-content>"
    filled = "".join(
        shown if _is_variable(piece, CONTENT) else "" if isinstance(piece, Expression) else piece for piece in pieces
    )
    if not any(part.kind == Kind.TAG and part.text == shown for part in markup.split(filled)):
        raise InvalidValue(
            tr("{{ content }} is inside a tag, a comment, a style or a title"),
            tr("move it to where a paragraph could be"),
        )


def _require_fragment(html: str) -> None:
    """Raise InvalidValue for HTML that cannot stand inside a layout."""
    if page_tag := next((name for name in markup.tag_names(html) if name in ("html", "head", "body")), None):
        raise InvalidValue(
            tr("the HTML part is a whole page: it has <{page_tag}>", page_tag=page_tag),
            tr("use --layout none, or leave only what is inside <body>"),
        )
    marked = MarkedTemplate(split_template(html))
    markup.require_nested(with_comments(marked), marked.mark, "HTML part")


def _framed(subject: str, html: str, layout: Layout) -> Iterator[str | Expression]:
    """Yield the pieces of a layout with the message in it. The built-in one repeats nothing."""
    source = layout.html or ""
    if layout.is_default:
        source = _without_lines(source, _left_out(html, layout))
    values = {
        CONTENT: list(split_template(html)),
        SUBJECT: _escaped(subject),
        PREHEADER: _escaped(layout.preheader),
    }
    if layout.is_default:
        # The whole HTML of each email would have to be rendered because of a condition in its title.
        values[SUBJECT] = [piece for piece in values[SUBJECT] if isinstance(piece, str)]
        values[PREHEADER] = [*values[PREHEADER], _PADDING]
    for piece in split_template(source):
        name = piece.inner.strip() if isinstance(piece, Expression) and piece.is_output else ""
        yield from values.get(name, [piece])


def _left_out(html: str, layout: Layout) -> Iterator[str]:
    """Yield the variables of the built-in layout that the message shows itself, and those that it does not have."""
    if not layout.preheader:
        yield PREHEADER
    for name in (UNSUBSCRIBE_URL, POSTAL_ADDRESS):
        if has_variable(html, name):
            yield name


def _without_lines(source: str, names: Iterable[str]) -> str:
    """Return a template without the lines that show one of these variables."""
    shown = [f"{{{{ {name} }}}}" for name in names]
    return "".join(line for line in source.splitlines(keepends=True) if not any(each in line for each in shown))


def _text_footer(layout: str, text: str) -> str:
    """Return what the text part has of a layout: the link for unsubscribing and the address, unless the text has it."""
    names = [
        name
        for name in (POSTAL_ADDRESS, UNSUBSCRIBE_URL)
        if has_variable(layout, name) and not has_variable(text, name)
    ]
    if not names:
        return ""
    lines = {POSTAL_ADDRESS: "{{ postal_address }}", UNSUBSCRIBE_URL: "Unsubscribe: {{ unsubscribe_url }}"}
    shown = "".join(f"{{% if {name} %}}{lines[name]}\n{{% endif %}}" for name in names)
    separator = "" if _SIGNATURE.search(text) else "-- \n"
    return f"{{% if {' or '.join(names)} %}}\n{separator}{shown}{{% endif %}}"


def _escaped(source: str) -> list[str | Expression]:
    """Return the pieces of a text template as those of an HTML template."""
    return [str(escape(piece)) if isinstance(piece, str) else piece for piece in split_template(source)]


def _is_variable(piece: str | Expression, name: str) -> bool:
    return isinstance(piece, Expression) and piece.is_output and piece.inner.strip() == name

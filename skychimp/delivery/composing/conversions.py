"""Make one part of an email from the template of another, and keep its expressions; pure."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from skychimp import markdown
from skychimp.delivery.composing.markdown_text import MarkdownText, shown_link
from skychimp.delivery.composing.templates import Expression, split_template
from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from inscriptis.model.config import ParserConfig

MAX_TAGS = 20_000
"""The most tags of a page whose text is made. That takes some seconds at worst, as the time grows with their square."""

_TEXT_WIDTH = 12
"""How many characters an expression is taken to show where a table is aligned."""


def html_from_markdown(source: str) -> str:
    """Return the HTML template of a Markdown template. Raw HTML is shown as text.

    Every brace that is no part of an expression becomes an entity: what Markdown unescapes must not become an
    expression. Raises InvalidValue for too much markup.
    """
    markdown.require_little_markup(source, "body", limit=markdown.MAX_STORED_MARKUP)
    marked = MarkedTemplate(split_template(source))
    signature = f"{marked.mark}s"
    text = _with_signature(marked.text, signature)
    html = markdown.renderer(only_safe_links=False).render(text).replace("{", "&#123;")
    html = re.sub(r"<pre>.*?</pre>", lambda match: match[0].replace(f"\n{signature}", "-- "), html, flags=re.DOTALL)
    html = html.replace(f"{signature}\n", "-- <br />\n").replace(signature, "-- ")
    # A tag such as {% if %} alone on a line is not a paragraph: <p> and </p> would surround only half of the block.
    html = marked.unwrap_tags(rf"<p>({marked.word})</p>", html)
    html = re.sub(r'(?:href|src)="[^"]*"', lambda match: marked.with_expressions(match[0], link=True), html)
    return marked.with_expressions(html)


def text_from_html(source: str) -> str:
    """Return the text template of an HTML template: what a reader sees, with the addresses of links.

    Styles, scripts and hidden elements are left out, and images are replaced by their `alt` texts. Raises InvalidValue
    for too many tags.
    """
    if source.count("<") > MAX_TAGS:
        raise InvalidValue(tr("the HTML has too many tags for making a text part of it"))
    marked = MarkedTemplate(split_template(source))
    text = re.sub(r"\n{3,}", "\n\n", _without_trailing_spaces(_shown_text(marked.text, marked.mark)))
    text = re.sub(r"^--$", "-- ", text, flags=re.MULTILINE)  # a signature, whose space HTML does not show
    return marked.as_text(text)


def text_from_markdown(source: str) -> str:
    """Return the text template of a Markdown template: what a reader sees of it, in the lines that it has.

    Raises InvalidValue for too much markup.
    """
    from markdown_it.tree import SyntaxTreeNode

    markdown.require_little_markup(source, "body", limit=markdown.MAX_STORED_MARKUP)
    marked = MarkedTemplate(split_template(source))
    signature = f"{marked.mark}s"
    tokens = markdown.renderer(only_safe_links=False).parse(_with_signature(marked.text, signature))
    text = MarkdownText(marked.in_link, marked.width).render(SyntaxTreeNode(tokens))
    text = text.replace(f"\n\n{signature}", f"\n{signature}")
    return marked.as_text(_without_trailing_spaces(text).replace(signature, "-- "))


class MarkedTemplate:
    """A template whose expressions are replaced by words that a conversion leaves as they are."""

    def __init__(self, pieces: Iterable[str | Expression]) -> None:
        pieces = list(pieces)
        # No text contains its own hash, so nothing in it can be mistaken for one of the words.
        source = repr(pieces).encode("utf-8", "surrogatepass")
        self.mark = "x" + hashlib.blake2b(source, digest_size=8).hexdigest()
        self.word = rf"{self.mark}x\d+x"
        self._expressions: list[Expression] = []
        self.text = "".join(map(self._marked, pieces))

    def unwrap_tags(self, pattern: str, text: str) -> str:
        """Return a text with only the word, a pattern's group, in place of each match whose word is a `{% %}` tag."""
        return re.sub(pattern, lambda match: match[0] if self.expression(match[1]).is_output else match[1], text)

    def as_text(self, text: str) -> str:
        """Return a text as the source of a template: with the expressions, and no brace that could begin another one.

        A tag such as `{% if %}` alone on a line leaves no empty lines.
        """
        text = self.unwrap_tags(rf"(?m:^) *({self.word})\n+", text.strip("\n") + "\n")
        text = re.sub(rf"\{{(?=[{{%#]|{self.mark})", "{{ '{' }}", text)
        text = re.sub(
            rf"{self.mark}y(\d+x)", lambda match: self.with_expressions(f"{self.mark}x{match[1]}", link=True), text
        )
        return self.with_expressions(text)

    def in_link(self, url: str) -> str:
        """Return the address of a link with other words, which `as_text` URL-encodes."""
        return re.sub(rf"{self.mark}x(\d+x)", rf"{self.mark}y\1", url)

    def width(self, text: str) -> int:
        """Return about how many characters wide a text is."""
        return len(re.sub(self.word, "x" * _TEXT_WIDTH, text))

    def with_expressions(self, text: str, *, link: bool = False) -> str:
        """Return a text with the expressions in place of their words, or with URL-encoded ones in a link."""
        return re.sub(self.word, lambda match: self.expression(match[0]).source(link=link), text)

    def _marked(self, piece: str | Expression) -> str:
        if isinstance(piece, str):
            return piece
        self._expressions.append(piece)
        return f"{self.mark}x{len(self._expressions) - 1}x"

    def expression(self, word: str) -> Expression:
        """Return the expression that a word stands for."""
        return self._expressions[int(word.rpartition("x")[0].rpartition("x")[2])]


def _with_signature(text: str, signature: str) -> str:
    """Return Markdown with a paragraph for each line `-- `, which would make a heading of the line above."""
    return re.sub(r"^-- $", f"\n{signature}", text, flags=re.MULTILINE)


def _without_trailing_spaces(text: str) -> str:
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)


def _shown_text(html: str, mark: str) -> str:
    """Return the text of a page, with the addresses of links. `mark` is a word that is not in it."""
    from inscriptis import get_text

    label = rf"(?:(?!{mark}[\[\])]).)*?"
    link = re.compile(rf"{mark}\[(\s*)({label})(\s*){mark}\](.*?){mark}\)", re.DOTALL)
    text = link.sub(_shown_link, get_text(html, _layout(mark)))
    # What is left is of a link around another one, which HTML does not allow.
    return re.sub(rf"{mark}\[|{mark}\].*?{mark}\)", "", text, flags=re.DOTALL)


def _shown_link(match: re.Match[str]) -> str:
    before, label, after, url = match.groups()
    return before + shown_link(label, url) + after


def _layout(mark: str) -> "ParserConfig":
    """Return how a page is laid out. Most tables of emails are only there for columns: a row becomes a line.

    A link becomes `MARK[label MARK]url MARK)` without the spaces.
    """
    from inscriptis.css_profiles import STRICT_CSS_PROFILE
    from inscriptis.html_properties import Display
    from inscriptis.model.config import ParserConfig
    from inscriptis.model.html_element import HtmlElement
    from inscriptis.model.tag import CustomHtmlTagHandlerMapping

    urls: list[str] = []

    def start_link(state: Any, attributes: Mapping[str, str]) -> None:
        urls.append(attributes.get("href", "").strip())
        state.tags[-1].write(f"{mark}[")

    def end_link(state: Any) -> None:
        state.tags[-1].write(f"{mark}]{urls.pop()}{mark})")

    def start_image(state: Any, attributes: Mapping[str, str]) -> None:
        state.tags[-1].write(attributes.get("alt", ""))

    def end_cell(state: Any) -> None:
        state.tags[-1].write(" ")

    def ignore(*_: object) -> None:
        pass

    cells = ("td", "th")
    starts = {"a": start_link, "img": start_image} | dict.fromkeys(("table", "tr", *cells), ignore)
    ends = {"a": end_link, "table": ignore} | dict.fromkeys(cells, end_cell)
    blocks = {tag: HtmlElement(display=Display.block) for tag in ("table", "tr")}
    lists = {tag: HtmlElement(display=Display.block, padding_inline=2) for tag in ("ul", "ol")}
    return ParserConfig(
        css=STRICT_CSS_PROFILE | blocks | lists,
        custom_html_tag_handler_mapping=CustomHtmlTagHandlerMapping(starts, ends),
    )

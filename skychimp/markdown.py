"""Render Markdown to safe HTML, and make plain excerpts of it; pure."""

import html
import re
from collections import Counter
from typing import TYPE_CHECKING

from skychimp.errors import InvalidValue
from skychimp.translation import tr

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_EXCERPT_LENGTH = 240
MAX_MARKUP = 50_000
"""The most markup in a text, as `amount_of_markup` counts it. Converting as much takes about a second."""
MAX_STORED_MARKUP = 200_000
"""The same for a text that was stored before there was MAX_MARKUP. Converting as much takes some seconds."""

_MAX_SOURCE_LENGTH = 5_000
"""Characters at the beginning of a text that its excerpt is made from."""

_MARKUP = "\n*_[]()!<>~`#|&\\-+"
_BLANK_LINE = re.compile(r"^[ \t]*$", re.MULTILINE)
_QUOTES = re.compile(r"^[ \t>]*", re.MULTILINE)
_SAFE_LINK = re.compile(r"(https?:|mailto:|(?![^/?#]*:))", re.IGNORECASE)


def renderer(*, only_safe_links: bool = True) -> "MarkdownIt":
    """Return a CommonMark renderer with tables and strikethrough. Raw HTML is shown as text.

    With `only_safe_links`, a link goes to http, https or mailto, or to a relative address.
    """
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    if only_safe_links:
        markdown.validateLink = lambda url: _SAFE_LINK.match(url) is not None  # type: ignore[method-assign]
    return markdown


def to_html(source: str) -> str:
    """Return Markdown as HTML that is safe to publish."""
    return str(renderer().render(source))


def require_little_markup(source: str, noun: str, *, limit: int = MAX_MARKUP) -> None:
    """Raise InvalidValue if a Markdown text would take too long to convert. `noun` names the text in the error."""
    if amount_of_markup(source) > limit:
        raise InvalidValue(tr("the {noun} has too much Markdown markup", noun=noun), tr("make it shorter, or split it"))


def amount_of_markup(source: str) -> int:
    """Return how much work it is to convert a Markdown text: its line ends and characters with a meaning, and quotes.

    Between two blank lines, a line can make the renderer read again all lines that are quoted to another depth. Ten
    such pairs of lines take as long as one character.
    """
    pairs = 0
    for block in _BLANK_LINE.split(source) if ">" in source else ():
        depths = Counter(quotes.count(">") for quotes in _QUOTES.findall(block))
        pairs += (depths.total() ** 2 - sum(lines**2 for lines in depths.values())) // 2
    return sum(map(source.count, _MARKUP)) + pairs // 10


def excerpt(source: str) -> str:
    """Return the first paragraph of a Markdown text without markup, cut at the end of a word.

    Without a paragraph that has text, it is the beginning of the whole text.
    """
    try:
        rendered = to_html(source[:_MAX_SOURCE_LENGTH])
    except Exception:  # a bug of the renderer with one post must not stop a mailing or the site
        return ""
    paragraphs = re.findall(r"<p>(.*?)</p>", rendered, re.DOTALL)
    text = next(filter(None, map(_without_tags, paragraphs)), "") or _without_tags(rendered)
    if len(text) <= MAX_EXCERPT_LENGTH:
        return text
    cut = text[:MAX_EXCERPT_LENGTH]
    whole_words = cut.rpartition(" ")[0]
    # Chinese and Japanese have few spaces or none, so a cut at the last one could leave almost nothing.
    return (whole_words if len(whole_words) > MAX_EXCERPT_LENGTH // 2 else cut) + "…"


def _without_tags(rendered: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", rendered)).split())

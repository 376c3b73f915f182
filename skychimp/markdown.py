"""The one Markdown renderer, and plain excerpts of what it renders; pure."""

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

LONGEST_EXCERPT = 240
EXCERPT_SOURCE = 5_000
"""Characters at the beginning of a text that its excerpt is taken from."""

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


def excerpt(source: str) -> str:
    """Return the first paragraph of a Markdown text in plain words, cut at the end of a word."""
    try:
        rendered = to_html(source[:EXCERPT_SOURCE])
    except Exception:  # one post must not hold up a mailing or the site
        return ""
    paragraphs = re.findall(r"<p>(.*?)</p>", rendered, re.DOTALL)
    text = next(filter(None, map(_plain, paragraphs)), "") or _plain(rendered)
    if len(text) <= LONGEST_EXCERPT:
        return text
    cut = text[:LONGEST_EXCERPT]
    whole_words = cut.rpartition(" ")[0]
    return (whole_words if len(whole_words) > LONGEST_EXCERPT // 2 else cut) + "…"


def _plain(rendered: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", rendered)).split())

"""The digest: a message's words with the posts that it tells of; pure.

What a post says is put into the words as text in quotes, `{{ 'so' }}`: it is source of no template, Markdown or HTML.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from skychimp import markdown
from skychimp.models import Format

if TYPE_CHECKING:
    from skychimp.delivery.composing.compose import MessageContent


_PLACE = re.compile(r"\{\{\s*posts\s*\}\}")
_CODE = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "\\'{}"})


class News(NamedTuple):
    """What a digest says of a post; `url` is None where nobody knows where the blog is."""

    title: str
    excerpt: str
    url: str | None


def news(title: str, content: str, slug: str, blog_url: str | None) -> News:
    """What a digest says of a post; `content` is Markdown."""
    url = None if blog_url is None else f"{blog_url}/{quote(page_of(slug))}"
    return News(title, markdown.excerpt(content), url)


def page_of(slug: str) -> str:
    """A post's page in the blog's site."""
    return f"posts/{slug}.html"


def with_posts(words: "MessageContent", posts: Sequence[News]) -> "MessageContent":
    """The words with the posts at `{{ posts }}`, or after the body where that stands nowhere in it."""
    listing = "\n\n".join(_in_markdown(post) if words.format == Format.MARKDOWN else _in_text(post) for post in posts)
    body = words.body if names_posts(words.body) else words.body.rstrip("\n") + "\n\n{{ posts }}\n"
    in_html = "\n".join(map(_in_html, posts))
    return words._replace(
        body=_PLACE.sub(lambda _: listing, body),
        html=None if words.html is None else _PLACE.sub(lambda _: in_html, words.html),
    )


def names_posts(source: str) -> bool:
    """Whether a template says where the posts go."""
    return _PLACE.search(source) is not None


def _quoted(text: str) -> str:
    return f"{{{{ '{text.translate(_CODE)}' }}}}"


def _in_text(post: News) -> str:
    return "\n".join(filter(None, (_quoted(post.title), post.excerpt and _quoted(post.excerpt), post.url)))


def _in_markdown(post: News) -> str:
    title = _quoted(post.title) if post.url is None else f"[{_quoted(post.title)}](<{post.url}>)"
    return f"## {title}" + (f"\n\n{_quoted(post.excerpt)}" if post.excerpt else "")


def _in_html(post: News) -> str:
    title = _quoted(post.title) if post.url is None else f'<a href="{post.url}">{_quoted(post.title)}</a>'
    return f"<h2>{title}</h2>" + (f"\n<p>{_quoted(post.excerpt)}</p>" if post.excerpt else "")

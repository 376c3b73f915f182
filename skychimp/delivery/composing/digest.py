"""Insert blog posts into the message of a digest; pure.

A post's text is inserted as a quoted string of the template language, `{{ 'text' }}`. So nothing in it is read as
template, Markdown or HTML.
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from skychimp import markdown
from skychimp.models import Format
from skychimp.translation import tr

if TYPE_CHECKING:
    from skychimp.delivery.composing.compose import MessageContent

_PLACEHOLDER = re.compile(r"\{\{\s*posts\s*\}\}")
_ESCAPES = str.maketrans({character: f"\\u{ord(character):04x}" for character in "\\'{}"})


class PostSummary(NamedTuple):
    """What a digest shows of a post. `url` is None if the URL of the blog is not known."""

    title: str
    excerpt: str
    url: str | None


def summarize_post(title: str, content: str, slug: str, blog_url: str | None) -> PostSummary:
    """Return what a digest shows of a post. `content` is Markdown."""
    url = None if blog_url is None else f"{blog_url}/{quote(post_page(slug))}"
    return PostSummary(title, markdown.excerpt(content), url)


def post_page(slug: str) -> str:
    """Return the path of a post's page in the blog's site."""
    return f"posts/{slug}.html"


def insert_posts(content: "MessageContent", posts: Sequence[PostSummary]) -> "MessageContent":
    """Return the message with the posts in place of `{{ posts }}`.

    If the body does not contain it, the posts follow the body.
    """
    as_body = _as_markdown if content.format == Format.MARKDOWN else _as_text
    listing = "\n\n".join(map(as_body, posts))
    html_listing = "\n".join(map(_as_html, posts))
    body = content.body if has_posts_placeholder(content.body) else content.body.rstrip("\n") + "\n\n{{ posts }}\n"
    return content._replace(
        body=_PLACEHOLDER.sub(lambda _: listing, body),
        html=None if content.html is None else _PLACEHOLDER.sub(lambda _: html_listing, content.html),
    )


def has_posts_placeholder(template: str) -> bool:
    """Return whether a template contains `{{ posts }}`."""
    return _PLACEHOLDER.search(template) is not None


def _quoted(text: str) -> str:
    """Return a template expression for a text."""
    return f"{{{{ '{text.translate(_ESCAPES)}' }}}}"


def _as_text(post: PostSummary) -> str:
    return "\n".join(filter(None, (_quoted(post.title), post.excerpt and _quoted(post.excerpt), post.url)))


def _as_markdown(post: PostSummary) -> str:
    title = _quoted(post.title) if post.url is None else f"[{_quoted(post.title)}](<{post.url}>)"
    return f"## {title}" + (f"\n\n{_quoted(post.excerpt)}" if post.excerpt else "")


def _as_html(post: PostSummary) -> str:
    title = (
        _quoted(post.title)
        if post.url is None
        else tr('<a href="{url}">{quoted}</a>', url=post.url, quoted=_quoted(post.title))
    )
    return f"<h2>{title}</h2>" + (f"\n<p>{_quoted(post.excerpt)}</p>" if post.excerpt else "")

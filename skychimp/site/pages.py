"""Render the pages, feed and sitemap of the site from plain values; pure.

The result depends on the values only. If they have not changed, it is the same to the byte.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial
from itertools import count
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment
from markupsafe import Markup

from skychimp.delivery.composing import digest
from skychimp.site.dates import format_date
from skychimp.site.rendering import TEMPLATES, make_environment
from skychimp.translation import LANGUAGES, current_language, in_language, tr, translated

POSTS_PER_PAGE = 9
POSTS_IN_FEED = 20
HUES = 6
"""Background colors in the stylesheet for cards without a picture."""

_ALIGNED_CELL = re.compile(r'<(t[hd]) style="text-align:(left|center|right)">')
_INVALID_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Picture(NamedTuple):
    """A file in the folder `images`, with its size in pixels."""

    name: str
    width: int
    height: int


class Article(NamedTuple):
    """A published post. `id` is an IRI that stays the same if its slug or the site's address changes."""

    id: str
    slug: str
    title: str
    author: str
    html: str
    excerpt: str
    picture: Picture | None
    published_at: datetime
    updated_at: datetime

    @property
    def path(self) -> str:
        return digest.post_page(self.slug)

    @property
    def hue(self) -> int:
        return sum(self.slug.encode()) % HUES


class Figures(NamedTuple):
    """The numbers on the home page."""

    mailings: int
    active_mailings: int
    unique_clients: int


class Site(NamedTuple):
    """Everything that the pages show. `url` is the site's address without a slash at its end, or None if unknown."""

    id: str
    title: str
    tagline: str
    description: str
    language: str
    timezone: str
    url: str | None
    figures: Figures
    articles: Sequence[Article]
    """The newest first."""


class ListPage(NamedTuple):
    """A page that lists posts, and the paths of the pages before and after it."""

    path: str
    articles: Sequence[Article]
    newer: str | None
    older: str | None


def render_site(site: Site) -> dict[str, str]:
    """Return the text of every file but the pictures, by path. A page comes after the pages that it links to.

    The frame of the pages is in the language of the posts if Skychimp knows it, else in English.
    """
    language = site.language.partition("-")[0]
    with in_language(language if language in LANGUAGES else "en"):
        return _render_files(site)


def _render_files(site: Site) -> dict[str, str]:
    files: dict[str, str] = {name: (TEMPLATES / name).read_text(encoding="utf-8") for name in ("style.css", "icon.svg")}
    articles = site.articles
    for number, article in enumerate(articles):
        newer = articles[number - 1] if number else None
        older = articles[number + 1] if number + 1 < len(articles) else None
        files[article.path] = _render(site, "post.html", article.path, article=article, newer=newer, older=older)
    *archive, home = paginate(articles)
    for page in archive:
        files[page.path] = _render(site, "archive.html", page.path, page=page)
    files[home.path] = _render(site, "home.html", home.path, page=home)
    files["feed.xml"] = _render(site, "feed.xml", "feed.xml", articles=articles[:POSTS_IN_FEED])
    if site.url is not None:
        files["sitemap.xml"] = _render(site, "sitemap.xml", "sitemap.xml", pages=[home, *reversed(archive)])
    return files


def paginate(articles: Sequence[Article]) -> list[ListPage]:
    """Return the pages that list posts, the oldest first and the home page last.

    They are numbered from the oldest. A page is split off from the home page only when it is full, so that a new post
    changes none of the others.
    """
    full = max(0, len(articles) // POSTS_PER_PAGE - 1)
    ends = [len(articles) - POSTS_PER_PAGE * number for number in range(full + 1)]
    paths: list[str | None] = [None, *(f"page/{number}.html" for number in range(1, full + 1)), "index.html"]
    archive = [
        ListPage(path, articles[start:end], newer, older)
        for path, older, newer, start, end in zip(paths[1:-1], paths, paths[2:], ends[1:], ends, strict=False)
        if path
    ]
    return [*archive, ListPage("index.html", articles[: ends[-1]], None, paths[-2])]


def _render(site: Site, template: str, path: str, **values: object) -> str:
    root = "../" * path.count("/")
    absolute = root if site.url is None else f"{site.url}/"
    common = {
        "site": site,
        "language": current_language(),
        "path": path,
        "root": root,
        "absolute": absolute,
        "day": partial(_format_day, site.timezone),
    }
    text = _environment().get_template(template).render(common | values)
    return _INVALID_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _format_day(timezone: str, at: datetime) -> str:
    return format_date(at.astimezone(ZoneInfo(timezone)))


def _within_page(html: str) -> Markup:
    """Return a post's HTML as part of a page: headings one level lower, wide elements scrollable by keyboard too.

    The columns of tables keep their alignment.
    """
    html = re.sub(r"<(/?)h([1-5])>", lambda match: f"<{match[1]}h{int(match[2]) + 1}>", html)
    html = _ALIGNED_CELL.sub(r'<\1 class="\2">', html)  # the page's policy allows no styles in attributes
    html = html.replace("<pre>", '<pre tabindex="0">')
    tables = count(1)
    opened = '<div class="wide" role="region" aria-label="{}" tabindex="0"><table>'
    label = lambda _: opened.format(translated(tr("Table {number}", number=next(tables))))  # noqa: E731
    html = re.sub("<table>", label, html).replace("</table>", "</table></div>")
    return Markup(html)  # noqa: S704


def _for_feed(article: Article, absolute: str) -> str:
    """Return a post's HTML for the feed, with its picture."""
    if article.picture is None:
        return article.html
    name, width, height = article.picture
    image = f'<p><img src="{absolute}images/{quote(name)}" width="{width}" height="{height}" alt=""></p>'
    return f"{image}\n{article.html}"


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


@cache
def _environment() -> Environment:
    return make_environment(iso=_iso, quoted=quote, for_feed=_for_feed, within_page=_within_page)

"""The site's pages: plain values in, the text of every file out; pure.

The text depends on nothing but the values, so that what has not changed is the same to the byte.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from skychimp.delivery.composing import digest

PER_PAGE = 9
IN_FEED = 20
HUES = 6  # of the stylesheet, for a card without a picture

_HERE = Path(__file__).parent
_NOT_FOR_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Picture(NamedTuple):
    """A file of the folder `images`; its size in pixels."""

    name: str
    width: int
    height: int


class Article(NamedTuple):
    """A published post. `id` is an IRI that outlives its slug and the site's address."""

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
        return digest.page_of(self.slug)

    @property
    def hue(self) -> int:
        return sum(self.slug.encode()) % HUES


class Figures(NamedTuple):
    mailings: int
    active_mailings: int
    unique_clients: int


class Site(NamedTuple):
    """All that the pages say. `url` is where they will be, without a slash at its end; None where that is unknown."""

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


class Shelf(NamedTuple):
    """A page of cards; the paths of the pages beside it."""

    path: str
    articles: Sequence[Article]
    newer: str | None
    older: str | None


def render(site: Site) -> dict[str, str]:
    """Path and text of every file but the pictures; a page comes after those that it leads to."""
    files: dict[str, str] = {"style.css": _source("style.css"), "icon.svg": _source("icon.svg")}
    articles = site.articles
    for number, article in enumerate(articles):
        newer = articles[number - 1] if number else None
        older = articles[number + 1] if number + 1 < len(articles) else None
        files[article.path] = _page(site, "post.html", article.path, article=article, newer=newer, older=older)
    *archive, home = shelves(articles)
    for shelf in archive:
        files[shelf.path] = _page(site, "archive.html", shelf.path, shelf=shelf)
    files[home.path] = _page(site, "home.html", home.path, shelf=home)
    files["feed.xml"] = _page(site, "feed.xml", "feed.xml", articles=articles[:IN_FEED])
    if site.url is not None:
        files["sitemap.xml"] = _page(site, "sitemap.xml", "sitemap.xml", shelves=[home, *reversed(archive)])
    return files


def shelves(articles: Sequence[Article]) -> list[Shelf]:
    """The pages of cards, the oldest first, the home page last.

    They are numbered from the oldest, and only full ones leave the home page: a new post changes none of them.
    """
    full = max(0, len(articles) // PER_PAGE - 1)
    ends = [len(articles) - PER_PAGE * number for number in range(full + 1)]
    paths: list[str | None] = [None, *(f"page/{number}.html" for number in range(1, full + 1)), "index.html"]
    made = [
        Shelf(path, articles[start:end], newer, older)
        for path, older, newer, start, end in zip(paths[1:-1], paths, paths[2:], ends[1:], ends, strict=False)
        if path
    ]
    return [*made, Shelf("index.html", articles[: ends[-1]], None, paths[-2])]


def _page(site: Site, template: str, path: str, **values: object) -> str:
    root = "../" * path.count("/")
    absolute = root if site.url is None else f"{site.url}/"
    here = {"site": site, "path": path, "root": root, "absolute": absolute, "day": partial(_day, site.timezone)}
    text = _environment().get_template(template).render(here | values)
    return _NOT_FOR_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _day(timezone: str, at: datetime) -> str:
    local = at.astimezone(ZoneInfo(timezone))
    return f"{local.day} {local:%B %Y}"


def _within_page(html: str) -> Markup:
    """A post's HTML below the page's own heading; what is wider than the page scrolls, by keyboard too."""
    html = re.sub(r"<(/?)h([1-5])>", lambda found: f"<{found[1]}h{int(found[2]) + 1}>", html)
    html = html.replace("<pre>", '<pre tabindex="0">')
    tables = count(1)
    opened = '<div class="wide" role="region" aria-label="Table {}" tabindex="0"><table>'
    html = re.sub("<table>", lambda _: opened.format(next(tables)), html).replace("</table>", "</table></div>")
    return Markup(html)  # noqa: S704


def _for_feed(article: Article, absolute: str) -> str:
    """A post's HTML as a feed's reader shows it: with its picture."""
    if article.picture is None:
        return article.html
    name, width, height = article.picture
    image = f'<p><img src="{absolute}images/{quote(name)}" width="{width}" height="{height}" alt=""></p>'
    return f"{image}\n{article.html}"


def _iso(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")


def _source(name: str) -> str:
    return (_HERE / "templates" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(_HERE / "templates")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"iso": _iso, "quoted": quote, "for_feed": _for_feed, "within_page": _within_page}
    return made

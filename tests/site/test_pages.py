"""The site's pages: whole, linked, escaped, and the same to the byte where nothing changed."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from posixpath import dirname, join, normpath
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.site import pages
from skychimp.site.pages import PER_PAGE, Article, Figures, Picture, Site

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
URL = "https://blog.example.org/news"
ATOM = "{http://www.w3.org/2005/Atom}"
SITEMAP = "{http://www.sitemaps.org/schemas/sitemap/0.9}"
XML_BASE = "{http://www.w3.org/XML/1998/namespace}base"
VOID = {"meta", "link", "img", "br", "hr", "input"}


def article(number: int, **more: Any) -> Article:
    at = NOW + timedelta(days=number)
    usual = Article(
        id=f"urn:uuid:{number}",
        slug=f"post-{number}",
        title=f"Post {number}",
        author="Grace",
        html=f"<h1>Head</h1>\n<p>About {number}.</p>",
        excerpt=f"About {number}.",
        picture=Picture(f"{number}.png", 640, 480) if number % 2 else None,
        published_at=at,
        updated_at=at,
    )
    return usual._replace(**more)


def site(*articles: Article, **more: Any) -> Site:
    """With the newest article last, as they were written."""
    usual = Site(
        "urn:uuid:s", "Title", "Tagline", "Description", "en", "UTC", URL, Figures(3, 2, 12345), articles[::-1]
    )
    return usual._replace(**more)


def files(*articles: Article, **more: Any) -> dict[str, str]:
    return pages.render(site(*articles, **more))


class Page(HTMLParser):
    """What a page holds; fails where its elements are not nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def links(self) -> list[str]:
        return [attributes[name] for _, attributes in self.tags for name in ("href", "src") if attributes.get(name)]

    def meta(self, name: str) -> str | None:
        found = [each["content"] for each in self.all("meta") if name in (each.get("property"), each.get("name"))]
        assert len(found) < 2
        return found[0] if found else None


def html_of(built: dict[str, str]) -> dict[str, Page]:
    return {path: Page(text) for path, text in built.items() if path.endswith(".html")}


def target(path: str, link: str) -> tuple[str, str]:
    """The file, and the place in it, that a page's link leads to."""
    place, _, fragment = link.partition("#")
    leads_to = normpath(join(dirname(path), unquote(place))) if place else path
    return "index.html" if leads_to == "." else leads_to, fragment


@pytest.mark.parametrize("url", [None, URL])
@pytest.mark.parametrize("number", [0, 1, PER_PAGE, 2 * PER_PAGE, 5 * PER_PAGE + 1])
def test_every_link_leads_somewhere_and_every_page_is_linked(url: str | None, number: int) -> None:
    built = files(*map(article, range(number)), url=url)
    found = html_of(built)
    there = {*built, *(f"images/{each}.png" for each in range(number) if each % 2)}
    reached, new = set(), ["index.html"]
    while new:
        path = new.pop()
        if path in reached or path not in found:
            reached.add(path)
            continue
        reached.add(path)
        for link in found[path].links:
            if url is not None and link.startswith(url):  # where it says that it is
                link = "../" * path.count("/") + link.removeprefix(f"{url}/")
            leads_to, fragment = target(path, link)
            assert leads_to in there, (path, link)
            assert not fragment or fragment in found[leads_to].ids
            new.append(leads_to)
    assert reached == there - {"sitemap.xml"}


def test_every_page_is_a_page() -> None:
    for path, page in html_of(files(*map(article, range(3 * PER_PAGE)))).items():
        assert len(page.all("h1")) == 1, path
        assert len(page.all("title")) == len(page.all("main")) == 1
        assert len(set(page.ids)) == len(page.ids)
        assert page.all("html") == [{"lang": "en"}]
        assert all({"alt", "width", "height"} <= image.keys() for image in page.all("img"))
        assert not page.all("script")
        assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
        policy = next(each["content"] for each in page.all("meta") if "http-equiv" in each)
        assert "default-src 'none'" in policy
        assert "script" not in policy


def test_the_home_page_says_the_figures_and_the_latest() -> None:
    page = html_of(files(*map(article, range(2 * PER_PAGE))))["index.html"]
    said = " ".join(page.words.split())
    assert "Mailings in all3 Active mailings2 Unique clients12,345" in said
    assert re.findall(r"Post \d+", said) == [f"Post {number}" for number in reversed(range(PER_PAGE, 2 * PER_PAGE))]


def test_a_post_says_what_it_is_to_who_shares_it() -> None:
    page = html_of(files(article(0), article(1)))["posts/post-1.html"]
    assert [page.meta(f"og:{name}") for name in ("type", "title", "description", "url", "image", "image:width")] == [
        "article", "Post 1 · Title", "About 1.", f"{URL}/posts/post-1.html", f"{URL}/images/1.png", "640",
    ]  # fmt: skip
    assert {"rel": "canonical", "href": f"{URL}/posts/post-1.html"} in page.all("link")
    assert page.meta("article:published_time") == "2026-03-03T09:00:00Z"
    without = html_of(files(article(1), url=None))["posts/post-1.html"]
    assert [without.meta(name) for name in ("og:url", "og:image", "og:type")] == [None, None, "article"]


HOSTILE = "</title><script>alert(1)</script><img src=x onerror='y'>\" & {{ x }} \x00\x0b\ufffe]]>"


def test_nothing_that_somebody_wrote_is_markup() -> None:
    post = article(1, title=HOSTILE, author=HOSTILE, excerpt=HOSTILE)
    plain = article(1, title="T", author="A", excerpt="E")
    hostile = files(post, article(2), title=HOSTILE, tagline=HOSTILE, description=HOSTILE)
    for path, page in html_of(files(plain, article(2), title="S", tagline="G", description="D")).items():
        assert [tag for tag, _ in Page(hostile[path]).tags] == [tag for tag, _ in page.tags]
    shown = re.sub("[\x00\x0b\ufffe]", "\ufffd", HOSTILE)
    seen = Page(hostile["posts/post-1.html"])
    assert seen.words.count(shown) == 6  # the tab: post and site; the brand, the author, the heading, the foot
    assert seen.meta("author") == shown
    feed = ET.fromstring(hostile["feed.xml"])
    assert [feed.findtext(f"{ATOM}title"), feed.findall(f"{ATOM}entry")[1].findtext(f"{ATOM}title")] == [shown, shown]


def test_a_posts_headings_stand_below_its_title_and_what_is_wide_scrolls() -> None:
    html = "<h1>A</h1><h2>B</h2><h6>C</h6><pre><code>&lt;h1&gt;</code></pre><table></table><table></table>"
    page = files(article(1, html=html))["posts/post-1.html"]
    assert '<h2>A</h2><h3>B</h3><h6>C</h6><pre tabindex="0"><code>&lt;h1&gt;</code></pre>' in page
    regions = [each["aria-label"] for each in Page(page).all("div") if each.get("role") == "region"]
    assert regions == ["Table 1", "Table 2"]


# The feed and the map


@pytest.mark.parametrize(("url", "start"), [(URL, f"{URL}/"), (None, "")])
def test_the_feed_is_an_atom_feed(url: str | None, start: str) -> None:
    """RFC 4287: 4.1.1 and 4.1.2, what must be there, once; 4.2.6, ids that last."""
    posts = [article(number, updated_at=NOW + timedelta(days=90 - number)) for number in range(pages.IN_FEED + 5)]
    feed = ET.fromstring(files(*posts, url=url)["feed.xml"])
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == pages.IN_FEED
    for each in (feed, *entries):
        assert [len(each.findall(f"{ATOM}{name}")) for name in ("id", "title", "updated")] == [1, 1, 1]
    first = entries[0]
    newest = posts[-1]
    assert (first.findtext(f"{ATOM}id"), first.findtext(f"{ATOM}title")) == (newest.id, newest.title)
    assert (first.findtext(f"{ATOM}published"), first.findtext(f"{ATOM}author/{ATOM}name")) == (
        "2026-03-26T09:00:00Z", "Grace",
    )  # fmt: skip
    assert [each.get("href") for each in first.findall(f"{ATOM}link")] == [f"{start}posts/{newest.slug}.html"]
    content = first.find(f"{ATOM}content")
    assert content is not None
    assert (content.get("type"), content.text) == ("html", newest.html)
    assert (entries[1].findtext(f"{ATOM}content") or "").splitlines()[0] == (
        f'<p><img src="{start}images/23.png" width="640" height="480" alt=""></p>'
    )
    assert content.get(XML_BASE) == (f"{start}posts/{newest.slug}.html" if url else None)
    assert feed.findtext(f"{ATOM}updated") == max(entry.findtext(f"{ATOM}updated") or "" for entry in entries)
    assert {link.get("rel"): link.get("href") for link in feed.findall(f"{ATOM}link")} == {
        "self": f"{start}feed.xml", "alternate": start or "index.html",
    }  # fmt: skip


def test_the_map_names_every_page_and_is_only_where_there_is_an_address() -> None:
    built = files(*map(article, range(3 * PER_PAGE)))
    named = [place.text for place in ET.fromstring(built["sitemap.xml"]).iter(f"{SITEMAP}loc")]
    expected = {f"{URL}/{path}" for path in built if path.endswith(".html")} - {f"{URL}/index.html"} | {f"{URL}/"}
    assert sorted(map(str, named)) == sorted(expected)
    assert "sitemap.xml" not in files(url=None)


# What changes


@given(st.integers(0, 60))
def test_every_post_stands_on_one_shelf(number: int) -> None:
    articles = list(map(article, range(number)))[::-1]
    made = pages.shelves(articles)
    assert [each for shelf in reversed(made) for each in shelf.articles] == articles
    assert [shelf.path for shelf in made] == [*(f"page/{n}.html" for n in range(1, len(made))), "index.html"]
    assert all(len(shelf.articles) == PER_PAGE for shelf in made[:-1])
    assert min(number, PER_PAGE) <= len(made[-1].articles) < 2 * PER_PAGE
    for older, newer in pairwise(made):
        assert (older.newer, newer.older) == (newer.path, older.path)
    assert (made[0].older, made[-1].newer) == (None, None)


def test_a_new_post_changes_few_pages() -> None:
    """Itself, the post before it, the home page, feed and map; and, once in a while, a page of older posts."""
    for number in range(2 * PER_PAGE, 4 * PER_PAGE):
        before = files(*map(article, range(number)))
        after = files(*map(article, range(number + 1)))
        changed = {path for path, text in after.items() if before.get(path) != text}
        usual = {f"posts/post-{number}.html", f"posts/post-{number - 1}.html", "index.html", "feed.xml", "sitemap.xml"}
        assert changed >= usual
        assert len(changed - usual) <= (2 if (number + 1) % PER_PAGE == 0 else 0)


def test_days_are_those_of_the_zone() -> None:
    late = article(1, published_at=datetime(2026, 3, 2, 23, 30, tzinfo=UTC))
    assert "3 March 2026" in html_of(files(late, timezone="Asia/Tokyo"))["index.html"].words

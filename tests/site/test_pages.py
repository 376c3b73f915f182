"""Test that the pages of the site are valid, linked, escaped, and unchanged if nothing changed."""

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

from skychimp import markdown
from skychimp.site import pages
from skychimp.site.pages import POSTS_PER_PAGE, Article, Figures, Picture, Site
from skychimp.translation import LANGUAGES, current_language, in_language

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
    """Return a site. The articles are given in the order in which they were written."""
    usual = Site(
        "urn:uuid:s", "Title", "Tagline", "Description", "en", "UTC", URL, Figures(3, 2, 12345), articles[::-1]
    )
    return usual._replace(**more)


def files(*articles: Article, **more: Any) -> dict[str, str]:
    return pages.render_site(site(*articles, **more))


class Page(HTMLParser):
    """The elements and the text of a page. Its elements must be nested correctly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
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
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]

    @property
    def links(self) -> list[str]:
        return [attributes[name] for _, attributes in self.tags for name in ("href", "src") if attributes.get(name)]

    def meta(self, name: str) -> str | None:
        values = [tag["content"] for tag in self.all("meta") if name in (tag.get("property"), tag.get("name"))]
        assert len(values) < 2
        return values[0] if values else None


def html_of(built: dict[str, str]) -> dict[str, Page]:
    return {path: Page(text) for path, text in built.items() if path.endswith(".html")}


def target(path: str, link: str) -> tuple[str, str]:
    """Return the file and the fragment that a link of a page points to."""
    place, _, fragment = link.partition("#")
    leads_to = normpath(join(dirname(path), unquote(place))) if place else path
    return "index.html" if leads_to == "." else leads_to, fragment


@pytest.mark.parametrize("url", [None, URL])
@pytest.mark.parametrize("number", [0, 1, POSTS_PER_PAGE, 2 * POSTS_PER_PAGE, 5 * POSTS_PER_PAGE + 1])
def test_every_link_is_valid_and_every_page_is_linked(url: str | None, number: int) -> None:
    built = files(*map(article, range(number)), url=url)
    html_pages = html_of(built)
    existing = {*built, *(f"images/{each}.png" for each in range(number) if each % 2)}
    reached, new = set(), ["index.html"]
    while new:
        path = new.pop()
        if path in reached or path not in html_pages:
            reached.add(path)
            continue
        reached.add(path)
        for link in html_pages[path].links:
            if url is not None and link.startswith(url):  # a page's own address
                link = "../" * path.count("/") + link.removeprefix(f"{url}/")
            leads_to, fragment = target(path, link)
            assert leads_to in existing, (path, link)
            assert not fragment or fragment in html_pages[leads_to].ids
            new.append(leads_to)
    assert reached == existing - {"sitemap.xml"}


def test_every_page_is_accessible_and_runs_nothing() -> None:
    for path, page in html_of(files(*map(article, range(3 * POSTS_PER_PAGE)))).items():
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


def test_home_page_shows_figures_and_latest_posts() -> None:
    page = html_of(files(*map(article, range(2 * POSTS_PER_PAGE))))["index.html"]
    text = " ".join(page.text.split())
    assert "All mailings3 Active mailings2 Unique clients12,345" in text
    assert re.findall(r"Post \d+", text) == [
        f"Post {number}" for number in reversed(range(POSTS_PER_PAGE, 2 * POSTS_PER_PAGE))
    ]


def test_post_has_metadata_for_sharing() -> None:
    page = html_of(files(article(0), article(1)))["posts/post-1.html"]
    assert [page.meta(f"og:{name}") for name in ("type", "title", "description", "url", "image", "image:width")] == [
        "article", "Post 1 · Title", "About 1.", f"{URL}/posts/post-1.html", f"{URL}/images/1.png", "640",
    ]  # fmt: skip
    assert {"rel": "canonical", "href": f"{URL}/posts/post-1.html"} in page.all("link")
    assert page.meta("article:published_time") == "2026-03-03T09:00:00Z"
    without = html_of(files(article(1), url=None))["posts/post-1.html"]
    assert [without.meta(name) for name in ("og:url", "og:image", "og:type")] == [None, None, "article"]


HOSTILE = "</title><script>alert(1)</script><img src=x onerror='y'>\" & {{ x }} \x00\x0b\ufffe]]>"


def test_text_from_users_is_escaped() -> None:
    post = article(1, title=HOSTILE, author=HOSTILE, excerpt=HOSTILE)
    plain = article(1, title="T", author="A", excerpt="E")
    hostile = files(post, article(2), title=HOSTILE, tagline=HOSTILE, description=HOSTILE)
    for path, page in html_of(files(plain, article(2), title="S", tagline="G", description="D")).items():
        assert [tag for tag, _ in Page(hostile[path]).tags] == [tag for tag, _ in page.tags]
    shown = re.sub("[\x00\x0b\ufffe]", "\ufffd", HOSTILE)
    post_page = Page(hostile["posts/post-1.html"])
    assert post_page.text.count(shown) == 6  # title (post and site), brand, author, heading, footer
    assert post_page.meta("author") == shown
    feed = ET.fromstring(hostile["feed.xml"])
    assert [feed.findtext(f"{ATOM}title"), feed.findall(f"{ATOM}entry")[1].findtext(f"{ATOM}title")] == [shown, shown]


def test_headings_are_lowered_and_wide_elements_scroll() -> None:
    html = "<h1>A</h1><h2>B</h2><h6>C</h6><pre><code>&lt;h1&gt;</code></pre><table></table><table></table>"
    page = files(article(1, html=html))["posts/post-1.html"]
    assert '<h2>A</h2><h3>B</h3><h6>C</h6><pre tabindex="0"><code>&lt;h1&gt;</code></pre>' in page
    regions = [each["aria-label"] for each in Page(page).all("div") if each.get("role") == "region"]
    assert regions == ["Table 1", "Table 2"]


def test_table_columns_keep_their_alignment_without_style_attributes() -> None:
    """The pages' policy forbids style attributes. The text of a cell may look like one."""
    source = '| a | b | c | d |\n|---|---:|:-:|:--|\n| 1 | 2 | 3 | `<td style="text-align:right">` |'
    post = article(1, html=markdown.to_html(source))
    built = files(post)
    page = Page(built["posts/post-1.html"])
    for tag in ("th", "td"):
        assert [each.get("class") for each in page.all(tag)] == [None, "right", "center", "left"]
    assert not [attributes for _, attributes in page.tags if "style" in attributes]
    assert '<td style="text-align:right">' in page.text
    for alignment in ("left", "center", "right"):
        assert f".{alignment} {{ text-align: {alignment};" in built["style.css"]


# Feed and sitemap


@pytest.mark.parametrize(("url", "start"), [(URL, f"{URL}/"), (None, "")])
def test_feed_is_a_valid_atom_feed(url: str | None, start: str) -> None:
    """RFC 4287: required elements exist once (sections 4.1.1 and 4.1.2), and ids are permanent (4.2.6)."""
    posts = [article(number, updated_at=NOW + timedelta(days=90 - number)) for number in range(pages.POSTS_IN_FEED + 5)]
    feed = ET.fromstring(files(*posts, url=url)["feed.xml"])
    entries = feed.findall(f"{ATOM}entry")
    assert len(entries) == pages.POSTS_IN_FEED
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


def test_sitemap_lists_every_page_and_needs_an_address() -> None:
    built = files(*map(article, range(3 * POSTS_PER_PAGE)))
    listed = [element.text for element in ET.fromstring(built["sitemap.xml"]).iter(f"{SITEMAP}loc")]
    expected = {f"{URL}/{path}" for path in built if path.endswith(".html")} - {f"{URL}/index.html"} | {f"{URL}/"}
    assert sorted(map(str, listed)) == sorted(expected)
    assert "sitemap.xml" not in files(url=None)


# Changes


@given(st.integers(0, 60))
def test_every_post_is_on_one_list_page(number: int) -> None:
    articles = list(map(article, range(number)))[::-1]
    list_pages = pages.paginate(articles)
    assert [article for page in reversed(list_pages) for article in page.articles] == articles
    assert [page.path for page in list_pages] == [*(f"page/{n}.html" for n in range(1, len(list_pages))), "index.html"]
    assert all(len(page.articles) == POSTS_PER_PAGE for page in list_pages[:-1])
    assert min(number, POSTS_PER_PAGE) <= len(list_pages[-1].articles) < 2 * POSTS_PER_PAGE
    for older, newer in pairwise(list_pages):
        assert (older.newer, newer.older) == (newer.path, older.path)
    assert (list_pages[0].older, list_pages[-1].newer) == (None, None)


def test_new_post_changes_few_pages() -> None:
    """It changes itself, the previous post, the home page, feed and sitemap; and sometimes a page of older posts."""
    for number in range(2 * POSTS_PER_PAGE, 4 * POSTS_PER_PAGE):
        before = files(*map(article, range(number)))
        after = files(*map(article, range(number + 1)))
        changed = {path for path, text in after.items() if before.get(path) != text}
        usual = {f"posts/post-{number}.html", f"posts/post-{number - 1}.html", "index.html", "feed.xml", "sitemap.xml"}
        assert changed >= usual
        assert len(changed - usual) <= (2 if (number + 1) % POSTS_PER_PAGE == 0 else 0)


def test_dates_are_in_the_sites_time_zone() -> None:
    late = article(1, published_at=datetime(2026, 3, 2, 23, 30, tzinfo=UTC))
    assert "3 March 2026" in html_of(files(late, timezone="Asia/Tokyo"))["index.html"].text


@pytest.mark.parametrize(
    ("language", "frame", "words", "date"),
    [
        ("ru", "ru", {"Записей пока нет. Подпишитесь на ленту, чтобы получить первую."}, "3 марта 2026"),
        ("ru-RU", "ru", {"Уникальные клиенты", "12\xa0345"}, "3 марта 2026"),
        ("pt-BR", "en", {"Unique clients", "12,345"}, "3 March 2026"),
    ],
)
def test_frame_is_in_the_language_of_the_posts(language: str, frame: str, words: set[str], date: str) -> None:
    for of_process in LANGUAGES:
        with in_language(of_process):
            empty, full = files(language=language)["index.html"], files(article(1), language=language)["index.html"]
            assert current_language() == of_process
        assert f'<html lang="{frame}">' in full
        assert all(f">{each}<" in empty for each in words)
        assert f">{date}</time>" in full

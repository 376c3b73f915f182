"""The digest's words: what a post says is shown as it is, and never obeyed as template, Markdown or HTML."""

import html
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp import markdown
from skychimp.delivery.composing import digest
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import News
from skychimp.models import Format
from skychimp.store.digest_posts import MOST_POSTS

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
URL = "https://blog.example.org/posts/a.html"
HOSTILE = [
    "{{ client.email }}",
    "{% endraw %}{{ client.email }}",
    "{% for t in client.tags %}x{% endfor %}",
    "{# hidden #}",
    "'}} {{ client.email }} {{'",
    "\\' }} {{ client.email }} \\",
    "\\u007b{ client.email }}",
    "{{ posts }}",
    "**bold** [link](javascript:alert) ![i](x) `code` # head",
    "<script>alert(1)</script> & &lt;b&gt;",
    "{",
    "}}",
    "%}",
]
TEXT = st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


def rendered(words: MessageContent) -> tuple[str, str, str | None]:
    """As one client would read it."""
    composer = Composer(words, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW)
    return composer.render(Recipient("eve@example.org", "Eve", "", ("vip",)))


def words(form: Format, body: str = "Dear {{ client.name }},", html: str | None = None) -> MessageContent:
    return MessageContent("News", body, form, html)


@pytest.mark.parametrize("title", HOSTILE)
def test_a_post_is_no_template(title: str) -> None:
    check(title, f"Before {title} after")


@given(TEXT, TEXT)
def test_what_a_post_says_is_what_is_read(title: str, excerpt: str) -> None:
    check(title, excerpt)


def check(title: str, excerpt: str) -> None:
    posts = [News(title, excerpt, URL)]

    _, text, _ = rendered(digest.with_posts(words(Format.TEXT), posts))
    assert text == f"Dear Eve,\n\n{title}\n{excerpt}\n{URL}\n"

    _, text, page = rendered(digest.with_posts(words(Format.MARKDOWN), posts))
    assert text == f"Dear Eve,\n\n## [{title}](<{URL}>)\n\n{excerpt}\n"
    assert f'<h2><a href="{URL}">{shown(title)}</a></h2>\n<p>{shown(excerpt)}</p>' in unescaped(page)

    _, _, page = rendered(digest.with_posts(words(Format.HTML, html="<body>{{ posts }}</body>"), posts))
    assert unescaped(page) == f'<body><h2><a href="{URL}">{shown(title)}</a></h2>\n<p>{shown(excerpt)}</p></body>'


def shown(text: str) -> str:
    """A text in HTML, once `unescaped` has made the ways to write an entity one."""
    return html.escape(text, quote=False)


def unescaped(page: str | None) -> str:
    assert page is not None
    return page.replace("&#34;", '"').replace("&#39;", "'").replace("&quot;", '"')


def test_posts_stand_where_the_words_say() -> None:
    posts = [News("One", "", None), News("Two", "It begins.", None)]
    body = "Hello\n\n{{ posts }}\n\nBye {{ client.name }}"

    assert (
        rendered(digest.with_posts(words(Format.TEXT, body), posts))[1] == "Hello\n\nOne\n\nTwo\nIt begins.\n\nBye Eve"
    )
    assert rendered(digest.with_posts(words(Format.MARKDOWN, body), posts))[1] == (
        "Hello\n\n## One\n\n## Two\n\nIt begins.\n\nBye Eve"
    )


def test_the_most_and_longest_posts_make_a_letter() -> None:
    longest = [News("{" * 200, "{%" * (markdown.LONGEST_EXCERPT // 2), f"{URL}?{n}") for n in range(MOST_POSTS)]
    for form in (Format.TEXT, Format.MARKDOWN):
        assert rendered(digest.with_posts(words(form), longest))[1].count("{" * 200) == MOST_POSTS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("# Head\n\nThe *first*  one,\nwith `code` & [a link](https://x.example).\n\nSecond.", None),
        ("![only](x.png)\n\nThe *first*  one,\nwith `code` & [a link](https://x.example).\n\nSecond.", None),
        ("> The first one, with code & a link.", None),
        ("- a\n- b", "a b"),
        ("", ""),
        ("<b>raw</b> {{ x }}", "<b>raw</b> {{ x }}"),
        ("word " * 100, "word " * 47 + "word…"),
        ("字" * 300, "字" * 240 + "…"),
    ],
)
def test_an_excerpt_is_the_first_paragraph_in_plain_words(content: str, expected: str | None) -> None:
    said = digest.news("A", content, "a", None).excerpt
    assert said == ("The first one, with code & a link." if expected is None else expected)


def test_a_post_that_can_not_be_read_is_told_of_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> str:
        raise IndexError

    monkeypatch.setattr("markdown_it.MarkdownIt.render", fail)
    assert digest.news("A", "a", "a", None) == News("A", "", None)


def test_a_post_is_linked_to_its_page() -> None:
    assert digest.news("A", "a", "hello", "https://x.example/blog").url == "https://x.example/blog/posts/hello.html"
    assert digest.news("A", "a", "hello", None).url is None

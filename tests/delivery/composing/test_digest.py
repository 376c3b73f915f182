"""Digests: a post's text is shown as it is, and never read as template, Markdown or HTML."""

import html
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp import markdown
from skychimp.delivery.composing import digest
from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.digest import PostSummary
from skychimp.models import Format
from skychimp.store.occurrences.digest_posts import MOST_POSTS

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


def rendered(content: MessageContent) -> tuple[str, str, str | None]:
    """Return subject, text and HTML as one client reads them."""
    composer = Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW)
    return composer.render(Recipient("eve@example.org", "Eve", "", ("vip",)))


def message(text_format: Format, body: str = "Dear {{ client.name }},", html: str | None = None) -> MessageContent:
    return MessageContent("News", body, text_format, html)


@pytest.mark.parametrize("title", HOSTILE)
def test_title_is_not_read_as_a_template(title: str) -> None:
    assert_shown_unchanged(title, f"Before {title} after")


@given(TEXT, TEXT)
def test_any_title_and_excerpt_are_shown_unchanged(title: str, excerpt: str) -> None:
    assert_shown_unchanged(title, excerpt)


def assert_shown_unchanged(title: str, excerpt: str) -> None:
    posts = [PostSummary(title, excerpt, URL)]

    _, text, _ = rendered(digest.insert_posts(message(Format.TEXT), posts))
    assert text == f"Dear Eve,\n\n{title}\n{excerpt}\n{URL}\n"

    _, text, page = rendered(digest.insert_posts(message(Format.MARKDOWN), posts))
    assert text == f"Dear Eve,\n\n## [{title}](<{URL}>)\n\n{excerpt}\n"
    assert f'<h2><a href="{URL}">{as_html(title)}</a></h2>\n<p>{as_html(excerpt)}</p>' in unescaped(page)

    _, _, page = rendered(digest.insert_posts(message(Format.HTML, html="<body>{{ posts }}</body>"), posts))
    assert unescaped(page) == f'<body><h2><a href="{URL}">{as_html(title)}</a></h2>\n<p>{as_html(excerpt)}</p></body>'


def as_html(text: str) -> str:
    """Return a text as HTML, with the entities that `unescaped` leaves."""
    return html.escape(text, quote=False)


def unescaped(page: str | None) -> str:
    """Return HTML with quotes unescaped: there are several entities for each of them."""
    assert page is not None
    return page.replace("&#34;", '"').replace("&#39;", "'").replace("&quot;", '"')


def test_posts_replace_the_placeholder() -> None:
    posts = [PostSummary("One", "", None), PostSummary("Two", "It begins.", None)]
    body = "Hello\n\n{{ posts }}\n\nBye {{ client.name }}"

    assert (
        rendered(digest.insert_posts(message(Format.TEXT, body), posts))[1]
        == "Hello\n\nOne\n\nTwo\nIt begins.\n\nBye Eve"
    )
    assert rendered(digest.insert_posts(message(Format.MARKDOWN, body), posts))[1] == (
        "Hello\n\n## One\n\n## Two\n\nIt begins.\n\nBye Eve"
    )


def test_maximum_of_longest_posts_can_be_composed() -> None:
    longest = [
        PostSummary("{" * 200, "{%" * (markdown.MAX_EXCERPT_LENGTH // 2), f"{URL}?{n}") for n in range(MOST_POSTS)
    ]
    for text_format in (Format.TEXT, Format.MARKDOWN):
        assert rendered(digest.insert_posts(message(text_format), longest))[1].count("{" * 200) == MOST_POSTS


def test_post_that_cannot_be_rendered_is_shown_without_an_excerpt(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> str:
        raise IndexError

    monkeypatch.setattr("markdown_it.MarkdownIt.render", fail)
    assert digest.summarize_post("A", "a", "a", None) == PostSummary("A", "", None)


def test_post_is_linked_to_its_page() -> None:
    assert (
        digest.summarize_post("A", "a", "hello", "https://x.example/blog").url
        == "https://x.example/blog/posts/hello.html"
    )
    assert digest.summarize_post("A", "a", "hello", None).url is None

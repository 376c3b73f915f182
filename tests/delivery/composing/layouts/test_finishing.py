"""Layouts: what is refused, what the built-in one shows, and that emails in it are composed as fast as others."""

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient, check_content
from skychimp.delivery.composing.extras import NO_EXTRAS, Extras
from skychimp.delivery.composing.layouts.finishing import (
    MAX_LAYOUT_SIZE,
    Layout,
    check_layout,
    default_layout,
    finish,
    layout_of,
)
from skychimp.errors import InvalidValue
from skychimp.fields import Field
from skychimp.models import FieldType, Format

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
ADA = Recipient("ada@example.org", "Ada & Bob", "", ())
BUILT_IN = Layout(default_layout(), is_default=True)
NEWS = MessageContent("News for {{ client.name }}", "# News\n\nDear *{{ client.name }}*\n", Format.MARKDOWN)
BOTH = Extras(web_url="https://mail.example.org", postal_address="Example & Co")


def composer(content: MessageContent, extras: Extras = NO_EXTRAS) -> Composer:
    return Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW, extras=extras)


def read(content: MessageContent, extras: Extras = NO_EXTRAS) -> tuple[str, str]:
    """Return text and HTML as Ada reads them."""
    _, text, html = composer(content, extras).render(ADA)
    return text, html or ""


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<p>Hello</p>", "the layout has no {{ content }}"),
        ("{{ content }}{{ content }}", "more than once"),
        ("{% if client.name %}{{ content }}{% endif %}", "inside {% if %} or {% for %}"),
        ("<p title='{{ content }}'>", "inside a tag, a comment, a style or a title"),
        ("<!-- {{ content }} -->", "inside a tag, a comment, a style or a title"),
        ("<style>{{ content }}</style>", "inside a tag, a comment, a style or a title"),
        ("{{ content }}\n{{ client.nam }}", "the layout, line 2: unknown attribute client.nam"),
        ("{{ content }}\n{{ client.fields.town }}", "the layout, line 2: unknown field town"),
        ("{{ content | upper }}", "unknown variable content"),
        ("{{ content }}{% include 'x' %}", "include is not allowed"),
        ("{{ content }}\0", "NUL"),
        ("{{ content }}" + "x" * MAX_LAYOUT_SIZE, "larger than 200 kB"),
    ],
)
def test_layout_that_cannot_work_is_refused(html: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        check_layout(html, [Field("city", FieldType.TEXT)])
    assert reason in refused.value.message


@pytest.mark.parametrize("html", [default_layout(), "{{content}}", "<p>{{- content -}}</p>{{ client.fields.City }}"])
def test_layout_is_accepted(html: str) -> None:
    check_layout(html, [Field("city", FieldType.TEXT)])


def test_built_in_layout_is_small_and_needs_nothing_from_elsewhere() -> None:
    finished = finish(NEWS, BUILT_IN)
    assert len(default_layout().encode()) < 6_000
    assert len((finished.html or "").encode()) < 6_000
    assert "//" not in default_layout().replace("</", "")
    check_content(finished)


def test_content_subject_and_preheader_are_inserted_once() -> None:
    layout = Layout(
        "<title>{{ subject }}</title><i>{{ preheader }}</i><div>{{ content }}</div>", "<1> {{ client.name }}"
    )
    text, html = read(finish(NEWS, layout))
    assert html == (
        "<title>News for Ada &amp; Bob</title><i>&lt;1&gt; Ada &amp; Bob</i>"
        "<div><h1>News</h1>\n<p>Dear <em>Ada &amp; Bob</em></p></div>"
    )
    assert text == "News\n\nDear Ada & Bob\n"


@pytest.mark.parametrize(
    ("extras", "footer"),
    [
        (NO_EXTRAS, ""),
        (Extras(postal_address="Example & Co"), "\n-- \nExample & Co\n"),
        (Extras(inbound_address="in@example.org"),
         "\n-- \nUnsubscribe: mailto:in+sample@example.org?subject=unsubscribe\n"),
        (BOTH, "\n-- \nExample & Co\nUnsubscribe: https://mail.example.org/u/sample\n"),
    ],
    ids=["neither", "address", "link", "both"],
)  # fmt: skip
def test_footer_of_the_built_in_layout_has_what_the_settings_have(extras: Extras, footer: str) -> None:
    finished = finish(NEWS, BUILT_IN)
    text, html = read(finished, extras)
    assert text == "News\n\nDear Ada & Bob\n" + footer
    assert html.count("Unsubscribe</a>") == bool(extras.unsubscribe_url)
    assert html.count("Example &amp; Co") == bool(extras.postal_address)
    assert composer(finished, extras).shows_link == bool(extras.unsubscribe_url)


def test_built_in_layout_repeats_nothing_that_the_message_shows() -> None:
    body = "News\n\n[Leave]({{ unsubscribe_url }}) {{ postal_address }}\n-- \nAda"
    text, html = read(finish(NEWS._replace(body=body), BUILT_IN), BOTH)
    assert (text.count("/u/sample"), html.count("/u/sample"), html.count("Example")) == (1, 1, 1)
    assert text == "News\n\nLeave <https://mail.example.org/u/sample> Example & Co\n-- \nAda\n"


def test_layout_of_ones_own_with_a_link_needs_the_setting() -> None:
    finished = finish(NEWS, Layout("{{ content }}<a href='{{ unsubscribe_url }}'>Leave</a>"))
    assert composer(finished).shows_link
    text, _ = read(finished, BOTH)
    assert text.endswith("\n-- \nUnsubscribe: https://mail.example.org/u/sample\n")


def test_preheader_is_hidden_and_not_in_the_text() -> None:
    text, html = read(finish(NEWS, BUILT_IN._replace(preheader="Look & see")))
    assert '<div class="preheader" style="display:none;' in html
    assert "Look &amp; see" in html
    assert "Look" not in text
    assert 'preheader" style' not in read(finish(NEWS, BUILT_IN))[1]


@pytest.mark.parametrize("layout", [None, Layout(), BUILT_IN, BUILT_IN._replace(preheader="x")])
@pytest.mark.parametrize("subject", ["News", "Hello {{ client.name or 'you' }}"])
def test_personal_emails_in_a_layout_are_prepared(layout: Layout | None, subject: str) -> None:
    """Only the values of a client are filled in, as in an email without a layout."""
    prepared = composer(finish(NEWS._replace(subject=subject), layout), BOTH)._prepared_body
    assert prepared is not None
    assert prepared.fill(ADA._replace(unsubscribe_url="https://x")) is not None


def test_page_is_not_put_into_a_layout() -> None:
    page = MessageContent("s", "t", Format.HTML, "<html><body><p>a</p></body></html>")
    with pytest.raises(InvalidValue, match="the HTML part is a whole page"):
        finish(page, BUILT_IN)
    assert finish(page, Layout()) == page


def test_html_that_is_not_nested_is_named_by_its_own_line() -> None:
    with pytest.raises(InvalidValue, match="HTML part cannot be inlined: line 2: <b> is not closed"):
        finish(MessageContent("s", "t", Format.HTML, "<p>a</p>\n<b>c"), BUILT_IN)


def test_content_of_older_versions_stays_as_it_is() -> None:
    assert layout_of(None, None, "") is None
    assert finish(NEWS, None) is NEWS


def test_html_of_the_built_in_layout_is_nested_properly() -> None:
    open_tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            open_tags.extend([tag] if tag not in ("meta", "img", "br", "hr") else [])

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Parser().feed(read(finish(NEWS, BUILT_IN), BOTH)[1])
    assert open_tags == []

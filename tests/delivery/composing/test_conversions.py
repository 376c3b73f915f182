"""The text that is made from HTML: what a reader sees, with links and merge fields."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.conversions import MAX_TAGS, text_from_html
from skychimp.errors import InvalidValue
from skychimp.models import Format

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)
ADA = Recipient("ada@example.org", "Ada & Bob", "", ("new", "vip"))
EMAIL = """\
<!DOCTYPE html><html><head><title>News</title><style>@media print{#menu{display:none}}</style></head><body>
<!--[if mso]><p>Outlook</p><![endif]-->
<div style="display:none">Preview</div>
<table><tr>
  <td><a href="https://example.org/"><img src="logo.png" alt="Example Ltd"></a></td>
  <td><a href="https://example.org/{{ client.email | urlencode }}?a=1&amp;b=2">View <b>online</b></a></td>
</tr><tr><td colspan="2">
  <h1>Hello {{ client.name | default("dear <friend>", true) }},</h1>
  <p>here is the <b>news</b> of&nbsp;May &amp; June.<br>Read on!</p>
  {% if client.comment %}
  <p>{{ client.comment }}</p>
  {% endif %}
  <ul>{% for tag in client.tags %}<li>{{ tag }}</li>{% endfor %}</ul>
  <ol><li>First</li><li>Second</li></ol>
  <table><tr><th>Day</th><th>Time</th></tr><tr><td>Monday</td><td>9:00</td></tr></table>
</td></tr></table>
<p><a href="mailto:info@example.org">info@example.org</a> <a href="https://example.org">https://example.org</a>
<a href="#top">up</a></p>
<p>--&nbsp;<br>Example Ltd</p><img src="https://example.org/open.gif" width="1" height="1">
<script>alert("{{ client.name }}")</script></body></html>
"""
TEXT = """\
Example Ltd <https://example.org/> View online <https://example.org/ada%40example.org?a=1&b=2>

Hello Ada & Bob,

here is the news of May & June.
Read on!

* new
* vip
1. First
2. Second
Day Time
Monday 9:00

info@example.org https://example.org up

--\x20
Example Ltd
"""


def rendered(text: str, client: Recipient = ADA) -> str:
    """Return a text template as a client reads it."""
    composer = Composer(
        MessageContent("s", text, Format.TEXT), sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW
    )
    return composer.render(client)[1]


def test_text_of_a_typical_email() -> None:
    assert rendered(text_from_html(EMAIL)) == TEXT
    with_comment = rendered(text_from_html(EMAIL), ADA._replace(comment="A <comment>"))
    assert "Read on!\n\nA <comment>\n\n* new" in with_comment


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<html><body><p>Hello, here is the <b>news</b>.</p></body></html>", "Hello, here is the news.\n"),
        ("Only text", "Only text\n"),
        ("<?xml version='1.0' encoding='utf-8'?><html><body>é</body></html>", "é\n"),
        ("<p>{% raw %}{{ x }}{% endraw %} {<b>{{ client.name }}</b>", "{{ x }} {Ada & Bob\n"),
        ("<p>&#123;% if %} {# a note #}{#id} &#123;# no note #}", "{% if %} {#id} {# no note #}\n"),
        ("<a href='x'>see<b> this </b></a>now", "see this <x> now\n"),
        ("<a href=''>a</a> <a name='b'>b</a> <a href='JavaScript:c'>c</a>", "a b c\n"),
        ("<a href='tel:+123'>Call +123</a> or <a href='tel:+123'>+123</a>", "Call +123 <+123> or +123\n"),
        ("<a href='/x'><img src='y'></a><img alt='A &lt;b&gt;' src='y'>", "</x>A <b>\n"),
        ("<table><tr>{% if client.name %}<td>A</td>{% else %}<td>B</td>{% endif %}</tr></table>", "A\n"),
        ("<pre>a\n  b</pre>", "a\n  b\n"),
        ("<a href='http://x/'>A<p><a href='http://y/'>B</a></p></a>", "A\n\nB <http://y/>\n"),
        ("", "\n"),
        ("<img src='x'>", "\n"),
    ],
)  # fmt: skip
def test_text_of_html(html: str, text: str) -> None:
    assert "\n".join(map(str.rstrip, rendered(text_from_html(html)).split("\n"))) == text


def test_html_with_too_many_tags_is_refused() -> None:
    with pytest.raises(InvalidValue, match="too many tags"):
        text_from_html("<b>" * (MAX_TAGS + 1))


pieces = st.sampled_from(
    ["<p>", "</p>", "<a href='x'>", "</a>", "<table>", "<td>", "</td>", "<b>", "&#123;", "{", "{#", " #}",
     "{% raw %}{{", "{{ x }}{% endraw %}", "{% if client.name %}", "{% endif %}", "{{ client.name }}", "<!--",
     "-->", "<style>", "</style>", "\n", "\x01", "-- ", "é", "x", "<br>", "<ul><li>", "<pre>",
     "&lt;b&gt;", "<?xml ", "?>", "]]>"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(pieces).map("".join))
def test_text_of_any_html_shows_no_other_values_than_the_html(source: str) -> None:
    content = MessageContent("s", "", Format.HTML, source)
    try:
        Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW)
        text = rendered(text_from_html(source))
    except InvalidValue:  # of the HTML, or because only one of the tags of a block is shown
        return
    assert text.count("Ada") <= source.count("{{ client.name }}")
    assert re.search("x[0-9a-f]{16}", text) is None

"""CSS in `style` attributes, with the expressions of the template unchanged, and HTML that cannot be inlined."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import TemplateSyntaxError

from skychimp.delivery.composing.conversions import MarkedTemplate
from skychimp.delivery.composing.layouts import markup
from skychimp.delivery.composing.layouts.inlining import inline_css
from skychimp.delivery.composing.layouts.markup import MAX_DEPTH, NotNested
from skychimp.delivery.composing.templates import split_template
from skychimp.errors import InvalidValue

RED = "<style>p{color:red}</style>"


def inlined(html: str) -> str | None:
    """Return the body of a page with its CSS inlined."""
    source = inline_css(MarkedTemplate(split_template(html)), "HTML part")
    return source and source.partition("<body>")[2].partition("</body>")[0].strip()


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        ("<p>a", '<p style="color:red">a</p>'),
        ("<p style='margin:0'>{{ client.name }}</p>", '<p style="color:red;margin:0">{{ client.name }}</p>'),
        ("<p title='{{ client.name }}' class=\"{% if client.name %}x{% endif %}\">a</p>",
         '<p class="{% if client.name %}x{% endif %}" title="{{ client.name }}" style="color:red">a</p>'),
        ("<p>{% if client.name %}a{% else %}<b>b</b>{% endif %}</p>",
         '<p style="color:red">{% if client.name %}a{% else %}<b>b</b>{% endif %}</p>'),
        ("<p>a</p><table>{% for tag in client.tags %}<tr><td>{{ tag }}</td></tr>{% endfor %}</table>",
         '<p style="color:red">a</p><table>{% for tag in client.tags %}<tbody><tr><td>{{ tag }}</td></tr>'
         "{% endfor %}</tbody></table>"),
        ("<p>{ {% raw %}{{ x }}{% endraw %} &#123;% b</p>",
         '<p style="color:red">&#123; &#123;&#123; x }} &#123;% b</p>'),
        ("<!--[if mso]><table><tr><td>{{ client.name }}<![endif]--><p>a</p>",
         '<!--[if mso]><table><tr><td>{{ client.name }}<![endif]--><p style="color:red">a</p>'),
        ("<p>a&nbsp;&mdash;&#847;</p>", '<p style="color:red">a&nbsp;&#8212;&#847;</p>'),
        ("<p>ü&mdash;</p>", '<p style="color:red">ü—</p>'),
        ("<ul><li>a<li>b</ul><p>c", '<ul><li>a</li><li>b</li></ul><p style="color:red">c</p>'),
    ],
)  # fmt: skip
def test_css_is_inlined_and_expressions_stay(html: str, shown: str) -> None:
    assert inlined(f"{RED}<body>{html}") == shown


@pytest.mark.parametrize(
    "html",
    ["<p>a</p>", "<style>/* p{} */@import 'a';@media print{#menu{color:red}}</style><div id=menu>a",
     "<style>b{color:red}</style><p>a</p>",
     "<style data-css-inline='ignore'>p{color:red}</style><p><b>not closed</p>"],
    ids=["no style", "media query", "no such element", "left where it is"],
)  # fmt: skip
def test_html_without_css_to_inline_is_not_touched(html: str) -> None:
    assert inlined(html) is None


def test_what_an_attribute_cannot_say_stays_in_the_style_element() -> None:
    css = "p{color:red}a:hover{color:blue}@media (max-width:480px){p{color:green!important}}"
    source = inline_css(MarkedTemplate(split_template(f"<style>{css}</style><p>a <a href=x>b</a>")), "layout") or ""
    style = source.partition("<style>")[2].partition("</style>")[0]
    assert "a:hover" in style
    assert "@media (max-width:480px){p{color:green!important}}" in style
    assert re.search(r"(?<![{])p ?{ ?color: ?red", style) is None


def test_no_style_sheet_is_loaded() -> None:
    html = f'{RED}<link rel="stylesheet" href="file:///etc/hostname"><p>a</p>'
    source = inline_css(MarkedTemplate(split_template(html)), "layout") or ""
    assert 'href="file:///etc/hostname"' in source


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("<p>\n<b>x</p>", "line 2: </p> comes before the end of <b>"),
        ("\n\n<div>", "line 3: <div> is not closed"),
        ("</div>", "line 1: </div> closes nothing"),
        ("{% if client.name %}<div>{% else %}<div class=a>{% endif %}</div>", "line 1: <div> is not closed"),
        ("<p {% if client.name %}class=a{% endif %}>a", "an expression in the tag <p> must be in the value"),
        ("<table>{{ client.name }}<tr><td>a</table>", "text between the cells of a table"),
        ("<table><tr><div></div></table>", "<div> between the cells of a table"),
        ("<svg><style><b>", "<svg> cannot be used"),
        ("\n<style>{% if client.name %}b{color:red}{% endif %}</style>", "line 2: {% %} in a <style> element"),
        ("<p title='a", "a tag has no end"),
        ("<script><!--<script></script>", "<!-- in a script"),
        ("<b>" * (MAX_DEPTH + 1), f"more than {MAX_DEPTH} elements inside each other"),
    ],
)  # fmt: skip
def test_html_that_a_parser_would_change_is_refused(html: str, reason: str) -> None:
    with pytest.raises(NotNested, match=re.escape(reason)) as refused:
        inlined(RED + html)
    assert refused.value.message.startswith("the CSS of the HTML part cannot be inlined: line ")


@pytest.mark.parametrize(
    "html",
    [f"<style>{''.join(f'*{{a{n}:b}}' for n in range(3_000))}</style>{'<b></b>' * 3_000}",
     RED + "<p>" * 60_000, "<style>" + "p{a:" + "b" * 100_000 + "}</style>" + "<p>" * 30_000],
    ids=["many rules", "many tags", "long value"],
)  # fmt: skip
def test_css_that_would_take_minutes_or_gigabytes_is_refused(html: str) -> None:
    with pytest.raises(InvalidValue, match="too much CSS for its size"):
        inlined(html)


@pytest.mark.parametrize("part", ['<a"', "<!--", "<style>", "<a b='", "</", "<!", "<p>", "<script "])
def test_splitting_takes_time_in_proportion_to_the_length(part: str) -> None:
    started = time.process_time()
    assert sum(len(each.text) for each in markup.split(part * 100_000)) == len(part) * 100_000
    assert time.process_time() - started < 20


pieces = st.sampled_from(
    ["<p>", "</p>", "<b>", "</b>", "<div class=a>", "</div>", "<table>", "<tr>", "<td>", "</table>", "<ul><li>",
     "</ul>", "{{ client.name }}", "{% if client.name %}", "{% else %}", "{% endif %}", "</a>",
     "<a href='{{ client.email }}'>",
     "{", "{{ '{' }}", "&#123;", "<!-- {{ client.name }} -->", "<!--", "-->", "x", "é", "<br>", "\n",
     "<title>", "</title>", "'", '"', ">", "<", "<img src=x title='"]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(pieces, max_size=12).map("".join))
def test_any_html_keeps_its_expressions_in_order(html: str) -> None:
    try:
        template = MarkedTemplate(split_template("<style>p,td{color:red}</style><p>a</p>" + html))
        source = inline_css(template, "HTML part")
    except (InvalidValue, TemplateSyntaxError):
        return
    assert source is not None
    expressions = [each for each in split_template(source) if not isinstance(each, str)]
    assert expressions == [each for each in split_template(html) if not isinstance(each, str)]

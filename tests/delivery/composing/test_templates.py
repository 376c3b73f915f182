"""Templates: what is allowed, what is refused, and that client data cannot change the structure of an email."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing.conversions import html_from_markdown
from skychimp.delivery.composing.templates import MAX_LENGTH, DueAt, TextTemplate
from skychimp.errors import InvalidValue


class Person(NamedTuple):
    email: str = "ada@example.org"
    name: str = "Ada Lovelace"
    comment: str = ""
    tags: Sequence[str] = ("new", "vip")


class Mailing(NamedTuple):
    id: int = 7


DUE_AT = DueAt(datetime(2026, 12, 1, 9, 5, tzinfo=timezone(timedelta(hours=3), "MSK")))


def rendered(source: str, person: Person | None = None, *, html: bool = False) -> str:
    values = {"client": person or Person(), "mailing": Mailing(), "due_at": DUE_AT}
    return TextTemplate(source, "body", values, html=html).render()


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", ""),
        ("no end of line", "no end of line"),
        ("ends\n\n", "ends\n\n"),
        ("from\r\nWindows\r\n{{ client.name }}\r\n", "from\nWindows\nAda Lovelace\n"),
        ("{{ client.name }} <{{client.email}}>", "Ada Lovelace <ada@example.org>"),
        ("{{ client.tags }}", "new, vip"),
        ("{{ client.tags | join }}{{ client.tags | join(' + ') }}", "newvipnew + vip"),
        ("{{ client.tags | first }}{{ client.tags | last }}{{ client.tags | length }}", "newvip2"),
        ("{% for tag in client.tags %}[{{ tag | upper }}]{% endfor %}", "[NEW][VIP]"),
        ("{% for tag in client.tags if tag != 'new' %}{{ tag }}{% else %}none{% endfor %}", "vip"),
        ("{% for a in client.tags %}{% endfor %}{% for b in client.tags %}{{ b }}{% endfor %}", "newvip"),
        ("{{ client.comment | default('friend', true) }}", "friend"),
        ("{{ client.name | lower | title | trim }}{{ client.email | capitalize }}", "Ada LovelaceAda@example.org"),
        ("{{ client.name | urlencode }}", "Ada%20Lovelace"),
        ("{{ mailing.id }} {{ due_at }}", "7 2026-12-01 09:05"),
        ("{{ due_at | date('%-d.%m.%Y at %H:%M %z, %%') }}", "1.12.2026 at 09:05 +0300, %"),
        ("{% if client.name == 'Ada' %}a{% elif 'vip' in client.tags %}b{% else %}c{% endif %}", "b"),
        ("{% if client.name in ['Ada', 'Bob'] or not (client.comment and true) %}yes{% endif %}", "yes"),
        ("{{ 'Dear ' if client.name else 'Hello' }}{{ client.name if client.comment }}", "Dear "),
        ("a {%- if client.name -%} b {%- endif -%} c", "abc"),
        ("{# a note #}a{% raw %}{{ client.nobody }}{% endraw %}", "a{{ client.nobody }}"),
        ("{{ '{{' }} %} }} {", "{{ %} }} {"),
        ("{#note#}a{##}b{#- note -#} c{# {{ client.nobody }} {% if %}\n#}d{#{{ x }}#}{#-{{ x }}-#}", "abcd"),
        ("@media print{#menu{display:none}}", "@media print{#menu{display:none}}"),
        ("{#-menu{a:b}}{#_b{}}{#\\31{}}{#é{}}{#} {# a note #}", "{#-menu{a:b}}{#_b{}}{#\\31{}}{#é{}}{#} "),
        ("{# unclosed {# a note #}, {#menu{a:b}} {# unclosed", "{# unclosed , {#menu{a:b}} {# unclosed"),
        ("## Events {#events}", "## Events {#events}"),
        ("{% raw %}{# a note #}{% endraw %}{{ '{# a note #}' }}", "{# a note #}{# a note #}"),
        (
            "https://example.org/?filter={%22city%22:1}&x={%D0%98}",
            "https://example.org/?filter={%22city%22:1}&x={%D0%98}",
        ),
    ],
)
def test_allowed_template_is_rendered(source: str, text: str) -> None:
    assert rendered(source) == text


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ client.nam }}", "line 1: unknown attribute client.nam; did you mean name?"),
        ("a\r\n{{ cleint.name }}", "line 2: unknown attribute cleint.name"),
        ("\n\n{{ nme }}", "line 3: unknown variable nme"),
        ("{{ client.name | uper }}", "unknown filter uper; did you mean upper?"),
        ("{{ client }}", "client is not a text; use one of its attributes such as client.email"),
        ("{{ client | first }}", "client is not a text"),
        ("{{ mailing }}", "mailing is not a text"),
        ("{{ client.__class__ }}", "unknown attribute client.__class__"),
        ("{{ client._asdict }}", "unknown attribute client._asdict"),
        ("{{ client.count }}", "unknown attribute client.count"),
        ("{{ client.name.upper }}", "unknown attribute .upper"),
        ("{{ due_at._at }}", "unknown attribute due_at._at"),
        ("{{ client.name() }}", "call is not allowed"),
        ("{{ client['name'] }}", "getitem is not allowed"),
        ("{{ client.tags.0 }}", "getitem is not allowed"),
        ("{{ client.tags[:1] }}", "getitem is not allowed"),
        ("{{ client.name * 1000000000 }}", "mul is not allowed"),
        ("{{ client.name + '' }}", "add is not allowed"),
        ("{{ client.name ~ '' }}", "concat is not allowed"),
        ("{{ 2 ** 99999999 }}", "pow is not allowed"),
        ("{{ '%1000000000d' % 1 }}", "mod is not allowed"),
        ("{{ {} }}", "dict is not allowed"),
        ("{{ client.name is defined }}", "test is not allowed"),
        ("{{ range(9) }}", "call is not allowed"),
        ("{{ self }}", "unknown variable self"),
        ("{{ client.name | center(1000000000) }}", "unknown filter center"),
        ("{{ client.name | attr('upper') }}", "unknown filter attr"),
        ("{{ client.name | safe }}", "unknown filter safe"),
        ("{{ client.name | default(client.email) }}", "must be constants"),
        ("{{ client.name | default(default_value='x') }}", "must be constants"),
        ("{{ client.tags | join('" + "x" * 101 + "') }}", "constants of at most 100"),
        ("{{ client.name | join('x') }}", "join must be used with client.tags"),
        ("{{ client.name | date('%Y') }}", "date must be used with due_at"),
        ("{{ due_at | date }}", "date needs a format"),
        ("{{ due_at | date(5) }}", "date needs a format"),
        ("{{ due_at | date('%99999999d') }}", "date needs a format"),
        ("{{ due_at | date('%s') }}", "date needs a format"),  # depends on the time zone of the machine
        ("{{ due_at | date('100%') }}", "date needs a format"),
        ("{% set x = 1 %}", "assign is not allowed"),
        ("{% include 'x' %}", "include is not allowed"),
        ("{% import 'x' as x %}", "import is not allowed"),
        ("{% extends 'x' %}", "extends is not allowed"),
        ("{% block x %}{% endblock %}", "block is not allowed"),
        ("{% macro x() %}{% endmacro %}", "macro is not allowed"),
        ("{% call client.name() %}{% endcall %}", "callblock is not allowed"),
        ("{% filter upper %}{% endfilter %}", "filterblock is not allowed"),
        ("{% with %}{% endwith %}", "with is not allowed"),
        ("\n{% autoescape false %}{% endautoescape %}", "line 2: scope is not allowed"),
        ("{% for a in client.tags %}{% for b in client.tags %}{% endfor %}{% endfor %}", "not inside another one"),
        ("{% for a in 'abc' %}{% endfor %}", "must be over client.tags"),
        ("{% for a in client.name %}{% endfor %}", "must be over client.tags"),
        ("{% for a, b in client.tags %}{% endfor %}", "must be over client.tags"),
        ("{% for a in client.tags recursive %}{% endfor %}", "must be over client.tags"),
        ("{% for client in client.tags %}{% endfor %}", "client is already a variable"),
        ("{% for tag in client.tags %}{{ loop.index }}{% endfor %}", "unknown attribute loop.index"),
        ("{% for tag in client.tags %}{% endfor %}{{ tag }}", "unknown variable tag"),
        ("{% for tag in client.tags %}{% else %}{{ tag }}{% endfor %}", "unknown variable tag"),
        ("{{ client.name", "line 1: unexpected end of template"),
        ("a\n{% if client.name %}", "line 2: Unexpected end of template"),
        ("{%s} {%d}", "line 1: Encountered unknown tag 's'"),
        ("{% if client.name %}" * 60 + "{% endif %}" * 60, "nested too deeply"),
        ("{{ " + " or ".join(["client.name"] * 60) + " }}", "nested too deeply"),
        ("{{ " + " or ".join(["client.name"] * 5000) + " }}", "too deeply"),
        ("{{ " + "(" * 5000 + "client.name" + ")" * 5000 + " }}", "too deeply"),
        ("{{ " + "9" * 5000 + " }}", "a number that is too long"),
        ("{% if client.name == 0x" + "f" * 5000 + " %}{% endif %}", "a number that is too long"),
        ("{{ client.name }}" * 3000, "too many expressions"),
        ("{{ client.name in [" + "client.name," * 5000 + "] }}", "too many expressions"),
        ("x" * (MAX_LENGTH + 1), f"longer than {MAX_LENGTH:,} characters"),
        ("half \ud800", "invalid Unicode"),
    ],
    ids=lambda value: value[:60].encode("ascii", "backslashreplace").decode(),
)
def test_other_template_is_refused(source: str, reason: str) -> None:
    for html in (False, True):
        with pytest.raises(InvalidValue) as caught:
            rendered(source, html=html)
        assert reason in caught.value.message
        assert caught.value.message.startswith("the body")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a\nb {{ client.comment | first }}", "the body, line 2: No first item"),
        ("{{ client.name < 1 }}", "the body, line 1: '<' not supported"),
        ("\n\n{{ client.name | trim(5) }}", "the body, line 3: "),
        ("{{ [client.tags, 1] }}", "the body, line 1: "),
        ("{{ due_at | date('\\ud800') }}", "the body, line 1: "),
    ],
)
def test_rendering_error_names_the_line(source: str, reason: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        rendered(source)
    assert caught.value.message.startswith(reason)


@pytest.mark.parametrize(
    "source",
    [
        "{{ client.comment }}" * 101,
        "{% for tag in client.tags %}" + "x" * 6000 + "{% endfor %}",
        "{{ client.comment | upper }}" * 10 + "{{ client.comment }}" * 91,
    ],
)
def test_rendered_length_is_limited(source: str) -> None:
    person = Person(comment="ΐ" * 10_000, tags=["t"] * 200)
    with pytest.raises(InvalidValue, match=f"more than {MAX_LENGTH:,} characters after rendering"):
        rendered(source, person)


def test_template_renders_the_current_values() -> None:
    values: dict[str, object] = {"mailing": Mailing(), "due_at": DUE_AT}
    text = TextTemplate("{{ client.name }}{% for tag in client.tags %}{{ tag }}{% endfor %}", "body", values)
    for name, tags in (("Ada", ["x", "y"]), ("", []), ("Bob", ["z"])):
        values["client"] = Person(name=name, tags=tags)
        assert text.render() == name + "".join(tags)


@pytest.mark.parametrize(
    ("source", "is_constant"),
    [
        ("", True),
        ("a\n", True),
        ("{# a #}{% raw %}{{ {% endraw %}", True),
        ("{{ due_at }}", False),
        ("{{ 'a' }}", False),
    ],
)
def test_constant_template_is_recognised(source: str, is_constant: bool) -> None:
    assert TextTemplate(source, "body", {}).is_constant == is_constant


class Page(HTMLParser):
    """The tags with their attributes, and the text, as an HTML parser reads them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str | None] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(" ".join([tag, *(name for name, _ in attrs)]))
        self.values += [value for _, value in attrs]
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("/" + tag)

    def handle_data(self, data: str) -> None:
        self.text += data


HOSTILE = [
    "<script>alert(1)</script>",
    "javascript:alert(1)",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "{{ client.email }}{% if %}{#",
    "**bold** [a](http://evil.example) `code` <http://evil.example>",
    "\n\n# heading\n\n- item\n",
    "&lt;b&gt; &#123;",
]
client_texts = (
    st.text() | st.sampled_from(HOSTILE) | st.lists(st.sampled_from(list("<>\"'&;{}%#`*_[]()\\/: \na"))).map("".join)
)


@given(client_texts)
def test_client_data_is_escaped_in_html(text: str) -> None:
    source = '<p title="{{ client.comment }}">{{ client.name }}{{ client.tags }}{{ client.tags | join }}</p>'
    page = Page(rendered(source, Person(name=text, comment=text, tags=[text]), html=True))
    assert (page.tags, page.values, page.text) == (["p title", "/p"], [text], text * 3)


def test_pieces_of_html_can_be_joined_in_any_way() -> None:
    values = {"client": Person(name="<b>"), "mailing": Mailing(), "due_at": DUE_AT}
    first, name, last = TextTemplate("<p>{{ client.name }}</p>", "HTML", values, html=True).pieces()
    assert name + last == "&lt;b&gt;</p>"
    assert first[:1] + name == "<&lt;b&gt;"


MARKDOWN = """\
# {{ client.name }}

*{{ client.name }}*, **{{ client.comment }}** `{{ client.comment }}`
[{{ client.name }}](https://example.org/{{ client.name }}) [it](<{{ client.comment -}} > "{{ client.comment }}")
![{{ client.name }}](/{{ client.comment }}) <https://example.org/{{ client.name }}>

| a | b |
|---|---|
| {{ client.tags }} | {{ client.comment }} |

{% for tag in client.tags %}

- {{ tag }}

{% endfor %}

``` {{ client.comment }}
{{ client.name }}
```

[ref]: /{{ client.comment }}

[ref] {% raw %}{{ client.name }} <b>{% endraw %}
"""


@settings(deadline=None)
@given(client_texts)
def test_client_data_does_not_change_the_structure_of_markdown(text: str) -> None:
    plain, page = (
        Page(rendered(html_from_markdown(MARKDOWN), Person(name=value, comment=value, tags=[value]), html=True))
        for value in ("x", text)
    )
    assert page.tags == plain.tags
    quoted = quote(text)
    site = f"https://example.org/{quoted}"
    assert page.links == [site, quoted, f"/{quoted}", site, f"/{quoted}"]


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ("Hello **{{ client.name }}**", "<p>Hello <strong>Ada Lovelace</strong></p>\n"),
        ("[a](https://x.org/?q={{ client.name }})", '<p><a href="https://x.org/?q=Ada%20Lovelace">a</a></p>\n'),
        ("[a](<{{ client.name -}} >)", '<p><a href="Ada%20Lovelace">a</a></p>\n'),
        ("[a](/{{ '}}' }}{% if client.name %}b{% endif %})", '<p><a href="/%7D%7Db">a</a></p>\n'),
        ("[a](/{{+ client.name }})", '<p><a href="/Ada%20Lovelace">a</a></p>\n'),
        ("<b onclick='x'>{{ client.name }}</b>", "<p>&lt;b onclick='x'&gt;Ada Lovelace&lt;/b&gt;</p>\n"),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>\n"),
        ("{% if client.name %}\n\nyes\n\n{% endif %}", "\n<p>yes</p>\n\n"),
        ("{# a note #}\n\ntext", "<p>text</p>\n"),
        ("## Events {#events}", "<h2>Events &#123;#events}</h2>\n"),
        ("{% raw %}<b> {{ client.nobody }}{% endraw %}", "<p>&lt;b&gt; &#123;&#123; client.nobody }}</p>\n"),
        # the separator of a signature
        ("Hello\n-- \nAda", "<p>Hello</p>\n<p>-- <br />\nAda</p>\n"),
        (
            "- Hello\r\n-- \r\n{{ client.name }}\r\n-- ",
            "<ul>\n<li>Hello</li>\n</ul>\n<p>-- <br />\nAda Lovelace</p>\n<p>-- </p>\n",
        ),
        ("```\n-- \nselect\n\n-- \n```", "<pre><code>-- \nselect\n\n-- \n</code></pre>\n"),
        ("Title\n--\n\nTitle\n---\n--  ", "<h2>Title</h2>\n<h2>Title</h2>\n<p>--</p>\n"),
        # what Markdown unescapes is not an expression
        ("{\\{ 7 * 7 }}", "<p>&#123;&#123; 7 * 7 }}</p>\n"),
        ("&#123;{ client.__class__ }}", "<p>&#123;&#123; client.<strong>class</strong> }}</p>\n"),
        ("{\\% for x in client.email %}{\\# x", "<p>&#123;% for x in client.email %}&#123;# x</p>\n"),
    ],
)
def test_markdown_template_is_rendered_as_html(source: str, html: str) -> None:
    assert rendered(html_from_markdown(source), html=True) == html


@given(
    st.lists(
        st.sampled_from(
            ["{", "\\{", "&#123;", "&lbrace;", "%", "#", "}", "{{ client.name }}", "`", " ", "*", "\n", "x", "7*7"]
        )
    ).map("".join)
)
def test_markdown_creates_no_new_expression(source: str) -> None:
    try:
        TextTemplate(source, "body", {})
    except InvalidValue:
        return
    assert rendered(html_from_markdown(source), html=True).count("Ada Lovelace") == rendered(source).count(
        "Ada Lovelace"
    )


def test_markdown_conversion_is_deterministic() -> None:
    assert html_from_markdown(MARKDOWN) == html_from_markdown(MARKDOWN)


parts = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["{{ client.name }}", "{{client.email}}", "{{- client.comment -}}", "{#", "{# ", "#}", "{%22",
     "{{ client.name }}{{ client.name }}", "\r\n",
     "{% raw %}{{ x }}{% endraw %}", "{# a note #}", " \n ", "<b>", "&", "{{ client.tags }}", "{{ 'a' }}"]
)  # fmt: skip


@given(st.lists(parts, max_size=6).map("".join), st.text(st.characters(codec="utf-8"), max_size=10), st.booleans())
def test_text_filled_in_directly_is_the_same_as_by_jinja2(source: str, value: str, html: bool) -> None:
    values = {"client": Person(name=value, comment=f"<{value}>"), "mailing": Mailing(), "due_at": DUE_AT}
    try:
        template = TextTemplate(source, "body", values, html=html)
    except InvalidValue:
        return
    directly = template.render()

    template._segments = None

    assert template.render() == directly


@pytest.mark.parametrize(
    ("source", "is_direct"),
    [("{{ client.name }}, {{ client.email }}\n", True), ("", True), ("{{ client.tags }}", False), ("{{ 'a' }}", False)],
)
def test_only_texts_of_the_client_are_filled_in_directly(source: str, is_direct: bool) -> None:
    assert (TextTemplate(source, "body", {})._segments is not None) == is_direct


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% if unsubscribe_url %}a{% endif %}b", {"": "b", "link": "ab", "address": "b", "both": "ab"}),
        ("{% if unsubscribe_url and postal_address %}a{% else %}b{% endif %}.",
         {"": "b.", "link": "b.", "address": "b.", "both": "a."}),
        ("{% if not unsubscribe_url or postal_address %}a{% endif %}.",
         {"": "a.", "link": ".", "address": "a.", "both": "a."}),
        ("{% if unsubscribe_url %}a{% elif postal_address %}b{% else %}c{% endif %}.",
         {"": "c.", "link": "a.", "address": "b.", "both": "a."}),
        ("{% if postal_address %}{% if unsubscribe_url %}a{% endif %}b{% endif %}.",
         {"": ".", "link": ".", "address": "b.", "both": "ab."}),
    ],
)  # fmt: skip
def test_conditions_on_the_link_and_the_address_are_decided_once(source: str, text: dict[str, str]) -> None:
    for name, shown in text.items():
        address = "1 Main Street" if name in ("address", "both") else ""
        template = TextTemplate(source, "body", {}, postal_address=address, has_link=name in ("link", "both"))
        assert (template.render(), template.is_constant, template.has_only_gaps) == (shown, True, True)


class NamedClient(NamedTuple):
    name: str


def test_condition_on_a_client_stays_around_and_beside_them() -> None:
    source = "{% if client.name %}{% if unsubscribe_url %}a{% endif %}b{% elif unsubscribe_url %}c{% endif %}"
    for has_link, shown in ((False, ["b", ""]), (True, ["ab", "c"])):
        values = {"client": NamedClient("Ada"), "unsubscribe_url": "x" if has_link else ""}
        template = TextTemplate(source, "body", values, has_link=has_link)
        assert template.render() == shown[0]
        values["client"] = NamedClient("")
        assert template.render() == shown[1]


def test_fields_on_a_condition_that_is_decided_are_known() -> None:
    template = TextTemplate("{% if unsubscribe_url %}{{ client.fields.city }}{% endif %}", "body", {})
    assert (list(template.fields), set(template.required_fields)) == (["city"], {"city"})

"""The text part that is made from Markdown: readable, complete, and with its expressions."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing.compose import MessageContent, check_content
from skychimp.delivery.composing.conversions import text_from_markdown
from skychimp.delivery.composing.layouts.finishing import Layout, default_layout, finish
from skychimp.models import Format

BODY = """\
# News for {{ client.name }}

Some *emphasis*, **strong** and `code {x}`. See [our site](https://example.org/a?b=1),
<https://example.org> and [info@example.org](mailto:info@example.org).

![A picture](cid:picture) ![](https://example.org/none.png)

{% if client.comment %}
- one
- two
  and a half
  1. nested
{% endif %}

3. third

4. fourth

> A quotation
> > inside another

```python
def f():
    return  {1: 2}

```

| Day | Price |
|---|--:|
| Monday | 9 |
| Tuesday | 10.50 |

---
[{{ client.name }}](https://example.org/{{ client.email }})\\
end
--\x20
Ada
"""
TEXT = """\
News for {{ client.name }}

Some emphasis, strong and code {x}. See our site <https://example.org/a?b=1>,
https://example.org and info@example.org.

A picture

{% if client.comment %}- one
- two
  and a half
  1. nested
{% endif %}3. third

4. fourth

> A quotation
>
> > inside another

def f():
    return  {1: 2}


Day      Price
-------  -----
Monday       9
Tuesday  10.50

----------------------------------------

{{ client.name }} <https://example.org/{{ ( client.email ) | urlencode }}>
end
--\x20
Ada
"""


def test_text_of_a_typical_message() -> None:
    assert text_from_markdown(BODY) == TEXT


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("", "\n"),
        ("a\nb", "a\nb\n"),
        ("a  \nb", "a\nb\n"),
        ("*a* _b_ ~~c~~ \\*d\\* &amp; <b>", "a b c *d* & <b>\n"),
        ("a {% raw %}{{ b }}{% endraw %}", "a {{ '{' }}{ b }}\n"),
        ("[](https://example.org) [a](#b) [c](<tel:+1>)", "<https://example.org> a c <+1>\n"),
        ("[![logo](x.png)](https://example.org)", "logo <https://example.org>\n"),
        ("- a\n\n  b\n- c", "- a\n\n  b\n\n- c\n"),
        ("-\n- a", "-\n- a\n"),
        ("1) a\n2) b", "1. a\n2. b\n"),
        ("|a|b|\n|-|-|\n|only one|", "a         b\n--------  -\nonly one\n"),
        ("Title\n===\n\nSub\n---", "Title\n\nSub\n"),
        ("    code\n\n      more", "code\n\n  more\n"),
    ],
)  # fmt: skip
def test_text_of_markdown(source: str, text: str) -> None:
    assert text_from_markdown(source) == text


WORDS = ["news", "Ada", "größe", "мир", "漢字", "120", "a_b"]
WORD = re.compile("|".join((*WORDS, "{{ client.email }}")))
words = st.sampled_from(WORDS)
inline = st.one_of(
    words,
    words.map("*{}*".format),
    words.map("**{}**".format),
    words.map("~~{}~~".format),
    words.map("`{}`".format),
    words.map("[{}](https://example.org/)".format),
    words.map("![{}](https://example.org/x.png)".format),
    st.just("{{ client.email }}"),
)
lines = st.lists(inline, min_size=1, max_size=4).map(" ".join)
blocks = st.one_of(
    lines,
    st.builds("{} {}".format, st.sampled_from(["#", "##", "######"]), lines),
    st.lists(lines, min_size=1, max_size=3).map(lambda items: "\n".join(f"- {item}" for item in items)),
    st.lists(lines, min_size=1, max_size=3).map(lambda items: "\n".join(f"1. {item}" for item in items)),
    lines.map("> {}".format),
    lines.map("> - {}".format),
    st.lists(words, min_size=1, max_size=3).map(lambda cells: f"|{'|'.join(cells)}|\n|{'-|' * len(cells)}"),
    words.map("```\n{}\n```".format),
    st.just("---"),
)
bodies = st.lists(blocks, min_size=1, max_size=5).map("\n\n".join)


@settings(deadline=None)
@given(bodies)
def test_text_of_any_markdown_has_every_word_in_order_and_no_markup(body: str) -> None:
    text = text_from_markdown(body)
    urls = re.compile(r"https://\S+")
    assert WORD.findall(urls.sub("", text)) == WORD.findall(urls.sub("", body))
    assert re.search(r"\*|~~|`|!\[|\]\(|^#|^\|", text, re.MULTILINE) is None


@settings(deadline=None, max_examples=25)
@given(bodies)
def test_any_markdown_can_be_sent_in_the_built_in_layout(body: str) -> None:
    layout = Layout(default_layout(), "Look at {{ client.name }}", is_default=True)
    finished = finish(MessageContent("News", body, Format.MARKDOWN), layout)
    check_content(finished)
    assert (finished.html or "").count('<td class="content"') == 1

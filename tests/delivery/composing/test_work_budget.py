"""The work of rendering is limited for every client, in chains of filters, loops, lists and searches."""

import time
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skychimp.delivery.composing.compose import (
    MAX_BODY_SIZE,
    MAX_POSTS_SIZE,
    MAX_RENDERED_SUBJECT_LENGTH,
    Composer,
    MessageContent,
    Recipient,
    check_content,
)
from skychimp.errors import InvalidValue
from skychimp.models import Format
from skychimp.text import MAX_COMMENT_LENGTH, MAX_NAME_LENGTH

DATE = datetime(2026, 12, 1, 9, tzinfo=UTC)
LARGEST = [
    Recipient(
        "ada@example.org",
        character * MAX_NAME_LENGTH,
        character * MAX_COMMENT_LENGTH,
        [f"{number}".ljust(100, character) for number in range(100)],
    )
    for character in ("😀", "ΐ", '"', "a", "ß", "Ŋ", "𐐨", "&", "%", "é")
]
SMALL = Recipient("bob@example.org", "Bob", "a comment", ["vip"])

CHAIN = " | title | upper | lower | title" * 10
COSTLY = {
    "the reported message": "{% for tag in client.tags %}{{ client.comment" + CHAIN + " }}{% endfor %}",
    "a chain": "{{ client.comment" + CHAIN + " }}",
    "urlencode that grows": "{{ client.comment" + " | urlencode" * 40 + " | length }}",
    "many expressions": "{{ client.comment | title | length }}" * 300,
    "a loop over filters": "{% for tag in client.tags %}{{ client.comment | lower | length }}{% endfor %}",
    "a condition": "{% for tag in client.tags %}{% if client.comment | title == 'x' %}{% endif %}{% endfor %}",
    "the condition of a loop": "{% for tag in client.tags if client.comment | title == 'x' %}{% endfor %}",
    "a loop with many steps": "{% for tag in client.tags %}"
    + "{{ tag | default('x') | length }}" * 400
    + "{% endfor %}",
    "many loops": ("{% for tag in client.tags %}" + "{{ tag | length }}" * 40 + "{% endfor %}") * 15,
    "searches": "{% for tag in client.tags %}" + "{{ 'x' if 'aaaab' in client.comment }}" * 3 + "{% endfor %}",
    "searches that do not match": "{% for tag in client.tags %}"
    + "{{ 'x' if 'aaaab' not in client.comment }}" * 3
    + "{% endfor %}",
    "searches in a long constant": "{% for tag in client.tags %}"
    + ("{% if tag in '" + "a" * 29_000 + "' %}x{% endif %}") * 12
    + "{% endfor %}",
    "searches for a long text": ("{{ 'x' if client.comment in '" + "a" * 2_000 + "' }}") * 120,
    "a long list": "{{ [" + "client.comment," * 900 + "] | length }}",
    "a long tuple": "{{ (" + "client.comment," * 900 + ") | length }}",
    "lists in lists": "{{ [" + "[client.comment, client.comment]," * 400 + "] | upper | length }}",
    "joined tags": ("{{ client.tags | join('" + "x" * 100 + "') | length }}") * 40,
    "dates": "{% for tag in client.tags %}" + "{{ due_at | date('%A %B') }}" * 60 + "{% endfor %}",
    "a constant": "{{ '" + "a b " * 40_000 + "' | title | title | length }}",
    "escaped output": "{{ client.comment | upper }}" * 60,
}
MODEST = {
    "names": "Dear {{ client.name | title }}, {{ client.email }} {{ due_at | date('%d.%m.%Y') }}\n" * 20,
    "comments": "{{ client.comment | trim }} {{ client.comment | capitalize }}\n" * 5,
    "a link": "https://example.org/?q={{ client.comment | urlencode }}",
    "tags": "{% for tag in client.tags %}- {{ tag | title }} {{ tag | upper }}\n{% else %}none{% endfor %}",
    "a section for each tag": "{% for tag in client.tags %}{% if tag == 'a' %}"
    + "".join(f"{{% elif tag == 't{number}' %}}{'text ' * 100}" for number in range(60))
    + "{% endif %}{% endfor %}",
    "a search in a loop": "{% for tag in client.tags if tag in client.comment %}{{ tag }}{% endfor %}",
    "searches": "{% if 'vip' in client.tags %}a{% elif client.name in ['Ada', 'Bob'] %}b{% endif %}" * 30,
    "a list": "{{ [client.name, client.email] | first }} {{ client.name, 'x' }}",
}
PARTS: dict[str, Callable[[str], MessageContent]] = {
    "text": lambda source: MessageContent("s", source, Format.TEXT),
    "html": lambda source: MessageContent("s", "b", Format.HTML, source),
    "markdown": lambda source: MessageContent("s", source, Format.MARKDOWN),
}


def in_parts(sources: Mapping[str, object], *first: str, parts: Iterable[str] = PARTS) -> list[object]:
    """Return each source with each part. By default these sources are tried in every part, and the others as text."""
    return [
        pytest.param(name, part, marks=() if part == "text" or name in first else pytest.mark.slow, id=f"{name}-{part}")
        for name in sources
        for part in parts
    ]


def composer(content: MessageContent) -> Composer:
    return Composer(content, sender="News <news@example.org>", date=DATE, mailing_id=7, due_at=DATE)


@pytest.mark.parametrize(("name", "part"), in_parts(COSTLY, "the reported message", "escaped output"))
def test_costly_template_is_stopped_soon_for_every_client(name: str, part: str) -> None:
    """The bound is generous: an email within the budget takes less than 0.1 s, and one without took minutes."""
    emails = composer(PARTS[part](COSTLY[name]))
    reasons = set()
    for client in LARGEST:
        started = time.process_time()
        try:
            emails.compose(client, "<1@example.org>")
        except InvalidValue as error:
            reasons.add(error.message.partition(":")[2].strip() or error.message)
        assert time.process_time() - started < 1
    assert reasons
    assert all(reason.endswith(("loops take too long", "characters after rendering")) for reason in reasons)


@pytest.mark.parametrize(("name", "part"), in_parts(COSTLY, "the reported message", "escaped output"))
def test_costly_template_is_refused_when_it_is_written(name: str, part: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        check_content(PARTS[part](COSTLY[name]))
    assert "take too long" in caught.value.message or "characters after rendering" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("name", "part"), in_parts(MODEST, "names", "a list"))
def test_modest_template_works_for_the_largest_client(name: str, part: str) -> None:
    check_content(PARTS[part](MODEST[name]))
    emails = composer(PARTS[part](MODEST[name]))
    for client in (SMALL, *LARGEST):
        assert emails.compose(client, "<1@example.org>")


def test_refusal_names_the_client_and_the_remedy() -> None:
    with pytest.raises(InvalidValue) as caught:
        check_content(PARTS["text"]("a\n" + COSTLY["the reported message"]))
    assert caught.value.message == (
        "the body, line 2: the filters and loops take too long, for a client with a long comment and many tags"
    )
    assert caught.value.hint == "use fewer filters on client.comment, and none in a loop"


def test_budget_is_for_each_client() -> None:
    """A template that is too costly for one client works for those before and after."""
    emails = composer(PARTS["text"](COSTLY["the reported message"]))
    for _ in range(3):
        assert emails.compose(SMALL, "<1@example.org>")
        with pytest.raises(InvalidValue):
            emails.compose(LARGEST[0], "<1@example.org>")


def test_costly_branch_that_few_clients_take_is_stopped_too() -> None:
    source = "{% if client.name == 'Ada' %}" + COSTLY["a chain"] + "{% endif %}Hello"
    check_content(PARTS["text"](source))
    emails = composer(PARTS["text"](source))
    assert emails.compose(LARGEST[0], "<1@example.org>")
    with pytest.raises(InvalidValue, match="take too long"):
        emails.compose(LARGEST[0]._replace(name="Ada"), "<1@example.org>")


def test_output_is_stopped_before_it_is_large() -> None:
    """A million pieces are not collected first: the memory stays that of a few emails."""
    source = ("{% for tag in client.tags %}" + "x" * 400 + "{{ tag }}" * 50 + "{% endfor %}") * 4
    emails = composer(PARTS["html"](source))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidValue, match="the HTML has more than 1,000,000 characters after rendering"):
            emails.compose(LARGEST[2], "<1@example.org>")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "expression",
    ["client.name ~ client.name", "client.name * 9", "'%99999d' % 1", "client.name + 'x'", "2 ** 99", "9 // 2"],
)
def test_operators_that_make_text_grow_are_not_allowed(expression: str) -> None:
    with pytest.raises(InvalidValue, match="is not allowed"):
        check_content(PARTS["text"](f"{{{{ {expression} }}}}"))


# Sizes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PARTS["text"]("x" * 1_000_001), "the body is longer than 1,000,000 characters"),
        (PARTS["markdown"]("[a](b)" * 50_001), "the body has too much Markdown markup"),
        (PARTS["html"]("x" * 1_000_001), "the HTML is longer than 1,000,000 characters"),
        (MessageContent("x" * 20_001, "b", Format.TEXT), "the subject has more than 20,000 characters"),
        (MessageContent("{{ client.comment }}" * 3, "b", Format.TEXT), "the subject has more than 20,000 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_message_of_an_old_store_that_is_too_large_is_not_composed(content: MessageContent, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        composer(content).compose(LARGEST[0], "<1@example.org>")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PARTS["text"]("x" * (MAX_BODY_SIZE + MAX_POSTS_SIZE + 1)), "the body is larger than 400 kB"),
        (PARTS["markdown"]("é" * 200_001), "the body is larger than 400 kB"),
        (PARTS["markdown"]("[a](b)" * 12_501), "the body has too much Markdown markup"),
        (PARTS["html"]("😀" * 300_001), "the HTML is larger than 1,200 kB"),
        (MessageContent("x" * 1001, "b", Format.TEXT), "the subject is longer than 1,000 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_limits_of_new_messages_do_not_stop_old_ones(content: MessageContent, message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        check_content(content)
    assert composer(content).compose(SMALL, "<1@example.org>")


def test_client_of_a_damaged_store_is_not_composed() -> None:
    emails = composer(PARTS["text"]("{{ client.name }}"))
    for damaged in (SMALL._replace(comment="x" * 10_001), SMALL._replace(name="x" * 1_001)):
        with pytest.raises(InvalidValue, match="the client's name or comment is too long"):
            emails.compose(damaged, "<1@example.org>")
    with pytest.raises(InvalidValue, match="take too long"):
        composer(PARTS["text"]("{% for tag in client.tags %}x{% endfor %}")).compose(
            SMALL._replace(tags=["t"] * 1_000_000), "<1@example.org>"
        )


def test_rendered_subject_may_be_as_long_as_a_comment() -> None:
    assert MAX_RENDERED_SUBJECT_LENGTH > MAX_COMMENT_LENGTH + MAX_NAME_LENGTH
    check_content(MessageContent("{{ client.comment }} {{ client.name }}", "b", Format.TEXT))


# Sources that take long to read


SOURCES: dict[str, Callable[[int], str]] = {
    "comments": lambda n: "{# #}" * (n // 5),
    "comparisons": lambda n: "{{ 1" + "<1" * (n // 2) + " }}",
    "digits": lambda n: "{{ " + "9" * n + " }}",
    "digits and underscores": lambda n: "{{ " + "1_" * (n // 2) + " }}",
    "a list": lambda n: "{{ due_at in [" + "1," * (n // 2) + "] }}",
    "elif": lambda n: "{% if due_at %}" + "{% elif due_at %}" * (n // 17) + "{% endif %}",
    "nested if": lambda n: "{% if due_at %}" * (n // 15),
    "parentheses": lambda n: "{{ " + "(" * n,
    "filters": lambda n: "{{ due_at" + "|upper" * (n // 6) + " }}",
    "attributes": lambda n: "{{ a" + ".a" * (n // 2) + " }}",
    "quotes": lambda n: "{{ " + "'" * n,
    "backslashes": lambda n: "{{ '" + "\\" * n + "' }}",
    "spaces": lambda n: "{{" + " " * n + "-}}" + " " * n,
    "opening braces": lambda n: "{{ " * (n // 3),
    "a long name": lambda n: "{{ " + "a" * n + " }}",
    "a long tag": lambda n: "{% " + "a" * n + " %}",
    "raw": lambda n: "{% raw %}" * (n // 9),
    "unary minus": lambda n: "{{ " + "-" * n + "1 }}",
    "not": lambda n: "{{ " + "not " * (n // 4) + "1 }}",
}  # fmt: skip
MARKDOWN: dict[str, Callable[[int], str]] = {
    "links": lambda n: "[a](b) " * (n // 7),
    "links with values": lambda n: "[a]({{ client.name }})" * (n // 22),
    "brackets": lambda n: "[" * n,
    "images": lambda n: "![" * (n // 2),
    "nested brackets": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "lists": lambda n: "- a\n" * (n // 4),
    "nested lists": lambda n: "".join("  " * (i % 500) + "- a\n" for i in range(n // 500)),
    "quotes": lambda n: ">" * n + "a",
    "short quotes": lambda n: "\n> > \n**" * (n // 7),
    "quotes of two depths": lambda n: "> \n>> \n**" * (n // 8),
    "quotes in tables": lambda n: "|a|b|\n|-|-|\n> - \n" * (n // 17),
    "quotes and references": lambda n: "\n> [a]:x\n[a](x)" * (n // 15),
    "quotes in lists": lambda n: "- > " * (n // 4) + "a",
    "emphasis": lambda n: "*a **a " * (n // 14) + " a** a*" * (n // 14),
    "stars": lambda n: "a**b*" * (n // 5),
    "code": lambda n: "`a" * (n // 2),
    "growing code": lambda n: "".join("a" + "`" * i for i in range(int((2 * n) ** 0.5))),
    "tables": lambda n: "|a|b|\n|-|-|\n" * (n // 12),
    "references": lambda n: "".join(f"[r{i}]: /x\n" for i in range(n // 12)) + "[r1] " * 100,
    "autolinks": lambda n: "<http://a.b>" * (n // 12),
    "entities": lambda n: "&amp;" * (n // 5),
    "open HTML": lambda n: "<![CDATA[" * (n // 9),
    "parentheses": lambda n: "[a](" + "(" * n,
    "lines": lambda n: "a  \n" * (n // 4),
}  # fmt: skip


@pytest.mark.parametrize(("name", "part"), in_parts(SOURCES, "comments", "filters", parts=("text", "html")))
def test_hostile_source_is_read_in_linear_time(name: str, part: str) -> None:
    require_linear(lambda size: PARTS[part](SOURCES[name](size)), MAX_BODY_SIZE - 50)


@pytest.mark.parametrize("name", MARKDOWN)
def test_hostile_markdown_is_read_in_linear_time(name: str) -> None:
    require_linear(lambda size: PARTS["markdown"](MARKDOWN[name](size)), MAX_BODY_SIZE - 50)


def require_linear(make: Callable[[int], MessageContent], size: int) -> None:
    """Check a message of this size. Ten seconds are generous, but not for quadratic time."""
    message = ""
    started = time.process_time()
    try:
        check_content(make(size))
    except InvalidValue as error:
        message = error.message
    assert time.process_time() - started < 10
    assert len(message) < 500


def test_markdown_body_with_30_000_links_is_refused() -> None:
    with pytest.raises(InvalidValue, match="too much Markdown markup"):
        check_content(PARTS["markdown"]("[a](b)" * 30_000))
    check_content(PARTS["markdown"]("[a](https://example.org/) " * 5_000))


def test_markdown_body_with_long_quotes_is_accepted() -> None:
    quote = "> A line of a forwarded email.\n>\n> > And what it answers.\n>> In two lines.\n" * 100
    check_content(PARTS["markdown"](f"Dear Ada,\n\n{quote}\nYours\n\n" * 5))
    check_content(PARTS["markdown"]("> A quoted line.\n" * 10_000))


pieces = st.sampled_from(
    ["{{", "}}", "{%", "%}", "{#", "#}", " client.comment ", " client.tags ", "for tag in", "if ", "endif", "endfor",
     "|title", "|urlencode", "|join(',')", "|first", "'a'", "(", ")", "[", "]", ",", " in ", " tag ", "9", "-", "*",
     "\n", "raw", "endraw", "`", "~", "1e9", "\\", '"', "else", "elif", " or ", "😀", "{{ client.comment | title }}",
     "{% for tag in client.tags %}", "{% endfor %}", "{{ client.name }}"]
)  # fmt: skip


any_source = given(st.lists(pieces, max_size=60).map("".join), st.sampled_from(list(PARTS)))


@settings(deadline=None, max_examples=40)
@any_source
def test_any_source_is_composed_or_refused_soon(source: str, part: str) -> None:
    require_soon(source, part)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@any_source
def test_more_sources_are_composed_or_refused_soon(source: str, part: str) -> None:
    require_soon(source, part)


def require_soon(source: str, part: str) -> None:
    """Compose a source for some clients, or see it refused, in less than two seconds."""
    started = time.process_time()
    try:
        emails = composer(PARTS[part](source))
        for client in LARGEST[:3]:
            emails.compose(client, "<1@example.org>")
    except InvalidValue:
        pass
    assert time.process_time() - started < 2
